"""Datasets of several files, tables, and files elsewhere, against numpy and pyarrow."""

import itertools
import os
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
from workers.data import open_source, take

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
