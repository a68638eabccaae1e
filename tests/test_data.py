"""Dataset readers against numpy's own loading: equal values, mapped memory, and one error for all that is wrong."""

import io
import itertools
import mmap
import os
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphir.dataset import Dataset, dataset
from graphir.errors import DatasetError, FormatError
from graphir.tensors import DTYPES, Array
from workers.data import FORMATS, Source, file, npz, open_source, take

X = np.arange(24, dtype="f4").reshape(6, 4)


def owner(array: Array) -> object:
    """The object whose memory the array is a view of."""
    base: object = array
    while True:
        below = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
        if below is None:
            return base
        base = below


def save(path: Path, array: Array) -> Dataset:
    """Save the array in the format of the extension; a leading "packed" in the name compresses."""
    column = None if path.suffix == ".npy" else "xx"
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".safetensors":
        reference.save_file({"xx": np.asarray(array, order="C")}, path)
    elif path.name.startswith("packed"):
        np.savez_compressed(path, xx=array)
    else:
        np.savez(path, xx=array)
    return dataset(path, column=column)


def npy_bytes(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def fault(reference_to: Dataset) -> str:
    with pytest.raises(DatasetError) as caught:
        open_source(reference_to).whole()
    message = str(caught.value)
    assert message.startswith(f"dataset {reference_to.url!r}")
    assert reference_to.column is None or f"column {reference_to.column!r}: " in message
    return message


FILES = ["a.npy", "a.npz", "packed.npz", "a.safetensors"]


# --------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40)
@given(
    array=hnp.arrays(
        st.sampled_from(sorted(DTYPES, key=str)),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
    ),
    fortran=st.booleans(),
    swapped=st.booleans(),
    cut=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_rows_are_the_arrays_rows_in_one_layout(
    name: str, array: Array, fortran: bool, swapped: bool, cut: tuple[int, int]
) -> None:
    start, stop = (min(at, len(array)) for at in sorted(cut))
    native = array
    if not name.endswith(".safetensors"):
        array = np.asarray(array, array.dtype.newbyteorder(">" if swapped else "="), order="F" if fortran else "C")
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(save(Path(folder, name), array))
        assert (source.dtype, source.shape, source.rows) == (native.dtype, native.shape, len(native))
        for rows, expected in ((source.read(start, stop), native[start:stop]), (source.whole(), native)):
            assert rows.dtype == native.dtype
            assert rows.dtype.isnative
            assert rows.shape == expected.shape
            assert rows.tobytes() == expected.tobytes()
            assert rows.flags.c_contiguous
            assert rows.flags.aligned
            assert not rows.flags.writeable


@pytest.mark.parametrize("name", FILES)
def test_a_single_number_is_read_whole(tmp_path: Path, name: str) -> None:
    source = open_source(save(tmp_path / name, np.array(2.5)))
    assert source.shape == ()
    assert source.whole() == 2.5
    assert source.whole().shape == ()
    with pytest.raises(DatasetError, match="holds a single number, which has no rows"):
        source.read(0, 0)


@pytest.mark.parametrize("rows", [(-1, 2), (3, 2), (0, 7), (7, 7)])
def test_rows_out_of_range(tmp_path: Path, rows: tuple[int, int]) -> None:
    source = open_source(save(tmp_path / "a.npy", X))
    with pytest.raises(DatasetError, match=r"has no rows -?\d:\d; it has 6"):
        source.read(*rows)


# --------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors"])
def test_rows_are_views_of_the_mapped_file(tmp_path: Path, name: str) -> None:
    array = np.ones((1 << 14, 64), "f8")
    reference_to = save(tmp_path / name, array)
    tracemalloc.start()
    source = open_source(reference_to)
    rows = source.read(1000, 9000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(owner(rows), mmap.mmap)
    assert isinstance(owner(source.whole()), mmap.mmap)
    assert peak < rows.nbytes / 8
    assert rows.sum() == 8000 * 64


def test_a_misaligned_member_copies_only_the_rows_read(tmp_path: Path) -> None:
    array = np.arange(1 << 18, dtype="f8")
    np.savez(tmp_path / "a.npz", odd=array)  # the length of the name moves the data off its alignment
    source = open_source(dataset(tmp_path / "a.npz", column="odd"))
    assert not source._file(0)[1].whole().flags.aligned
    tracemalloc.start()
    rows = source.read(5, 1005)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert rows.flags.aligned
    assert peak < 10 * rows.nbytes < array.nbytes
    np.testing.assert_array_equal(rows, array[5:1005])


def test_compressed_members_are_decompressed_once_and_the_cache_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    decompress = npz._decompress

    def counted(file: Any, info: zipfile.ZipInfo, layout: Any) -> Array:
        made.append(info.filename)
        return decompress(file, info, layout)

    cache = file.Cache(2 * X.nbytes)
    monkeypatch.setattr(npz, "_decompress", counted)
    monkeypatch.setattr(npz, "decoded", cache)
    np.savez_compressed(tmp_path / "a.npz", a=X, b=X + 1, c=X + 2, big=np.tile(X, 5))
    a, b, c, big = (open_source(dataset(tmp_path / "a.npz", column=name)) for name in ("a", "b", "c", "big"))
    assert made == []  # opening looks at headers only
    for source, expected in ((a, X), (b, X + 1), (a, X), (b, X + 1)):
        np.testing.assert_array_equal(source.read(1, 3), expected[1:3])
    np.testing.assert_array_equal(open_source(a.dataset).whole(), X)
    assert made == ["a.npy", "b.npy"]
    c.read(0, 1)  # b is out now: a was used later
    a.read(0, 1)
    b.read(0, 1)
    assert made == ["a.npy", "b.npy", "c.npy", "b.npy"]
    big.read(0, 1)
    big.read(1, 2)  # over the limit alone, yet kept while it is the newest
    assert made[4:] == ["big.npy"]
    assert [key[1] for key in cache.keys] == ["big.npy"]


def test_offsets_beyond_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "big.npz"
    with open(path, "w+b") as file:
        file.seek((1 << 32) + 3)  # a hole, which takes no space on the disk
        with zipfile.ZipFile(file, "w") as archive:
            for name, method in (("stored", zipfile.ZIP_STORED), ("packed", zipfile.ZIP_DEFLATED)):
                with archive.open(zip_info(name, method), "w", force_zip64=True) as member:
                    member.write(npy_bytes(X))
    for column in ("stored", "packed"):
        np.testing.assert_array_equal(open_source(dataset(path, column=column)).read(2, 5), X[2:5])


def zip_info(name: str, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(f"{name}.npy")
    info.compress_type = method
    return info


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("x.npy", npy_bytes(X))
    np.testing.assert_array_equal(open_source(dataset(tmp_path / "a.npz", column="x")).whole(), X)


def test_later_npy_versions(tmp_path: Path) -> None:
    for version in ((2, 0), (3, 0)):
        with open(tmp_path / "a.npy", "wb") as file:
            np.lib.format.write_array(file, X, version=version)
        np.testing.assert_array_equal(open_source(dataset(tmp_path / "a.npy")).whole(), X)


# ---------------------------------------------------------------------------------------- names


def test_paths_and_file_urls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b%é.NPY").write_bytes(npy_bytes(X))
    url = (tmp_path / "a b%é.NPY").as_uri()
    monkeypatch.chdir(tmp_path)
    for text in (url, url.replace("file://", "file://localhost"), str(tmp_path / "a b%é.NPY"), "a b%é.NPY"):
        source = open_source(dataset(text))
        np.testing.assert_array_equal(source.whole(), X)
        (found,) = take(dataset(text)).snapshot.files
        assert found.url == str(tmp_path / "a b%é.NPY")


def test_the_reference_is_plain_data() -> None:
    digits = dataset(Path("data") / "digits.npz", column="x")
    assert digits == Dataset("data/digits.npz", "x")
    assert str(digits) == "data/digits.npz:x"
    assert digits.to_json() == {"url": "data/digits.npz", "column": "x"}
    for value in (digits, dataset("a.npy")):
        assert Dataset.from_json(value.to_json()) == value
    assert Dataset.from_json({"url": "a.npy"}) == dataset("a.npy")
    assert len({digits, dataset("data/digits.npz", column="x")}) == 1


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        "a.npy",
        [],
        {},
        {"column": "x"},
        {"url": 1},
        {"url": "a", "column": 2},
        {"url": "a", "size": 1},
    ],
)
def test_json_that_is_no_reference(value: object) -> None:
    with pytest.raises(FormatError, match="url"):
        Dataset.from_json(value)


@pytest.mark.parametrize("bad", [lambda: dataset(""), lambda: dataset("a\0b"), lambda: dataset("a", column="")])
def test_empty_and_nul_names(bad: Callable[[], Dataset]) -> None:
    with pytest.raises(DatasetError, match="must be text, not empty, without NUL"):
        bad()


# --------------------------------------------------------------------------------------- faults


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.npy").mkdir()
    os.mkfifo(tmp_path / "pipe.npy")
    monkeypatch.chdir(tmp_path)
    assert f"no such file (a relative path, looked for in {tmp_path}); it must" in fault(dataset("none.npy"))
    assert "no such file; it must be visible to every worker" in fault(dataset("/none.npz", column="x"))
    assert "'.csv' is not known; known ones: .npy, .npz, .safetensors, .parquet" in fault(dataset("a.csv"))
    assert "extension '' is not known" in fault(dataset("a"))
    assert "the scheme 'nowhere' cannot be read (Protocol not known: nowhere); give a path, file://" in fault(
        dataset("nowhere://b/a.npy")
    )
    assert "names the host 'data'; a file:// URL has three slashes: file:///data/a.npy" in fault(
        dataset("file://data/a.npy")
    )
    for url in ("folder.npy", "pipe.npy", "a" * 300 + ".npy", "file:///a%00b.npy", "\ud800.npy"):
        assert "cannot be opened (" in fault(dataset(url))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> int:
        raise PermissionError(13, "Permission denied")

    reference_to = save(tmp_path / "a.npy", X)
    monkeypatch.setattr(os, "open", refuse)  # the tests may run as root, whom no file mode stops
    assert "permission denied; make the file readable" in fault(reference_to)


def test_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    np.savez(tmp_path / "a.npz", y=X, x=X)
    np.savez(tmp_path / "none.npz")
    reference.save_file({f"w{i:02}": X for i in range(30)}, tmp_path / "a.safetensors")
    assert "an .npy file has no columns; leave column out" in fault(dataset(tmp_path / "a.npy", column="x"))
    assert "needs a column; choose one with column=: x, y" in fault(dataset(tmp_path / "a.npz"))
    assert "has no such column; it has: x, y" in fault(dataset(tmp_path / "a.npz", column="z"))
    assert "needs a column; choose one with column=: (it has none)" in fault(dataset(tmp_path / "none.npz"))
    assert "has no such column; it has: (none)" in fault(dataset(tmp_path / "none.npz", column="x"))
    assert "column=: w00, w01, " in fault(dataset(tmp_path / "a.safetensors"))
    assert fault(dataset(tmp_path / "a.safetensors", column="w30")).endswith("w18, w19, ...")


STRINGS = np.array(["a", "b"])
STRUCTURED = np.zeros(2, "i4,f4")
OBJECTS = np.array([{}, 1], dtype=object)


@pytest.mark.parametrize("suffix", [".npy", ".npz", "packed.npz"])
def test_dtypes_that_are_no_numbers(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / (suffix if suffix.startswith("packed") else f"a{suffix}")
    assert "holds pickled Python objects, which are never loaded" in fault(save(path, OBJECTS))
    assert "dtype <U1 is not one of bool, complex64, float16" in fault(save(path, STRINGS))
    assert "is not one of bool" in fault(save(path, STRUCTURED))
    assert "dtype datetime64[s] is not one of" in fault(save(path, np.zeros(2, "M8[s]")))


def header(text: str, version: bytes = b"\1\0") -> bytes:
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text.encode("latin1")


DESCRIBED = "{{'descr': '<f4', 'fortran_order': False, 'shape': {}}}\n"
NPY = {
    "empty": (b"", "not a readable .npy header"),
    "wrong magic": (b"PK\3\4 is not a magic", "not a readable .npy header (the magic string is not correct"),
    "pickle": (b"\x80\x04\x95.", "not a readable .npy header"),
    "unknown version": (header("{}", b"\7\0"), "not a readable .npy header"),
    "cut header": (npy_bytes(X)[:40], "not a readable .npy header"),
    "no dictionary": (header("[1]\n"), "not a readable .npy header"),
    "nested header": (header("(" * 9000 + "\n"), "not a readable .npy header"),
    "long header": (header(" " * 20000 + "\n"), "not a readable .npy header"),
    "python in the header": (header("__import__('os').getcwd()\n"), "not a readable .npy header"),
    "negative shape": (header(DESCRIBED.format("(-1,)")), "its shape (-1,) is not possible"),
    "overflow": (header(DESCRIBED.format((2**62, 2**62))), "is not possible; the file is damaged"),
    "overflow to zero": (header(DESCRIBED.format((2**62, 2**62, 0))), "is not possible; the file is damaged"),
    "high rank": (header(DESCRIBED.format((1,) * 65)), "is not possible; the file is damaged"),
    "truncated": (
        npy_bytes(X)[:-1],
        "of float32 needs 224 bytes and there are 223; it is truncated, copy it",
    ),
    "no data": (npy_bytes(X)[:128], "it is truncated, copy it again"),
    "two arrays": (npy_bytes(X) * 2, "it holds more than one array, save it again"),
}


@pytest.mark.parametrize("case", NPY)
def test_damaged_npy(tmp_path: Path, case: str) -> None:
    content, message = NPY[case]
    (tmp_path / "a.npy").write_bytes(content)
    assert message in fault(dataset(tmp_path / "a.npy"))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
            archive.writestr("x.npy", content)
        assert message in fault(dataset(tmp_path / "a.npz", column="x"))


def test_damaged_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    column = dataset(path, column="xx")
    np.savez(path, xx=X)
    whole = path.read_bytes()
    path.write_bytes(b"")
    assert "not a readable .npz file (File is not a zip file); save it with numpy.savez" in fault(column)
    path.write_bytes(whole[:-5])
    assert "not a readable .npz file" in fault(column)
    path.write_bytes(b"XX" + whole[2:])
    assert "member 'xx.npy' is not where the directory says; save the file again" in fault(column)
    np.savez_compressed(path, xx=np.random.default_rng(0).random(1000))
    packed = bytearray(path.read_bytes())
    packed[2000] ^= 255
    path.write_bytes(packed)
    assert "cannot be decompressed (" in fault(column)
    with zipfile.ZipFile(path, "w") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("xx.npy", npy_bytes(X))
        archive.writestr("xx.npy", npy_bytes(X + 1))
    assert "holds two members named 'xx.npy'" in fault(column)


def test_an_encrypted_member(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, xx=X)
    content = bytearray(path.read_bytes())
    for signature, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(signature) + at] |= 1
    path.write_bytes(content)
    assert "is encrypted" in fault(dataset(path, column="xx"))


def test_damaged_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    column = dataset(path, column="x")
    path.write_bytes(b"")
    assert "0 bytes cannot hold a header length" in fault(column)
    path.write_bytes(b"\xff" * 9)
    assert "over the limit" in fault(column)
    path.write_bytes(reference.save({"x": X})[:-1])
    assert "it is truncated, copy it again" in fault(column)
    path.write_bytes(reference.save({"x": X}).replace(b'"F32"', b'"F8_"'))
    assert "tensor 'x': unknown dtype 'F8_'" in fault(column)
    raw = b'{"x":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}'
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + b"\0\0")
    assert "tensor 'x' has dtype BF16, which numpy does not have; convert it to F32" in fault(column)


@pytest.mark.parametrize("name", FILES)
def test_bools_that_are_neither_true_nor_false(tmp_path: Path, name: str) -> None:
    reference_to = save(tmp_path / name, np.array([0, 1, 2], "u1").view(np.bool_))
    source = open_source(reference_to)
    assert source.read(0, 2).tolist() == [False, True]
    assert "is boolean but holds bytes other than 0 and 1; store it as uint8" in fault(reference_to)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_changes_is_noticed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    source = open_source(save(path, X))
    status = path.stat()
    assert open_source(source.dataset).snapshot == source.snapshot
    source.read(0, 1)
    os.truncate(path, 10)
    with pytest.raises(DatasetError, match="has changed since it was first looked at: expected"):
        source.read(0, 1)
    save(path, X)
    os.utime(path, ns=(0, status.st_mtime_ns + 1))
    with pytest.raises(DatasetError, match="has changed since it was first looked at: expected"):
        source.whole()
    path.unlink()
    with pytest.raises(DatasetError, match=r"is gone since it was opened \(No such file"):
        source.read(0, 1)


# ------------------------------------------------------------------------------------- any bytes


def contents(name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        save(path, np.arange(40, dtype="i2").reshape(8, 5))
        return path.read_bytes()


SAMPLES = {name: contents(name) for name in FILES}
EDITS = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore")  # numpy and zipfile may warn of what they still accept
@settings(max_examples=250)
@given(edits=EDITS, cut=st.none() | st.integers(0, 600))
def test_damaged_files_raise_dataset_errors_only(name: str, edits: list[Any], cut: int | None) -> None:
    content = SAMPLES[name][:cut]
    for at, length, insert in edits:
        at %= len(content) + 1
        content = content[:at] + insert + content[at + length :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        try:
            source = open_source(dataset(path, column=None if name.endswith(".npy") else "xx"))
            whole = source.whole()
        except DatasetError as error:
            assert str(error).startswith("dataset '")
        else:
            assert whole.shape == source.shape
            assert whole.dtype == source.dtype


def test_every_reader_gives_sources(tmp_path: Path) -> None:
    found = [open_source(save(tmp_path / f"a{extension}", X)) for extension in FORMATS if extension != ".parquet"]
    assert all(isinstance(source, Source) for source in found)
    for one, other in itertools.pairwise(found):
        np.testing.assert_array_equal(one.whole(), other.whole())
