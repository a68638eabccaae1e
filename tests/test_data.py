"""Dataset readers against numpy's own loading: equal values, mapped memory, and errors that say what to do."""

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
from tests.saved import FILES, X, fault, npy_bytes, save
from workers.data import FORMATS, Source, file, npz, open_source, take


def owner(array: Array) -> object:
    """The object whose memory the array is a view of."""
    base: object = array
    while True:
        below = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
        if below is None:
            return base
        base = below


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


def test_every_reader_gives_sources(tmp_path: Path) -> None:
    found = [open_source(save(tmp_path / f"a{extension}", X)) for extension in FORMATS if extension != ".parquet"]
    assert all(isinstance(source, Source) for source in found)
    for one, other in itertools.pairwise(found):
        np.testing.assert_array_equal(one.whole(), other.whole())
