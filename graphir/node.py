"""Op, the declaration of what an operation means, and Node, one application of an Op.

Nodes are frozen, slotted and interned: equal op, inputs and attributes give the same object, so `==` is
identity and common subexpressions never exist twice. Interning is weak: a node lives as long as something
uses it. `serial` grows with creation, so sorting by it is a topological order. The origin (who made the
node) is not part of its identity: the first maker's is kept. Digests are content hashes, made on demand.
"""

import hashlib
import itertools
import json
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias, final

import numpy.typing as npt

from graphir.axes import AxisRule
from graphir.body import Body
from graphir.errors import AttributeValueError, GraphError, UnknownOpError
from graphir.example import Example
from graphir.literal import Literal
from graphir.origin import CodePoint, Origin, caller, source_line
from graphir.types import TensorType

Array: TypeAlias = npt.NDArray[Any]
Attrs: TypeAlias = tuple[tuple[str, Any], ...]
"""Attributes as (name, value) pairs sorted by name; values are JSON-able and hashable, or a Literal or Body."""

Rule: TypeAlias = Callable[..., Any]
RawOrigin: TypeAlias = "CodePoint | Origin | Node | None"

REGISTRY: dict[str, "Op"] = {}
"""Every op by name."""

MAX_ATTRIBUTE_ITEMS = 100_000
"""Most elements an attribute may have; larger data belongs into a constant."""

_current_origin: ContextVar[RawOrigin] = ContextVar("current_origin", default=None)
_serials = itertools.count()


@final
class Op:
    """One operation: everything that defines what it means, in one declaration.

    infer(*types, **attrs) -> TensorType, raising typed errors; kernel(*arrays, **attrs) -> array with the dims
    in `attrs` bound to numbers. vjp: per input a rule (ct, out, *inputs, **attrs) -> Node, or None where the
    derivative is zero; or, for a variable number of inputs, one rule (position, ct, out, *inputs, **attrs); or
    a sentence that says why there is none. axes(types, attrs) -> AxisRule, or a sentence that says why not.

    attrs: the attributes' names and kinds: "int", "ints", "bool", "str", "dim", "dims", "dtype", "literal",
    "graph" (a Body; the kernel gets it as a function of arrays). An attribute `shape` of kind "dims" is always the output's shape.
    linear: the output is linear in all inputs jointly, so it may act on partial sums.
    cheap: costs next to nothing (a view, a leaf): recomputed rather than sent.
    offset: the kernel also takes `offset`, the position of the chunk along each axis of the output.
    decompose(*inputs, **attrs) -> Node: the same in simpler ops, for where the op itself cannot be cut.
    cost: floating-point operations per index point of the axis rule; a function of the inputs' shapes where it
    depends on these.
    joint: for an op with several outputs, of which the attribute `output` names one: applications that differ in
    `output` alone are evaluated together by joint(*arrays, outputs=(...), **attrs) -> tuple, and differentiated
    together by vjp({output: ct}, wanted, *inputs, **attrs) -> a cotangent or None for each input; only those of the
    positions in `wanted` are used.
    local(node, inputs) -> Attrs: the attributes for inputs of other sizes along a factor that is cut.
    """

    __slots__ = (
        "arity", "attrs", "axes", "cheap", "cost", "decompose", "doc", "examples",
        "infer", "joint", "kernel", "kinds", "linear", "local", "name", "nodes", "offset", "version", "vjp",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        doc: str,
        *,
        arity: int | None,
        infer: Rule,
        kernel: Rule,
        vjp: tuple[Rule | None, ...] | Rule | str,
        axes: Rule | str,
        examples: tuple[Example, ...],
        attrs: dict[str, str] | None = None,
        linear: bool = False,
        cheap: bool = False,
        offset: bool = False,
        decompose: Rule | None = None,
        cost: int | Callable[..., int] = 1,
        version: int = 1,
        joint: Rule | None = None,
        local: Rule | None = None,
    ) -> None:
        if name in REGISTRY:
            raise ValueError(f"op {name!r} is declared twice")
        self.name, self.doc, self.arity, self.infer, self.kernel = name, doc, arity, infer, kernel
        self.vjp, self.axes, self.examples, self.attrs = vjp, axes, examples, attrs or {}
        self.linear, self.cheap, self.offset, self.decompose = linear, cheap, offset, decompose
        self.cost, self.version, self.joint, self.local = cost, version, joint, local
        self.nodes: dict[tuple[Any, ...], _Entry] = {}
        self.kinds = lru_cache(maxsize=4096)(self._kind)
        REGISTRY[name] = self

    def __call__(self, *inputs: "Node", **attrs: Any) -> "Node":
        """The node that applies this op; no promotion, no broadcasting: types must fit as they are."""
        return make(self, inputs, tuple(sorted(attrs.items())) if attrs else ())

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("ops and nodes are not pickled; send the bytes of graphir.dump")

    @property
    def has_body(self) -> bool:
        """Whether an attribute is a graph."""
        return "graph" in self.attrs.values()

    @property
    def located(self) -> bool:
        """Whether a value may depend on where along a cut axis it is."""
        return self.offset or self.has_body

    def axis_rule(self, types: tuple[TensorType, ...], attrs: Attrs) -> AxisRule | None:
        """The axis rule of one application, or None where the op has none."""
        return self.kinds(types, attrs).rule

    def _kind(self, types: tuple[TensorType, ...], attrs: Attrs) -> "Kind":
        if self.arity is not None and len(types) != self.arity:
            raise AttributeValueError(f"{self.name} takes {self.arity} inputs, not {len(types)}")
        check_attributes(self, attrs)
        return Kind(self, types, attrs, self.infer(*types, **dict(attrs)))


