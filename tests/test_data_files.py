"""Datasets of several files, tables, and files elsewhere, against numpy and pyarrow."""

import itertools
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from graphir.dataset import Dataset, dataset
from graphir.errors import DatasetError, FormatError, MissingExtraError
from workers.data import locate, open_source, parquet, take
from workers.data import source as source_module

Array = np.ndarray[Any, Any]
X = np.arange(60, dtype="f8").reshape(15, 4)


def columns(array: Array) -> list[str]:
    return [f"c{k}" for k in range(array.shape[1])]


def save(path: Path, array: Array, **options: Any) -> Dataset:
    """Save a matrix in the format of the extension."""
    if path.suffix == ".npy":
        np.save(path, array)
        return dataset(path)
    if path.suffix == ".parquet":
        names = columns(array)
        pq.write_table(pa.table({name: array[:, k] for k, name in enumerate(names)}), path, **options)
        return dataset(path, column=names)
    if path.suffix == ".npz":
        np.savez_compressed(path, xx=array) if path.stem == "packed" else np.savez(path, xx=array)
    else:
        reference.save_file({"xx": np.ascontiguousarray(array)}, path)
    return dataset(path, column="xx")


def elsewhere(known: Dataset) -> Dataset:
    """The same files through fsspec, by ranges."""
    return Dataset(f"local://{known.url}", known.column)


def fault(known: Dataset) -> str:
    with pytest.raises(DatasetError) as caught:
        open_source(known).whole()
    message = str(caught.value)
    assert message.startswith(f"dataset {known.url!r}")
    return message


FILES = ["a.npy", "a.npz", "packed.npz", "a.safetensors", "a.parquet"]

# ---------------------------------------------------------------------------------- several files


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("remote", [False, True])
@settings(max_examples=25)
@given(data=st.data(), borders=st.lists(st.integers(0, 15), max_size=4).map(sorted))
def test_rows_of_pieces_are_the_rows_of_the_whole(
    name: str, remote: bool, data: st.DataObject, borders: list[int]
) -> None:
    """Any split into files, empty ones too, any rows: the bytes of numpy's slice."""
    ends = [0, *borders, len(X)]
    with tempfile.TemporaryDirectory() as folder:
        for number, (begin, end) in enumerate(itertools.pairwise(ends)):
            stem, suffix = os.path.splitext(name)
            place = Path(folder, str(number))
            place.mkdir()
            saved = save(
                place / f"{stem}{suffix}", X[begin:end], **({"row_group_size": 2} if suffix == ".parquet" else {})
            )
        pattern = Dataset(f"{folder}/*/{name}", saved.column)
        source = open_source(elsewhere(pattern) if remote else pattern)
        assert (source.shape, source.dtype) == (X.shape, X.dtype)
        for _ in range(3):
            start, stop = sorted(data.draw(st.tuples(st.integers(0, 15), st.integers(0, 15))))
            rows = source.read(start, stop)
            assert rows.tobytes() == X[start:stop].tobytes()
            assert rows.shape == X[start:stop].shape
            assert rows.flags.c_contiguous
            assert not rows.flags.writeable
        assert source.whole().tobytes() == X.tobytes()


def test_numbers_in_names_count_as_numbers(tmp_path: Path) -> None:
    names = ["part-1.npy", "part-2.npy", "part-02.npy", "part-10.npy", "part-x.npy"]
    for number, name in enumerate(names):
        np.save(tmp_path / name, np.full((1, 2), number))
    for known in (dataset(tmp_path / "part-*.npy"), elsewhere(dataset(tmp_path / "part-*.npy"))):
        snapshot = take(known).snapshot
        assert snapshot is not None
        found = [os.path.basename(file.url) for file in snapshot.files]
        assert found == ["part-1.npy", "part-02.npy", "part-2.npy", "part-10.npy", "part-x.npy"]
        assert open_source(known).whole()[:, 0].tolist() == [0, 2, 1, 3, 4]


