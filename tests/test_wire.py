"""The .gir format: round trips, other processes, and every kind of bad file."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir import tensors, wire
from graphir.node import REGISTRY
from graphir.verify import verify

x, w = gi.input("x", ("n", 4), "float32"), gi.input("w", (4, 3), "float32")
_loss = gi.mean(gi.logsumexp(gi.tanh(x @ w) + gi.constant(np.arange(3, dtype="float32")), axis=1)[1:-1] ** 2)
GRAPH = gi.Graph({"loss": _loss, "dw": gi.grad(_loss, [w])[0]})
DATA = wire.dump(GRAPH)


def test_round_trip_keeps_the_nodes() -> None:
    again = wire.load(DATA)
    assert again == GRAPH
    assert again.digest == GRAPH.digest
    assert wire.dump(again) == DATA


@pytest.mark.parametrize("seed", ["0", "1", "4711"])
def test_another_process_finds_the_same_digest(tmp_path: Path, seed: str) -> None:
    wire.save(GRAPH, tmp_path / "g.gir")
    code = "import sys; from graphir import wire; g = wire.load(sys.argv[1]); print(g.digest, len(g), wire.load(wire.dump(g)) == g)"
    command = [sys.executable, "-c", code, str(tmp_path / "g.gir")]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed, "PATH": ""})
    assert out.stdout.split() == [GRAPH.digest, str(len(GRAPH)), "True"]


def test_origins_survive_in_another_process(tmp_path: Path) -> None:
    wire.save(GRAPH, tmp_path / "g.gir")
    code = "import sys; from graphir import wire; print([str(n.origin) for n in wire.load(sys.argv[1])])"
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "g.gir")], capture_output=True, text=True, check=True
    )
    assert "vjp of matmul at test_wire.py:" in out.stdout


def test_every_truncation_is_found() -> None:
    for end in range(0, len(DATA), 7):
        with pytest.raises((gi.FormatError, gi.LimitError)):
            wire.load(DATA[:end])


def test_every_flipped_byte_is_found_or_changes_nothing() -> None:
    for at in range(0, len(DATA), 11):
        changed = bytearray(DATA)
        changed[at] ^= 0x15
        try:
            assert wire.load(bytes(changed)).digest == GRAPH.digest
        except gi.GraphError:
            continue


def tampered(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with changed columns and a checksum that fits them."""
    file = tensors.read(DATA)
    columns = {name: json.loads(file.metadata[name]) for name in wire.COLUMNS}
    change(columns)
    texts = {name: json.dumps(value) for name, value in columns.items()}
    constants = dict(file.items())
    return tensors.write(constants, {**file.metadata, **texts, "checksum": wire._checksum(texts, constants)})


def _first_with_inputs(columns: dict[str, Any]) -> int:
    return next(k for k in range(len(columns["node_ops"])) if columns["starts"][k + 1] > columns["starts"][k])


def _point(at: Callable[[int, int], int]) -> Callable[[dict[str, Any]], None]:
    def change(columns: dict[str, Any]) -> None:
        k = _first_with_inputs(columns)
        columns["inputs"][columns["starts"][k]] = at(k, len(columns["node_ops"]))

    return change


def _repeat_first(columns: dict[str, Any]) -> None:
    for name in ("node_ops", "node_types", "node_origins", "starts"):
        columns[name].append(columns[name][-1 if name == "starts" else 0])
    columns["attrs"][str(len(columns["node_ops"]) - 1)] = columns["attrs"]["0"]


