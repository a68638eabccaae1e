"""The `.gir` format, version 1: a safetensors file whose tensors are the graph's constants and whose metadata holds
the graph as columns of JSON.

Columns: ops (name, version), types (dtype, shape), and for each node its op, type, inputs (CSR) and origin; sparse
attributes. A SHA-256 over columns and constants finds any changed byte. Types are inferred again and compared,
so a file cannot lie about them: a loaded graph holds all that `verify` checks. Nothing is pickled. Readers refuse
what is newer or over the limits. Whatever the bytes are, only errors derived from GraphError come out.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from graphir import collector, dims, tensors
from graphir.body import Body
from graphir.errors import FormatError, GraphError, InvariantError, LimitError
from graphir.graph import FACES, Graph
from graphir.literal import Literal
from graphir.node import MAX_ATTRIBUTE_ITEMS, Attrs, Node, Op, RawOrigin, lookup, make, resolve_origin
from graphir.origin import Origin
from graphir.types import TensorType, as_dtype, as_shape, tensor_type
from graphir.verify import check_dims

Column: TypeAlias = NDArray[np.int64]

FORMAT_VERSION = 1
ORIGIN_KINDS = ("user", "vjp", "pass")
COLUMNS = ("ops", "types", "origins", "node_ops", "node_types", "node_origins", "starts", "inputs", "attrs", "names")


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest file that is read."""

    header_bytes: int = 1 << 30
    nodes: int = 10_000_000
    attribute_items: int = MAX_ATTRIBUTE_ITEMS
    constant_bytes: int = 1 << 36
    depth: int = 16