def test_files_must_fit_one_another(tmp_path: Path) -> None:
    np.save(tmp_path / "a1.npy", np.zeros((2, 3)))
    np.save(tmp_path / "a2.npy", np.zeros((0, 3)))
    np.save(tmp_path / "a3.npy", np.zeros((2, 3), "f4"))
    np.save(tmp_path / "b1.npy", np.zeros((2, 3)))
    np.save(tmp_path / "b2.npy", np.zeros((2, 4)))
    np.save(tmp_path / "c1.npy", np.zeros((2, 3)))
    np.save(tmp_path / "c2.npy", np.zeros(()))
    assert open_source(dataset(tmp_path / "a[12].npy")).shape == (2, 3)
    for pattern, culprit, what in (
        ("a*", "a3", "holds rows of float32 (3,), while those of"),
        ("b*", "b2", "holds rows of float64 (4,)"),
        ("c*", "c2", "holds a single number"),
    ):
        message = fault(dataset(tmp_path / f"{pattern}.npy"))
        assert f"file '{tmp_path / culprit}.npy' {what}" in message
    assert "no file matches; check the pattern" in fault(dataset(tmp_path / "d*.npy"))
    assert "no file matches" in fault(elsewhere(dataset(tmp_path / "d*.npy")))
    (tmp_path / "e.npy").write_bytes(b"damaged")
    assert f"file '{tmp_path / 'e.npy'}' not a readable .npy header" in fault(dataset(tmp_path / "[be]*.npy"))


def test_a_file_that_is_named_like_a_pattern(tmp_path: Path) -> None:
    np.save(tmp_path / "a[1].npy", X)
    np.save(tmp_path / "a1.npy", X + 1)
    assert open_source(dataset(tmp_path / "a[1].npy")).whole().tobytes() == X.tobytes()
    assert open_source(dataset(tmp_path / "a[1]*.npy")).whole().tobytes() == (X + 1).tobytes()


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", X)
    monkeypatch.setattr(locate, "MAX_FILES", 3)
    assert "matches 4 files, the limit is 3" in fault(dataset(tmp_path / "*.npy"))


def test_views_of_many_files_do_not_keep_them_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "OPEN_FILES", 4)
    for number in range(30):
        np.save(tmp_path / f"{number}.npy", X + number)
    source = open_source(dataset(tmp_path / "*.npy"))
    before = len(os.listdir("/proc/self/fd"))
    held = [source.read(15 * number, 15 * number + 15) for number in range(30)]
    assert len(os.listdir("/proc/self/fd")) <= before + 4
    for number, rows in enumerate(held):
        assert rows.tobytes() == (X + number).tobytes()


# ------------------------------------------------------------------------------------------ parquet


def table(path: Path, **arrays: Any) -> Path:
    pq.write_table(pa.table(arrays), path, row_group_size=4)
    return path


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("dtype", ["bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"])
def test_columns_of_numbers(tmp_path: Path, dtype: str, remote: bool) -> None:
    array = (np.arange(11) % 3).astype(dtype)
    known = dataset(table(tmp_path / "a.parquet", a=array, b=array[::-1]), column="a")
    source = open_source(elsewhere(known) if remote else known)
    assert (source.shape, source.dtype) == ((11,), np.dtype(dtype))
    assert source.whole().tobytes() == array.tobytes()
    assert source.read(3, 9).tobytes() == array[3:9].tobytes()
    one = open_source(Dataset(known.url, ("a",)))
    assert one.shape == (11, 1)
    assert one.read(2, 5).tobytes() == array[2:5].tobytes()


def test_several_columns_get_the_dtype_that_numpy_gives(tmp_path: Path) -> None:
    arrays = {"a": np.arange(9, dtype="i4"), "b": np.arange(9, dtype="f4") / 3, "c": np.arange(9, dtype="u1")}
    path = table(tmp_path / "a.parquet", **arrays)
    for names in (["a", "b"], ["c", "a"], ["b", "c"], ["c", "b", "a"]):
        expected = np.column_stack([arrays[name] for name in names])
        source = open_source(dataset(path, column=names))
        assert (source.dtype, source.shape) == (expected.dtype, expected.shape)
        assert source.whole().tobytes() == expected.tobytes()


