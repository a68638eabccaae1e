"""The safetensors reader and writer against the reference implementation, and against damaged bytes."""

import json
import mmap
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphir import tensors
from graphir.errors import DTypeError, FormatError, LimitError
from graphir.tensors import DTYPES, Array, Tensors

NAMES = st.text(st.characters(codec="utf-8"), max_size=6).filter(lambda name: name != tensors.METADATA)
ARRAYS = hnp.arrays(
    st.sampled_from(sorted(DTYPES, key=str)), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
)


def made(header: object, data: bytes = b"", pad: bool = True) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8 if pad else 0)
    return len(raw).to_bytes(8, "little") + raw + data


def one(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def owner(array: Array) -> object:
    """The object whose memory the array is a view of."""
    base: object = array
    while True:
        below = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
        if below is None:
            return base
        base = below


def assert_same(actual: Any, expected: Any) -> None:
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].shape == array.shape
        assert actual[name].tobytes() == array.tobytes()


# ----------------------------------------------------------------------- against the reference


@given(st.dictionaries(NAMES, ARRAYS, max_size=6), st.dictionaries(st.text("ab\n\x01é\x7f"), NAMES, max_size=1))
def test_bytes_are_the_reference_implementations(arrays: dict[str, Array], metadata: dict[str, str]) -> None:
    data = tensors.write(arrays, metadata)
    assert data == reference.save(arrays, metadata or None)
    found = tensors.read(data)
    assert found.metadata == metadata
    assert_same(found, arrays)
    assert_same(reference.load(data), arrays)


def test_every_dtype_of_the_reference_is_known() -> None:
    assert set(tensors._STORED) == set(reference._TYPES)
    assert all(dtype == reference._TYPES[code] for code, dtype in tensors._STORED.items())


def test_file_is_the_same_bytes_and_the_reference_reads_it(tmp_path: Path) -> None:
    arrays = {
        "w": np.arange(6.0).reshape(2, 3),
        "flag": np.array([True, False]),
        "none": np.zeros((0, 5), "i2"),
    }
    path = tmp_path / "a.safetensors"
    tensors.write_file(path, arrays, {"b": "2", "a": "1"})
    assert path.read_bytes() == tensors.write(arrays, {"a": "1", "b": "2"})
    assert_same(reference.load_file(path), arrays)
    with safetensors.safe_open(path, framework="np") as file:
        assert file.metadata() == {"a": "1", "b": "2"}
    assert_same(tensors.open_file(path), arrays)


def test_equal_arrays_make_equal_bytes_in_any_order_and_layout() -> None:
    x, y = np.arange(12, dtype="f4").reshape(3, 4), np.array(7, "i8")
    first = tensors.write({"x": x, "y": y}, {"p": "1", "q": "2"})
    second = tensors.write({"y": y.astype(">i8"), "x": np.asfortranarray(x)}, {"q": "2", "p": "1"})
    third = tensors.write({"x": np.repeat(x, 2, axis=1)[:, ::2], "y": y}, {"q": "2", "p": "1"})
    assert first == second == third


# ------------------------------------------------------------------------------------- views


def test_arrays_are_read_only_views_of_the_given_bytes() -> None:
    data = bytearray(tensors.write({"x": np.arange(4.0)}))
    x = tensors.read(data)["x"]
    assert owner(x) is data
    assert not x.flags.writeable
    data[-8:] = np.float64(9).tobytes()
    assert x[3] == 9