def dump(graph: Graph) -> bytes:
    """The bytes of a `.gir` file."""
    head, constants = _parts(graph)
    return tensors.write(constants, head)


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a `.gir` file, all or nothing."""
    head, constants = _parts(graph)
    tensors.write_file(path, constants, head)


def _parts(graph: Graph) -> tuple[dict[str, str], dict[str, Any]]:
    """The metadata and the constants of the file."""
    index = {node: k for k, node in enumerate(graph.nodes)}
    ops: dict[tuple[str, int], int] = {}
    types: dict[TensorType, int] = {}
    codes: dict[int, int] = {}  # by the identity of a type object: hashing one a node would take most of the time
    origins = _Origins()
    node_ops, node_types, node_origins, starts, inputs = [], [], [], [0], []
    attrs: dict[str, dict[str, Any]] = {}
    constants: dict[str, Any] = {}
    bodies: dict[Body, int] = {}
    for k, node in enumerate(graph.nodes):
        node_ops.append(ops.setdefault((node.op.name, node.op.version), len(ops)))
        code = codes.get(id(node.type))
        if code is None:
            code = codes[id(node.type)] = types.setdefault(node.type, len(types))
        node_types.append(code)
        node_origins.append(origins.code(node.raw_origin))
        inputs += [index[i] for i in node.inputs]
        starts.append(len(inputs))
        if node.op.name == "constant":
            constants[f"c{k}"] = node.attr("value").array
        elif node.attrs:
            attrs[str(k)] = {name: _stored(value, bodies) for name, value in node.attrs}
    constants |= {f"g{k}": np.frombuffer(dump(_as_graph(body)), np.uint8) for body, k in bodies.items()}
    columns = {
        "ops": list(ops), "types": [(t.dtype.name, t.shape) for t in types], "origins": list(origins.table),
        "node_ops": node_ops, "node_types": node_types, "node_origins": node_origins, "starts": starts,
        "inputs": inputs, "attrs": attrs,
        "names": [[index[n] for n in graph.inputs.values()], [[name, index[n]] for name, n in graph.outputs.items()]],
    }  # fmt: skip
    texts = {name: json.dumps(value, separators=(",", ":")) for name, value in columns.items()}
    head = {"format_version": str(FORMAT_VERSION), "min_reader": str(FORMAT_VERSION), "graph_digest": graph.digest}
    return {**head, **texts, "checksum": _checksum(texts, constants)}, constants


def _stored(value: Any, bodies: dict[Body, int]) -> Any:
    """An attribute as JSON; a body is the number of the tensor that holds its own `.gir` file."""
    return {"graph": bodies.setdefault(value, len(bodies))} if isinstance(value, Body) else value


def _as_graph(body: Body) -> Graph:
    return Graph({str(k): node for k, node in enumerate(body.outputs)}, inputs=body.inputs)


class _Origins:
    """The table of origins: equal ones once, each resolved once."""

    def __init__(self) -> None:
        self.table: dict[tuple[str, str, str], int] = {}
        self._codes: dict[tuple[int, int], int] = {}

    def code(self, raw: RawOrigin) -> int:
        """The row of an origin; raw ones are told apart by identity, for code objects are slow to hash."""
        key = (id(raw[0]), raw[1]) if isinstance(raw, tuple) else (id(raw), -1)
        known = self._codes.get(key)
        if known is None:
            origin = resolve_origin(raw)
            row = (origin.kind, os.path.basename(origin.where), origin.of)
            known = self._codes[key] = self.table.setdefault(row, len(self.table))
        return known


def load(source: bytes | str | os.PathLike[str], limits: Limits | None = None) -> Graph:
    """The graph in a `.gir` file or its bytes; FormatError, LimitError, UnknownOpError or InvariantError."""
    most = limits or Limits()
    data = source if isinstance(source, bytes) else _read(source)
    if data[8:9] != b"{":
        raise FormatError("this is not a .gir file: it does not begin as safetensors do; write graphs with graph.save")
    file = tensors.read(data, max_header=most.header_bytes)
    _check_constant_bytes(file, most)
    try:
        with collector.paused():
            graph = _rebuild(_columns(file), file, most)
    except GraphError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(f"the file's columns do not describe a graph: {error!r:.200}; save it again") from None
    return graph


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise FormatError(f"cannot read {os.fspath(path)!r}: {error.strerror}; check the path") from None


def _check_constant_bytes(file: tensors.Tensors, most: Limits) -> None:
    total = sum(entry.end - entry.begin for entry in file.entries.values())
    if total > most.constant_bytes:
        raise LimitError(
            f"the graph's constants have {total} bytes, over the limit of {most.constant_bytes}; "
            "feed large arrays as inputs, or load with a larger Limits(constant_bytes=...)"
        )


def _checksum(texts: Mapping[str, str], constants: Mapping[str, Any]) -> str:
    hasher = hashlib.sha256()
    for name in COLUMNS:
        hasher.update(f"{name}:{len(texts[name])}:".encode() + texts[name].encode())
    for name in sorted(constants):
        hasher.update(name.encode() + Literal(constants[name]).digest)
    return hasher.hexdigest()


def _columns(file: tensors.Tensors) -> dict[str, Any]:
    meta = file.metadata
    version = meta.get("min_reader", "")
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        raise FormatError("this is a safetensors file without a graph; a .gir file has the metadata key min_reader")
    if int(version) > FORMAT_VERSION:
        raise FormatError(
            f"the file needs a reader of format {version}; this one reads {FORMAT_VERSION}: update Gradfleet"
        )
    missing = [name for name in (*COLUMNS, "checksum", "graph_digest") if name not in meta]
    if missing:
        raise FormatError(f"the graph's column {missing[0]!r} is missing; save the graph again")
    if _checksum(meta, dict(file.items())) != meta["checksum"]:
        raise FormatError("the checksum does not fit: bytes were changed or lost; copy or save the file again")
    try:
        return {name: json.loads(meta[name]) for name in COLUMNS}
    except (ValueError, RecursionError):
        raise FormatError("a column of the graph is not JSON; save the graph again") from None


def _rebuild(columns: Mapping[str, Any], file: tensors.Tensors, most: Limits) -> Graph:
    ops = [_op(name, version) for name, version in columns["ops"]]
    types = [_type(dtype, shape) for dtype, shape in columns["types"]]
    origins = [_origin(*parts) for parts in columns["origins"]]
    node_ops = _codes(columns, "node_ops", len(ops))
    count = len(node_ops)
    if count > most.nodes:
        raise LimitError(f"the graph has {count} nodes, over the limit of {most.nodes}; load with a larger Limits")
    node_types = _codes(columns, "node_types", len(types), count)
    node_origins = _codes(columns, "node_origins", len(origins), count)
    starts, inputs = _references(columns, count)
    bodies = _bodies(file, most)
    attrs = _attribute_table(columns["attrs"], most, bodies)
    nodes: list[Node] = []
    for k, (code, kind, origin) in enumerate(zip(node_ops, node_types, node_origins, strict=True)):
        op, type_ = ops[code], types[kind]
        own: Attrs = (("value", Literal(file[f"c{k}"])),) if op.name == "constant" else attrs.pop(k, ())
        if own:
            check_dims(op, own)
        node = make(op, tuple([nodes[i] for i in inputs[starts[k] : starts[k + 1]]]), own, origins[origin])
        if node.type is not type_ and node.type != type_:
            raise InvariantError(f"node {k}, {node!r}, has another type in the file: {type_}; save the graph again")
        nodes.append(node)
    _check_whole(nodes, attrs, file)
    return _named(columns["names"], nodes)


def _check_whole(nodes: list[Node], left: dict[int, Attrs], file: tensors.Tensors) -> None:
    """Every node once, every attribute and every constant used."""
    if len(set(nodes)) < len(nodes):
        raise InvariantError(
            "two nodes of the file are the same: equal op, inputs and attributes; save the graph again"
        )
    if left:
        raise FormatError(f"there are attributes for node {next(iter(left))}, which takes none; save the graph again")
    used = {value for node in nodes for _, value in node.attrs if isinstance(value, Body)}
    if sum(node.op.name == "constant" for node in nodes) + len(used) != len(file):
        raise FormatError("the file has tensors that are no constants of the graph; save the graph again")


def _named(names: Any, nodes: list[Node]) -> Graph:
    given, outputs = names
    rows = [*given, *(row for _, row in outputs)]
    if not all(type(row) is int and 0 <= row < len(nodes) for row in rows):
        raise FormatError("an input or output of the graph is none of its nodes; save the graph again")
    if not all(type(name) is str for name, _ in outputs) or len({name for name, _ in outputs}) < len(outputs):
        raise FormatError("the outputs' names are not distinct texts; save the graph again")
    return Graph.from_nodes(tuple(nodes), {name: nodes[row] for name, row in outputs}, [nodes[row] for row in given])


def _op(name: str, version: int) -> Op:
    op = lookup(name)
    if version != op.version:
        raise FormatError(f"op {name!r} has version {version} in the file and {op.version} here: update Gradfleet")
    return op


def _type(dtype: str, shape: list[Any]) -> TensorType:
    if type(dtype) is not str or type(shape) is not list or [dims.dim(d) for d in shape] != shape:
        raise FormatError(f"the type {dtype!r:.40} {shape!r:.80} is not in canonical form; save the graph again")
    return tensor_type(as_dtype(dtype), as_shape(tuple(shape)))


def _origin(kind: str, where: str, of: str) -> Origin:
    if kind not in ORIGIN_KINDS or type(where) is not str or type(of) is not str:
        raise FormatError(f"{(kind, where, of)!r:.80} is not an origin; save the graph again")
    return Origin(kind, os.path.basename(where), of)


def _codes(columns: Mapping[str, Any], name: str, rows: int, count: int | None = None) -> list[int]:
    """A column whose values are rows of a table, checked at once."""
    column = _integers(columns, name)
    if count is not None and len(column) != count:
        raise FormatError(f"the column {name!r} has {len(column)} values for {count} nodes; save the graph again")
    if len(column) and not 0 <= column.min() <= column.max() < rows:
        raise FormatError(f"the column {name!r} names a row that its table does not have; save the graph again")
    values: list[int] = columns[name]
    return values


def _integers(columns: Mapping[str, Any], name: str) -> Column:
    values = columns[name]
    if not isinstance(values, list) or not set(map(type, values)) <= {int}:
        raise FormatError(f"the column {name!r} is not a list of integers; save the graph again")
    return np.array(values, np.int64)


def _references(columns: Mapping[str, Any], count: int) -> tuple[list[int], list[int]]:
    """The inputs of all nodes in CSR form: offsets rise, and inputs come before their users."""
    starts, inputs = _integers(columns, "starts"), _integers(columns, "inputs")
    if len(starts) != count + 1 or starts[0] != 0 or starts[-1] != len(inputs) or (np.diff(starts) < 0).any():
        raise FormatError("the inputs' offsets do not fit the nodes; save the graph again")
    users = np.repeat(np.arange(count), np.diff(starts))
    bad = np.flatnonzero((inputs < 0) | (inputs >= users))
    if len(bad):
        raise _bad_reference(int(users[bad[0]]), int(inputs[bad[0]]), count)
    return columns["starts"], columns["inputs"]


def _bad_reference(k: int, bad: int, count: int) -> InvariantError:
    if not 0 <= bad < count:
        return InvariantError(
            f"node {k} takes node {bad} as input, which does not exist (a dangling input); save the graph again"
        )
    what = "itself (a cycle)" if bad == k else f"node {bad}, which comes later (a forward reference or a cycle)"
    return InvariantError(f"node {k} takes {what} as input; inputs come before their users")


def _bodies(file: tensors.Tensors, most: Limits) -> list[Body]:
    """The graphs inside attributes: files in the file, down to a limited depth."""
    names = [name for name in file if name.startswith("g")]
    if names and most.depth < 1:
        raise LimitError("bodies lie in one another deeper than the limit; load with a larger Limits(depth=...)")
    inner = replace(most, depth=most.depth - 1)
    return [_body(file[f"g{k}"], inner) for k in range(len(names))]


def _body(data: Any, most: Limits) -> Body:
    if data.dtype != np.uint8 or data.ndim != 1:
        raise FormatError("a body is not stored as bytes; save the graph again")
    graph = load(data.tobytes(), most)
    if list(graph.inputs) != [str(k) for k in range(len(graph.inputs))]:
        raise FormatError("the inputs of a body are not named by position; save the graph again")
    return Body(tuple(graph.inputs.values()), tuple(graph.outputs.values()), graph.nodes)


def _attribute_table(column: Mapping[str, Mapping[str, Any]], most: Limits, bodies: list[Body]) -> dict[int, Attrs]:
    shared: dict[str, Attrs] = {}  # most attributes occur at many nodes; equal ones are made once
    table: dict[int, Attrs] = {}
    for key, given in column.items():
        text = repr(given)
        if text not in shared:
            shared[text] = tuple(sorted((name, _attribute(name, v, most, bodies)) for name, v in given.items()))
        table[int(key)] = shared[text]
    return table


def _attribute(name: str, value: Any, most: Limits, bodies: list[Body]) -> Any:
    if isinstance(value, dict):
        number = value["graph"]
        if type(number) is not int or not 0 <= number < len(bodies):
            raise FormatError(f"attribute {name} names a body that the file does not have; save the graph again")
        return bodies[number]
    if isinstance(value, list | str) and len(value) > most.attribute_items:
        raise LimitError(
            f"attribute {name} has {len(value)} elements, over the limit of {most.attribute_items}; "
            "put the data into a constant"
        )
    return tuple(value) if isinstance(value, list) else value


FACES["save"] = save