@settings(max_examples=30)
@given(rows=st.integers(0, 9), width=st.integers(1, 3), group=st.integers(1, 5), nested=st.booleans())
def test_lists_of_a_fixed_size(rows: int, width: int, group: int, nested: bool) -> None:
    tail = (2, width) if nested else (width,)
    expected = np.arange(rows * int(np.prod(tail)), dtype="f4").reshape(rows, *tail)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(expected.reshape(-1)), width)
    if nested:
        lists = pa.FixedSizeListArray.from_arrays(lists, 2)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.parquet")
        pq.write_table(pa.table({"v": lists}), path, row_group_size=group)
        source = open_source(dataset(path, column="v"))
        assert source.shape == expected.shape
        assert source.whole().tobytes() == expected.tobytes()
        assert source.read(rows // 2, rows).tobytes() == expected[rows // 2 :].tobytes()


def test_nulls_are_refused_and_located(tmp_path: Path) -> None:
    values = [float(k) for k in range(10)]
    gap = pa.array([*values[:6], None, *values[7:]])
    lists = pa.array([[1.0, 2.0]] * 5 + [[3.0, None]] + [[4.0, 5.0]] * 4, pa.list_(pa.float64(), 2))
    absent = pa.array([[1.0, 2.0]] * 7 + [None] + [[4.0, 5.0]] * 2, pa.list_(pa.float64(), 2))
    path = table(tmp_path / "a.parquet", a=pa.array(values), gap=gap, lists=lists, absent=absent)
    assert "column 'gap' is null in row 6; fill the gaps" in fault(dataset(path, column="gap"))
    assert "column 'gap' is null in row 6" in fault(dataset(path, column=["a", "gap"]))
    assert "column 'lists' is null in row 5" in fault(dataset(path, column="lists"))
    assert "column 'absent' is null in row 7" in fault(dataset(path, column="absent"))
    assert open_source(dataset(path, column="gap")).read(0, 4).tolist() == values[:4]


def test_what_is_not_a_column_of_numbers(tmp_path: Path) -> None:
    path = table(
        tmp_path / "a.parquet",
        n=[1, 2],
        s=["a", "b"],
        v=[[1], [2, 3]],
        f=pa.array([[1, 2], [3, 4]], pa.list_(pa.int64(), 2)),
    )
    assert "needs a column; choose one with column=: f, n, s, v" in fault(dataset(path))
    assert "has no such column; it has: f, n, s, v" in fault(dataset(path, column="z"))
    assert "has no column 'z'; it has: f, n, s, v" in fault(dataset(path, column=["n", "z"]))
    assert "column 's' holds string, not numbers" in fault(dataset(path, column="s"))
    assert "column 'v' holds list<" in fault(dataset(path, column="v"))
    assert "a column of lists is read alone" in fault(dataset(path, column=["n", "f"]))
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    assert "has several columns named 'a'" in fault(dataset(tmp_path / "twice.parquet", column="a"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 but no more")
    assert "not a readable .parquet file" in fault(dataset(tmp_path / "bad.parquet", column="a"))
    damaged = bytearray(path.read_bytes())
    damaged[4:40] = b"\xff" * 36
    (tmp_path / "worse.parquet").write_bytes(damaged)
    assert "cannot be decoded" in fault(dataset(tmp_path / "worse.parquet", column="n"))
    np.savez(tmp_path / "a.npz", x=X, y=X)
    assert "several columns can be read of parquet only" in fault(dataset(tmp_path / "a.npz", column=["x", "y"]))
    with pytest.raises(DatasetError, match="column lists no names, or one twice"):
        dataset(path, column=["n", "n"])


def test_a_folder_of_tables(tmp_path: Path) -> None:
    folder = tmp_path / "data.parquet"
    folder.mkdir()
    for number in range(12):
        table(folder / f"part-{number}.parquet", a=[number, number])
    (folder / "_SUCCESS").write_text("")
    expected = [number // 2 for number in range(24)]
    for known in (dataset(folder, column="a"), Dataset(f"{folder}/", "a"), elsewhere(dataset(folder, column="a"))):
        assert open_source(known).whole().tolist() == expected


def test_a_row_group_is_decoded_once_for_neighbouring_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    decode = parquet._Columns._decode

    def counted(self: Any, group: int) -> Array:
        decoded.append(group)
        return decode(self, group)

    monkeypatch.setattr(parquet._Columns, "_decode", counted)
    source = open_source(dataset(table(tmp_path / "a.parquet", a=np.arange(12.0)), column="a"))
    assert decoded == []
    for start in range(0, 12, 3):
        assert source.read(start, start + 3).tolist() == list(range(start, start + 3))
    assert decoded == [0, 1, 2]


def test_a_part_of_the_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"a": np.arange(9, dtype="i4"), "b": np.arange(9, dtype="f8") / 3, "c": np.arange(9, dtype="u1")}
    expected = np.column_stack(list(arrays.values()))
    path = table(tmp_path / "a.parquet", **arrays)
    read: list[tuple[str, ...]] = []
    decode = parquet._Columns._decode

    def seen(self: Any, group: int) -> Array:
        read.append(self.names)
        return decode(self, group)

    monkeypatch.setattr(parquet._Columns, "_decode", seen)
    source = open_source(take(dataset(path, column=list(arrays))))
    for begin, end in ((0, 1), (1, 3), (0, 3)):
        found = source.across(begin, end)
        assert found.dtype == expected.dtype
        assert found.flags.c_contiguous
        assert found.tobytes() == np.ascontiguousarray(expected[:, begin:end]).tobytes()
    assert set(read) == {("a",), ("b", "c"), ("a", "b", "c")}
    np.save(tmp_path / "a.npy", expected)
    assert open_source(dataset(tmp_path / "a.npy")).columns == ()


# --------------------------------------------------------------------------------------- identity


def test_the_snapshot_is_plain_data_and_travels(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    known = take(dataset(tmp_path / "*.npy"))
    assert Dataset.from_json(json.loads(json.dumps(known.to_json()))) == known
    assert pickle.loads(pickle.dumps(known)) == known
    assert len({known, take(known)}) == 1
    snapshot = known.snapshot
    assert snapshot is not None
    (found,) = snapshot.files
    status = os.stat(tmp_path / "a.npy")
    assert (found.url, found.size, found.rows) == (str(tmp_path / "a.npy"), status.st_size, 15)
    assert found.tag == f"mtime {status.st_mtime_ns} inode {status.st_ino}"
    for broken in ({}, {"dtype": "f8", "shape": [1], "files": [{}]}, {"dtype": "f8", "shape": 1, "files": []}, 3):
        with pytest.raises(FormatError, match="snapshot"):
            Dataset.from_json({"url": "a.npy", "snapshot": broken})


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_another_file_than_that_of_the_snapshot(tmp_path: Path, name: str, remote: bool) -> None:
    """Replaced with equal size and time, written over, shorter, gone: each is told, and files not read do not matter."""
    path = tmp_path / name
    known = save(path, X)
    (tmp_path / "z").mkdir()
    other = tmp_path / "z" / name
    save(other, X + 1)
    pattern = Dataset(f"{tmp_path}/**/{name}", known.column)
    known = take(elsewhere(pattern) if remote else pattern)
    assert open_source(known).read(0, 30).tobytes() == np.concatenate([X, X + 1]).tobytes()
    status = other.stat()
    save(tmp_path / f"new{other.suffix}", X + 2)
    os.replace(tmp_path / f"new{other.suffix}", other)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    source = open_source(known)
    assert source.read(0, 15).tobytes() == X.tobytes()
    with pytest.raises(
        DatasetError, match=r"has changed since it was first looked at: expected \d+ bytes, .*found"
    ) as caught:
        source.read(14, 16)
    assert str(other) in str(caught.value)
    os.truncate(other, 20)
    with pytest.raises(DatasetError, match="found 20 bytes"):
        open_source(known).whole()
    other.unlink()
    with pytest.raises(DatasetError, match="no such file"):
        open_source(known).whole()


def test_a_view_of_a_file_that_changes_is_noticed_afterwards(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", X)
    source = open_source(take(dataset(tmp_path / "a.npy")))
    rows = source.read(2, 5)
    source.verify()
    with open(tmp_path / "a.npy", "r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\1")
    os.utime(tmp_path / "a.npy", ns=(0, 1))
    assert rows.tobytes() == X[2:5].tobytes()
    with pytest.raises(DatasetError, match="has changed since it was first looked at"):
        source.verify()
    copied = open_source(take(save(tmp_path / "packed.npz", X)))
    copied.read(2, 5)
    (tmp_path / "packed.npz").unlink()
    copied.verify()  # these bytes do not depend on the file any more


# ---------------------------------------------------------------------------------- what is missing


def test_extras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = dataset(table(tmp_path / "a.parquet", a=[1.0]), column="a")
    for library, url, extra in (
        ("s3fs", "s3://bucket/a.npy", "s3"),
        ("gcsfs", "gs://bucket/a.npy", "gcs"),
        ("aiohttp", "https://localhost/a.npy", "http"),
        ("pyarrow", known.url, "parquet"),
    ):
        with monkeypatch.context() as patch:
            for module in [m for m in sys.modules if m.split(".")[0] in (library, "fsspec")]:
                patch.delitem(sys.modules, module)
            patch.setitem(sys.modules, library, None)
            with pytest.raises(MissingExtraError, match=rf"pip install 'gradfleet\[{extra}\]'"):
                open_source(Dataset(url, known.column if library == "pyarrow" else None))


def test_optional_libraries_are_imported_only_when_used(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    program = (
        "import sys; from workers.data import open_source; from graphir.dataset import dataset\n"
        f"open_source(dataset({str(tmp_path / 'a.npy')!r})).whole()\n"
        "print(sorted({'fsspec', 's3fs', 'aiohttp', 'pyarrow', 'pandas'} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
