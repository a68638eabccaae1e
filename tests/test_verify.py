"""verify: sound graphs pass, and each broken invariant is found and named."""

import re
from collections.abc import Callable
from typing import Any

import pytest

import graphir as gi
from graphir.node import REGISTRY, Node, Op, _Fields
from graphir.types import FLOAT32, TensorType
from graphir.verify import verify

x, w = gi.input("x", ("n", 4)), gi.input("w", (4, 3))
_loss = gi.mean(gi.logsumexp(gi.tanh(x @ w), axis=1)[1:-1] ** 2)
GRAPH = gi.Graph({"loss": _loss, "dw": gi.grad(_loss, [w])[0]})


def forged(like: Node, **changes: Any) -> Node:
    """A node that make would never give: some of its fields are changed."""
    fields = {"op": like.op, "inputs": like.inputs, "attrs": like.attrs, "type_": like.type, **changes}
    made = _Fields(**fields, serial=like.serial, origin=like.raw_origin)
    made.__class__ = Node
    assert isinstance(made, Node)
    return made


def bare(nodes: tuple[Node, ...], outputs: dict[str, Node], inputs: dict[str, Node]) -> gi.Graph:
    """A graph whose parts nobody has checked."""
    graph = gi.Graph.__new__(gi.Graph)
    for name, value in (("nodes", nodes), ("outputs", outputs), ("inputs", inputs)):
        object.__setattr__(graph, name, value)
    return graph


def altered(
    nodes: Callable[[tuple[Node, ...]], tuple[Node, ...]] = lambda nodes: nodes,
    outputs: dict[str, Node] | None = None,
    inputs: dict[str, Node] | None = None,
) -> gi.Graph:
    """GRAPH with other parts."""
    own_inputs = dict(GRAPH.inputs) if inputs is None else inputs
    return bare(nodes(GRAPH.nodes), dict(GRAPH.outputs) if outputs is None else outputs, own_inputs)


def with_last(**changes: Any) -> gi.Graph:
    """GRAPH and a forged copy of its matmul behind it."""
    matmul = next(node for node in GRAPH.nodes if node.op.name == "matmul")
    return altered(lambda nodes: (*nodes, forged(matmul, **changes)))


STRANGER = gi.input("stranger", (2,)).node
FOREIGN = object.__new__(Op)
for _slot in Op.__slots__:
    setattr(FOREIGN, _slot, getattr(REGISTRY["tanh"], _slot))

BROKEN: dict[str, tuple[Callable[[], gi.Graph], str]] = {
    "order": (lambda: altered(lambda nodes: nodes[::-1]), "used before it is made"),
    "lost input": (lambda: altered(lambda nodes: nodes[1:]), "used before it is made"),
    "twice": (lambda: altered(lambda nodes: (*nodes, nodes[3])), "twice"),
    "type": (lambda: with_last(type_=TensorType(FLOAT32, ("n", 3))), "infers float64[n, 3]"),
    "not interned": (with_last, "not the interned one"),
    "surplus attribute": (lambda: with_last(attrs=(("axis", 0),)), "takes the attributes"),
    "arity": (lambda: with_last(inputs=(GRAPH.nodes[0],)), "takes 2 inputs"),
    "foreign op": (lambda: with_last(op=FOREIGN), "not the registered one"),
    "no outputs": (lambda: altered(outputs={}), "no outputs"),
    "output elsewhere": (lambda: altered(outputs={"out": STRANGER}), "output 'out' is not among"),
    "input unlisted": (lambda: altered(inputs={"x": x.node}), "input node 'w' is not a named input"),
    "input elsewhere": (
        lambda: altered(inputs={**GRAPH.inputs, "stranger": STRANGER}),
        "input 'stranger' is not among",
    ),
    "input misnamed": (lambda: altered(inputs={"x": w.node, "w": x.node}), "not an input node of that name"),
    "no input": (lambda: altered(inputs={**GRAPH.inputs, "y": _loss.node}), "not an input node of that name"),
}


def test_sound_graphs_pass() -> None:
    assert verify(GRAPH) is GRAPH
    assert verify(gi.append_gradients(gi.Graph({"loss": _loss}), wrt=["x"])).outputs
    for op in REGISTRY.values():
        for example in op.examples:
            assert verify(gi.Graph({"out": _applied(op, example)})).nodes


def _applied(op: Op, example: Any) -> Node:
    inputs = [gi.input(f"i{k}", a.shape, a.dtype).node for k, a in enumerate(example.arrays())]
    return op(*inputs, **example.attrs)


@pytest.mark.parametrize("case", BROKEN)
def test_each_broken_invariant_is_found(case: str) -> None:
    make_graph, said = BROKEN[case]
    with pytest.raises(gi.InvariantError, match=re.escape(said)):
        verify(make_graph())


def test_the_error_names_node_and_line() -> None:
    with pytest.raises(gi.InvariantError, match=r"not the interned one.*\n  at matmul\(.*test_verify\.py:\d+"):
        verify(with_last())


@pytest.mark.parametrize("shape", [("n+1",), (-3,), ("n n",), (1,) * 40])
def test_dimensions_are_canonical(shape: tuple[Any, ...]) -> None:
    node = REGISTRY["input"](name="odd", dtype="float64", shape=shape)
    with pytest.raises(gi.InvariantError, match=r"canonical|a dimension cannot be|cannot read dimension"):
        verify(gi.Graph({"out": node}))


def test_dimensions_among_attributes_are_canonical() -> None:
    with pytest.raises(gi.InvariantError, match=r"canonically 'n \+ 1'"):
        verify(gi.Graph({"out": REGISTRY["size"](dim="n+1")}))


def test_a_long_chain_needs_no_recursion() -> None:
    value = gi.input("v")
    for _ in range(200_000):
        value = gi.sin(value)
    assert len(verify(gi.Graph({"out": value})).nodes) == 200_001
