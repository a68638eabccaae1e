"""Fused groups: the bits of the reference evaluation however values lie in memory, in less memory, on any number of threads."""

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.interpret import evaluate
from graphir.node import REGISTRY
from graphir.ops.sources import input_
from tests.random_graphs import feeds, graphs, same_bits
from workers import blocks
from workers.executor import Executor
from workers.footprint import peak_bytes
from workers.fuse import Group, fusable, schedule

ROWS = 3000


def groups_of(graph: gi.Graph) -> list[Group]:
    return [item for item in schedule(graph) if isinstance(item, Group)]


def chain(depth: int = 3) -> gi.Graph:
    w = z = gi.input("w", ("n",))
    for _ in range(depth):
        z = gi.tanh(z) * z + gi.exp(-z * z)
    loss = gi.sum(z)
    return gi.Graph({"loss": loss, "dw": gi.grad(loss, [w])[0]})


def same(graph: gi.Graph, values: dict[str, Any], threads: int = 1) -> bool:
    with np.errstate(all="ignore"):
        return same_bits(Executor(graph, threads=threads)(values), evaluate(graph, values))


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """With one kind of NaN: of two that are added the sign depends on the place in the processor's registers."""
    return {name: np.where(array != array, np.nan, array).astype(array.dtype) for name, array in values.items()}


@settings(max_examples=200)
@given(graphs(), st.integers(0, 5), st.sampled_from([1, 16, 64]), st.integers(1, 3))
def test_random_graphs_have_the_bits_of_the_reference(graph: gi.Graph, seed: int, block: int, threads: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", max(block, 8))
        patch.setattr(blocks, "BLOCKS_A_PART", 1)
        values, sizes = feeds(graph, seed), {"n": 3}
        try:
            expected = evaluate(graph, values, sizes=sizes)
        except gi.GraphError:
            with pytest.raises(gi.GraphError):  # of several that fail another one may be the first
                Executor(graph, threads=threads)(values, sizes=sizes)
            return
        made = Executor(graph, threads=threads)(values, sizes=sizes)
        assert same_bits(plain(made), plain(expected))


@pytest.mark.parametrize("name", [n for n, op in REGISTRY.items() if n != "input"])
def test_every_elementwise_op_in_blocks(name: str) -> None:
    op = REGISTRY[name]
    for example in op.examples:
        inputs = [input_(name=f"i{k}", dtype=s.dtype, shape=(ROWS, *s.shape)) for k, s in enumerate(example.inputs)]
        try:
            node = op(*inputs, **example.attrs)
        except (gi.GraphError, TypeError):
            continue
        if not fusable(node):
            continue
        rng = np.random.default_rng(4)
        tiled = [np.broadcast_to(array, (ROWS, *array.shape)) for array in example.arrays()]
        values = {f"i{k}": np.ascontiguousarray(rng.permuted(array)) for k, array in enumerate(tiled)}
        graph = gi.Graph({"once": node, "twice": op(*inputs[:-1], inputs[-1], **example.attrs)}, inputs=inputs)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "BLOCK_BYTES", 256)
            assert same(graph, values, threads=2)


def test_a_chain_and_its_gradient_are_one_group() -> None:
    items = schedule(chain())
    (group,) = [item for item in items if isinstance(item, Group) and item.nodes[0].type.shape == ("n",)]
    assert {node.op.name for node in group.outputs} <= {"add", "multiply"}
    assert len(group.outputs) == 2
    assert sum(len(g.nodes) for g in groups_of(chain())) >= 50


def layouts() -> dict[str, np.ndarray]:
    base = np.random.default_rng(1).normal(size=(200, 300))
    return {
        "rows": base,
        "columns": np.asfortranarray(base),
        "every other": np.repeat(base, 2, axis=1)[:, ::2],
        "backwards": base[::-1, ::-1],
        "row for all": np.broadcast_to(base[0], base.shape),
        "column for all": np.broadcast_to(base[:, :1], base.shape),
        "one for all": np.broadcast_to(base[0, 0], base.shape),
        "read-only": np.frombuffer(base.tobytes()).reshape(base.shape),
        "other byte order": base.astype(">f8"),
    }


@pytest.mark.parametrize("left", layouts())
@pytest.mark.parametrize("right", layouts())
def test_any_layout(left: str, right: str) -> None:
    a, b = gi.input("a", (200, 300)), gi.input("b", (200, 300))
    graph = gi.Graph({"c": gi.exp(a * b) - gi.where(a > b, a, b * 2), "s": gi.sum(gi.tanh(a + b), axis=0)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_BYTES", 1 << 12)
        assert same(graph, {"a": layouts()[left], "b": layouts()[right]}, threads=2)


def test_a_group_takes_the_memory_of_its_outputs() -> None:
    graph, rows = chain(), 2_000_000
    execute = Executor(graph, threads=1)
    w = np.random.default_rng(0).normal(size=rows)
    execute({"w": w[:100]})
    tracemalloc.start()
    try:
        execute({"w": w})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= 2.2 * w.nbytes
    assert peak <= peak_bytes(graph, {"n": rows})[0]


def test_what_fails_in_a_block_names_its_node() -> None:
    base, power = gi.input("base", ("n",), "int64"), gi.input("power", ("n",), "int64")
    graph = gi.Graph({"out": (base + 1) ** power * 2})
    powers = np.ones(200_000, np.int64)
    powers[150_000] = -1
    with pytest.raises(gi.EvaluationError, match=r"negative[\s\S]*pow\([\s\S]*test_blocks.py"):
        Executor(graph)({"base": powers, "power": powers})


def test_values_that_nobody_asked_for_do_not_wait_for_ever() -> None:
    x = gi.input("x", ("n",))
    sums = [gi.sum(gi.exp(x * k)) for k in range(50)]
    items = schedule(gi.Graph({"out": sum(sums[1:], sums[0])}))
    most = max(len(item.outputs) for item in items if isinstance(item, Group))
    assert most <= 6
