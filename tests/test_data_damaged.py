"""Files that hold no numbers, are damaged or change: one error that says which dataset and what is wrong, whatever their bytes."""

import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy as reference
from hypothesis import given, settings
from hypothesis import strategies as st

from graphir.dataset import dataset
from graphir.errors import DatasetError
from tests.saved import FILES, X, fault, npy_bytes, save
from workers.data import open_source

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
