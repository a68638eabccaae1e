"""Random graphs made of the registry's ops, for tests that compare two ways of evaluating or rewriting them."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

from graphir.errors import GraphError
from graphir.graph import Graph
from graphir.node import REGISTRY, Array, Node, Op
from graphir.ops.layout import broadcast
from graphir.ops.sources import input_, iota, literal, size

Draw = Callable[[st.SearchStrategy[Any]], Any]
N = 3
"""The size of the named dimension n."""
SHAPES = (("n", 4), (4,), ("n",), (), ("n", 1), (1, 4), (1,), (4, "n"), ("n", 2, 4), (4, 4))
DTYPES = ("float64", "float32", "float16", "int64", "uint8", "bool")
SPECIAL = (0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 5e-324, 1.0, -1.0)
FAVOURED = ("add", "broadcast", "constant", "matmul", "multiply", "permute", "pow", "reshape", "slice", "sum", "where")
"""Ops of rules and ops that notice the memory layout; half of all draws are among them."""
LEAVES = ("input", "constant", "size", "iota")


@st.composite
def graphs(draw: Draw, most: int = 30) -> Graph:
    """A graph over inputs of several types, with named and fixed sizes."""
    pool = [
        input_(name=f"x{k}", dtype=draw(st.sampled_from(DTYPES)), shape=draw(st.sampled_from(SHAPES)))
        for k in range(draw(st.integers(1, 3)))
    ]
    for _ in range(draw(st.integers(most // 2, most))):
        op = REGISTRY[draw(st.sampled_from(FAVOURED if draw(st.booleans()) else sorted(REGISTRY)))]
        node = _leaf(draw, op, pool) if op.name in LEAVES else _application(draw, op, pool)
        if node is not None:
            pool.append(node)
    last = pool[-3:]
    return Graph({f"y{k}": node for k, node in enumerate(last)}, inputs=[n for n in pool if n.op is input_])


def feeds(graph: Graph, seed: int) -> dict[str, Array]:
    """Values for the inputs, special ones among them."""
    rng = np.random.default_rng(seed)
    values = {}
    for name, node in graph.inputs.items():
        shape = node.type.bind({"n": N})
        value = rng.normal(size=shape) * 3
        if node.type.dtype.kind == "f":
            value = np.where(rng.random(shape) < 0.3, rng.choice(SPECIAL, shape), value)
        with np.errstate(all="ignore"):
            values[name] = np.asarray(np.abs(value) if node.type.dtype.kind == "u" else value).astype(node.type.dtype)
    return values


def same_bits(a: dict[str, Array], b: dict[str, Array]) -> bool:
    """Equal names, dtypes, shapes and bytes."""
    return list(a) == list(b) and all(
        (a[k].dtype, a[k].shape, a[k].tobytes()) == (b[k].dtype, b[k].shape, b[k].tobytes()) for k in a
    )


def _leaf(draw: Draw, op: Op, pool: list[Node]) -> Node:
    """A size, an iota, or a constant like a value of the pool: whole or broadcast from one number."""
    if op is size or op is iota:
        return op(dim=draw(st.sampled_from(("n", 5)))) if op is size else op(shape=("n",))
    like = draw(st.sampled_from(pool)).type
    value = draw(st.sampled_from((0.0, -0.0, 1.0, 2.0)))
    scalar = literal(abs(value) if like.dtype.kind == "u" else value, like.dtype)
    if all(isinstance(d, int) for d in like.shape) and draw(st.booleans()):
        return literal(np.full(like.shape, scalar.attr("value").array))
    return scalar if not like.shape else broadcast(scalar, shape=like.shape, axes=())


def _application(draw: Draw, op: Op, pool: list[Node]) -> Node | None:
    """The op on nodes of the pool, or None where they do not fit."""
    first = draw(st.sampled_from(pool))
    alike = [node for node in pool if node.type == first.type]
    inputs = [first]
    for position in range(1, op.arity or draw(st.integers(1, 2))):
        fitting = alike if draw(st.integers(0, 3)) or position == 0 else pool
        inputs.append(draw(st.sampled_from(fitting)))
    if op.name == "where":
        conditions = [n for n in pool if n.type.dtype.kind == "b" and n.type.shape == first.type.shape]
        inputs = [draw(st.sampled_from(conditions)), *inputs[:2]] if conditions else inputs
    try:
        return op(*inputs, **{name: _attribute(draw, op, name, first) for name in op.attrs})
    except GraphError:
        return None


def _attribute(draw: Draw, op: Op, name: str, x: Node) -> Any:
    rank, shape = x.type.rank, x.type.shape
    if op.name == "permute":
        return tuple(draw(st.permutations(range(rank))))
    if op.name == "broadcast":
        return (*shape, 2) if name == "shape" else tuple(range(rank))
    if op.name == "einsum":
        letters = "abcdef"[:rank]
        return f"{letters}->{letters[::-1]}"
    if name == "axes":
        return tuple(axis for axis in range(rank) if draw(st.booleans()))
    if name == "shape":
        return draw(st.sampled_from(((*shape, 1), (1, *shape), shape, tuple(d for d in shape if d != 1))))
    if name == "dtype":
        return draw(st.sampled_from((*DTYPES, x.type.dtype.name)))
    choices: dict[str, tuple[Any, ...]] = {"axis": tuple(range(max(rank, 1))), "start": (0, 1), "step": (1, 2)}
    choices |= {"stop": (*shape, 1, 0), "size": (*shape, 9)}
    return draw(st.sampled_from(choices.get(name) or [example.attrs[name] for example in op.examples]))