@final
class Kind:
    """What nodes with equal op, attributes and types have in common; compared by identity, so facts can be kept by it.

    There may be several of one kind, for they are kept only while they are used or in an op's cache.
    """

    __slots__ = ("__weakref__", "_head", "_rule", "attrs", "op", "type", "types")

    def __init__(self, op: Op, types: tuple[TensorType, ...], attrs: Attrs, type_: TensorType) -> None:
        self.op, self.types, self.attrs, self.type = op, types, attrs, type_
        self._head: bytes | None = None
        self._rule: AxisRule | bool | None = False

    @property
    def rule(self) -> AxisRule | None:
        """The axis rule, or None where the op has none."""
        if isinstance(self._rule, bool):
            axes = self.op.axes
            self._rule = None if isinstance(axes, str) else axes(self.types, dict(self.attrs))
        return self._rule

    @property
    def head(self) -> bytes:
        """What a node's digest hashes before the digests of its inputs."""
        if self._head is None:
            self._head = _digest_head(self.op, self.attrs)
        return self._head


class _Fields:
    """The slots of a Node while it is being made; becomes a Node, and so frozen, right after."""

    __slots__ = ("__weakref__", "_digest", "attrs", "inputs", "kind", "op", "raw_origin", "serial", "type")

    def __init__(
        self,
        op: Op,
        inputs: "tuple[Node, ...]",
        attrs: Attrs,
        type_: TensorType,
        serial: int,
        origin: RawOrigin,
        kind: Kind | None = None,
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.attrs = attrs
        self.type = type_
        self.serial = serial
        self.raw_origin = origin
        self.kind = kind
        self._digest: bytes | None = None


class Node(_Fields):
    """One application of an op: op, inputs, attrs, type; made by calling an op, never directly.

    kind: what it has in common with others; only `make` gives it.
    """

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"nodes are immutable; cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"nodes are immutable; cannot delete {name!r}")

    def __reduce__(self) -> NoReturn:
        raise TypeError("nodes are not pickled; send the bytes of graphir.dump")

    def __repr__(self) -> str:
        return f"<{describe(self)}>"

    @property
    def origin(self) -> Origin:
        """Who made this node first."""
        return resolve_origin(self.raw_origin)

    @property
    def digest(self) -> bytes:
        """SHA-256 over op, version, attributes and inputs' digests: equal in every process."""
        if self._digest is None:
            _make_digests(self)
        assert self._digest is not None
        return self._digest

    def attr(self, name: str) -> Any:
        """The value of one attribute."""
        for key, value in self.attrs:
            if key == name:
                return value
        raise KeyError(name)


class _Entry(weakref.ref[Node]):
    """A weak reference that knows its place in the table of interned nodes."""

    __slots__ = ("key", "table")
    key: tuple[Any, ...]
    table: "dict[tuple[Any, ...], _Entry]"


def make(op: Op, inputs: tuple[Node, ...], attrs: Attrs = (), origin: RawOrigin = None) -> Node:
    """The one node with this op, these inputs and these attributes (sorted by name)."""
    table = op.nodes
    key = (inputs, attrs) if attrs else inputs  # the node's own tuple where it can be: one object less to collect
    entry = table.get(key)
    if entry is not None:
        known = entry()
        if known is not None:
            return known
    if origin is None:
        origin = _current_origin.get() or caller()
    try:
        kind = op.kinds(tuple([node.type for node in inputs]), attrs)
    except GraphError as error:
        raise error.at(f"{describe_call(op, inputs, attrs)}, {resolve_origin(origin)}") from None
    fields = _Fields(op, inputs, kind.attrs, kind.type, next(_serials), origin, kind)
    fields.__class__ = Node  # the same slots, now frozen
    node: Node = fields  # type: ignore[assignment]
    entry = _Entry(node, _forget)
    entry.key, entry.table = key, table
    other = table.setdefault(key, entry)
    if other is not entry:  # another thread was faster, or the node before is dead and not yet forgotten
        known = other()
        if known is not None:
            return known
        table[key] = entry
    return node


def _forget(entry: Any) -> None:  # an _Entry; at the interpreter's exit its class may be gone already
    if entry.table.get(entry.key) is entry:
        del entry.table[entry.key]


@contextmanager
def made_by(origin: "Origin | Node") -> Iterator[None]:
    """Give nodes made inside the block this origin; a node stands for "the vjp of this node"."""
    token = _current_origin.set(origin)
    try:
        yield
    finally:
        _current_origin.reset(token)


set_origin = _current_origin.set
reset_origin = _current_origin.reset


def lookup(name: str) -> Op:
    """The op of this name; UnknownOpError with near names otherwise."""
    try:
        return REGISTRY[name]
    except KeyError:
        import difflib

        near = difflib.get_close_matches(name, REGISTRY, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; it may be from a newer version of Gradfleet"
        raise UnknownOpError(f"there is no op named {name!r}{hint}") from None


# ---- attributes ----

_KINDS: dict[str, Callable[[Any], bool]] = {
    "int": lambda v: type(v) is int,
    "ints": lambda v: type(v) is tuple and all(type(i) is int for i in v),
    "bool": lambda v: type(v) is bool,
    "str": lambda v: type(v) is str,
    "dtype": lambda v: type(v) is str,
    "dim": lambda v: type(v) in (int, str),
    "dims": lambda v: type(v) is tuple and all(type(d) in (int, str) for d in v),
    "slices": lambda v: type(v) is tuple and all(type(s) is tuple and len(s) == 3 for s in v),
    "literal": lambda v: isinstance(v, Literal),
    "graph": lambda v: isinstance(v, Body),
}


def check_attributes(op: Op, attrs: Attrs) -> None:
    """AttributeValueError unless the attributes are those the op declares, of their kinds."""
    given = [name for name, _ in attrs]
    if given != sorted(op.attrs):
        raise AttributeValueError(f"{op.name} takes the attributes {sorted(op.attrs)}, not {given}")
    for name, value in attrs:
        if not _KINDS[op.attrs[name]](value):
            raise AttributeValueError(
                f"attribute {name} of {op.name} must be of kind {op.attrs[name]}, not {value!r:.60}"
            )
        if isinstance(value, tuple | str) and len(value) > MAX_ATTRIBUTE_ITEMS:
            raise AttributeValueError(
                f"attribute {name} of {op.name} has {len(value)} elements, over the limit of {MAX_ATTRIBUTE_ITEMS}; "
                "put the data into a constant"
            )


# ---- digests ----


def fill_digests(nodes: Iterable[Node]) -> None:
    """Make the digests of nodes, in topological order, where they are not made yet; those below are made already or among them."""
    for node in nodes:
        if node._digest is None:
            kind = node.kind
            head = _digest_head(node.op, node.attrs) if kind is None else kind.head
            content = head + b"".join([i._digest for i in node.inputs])  # type: ignore[misc]  # bytes: see above
            _set_digest(node, hashlib.sha256(content).digest())


def _make_digests(root: Node) -> None:
    """Fill the digests below `root`, iteratively."""
    stack = [root]
    while stack:
        node = stack[-1]
        missing = [i for i in node.inputs if i._digest is None]
        if missing:
            stack.extend(missing)
            continue
        fill_digests([stack.pop()])


_set_digest = vars(_Fields)["_digest"].__set__  # the slot's own setter: nodes are frozen


def _digest_head(op: Op, attrs: Attrs) -> bytes:
    text = json.dumps([op.name, op.version, attrs], default=lambda content: content.digest.hex(), separators=(",", ":"))
    return text.encode() + b"\0"


# ---- texts for errors ----


def resolve_origin(raw: RawOrigin) -> Origin:
    """The Origin behind what a node stores."""
    if raw is None:
        return Origin("user")
    if isinstance(raw, Origin):
        return raw
    if isinstance(raw, tuple):
        return Origin("user", source_line(raw))
    of = raw.op.name
    while isinstance(raw, Node):
        raw = raw.raw_origin
    where = source_line(raw) if isinstance(raw, tuple) else raw.where if raw is not None else ""
    return Origin("vjp", where, of)


def describe_call(op: Op, inputs: tuple[Node, ...], attrs: Attrs) -> str:
    """ "sum(float64[n, 64], axes=(0,))" """
    parts = [str(node.type) for node in inputs[:8]] + (["..."] if len(inputs) > 8 else [])
    parts += [f"{name}={value!r:.60}" for name, value in attrs]
    return f"{op.name}({', '.join(parts)})"


def describe(node: Node) -> str:
    """A node and its origin in one line, for messages."""
    return f"{describe_call(node.op, node.inputs, node.attrs)} -> {node.type}, {node.origin}"
