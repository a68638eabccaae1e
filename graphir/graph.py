"""Graph: ordered named inputs and named outputs over nodes. The only executable noun.

A user's program, its gradient, a task and a combine step are all Graphs. `nodes` is topological and keeps
creation order within each output; outputs come in order. So whatever is appended follows what was there:
`g.append(more).nodes[:len(g.nodes)] == g.nodes`.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from graphir import walk
from graphir.errors import GraphError, InvariantError, LimitError
from graphir.node import Node, fill_digests
from graphir.sheet import in_notebook

if TYPE_CHECKING:
    from os import PathLike

    from graphir.expr import Expr


FACES: dict[str, Callable[..., Any]] = {}
"""How a graph is shown and saved: "text", "dot", "svg", "save", "onnx"; filled by the modules above this one."""


def as_node(value: "Node | Expr") -> Node:
    """The node behind an expression."""
    node = getattr(value, "node", value)
    if not isinstance(node, Node):
        raise GraphError(f"expected an expression, not {value!r:.80} of type {type(value).__name__}")
    return node


@final
class Graph:
    """An immutable graph: `inputs` and `outputs` by name, and `nodes` in topological order."""

    __slots__ = ("__dict__", "__weakref__", "inputs", "nodes", "outputs")

    inputs: Mapping[str, Node]
    outputs: Mapping[str, Node]
    nodes: tuple[Node, ...]

    def __init__(
        self,
        outputs: "Mapping[str, Node | Expr]",
        *,
        inputs: "Mapping[str, Node | Expr] | Iterable[Node | Expr] | None" = None,
    ) -> None:
        """Inputs are found, in order of creation, unless given; given ones may be unused but not be missing."""
        roots = {str(name): as_node(value) for name, value in outputs.items()}
        if not roots:
            raise GraphError("a graph needs at least one output; give outputs={'name': expression}")
        seen: set[Node] = set()
        nodes: list[Node] = []
        for root in roots.values():
            nodes += walk.ancestors([root], seen)
        leaves = None if inputs is None else [as_node(v) for v in _values(inputs)]
        for leaf in leaves or ():
            nodes += walk.ancestors([leaf], seen)
        self._fill(roots, tuple(nodes), leaves)

    def _fill(self, outputs: dict[str, Node], nodes: tuple[Node, ...], leaves: list[Node] | None) -> None:
        found = [node for node in nodes if node.op.name == "input"]
        ordered = sorted(found, key=lambda node: node.serial) if leaves is None else leaves
        named = {node.attr("name"): node for node in ordered}
        _check_inputs(found, ordered, named)
        object.__setattr__(self, "inputs", MappingProxyType(named))
        object.__setattr__(self, "outputs", MappingProxyType(outputs))
        object.__setattr__(self, "nodes", nodes)

    @classmethod
    def from_nodes(cls, nodes: tuple[Node, ...], outputs: dict[str, Node], inputs: list[Node]) -> "Graph":
        """A graph over nodes whose order is to be kept (a loaded or an appended graph)."""
        graph = cls.__new__(cls)
        graph._fill(outputs, nodes, inputs)
        return graph

    def append(self, outputs: "Mapping[str, Node | Expr]") -> "Graph":
        """This graph with more outputs: its nodes stay a prefix, new nodes follow, new inputs come last."""
        new = {name: as_node(value) for name, value in outputs.items()}
        clash = sorted(set(new) & set(self.outputs))
        if clash:
            raise GraphError(f"the graph has an output named {clash[0]!r} already; choose another name")
        seen = set(self.nodes)
        added: list[Node] = []
        for root in new.values():
            added += walk.ancestors([root], seen)
        inputs = [*self.inputs.values(), *(node for node in added if node.op.name == "input")]
        return Graph.from_nodes((*self.nodes, *added), {**self.outputs, **new}, inputs)

    def with_outputs(self, outputs: Mapping[str, Node], inputs: Iterable[Node] | None = None) -> "Graph":
        """As `Graph(outputs, inputs=inputs)`; quick where that has this graph's nodes in their order."""
        leaves = None if inputs is None else list(inputs)
        (root, *others) = dict.fromkeys(outputs.values())
        table = self.columns
        ends = (table.last < 0).nonzero()[0].tolist()
        if others or not table.by_age or ends != [table.index.get(root)]:
            return Graph(outputs, inputs=leaves)
        graph = Graph.__new__(Graph)
        graph._fill(dict(outputs), self.nodes, leaves)
        graph.__dict__["columns"] = table
        return graph

    def select(self, names: Iterable[str]) -> "Graph":
        """The part of the graph that some of its outputs need; inputs keep their order."""
        wanted = list(names)
        missing = [name for name in wanted if name not in self.outputs]
        if missing:
            raise GraphError(f"the graph has no output {missing[0]!r}; its outputs are {list(self.outputs)}")
        keep = set(walk.ancestors([self.outputs[name] for name in wanted]))
        return Graph.from_nodes(
            tuple(node for node in self.nodes if node in keep),
            {name: self.outputs[name] for name in wanted},
            [node for node in self.inputs.values() if node in keep],
        )

    @property
    def columns(self) -> walk.Columns:
        """The graph as arrays; KeyError as `walk.columns`."""
        cached: walk.Columns | None = self.__dict__.get("columns")
        if cached is None:
            cached = self.__dict__["columns"] = walk.columns(self.nodes)
        return cached

    @property
    def digest(self) -> str:
        """SHA-256 in hex over inputs, outputs and all between: equal for equal graphs in every process."""
        cached: str | None = self.__dict__.get("digest")
        if cached is None:
            fill_digests(self.nodes)
            hasher = hashlib.sha256(b"graph\0")
            for group in (self.inputs, self.outputs):
                for name, node in group.items():
                    hasher.update(f"{len(name)}:{name}".encode() + node.digest)
                hasher.update(b"\0")
            cached = self.__dict__["digest"] = hasher.hexdigest()
        return cached

    @property
    def sizes(self) -> tuple[str, ...]:
        """The named sizes of the inputs, in order of appearance."""
        from graphir import dims

        shapes = (d for node in self.inputs.values() for d in node.type.shape)
        return tuple(dict.fromkeys(name for d in shapes for name in sorted(dims.names(d))))

    def to_text(self, *, origins: bool = True) -> str:
        """One line a node, the same in every process; derivative nodes are marked."""
        return str(FACES["text"](self, origins=origins))

    def to_dot(self) -> str:
        """The graph in Graphviz's language."""
        return str(FACES["dot"](self))

    def to_svg(self) -> str:
        """A picture; nodes made by derivative rules have dashed outlines and another colour."""
        return str(FACES["svg"](self))

    def _repr_svg_(self) -> str | None:
        try:
            return self.to_svg()
        except LimitError:
            return None

    def _repr_html_(self) -> str:
        return self._repr_svg_() or in_notebook("", f"{self!r}\nto_text() tells of each node")

    def save(self, path: "str | PathLike[str]") -> None:
        """Write a `.gir` file."""
        FACES["save"](self, path)

    def to_onnx(self, path: "str | PathLike[str]") -> None:
        """Write an ONNX model of standard operators; it needs the extra `onnx`."""
        FACES["onnx"](self, path)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"graphs are immutable; cannot set {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        return (
            list(self.inputs.items()) == list(other.inputs.items())
            and list(self.outputs.items()) == list(other.outputs.items())
            and self.nodes == other.nodes
        )

    def __hash__(self) -> int:
        return hash((tuple(self.inputs.items()), tuple(self.outputs.items())))

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __repr__(self) -> str:
        inputs = ", ".join(f"{name}: {node.type}" for name, node in self.inputs.items())
        outputs = ", ".join(f"{name}: {node.type}" for name, node in self.outputs.items())
        return f"<Graph ({inputs}) -> ({outputs}), {len(self.nodes)} nodes>"


def _values(inputs: Any) -> Iterable[Any]:
    return inputs.values() if isinstance(inputs, Mapping) else inputs


def _check_inputs(found: list[Node], ordered: list[Node], named: dict[str, Node]) -> None:
    if len(named) != len(ordered):
        twice = next(node for node in ordered if named[node.attr("name")] is not node)
        raise InvariantError(
            f"two inputs are named {twice.attr('name')!r}: {twice.type} and {named[twice.attr('name')].type}; "
            "rename one or give both the same type"
        )
    missing = [node for node in found if named.get(node.attr("name")) is not node]
    if missing:
        raise InvariantError(f"the graph uses input {missing[0].attr('name')!r}, which is not among its inputs")