def test_an_opened_file_is_mapped_and_not_read(tmp_path: Path) -> None:
    path = tmp_path / "big.safetensors"
    tensors.write_file(path, {"x": np.ones(1 << 20)})
    tracemalloc.start()
    x = tensors.open_file(path)["x"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert isinstance(owner(x), mmap.mmap)
    assert x.flags.aligned
    assert x.flags.c_contiguous
    assert not x.flags.writeable
    assert peak < x.nbytes / 8
    assert x.sum() == 1 << 20


def test_writing_streams_and_copies_once(tmp_path: Path) -> None:
    x = np.ones(1 << 20)
    tracemalloc.start()
    tensors.write_file(tmp_path / "x", {"x": x})
    _, file_peak = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    data = tensors.write({"x": x})
    _, bytes_peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert file_peak < x.nbytes / 8
    assert len(data) <= bytes_peak < 1.25 * len(data)


@pytest.mark.parametrize("dtype", ["F64", "C64", "U16"])
def test_misaligned_data_gives_the_right_aligned_array(dtype: str) -> None:
    values = np.arange(6, dtype=reference._TYPES[dtype]).reshape(2, 3)
    header = {"odd": one("U8", [1], [0, 1]), "x": one(dtype, [2, 3], [1, 1 + values.nbytes])}
    found = tensors.read(made(header, b"\5" + values.tobytes()))
    assert not found.view("x").flags.aligned
    assert found["x"].flags.aligned
    assert not found["x"].flags.writeable
    np.testing.assert_array_equal(found["x"], values)
    np.testing.assert_array_equal(found.view("x"), values)
    assert_same(reference.load(made(header, b"\5" + values.tobytes())), {"odd": np.array([5], "u1"), "x": values})


def test_arrays_are_made_once_and_on_demand() -> None:
    found = tensors.read(tensors.write({"x": np.zeros(3), "y": np.array(1.5)}))
    assert found["x"] is found["x"]
    assert len(found) == 2
    assert "y" in found
    assert "z" not in found
    assert found.get("z") is None
    assert found["y"].shape == ()
    assert found.entries["x"] == ("F64", (3,), 0, 24)
    assert found != tensors.read(tensors.write({"x": np.zeros(3)}))
    with pytest.raises(KeyError):
        found["z"]


def test_tensors_can_be_written_again() -> None:
    data = tensors.write({"x": np.arange(3), "y": np.array([True])}, {"k": "v"})
    found = tensors.read(memoryview(data))
    assert tensors.write(found, found.metadata) == data


def test_dtypes_without_numpy_counterpart_are_refused_on_use_only() -> None:
    header = {"b": one("BF16", [2], [0, 4]), "f": one("F4", [4], [4, 6]), "x": one("U8", [2], [6, 8])}
    found = tensors.read(made(header, bytes(8)))
    np.testing.assert_array_equal(found["x"], [0, 0])
    with pytest.raises(FormatError, match=r"tensor 'b' has dtype BF16.*convert it to F32"):
        found["b"]
    with pytest.raises(FormatError, match=r"tensor 'f' has dtype F4"):
        found["f"]


def test_bools_other_than_0_and_1_are_refused() -> None:
    found = tensors.read(made({"x": one("BOOL", [3], [0, 3])}, b"\0\1\2"))
    with pytest.raises(FormatError, match=r"tensor 'x' at byte 64 is BOOL and holds bytes other than 0 and 1"):
        found["x"]


# --------------------------------------------------------------------------------- malformed input

TWO = {"x": one(), "y": one(offsets=(8, 16))}
MALFORMED = {
    "empty": (b"", "0 bytes cannot hold a header length"),
    "short length": (b"\1\0\0", "3 bytes cannot hold"),
    "header past the end": (
        (99).to_bytes(8, "little") + b"{}",
        "end at byte 107 but the file ends at byte 10",
    ),
    "no header": (made(b"", pad=False), "does not start with '{'"),
    "list header": (made([]), "byte 8: it does not start with '{'"),
    "space first": (made(b" {}"), "does not start with '{'"),
    "not json": (made(b'{"x":}'), "byte 13: not JSON"),
    "byte of a later character": (made('{"é":}'.encode()), "byte 14: not JSON"),
    "surplus json": (made(b"{}{}"), "byte 10: not JSON"),
    "zero padding": (made(b"{}\0\0"), "byte 10: not JSON"),
    "not utf-8": (made(b'{"\xff":1}'), "byte 10: not UTF-8"),
    "control character": (made(b'{"\n":1}'), "not JSON"),
    "deep list": (made(b'{"x":' + b"[" * 200_000), "nested too deeply"),
    "deep object": (made(b'{"x":' * 200_000), "nested too deeply"),
    "nan": (made(b'{"x":NaN}'), "NaN is not JSON"),
    "infinity": (made(b'{"x":-Infinity}'), "-Infinity is not JSON"),
    "huge integer": (made(b'{"x":' + b"9" * 10_000 + b"}"), "is not a non-negative integer"),
    "duplicate tensor": (made(b'{"x":0,"x":0}'), "the key 'x' occurs more than once"),
    "duplicate field": (
        made(b'{"x":{"dtype":"F32","dtype":"F32"}}'),
        "the key 'dtype' occurs more than once",
    ),
    "surrogate name": (made(b'{"\\ud800":{}}'), "unpaired surrogate"),
    "surrogate metadata": (made(b'{"__metadata__":{"k":"\\udc00"}}'), "unpaired surrogate"),
    "metadata list": (made({"__metadata__": ["a"]}), "__metadata__ is not an object"),
    "metadata number": (made({"__metadata__": {"a": 1}}), "value of 'a' is not text"),
    "tensor is a number": (made({"x": 1}), "tensor 'x': its description is not an object"),
    "no shape": (made({"x": {"dtype": "F32", "data_offsets": [0, 0]}}), "tensor 'x': its description"),
    "unknown dtype": (made({"x": one("F31")}), "tensor 'x': unknown dtype 'F31'"),
    "dtype list": (made({"x": one(["F32"])}), "tensor 'x': unknown dtype"),
    "negative size": (made({"x": one(shape=[-2])}), "-2 is not a non-negative integer"),
    "float size": (made({"x": one(shape=[2.0])}), r"its shape [2.0] is not a list"),
    "bool size": (made({"x": one(shape=[True])}), r"its shape [True] is not a list"),
    "text shape": (made({"x": one(shape="2")}), "its shape '2' is not a list"),
    "high rank": (made({"x": one(shape=[1] * 65)}), "at most 64"),
    "three offsets": (made({"x": one(offsets=[0, 4, 8])}), "data_offsets [0, 4, 8] are not two"),
    "null offset": (made({"x": one(offsets=[0, None])}), "data_offsets [0, None] are not two"),
    "overflow": (made({"x": one(shape=[2**62, 2**62])}), "overflows the address space"),
    "overflow to zero": (made({"x": one(shape=[2**63, 2**63, 0], offsets=[0, 0])}), "overflows"),
    "size mismatch": (made({"x": one(shape=[3])}, bytes(8)), "needs 12 bytes, but data_offsets are 0:8"),
    "half a byte": (made({"x": one("F4", [3], [0, 2])}, bytes(2)), "needs 1.5 bytes"),
    "reversed offsets": (made({"x": one(offsets=[8, 0])}, bytes(8)), "data_offsets are 8:0"),
    "truncated data": (made(TWO, bytes(15)), "it is truncated, copy it again"),
    "surplus data": (made(TWO, bytes(17)), "remove the surplus bytes"),
    "data without tensors": (made({}, b"1"), "remove the surplus bytes"),
    "hole": (made({"x": one(), "y": one(offsets=(9, 17))}, bytes(17)), "a hole; save the file again"),
    "hole at the start": (made({"x": one(offsets=(1, 9))}, bytes(9)), "tensor 'x' begins at byte 65, but"),
    "overlap": (made({"x": one(), "y": one(offsets=(4, 12))}, bytes(12)), "an overlap; save"),
    "shared bytes": (made({"x": one(), "y": one()}, bytes(8)), "an overlap; save"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_input_is_a_format_error(case: str) -> None:
    data, message = MALFORMED[case]
    with pytest.raises(FormatError) as caught:
        tensors.read(data, source="w.safetensors")
    assert str(caught.value).startswith("w.safetensors: ")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


def test_header_limit() -> None:
    data = tensors.write({"x": np.zeros(2)}, {"k": "v" * 1000})
    with pytest.raises(LimitError, match="header of 1080 bytes .*over the limit of 1000; .*raise max_header"):
        tensors.read(data, max_header=1000)
    assert tensors.read(data, max_header=1080).metadata == {"k": "v" * 1000}
    with pytest.raises(LimitError, match=str(2**64 - 1)):
        tensors.read(b"\xff" * 16)


def test_unknown_fields_are_ignored_as_by_the_reference() -> None:
    data = made({"x": one() | {"comment": [1.5, None, {"a": 3}]}}, bytes(8))
    assert_same(tensors.read(data), reference.load(data))


SAMPLE = tensors.write(
    {"x": np.arange(4, dtype="f4"), "é": np.array([[True, False]]), "n": np.zeros((0, 3), "i8")}, {"k": "v"}
)
EDITS = st.one_of(
    st.builds(lambda at, byte: (at, at + 1, bytes([byte])), st.integers(0, len(SAMPLE)), st.integers(0, 255)),
    st.tuples(
        st.integers(0, len(SAMPLE)), st.integers(0, len(SAMPLE)), st.sampled_from(list(b'0123-9{}[]",:e.')).map(
            lambda byte: bytes([byte]))
    ),
    st.tuples(st.integers(0, len(SAMPLE)), st.integers(0, len(SAMPLE)), st.binary(max_size=3)),
)  # fmt: skip


@settings(max_examples=600)
@given(st.lists(EDITS, min_size=1, max_size=3))
def test_only_typed_errors_escape_and_nothing_is_accepted_that_the_reference_refuses(edits: Any) -> None:
    data = SAMPLE
    for begin, end, insert in edits:
        data = data[: min(begin, end)] + insert + data[max(begin, end) :]
    try:
        found = tensors.read(data)
        arrays = dict(found)
    except (FormatError, LimitError):
        return
    assert_same(arrays, reference.load(data))


@given(st.integers(0, len(SAMPLE) - 1))
def test_every_truncation_is_a_format_error(size: int) -> None:
    with pytest.raises(FormatError):
        tensors.read(SAMPLE[:size])


@given(st.binary(max_size=200))
def test_arbitrary_headers(raw: bytes) -> None:
    for data in (raw, made(b"{" + raw)):
        try:
            assert isinstance(tensors.read(data), Tensors)
        except (FormatError, LimitError):
            continue


# ------------------------------------------------------------------------------------ files, writing


def test_files_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tensors.open_file(tmp_path / "none")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FormatError, match="empty: 0 bytes"):
        tensors.open_file(tmp_path / "empty")
    for name in (tmp_path / "pipe", tmp_path):
        with pytest.raises(FormatError, match="not a regular file"):
            tensors.open_file(name)


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.array(["a"]),
        np.zeros(1, "M8[s]"),
        np.zeros(1, "c16"),
        np.zeros(1, "i4,f4"),
        [1.0],
    ],
    ids=lambda array: str(getattr(array, "dtype", "list")),
)
def test_arrays_that_cannot_be_stored(array: Any) -> None:
    with pytest.raises(DTypeError, match="tensor 'bad' "):
        tensors.write({"bad": array})


