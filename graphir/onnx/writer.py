"""Writer: collects the operators, initialisers and names of an ONNX graph while a Graph is walked.

Values are names. Each op's rule gets the writer, the node and the names of its inputs, and returns the name of its
value. Equal constants are written once. Shapes with named sizes are computed from the inputs' shapes.
"""

import copy
import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from graphir import dims, walk
from graphir.dims import Dim
from graphir.errors import ShapeError, UnknownOpError
from graphir.graph import Graph
from graphir.node import Array, Node, describe
from graphir.onnx.dtypes import CODE_OF
from graphir.types import INT64, DType, Shape

Rule: TypeAlias = "Callable[..., str]"
RULES: dict[str, Rule] = {}
"""How each op is written, by its name: rule(writer, node, *input names) -> name."""
JOINT_RULES: dict[str, "Callable[..., list[str]]"] = {}
"""How the outputs of one application of an op are written together: rule(writer, nodes, *input names) -> names."""


def writes(*ops: str) -> Callable[[Rule], Rule]:
    """Declare the rule of one or several ops."""

    def declare(rule: Rule) -> Rule:
        for op in ops:
            RULES[op] = rule
        return rule

    return declare


def write_nodes(w: "Writer", nodes: Sequence[Node], names: dict[Node, str]) -> None:
    """Write nodes in topological order; `names` has what is written already, and gets the rest."""
    groups = walk.siblings(nodes)
    for position, node in enumerate(nodes):
        if node in names:
            continue
        if node.op.name == "input":
            names[node] = str(node.attr("name"))
            continue
        w.describe(node, position)
        inputs = [names[source] for source in node.inputs]
        if node in groups and node.op.name in JOINT_RULES:
            names.update(zip(groups[node], JOINT_RULES[node.op.name](w, groups[node], *inputs), strict=True))
        elif node.op.name in RULES:
            names[node] = RULES[node.op.name](w, node, *inputs)
        else:
            raise UnknownOpError(
                f"op {node.op.name!r} cannot be written with standard ONNX operators; keep such graphs as .gir files"
            ).at(describe(node))