BAD: dict[str, tuple[Callable[[dict[str, Any]], None], type[gi.GraphError], str]] = {
    "cycle": (_point(lambda k, n: k), gi.InvariantError, "cycle"),
    "forward reference": (_point(lambda k, n: k + 1), gi.InvariantError, "forward"),
    "dangling input": (_point(lambda k, n: n), gi.InvariantError, "dangling"),
    "unknown op": (lambda c: c["ops"].__setitem__(0, ["inputt", 1]), gi.UnknownOpError, "did you mean input"),
    "newer op": (lambda c: c["ops"].__setitem__(0, [c["ops"][0][0], 9]), gi.FormatError, "version 9"),
    "huge attribute": (lambda c: c["attrs"]["0"].__setitem__("shape", [1] * 10**6), gi.LimitError, "1000000 elements"),
    "wrong type": (lambda c: c["types"].__setitem__(0, ["float64", [7]]), gi.GraphError, "."),
    "offsets": (lambda c: c["starts"].pop(), gi.FormatError, "offsets"),
    "op code": (lambda c: c["node_ops"].__setitem__(0, 99), gi.FormatError, "'node_ops' names a row"),
    "negative op code": (lambda c: c["node_ops"].__setitem__(0, -1), gi.FormatError, "'node_ops' names a row"),
    "negative type": (lambda c: c["node_types"].__setitem__(0, -1), gi.FormatError, "'node_types' names a row"),
    "origin code": (lambda c: c["node_origins"].pop(), gi.FormatError, "values for"),
    "huge code": (lambda c: c["node_ops"].__setitem__(0, 10**30), gi.FormatError, "do not describe"),
    "fraction": (lambda c: c["inputs"].__setitem__(0, 0.5), gi.FormatError, "list of integers"),
    "truth value": (lambda c: c["starts"].__setitem__(0, False), gi.FormatError, "list of integers"),
    "falling offsets": (lambda c: c["starts"].__setitem__(1, 9), gi.FormatError, "offsets"),
    "nodes of text": (lambda c: c.__setitem__("node_ops", "abc"), gi.FormatError, "list of integers"),
    "nodes of a number": (lambda c: c.__setitem__("node_ops", 7), gi.FormatError, "list of integers"),
    "ops of a number": (lambda c: c.__setitem__("ops", 7), gi.FormatError, "do not describe"),
    "negative output": (lambda c: c["names"][1][0].__setitem__(1, -1), gi.FormatError, "none of its nodes"),
    "output twice": (lambda c: c["names"][1].append(c["names"][1][0]), gi.FormatError, "distinct"),
    "input that is none": (lambda c: c["names"][0].append(_first_with_inputs(c)), gi.GraphError, "."),
    "input lost": (lambda c: c["names"][0].pop(), gi.InvariantError, "not among its inputs"),
    "type not canonical": (lambda c: c["types"].append(["float64", ["n+1"]]), gi.FormatError, "canonical"),
    "negative size": (lambda c: c["types"].append(["float64", [-5]]), gi.GraphError, "cannot be -5"),
    "unknown dtype": (lambda c: c["types"].append(["float7", []]), gi.DTypeError, "float7"),
    "unknown origin": (lambda c: c["origins"].append(["moon", "", ""]), gi.FormatError, "not an origin"),
    "surplus attributes": (lambda c: c["attrs"].__setitem__("999", {}), gi.FormatError, "takes none"),
    "missing attributes": (lambda c: c["attrs"].pop("0"), gi.AttributeValueError, "takes the attributes"),
    "nested attribute": (lambda c: c["attrs"]["0"].__setitem__("shape", [[[]]]), gi.GraphError, "."),
    "same node twice": (lambda c: _repeat_first(c), gi.InvariantError, "are the same"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_columns(case: str) -> None:
    change, error, said = BAD[case]
    with pytest.raises(error, match=said):
        wire.load(tampered(change))


def test_limits_and_versions() -> None:
    with pytest.raises(gi.LimitError, match="over the limit"):
        wire.load(DATA, wire.Limits(header_bytes=100))
    with pytest.raises(gi.LimitError, match="over the limit of 3"):
        wire.load(DATA, wire.Limits(nodes=3))
    file = tensors.read(DATA)
    with pytest.raises(gi.FormatError, match="update Gradfleet"):
        wire.load(tensors.write(dict(file.items()), {**file.metadata, "min_reader": "2"}))
    with pytest.raises(gi.LimitError, match="over the limit of 8"):
        wire.load(DATA, wire.Limits(constant_bytes=8))
    with pytest.raises(gi.LimitError, match="over the limit of 1;"):
        wire.load(DATA, wire.Limits(attribute_items=1))
    for version in ("²", "9" * 5000, "-1", ""):
        with pytest.raises(gi.FormatError, match="without a graph"):
            wire.load(tensors.write(dict(file.items()), {**file.metadata, "min_reader": version}))
    with pytest.raises(gi.FormatError, match="no constants of the graph"):
        wire.load(_with_surplus_tensor())
    with pytest.raises(gi.FormatError, match="without a graph"):
        wire.load(tensors.write({"a": np.zeros(2)}, {}))


def _with_surplus_tensor() -> bytes:
    file = tensors.read(DATA)
    constants = {**file, "c9999": np.zeros(2)}
    checksum = wire._checksum(file.metadata, constants)
    return tensors.write(constants, {**file.metadata, "checksum": checksum})


UNARY, BINARY = ("sin", "tanh", "negative", "square"), ("add", "multiply", "subtract")


@st.composite
def graphs(draw: st.DrawFn) -> gi.Graph:
    """Random graphs with shared nodes, constants, sizes, slices and gradients."""
    shape = draw(st.sampled_from([(3,), ("n", 2), ("n", "m + 1"), ()]))
    dtype = draw(st.sampled_from(["float32", "float64"]))
    values = [gi.input(f"in{k}", shape, dtype) for k in range(draw(st.integers(1, 3)))]
    leaves = list(values)
    values.append(gi.astype(gi.constant(draw(st.floats(allow_nan=False, width=32))), dtype) + values[0])
    for _ in range(draw(st.integers(1, 25))):
        a, b = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        name = draw(st.sampled_from(UNARY + BINARY))
        values.append(getattr(gi, name)(a) if name in UNARY else getattr(gi, name)(a, b))
        if draw(st.booleans()) and isinstance(a.shape[0] if a.shape else 3, str):
            values.append(b - gi.flip(a, axis=0) * gi.astype(gi.size(str(a.shape[0])), dtype))
    total = gi.sum(values[-1])
    outputs = {"total": total, "ключ": draw(st.sampled_from(values))}
    if draw(st.booleans()):
        outputs |= {f"d{k}": d for k, d in enumerate(gi.grad(total + gi.sum(leaves[0]), [leaves[0]]))}
    return gi.Graph(outputs, inputs=draw(st.permutations(leaves)))


@settings(max_examples=60)
@given(graph=graphs())
def test_random_graphs_survive(graph: gi.Graph) -> None:
    data = wire.dump(graph)
    again = wire.load(data)
    assert again == graph
    assert list(again.inputs) == list(graph.inputs)
    assert verify(again).digest == graph.digest
    assert wire.dump(again) == data


@settings(max_examples=150)
@given(at=st.integers(0, len(DATA) - 1), byte=st.integers(0, 255))
def test_any_other_byte_gives_the_same_graph_or_a_typed_error(at: int, byte: int) -> None:
    changed = bytearray(DATA)
    changed[at] = byte
    try:
        assert wire.load(bytes(changed)) == GRAPH
    except gi.GraphError as error:
        assert str(error)


@pytest.mark.parametrize("op", sorted(REGISTRY))
def test_every_example_of_every_op_survives(op: str) -> None:
    for example in REGISTRY[op].examples:
        inputs = [gi.input(f"i{k}", a.shape, a.dtype).node for k, a in enumerate(example.arrays())]
        graph = gi.Graph({"out": REGISTRY[op](*inputs, **example.attrs)}, inputs=inputs or None)
        assert verify(wire.load(wire.dump(graph))) == graph


def test_equal_graphs_make_equal_bytes_in_every_process(tmp_path: Path) -> None:
    wire.save(GRAPH, tmp_path / "g.gir")
    code = "import sys, hashlib; from graphir import wire; print(hashlib.sha256(wire.dump(wire.load(sys.argv[1]))).hexdigest())"
    command = [sys.executable, "-c", code, str(tmp_path / "g.gir")]
    found = {
        subprocess.run(
            command, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": s, "PATH": ""}
        ).stdout
        for s in ("1", "2")
    }
    assert found == {hashlib.sha256(DATA).hexdigest() + "\n"}


def test_saving_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "g.gir"
    GRAPH.save(path)
    assert path.read_bytes() == DATA
    assert [p.name for p in tmp_path.iterdir()] == ["g.gir"]
    with pytest.raises(gi.FormatError, match="cannot read"):
        wire.load(tmp_path / "absent.gir")


def test_the_reference_implementation_reads_the_constants() -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    (found,) = (a for a in safetensors.load(DATA).values() if a.size == 3)
    np.testing.assert_array_equal(found, np.arange(3, dtype="float32"))


def test_a_long_chain_needs_no_recursion() -> None:
    value = gi.input("x")
    for _ in range(200_000):
        value = gi.sin(value)
    graph = gi.Graph({"out": value})
    assert wire.load(wire.dump(graph)) == graph