def test_names_and_metadata_that_cannot_be_stored() -> None:
    x = np.zeros(1)
    with pytest.raises(FormatError, match="cannot name a tensor"):
        tensors.write({"__metadata__": x})
    with pytest.raises(FormatError, match="cannot name a tensor"):
        tensors.write({1: x})  # type: ignore[dict-item]  # the error is the point
    with pytest.raises(FormatError, match="unpaired surrogate"):
        tensors.write({"\ud800": x})
    with pytest.raises(FormatError, match="not a pair of texts"):
        tensors.write({"x": x}, {"k": 1})  # type: ignore[dict-item]  # the error is the point


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    tensors.write_file(path, {"x": np.zeros(3)})
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        tensors.write_file(path, {"x": np.ones(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_mapped_file_can_be_replaced_by_itself(tmp_path: Path) -> None:
    path, link = tmp_path / "x.safetensors", tmp_path / "link"
    tensors.write_file(path, {"x": np.arange(5)})
    link.symlink_to(path)
    found = tensors.open_file(link)
    tensors.write_file(link, {"x": found["x"] + 1})
    assert link.is_symlink()
    np.testing.assert_array_equal(tensors.open_file(path)["x"], np.arange(5) + 1)
    np.testing.assert_array_equal(found["x"], np.arange(5))
