"""The .gir format: round trips, other processes, and every kind of bad file."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir import tensors, wire

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


BAD: dict[str, tuple[Callable[[dict[str, Any]], None], type[gi.GraphError], str]] = {
    "cycle": (_point(lambda k, n: k), gi.InvariantError, "cycle"),
    "forward reference": (_point(lambda k, n: k + 1), gi.InvariantError, "forward"),
    "dangling input": (_point(lambda k, n: n), gi.InvariantError, "dangling"),
    "unknown op": (lambda c: c["ops"].__setitem__(0, ["inputt", 1]), gi.UnknownOpError, "did you mean input"),
    "newer op": (lambda c: c["ops"].__setitem__(0, [c["ops"][0][0], 9]), gi.FormatError, "version 9"),
    "huge attribute": (lambda c: c["attrs"]["0"].__setitem__("shape", [1] * 10**6), gi.LimitError, "1000000 elements"),
    "wrong type": (lambda c: c["types"].__setitem__(0, ["float64", [7]]), gi.GraphError, "."),
    "offsets": (lambda c: c["starts"].pop(), gi.FormatError, "offsets"),
    "op code": (lambda c: c["node_ops"].__setitem__(0, 99), gi.FormatError, "do not describe"),
    "nodes of text": (lambda c: c.__setitem__("node_ops", "abc"), gi.FormatError, "."),
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
    with pytest.raises(gi.FormatError, match="without a graph"):
        wire.load(tensors.write({"a": np.zeros(2)}, {}))


def test_a_long_chain_needs_no_recursion() -> None:
    value = gi.input("x")
    for _ in range(100_000):
        value = gi.sin(value)
    graph = gi.Graph({"out": value})
    assert wire.load(wire.dump(graph)) == graph