class Writer:
    """The parts of the ONNX graph made so far."""

    def __init__(self, graph: Graph) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.label, self.origin = "", ""
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._cache: dict[tuple[Any, ...], str] = {}
        self._taken = {*graph.inputs, *graph.outputs}
        self._count = itertools.count(1)
        self._axes: dict[str, tuple[str, int, Dim]] = {}
        self._find_axes(graph)

    def _find_axes(self, graph: Graph) -> None:
        """For each named size: an input's axis that determines it, a bare name before a polynomial."""
        axes = [(name, k, d) for name, node in graph.inputs.items() for k, d in enumerate(node.type.shape)]
        for name, k, d in sorted(axes, key=lambda axis: isinstance(axis[2], str) and not axis[2].isidentifier()):
            unknown = dims.names(d) - self._axes.keys()
            if len(unknown) == 1 and _linear(d, *unknown) is not None:
                self._axes[next(iter(unknown))] = (name, k, d)

    def describe(self, node: Node, position: int) -> None:
        """Say where the operators come from that are written next."""
        origin = node.origin
        self.label = f"{'d' if origin.kind == 'vjp' else ''}{position}/{node.op.name}"
        place = os.path.basename(origin.where)
        self.origin = f"{origin.kind} of {origin.of} at {place}" if origin.of else place

    def fresh(self, hint: str) -> str:
        """A name that nothing has."""
        return next(name for k in self._count if (name := f"{hint}_{k}") not in self._taken)

    def inner(self) -> "Writer":
        """The writer of a graph inside an operator: it sees what is outside, and its constants are written there."""
        result = copy.copy(self)
        result.nodes, result._cache = [], dict(self._cache)
        return result

    def emit(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output; "" stands for an input left out."""
        return self.emit_several(op, 1, *inputs, **attributes)[0]

    def emit_several(self, op: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add an operator with several outputs."""
        names = [self.fresh(op.lower()) for _ in range(outputs)]
        node = helper.make_node(op, list(inputs), names, name=f"{self.label}/{names[0]}", **attributes)
        node.doc_string = self.origin
        self.nodes.append(node)
        return names

    def constant(self, value: Any, dtype: DType | None = None) -> str:
        """The name of an initialiser."""
        array = np.asarray(value, dtype)
        key = (array.dtype.name, array.shape, array.tobytes())
        name = self._constants.get(key)
        if name is None:
            name = self._constants[key] = self.fresh("constant")
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def ints(self, values: Sequence[int]) -> str:
        """An int64 vector."""
        return self.constant(np.array(values, INT64))

    def cast(self, name: str, dtype: DType) -> str:
        """A value in another dtype."""
        return self.emit("Cast", name, to=CODE_OF[dtype])

    # ---- shapes ----

    def reshape(self, name: str, shape: Shape) -> str:
        """The value under another shape; a single named size is left to the runtime."""
        named = [axis for axis, d in enumerate(shape) if isinstance(d, str)]
        if len(named) == 1 and 0 not in shape:
            wanted = self.ints([-1 if isinstance(d, str) else d for d in shape])
            return self.emit("Reshape", name, wanted)
        return self.emit("Reshape", name, self.vector(shape), allowzero=1)

    def vector(self, shape: Sequence[Dim]) -> str:
        """A shape as an int64 vector."""
        if all(isinstance(d, int) for d in shape):
            return self.ints([int(d) for d in shape])
        key = ("vector", tuple(shape))
        if key not in self._cache:
            parts = [self.ints([d]) if isinstance(d, int) else self._one(d) for d in shape]
            self._cache[key] = parts[0] if len(parts) == 1 else self.emit("Concat", *parts, axis=0)
        return self._cache[key]

    def scalar(self, d: Dim) -> str:
        """A dimension as a 0-d int64."""
        if isinstance(d, int):
            return self.constant(d, INT64)
        key = ("scalar", d)
        if key not in self._cache:
            self._cache[key] = self.emit("Reshape", self._one(d), self.ints([]))
        return self._cache[key]

    def _one(self, d: str) -> str:
        """A named dimension as an int64 vector of one element."""
        key = ("one", d)
        if key not in self._cache:
            self._cache[key] = self._size(d) if d.isidentifier() else self._polynomial(d)
        return self._cache[key]

    def _size(self, name: str) -> str:
        if name not in self._axes:
            raise ShapeError(
                f"the size {name!r} is not the size of any input's axis, so an ONNX model cannot know it; "
                f"give an input with the dimension {name!r}, or replace the size by a number"
            )
        source, axis, d = self._axes[name]
        found = self.emit("Shape", source, start=axis, end=axis + 1)
        slope, constant = _linear(d, name) or (1, 0)
        if constant != 0:
            found = self.emit("Sub", found, self.vector([constant]))
        return found if slope == 1 else self.emit("Div", found, self.vector([slope]))

    def _polynomial(self, d: str) -> str:
        total = ""
        for atoms, coefficient in dims.terms(d):
            factors = [self._atom(atom) for atom in atoms]
            if coefficient != 1 or not factors:
                factors.append(self.ints([coefficient]))
            term = factors[0]
            for factor in factors[1:]:
                term = self.emit("Mul", term, factor)
            total = self.emit("Add", total, term) if total else term
        return total

    def _atom(self, atom: str) -> str:
        quotient = dims.split_quotient(atom)
        if quotient is None:
            return self._one(atom)
        inner, divisor = quotient
        return self.emit("Div", self.vector([inner]), self.ints([divisor]))

    def fill(self, value: Any, dtype: DType, shape: Shape) -> str:
        """One number everywhere."""
        return self.emit("ConstantOfShape", self.vector(shape), value=_tensor(value, dtype))


def _tensor(value: Any, dtype: DType) -> TensorProto:
    return numpy_helper.from_array(np.asarray([value], dtype))


def _linear(d: Dim, name: str) -> tuple[Dim, Dim] | None:
    """(slope, rest) where d == slope * name + rest and neither has `name`; None otherwise."""
    if isinstance(d, int):
        return None
    slope: Dim = 0
    rest: Dim = 0
    for atoms, coefficient in dims.terms(d):
        others = [atom for atom in atoms if atom != name]
        if len(atoms) - len(others) > 1 or any(name in dims.names(atom) for atom in others):
            return None
        term: Dim = coefficient
        for atom in others:
            term = dims.multiply(term, atom)
        if len(others) == len(atoms):
            rest = dims.add(rest, term)
        else:
            slope = dims.add(slope, term)
    return None if slope == 0 else (slope, rest)


def is_constant(node: Node) -> Array | None:
    """The array of a constant node."""
    array: Array | None = node.attr("value").array if node.op.name == "constant" else None
    return array
