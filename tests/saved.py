"""Arrays saved in the formats that datasets are read from."""

import io
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy as reference

from graphir.dataset import Dataset, dataset
from graphir.errors import DatasetError
from graphir.tensors import Array
from workers.data import open_source

X = np.arange(24, dtype="f4").reshape(6, 4)


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
