"""The `.gir` format, version 1: a safetensors file whose tensors are the graph's constants and whose metadata holds
the graph as columns of JSON.

Columns: ops (name, version), types (dtype, shape), and for each node its op, type, inputs (CSR) and origin; sparse
attributes. A SHA-256 over columns and constants finds any changed byte. Types are inferred again and compared,
so a file cannot lie about them. Nothing is pickled. Readers refuse what is newer or over the limits.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from graphir import collector, tensors
from graphir.errors import FormatError, GraphError, InvariantError, LimitError
from graphir.graph import FACES, Graph
from graphir.literal import Literal
from graphir.node import MAX_ATTRIBUTE_ITEMS, Node, Op, lookup, make
from graphir.origin import Origin
from graphir.types import TensorType, as_dtype, tensor_type

FORMAT_VERSION = 1
COLUMNS = ("ops", "types", "origins", "node_ops", "node_types", "node_origins", "starts", "inputs", "attrs", "names")


@dataclass(frozen=True, slots=True)
class Limits:
    """The largest file that is read."""

    header_bytes: int = 1 << 30
    nodes: int = 10_000_000


def dump(graph: Graph) -> bytes:
    """The bytes of a `.gir` file."""
    index = {node: k for k, node in enumerate(graph.nodes)}
    ops: dict[tuple[str, int], int] = {}
    types: dict[TensorType, int] = {}
    codes: dict[int, int] = {}  # by the identity of a type object: hashing one a node would take most of the time
    origins: dict[tuple[str, str, str], int] = {}
    node_ops, node_types, node_origins, starts, inputs = [], [], [], [0], []
    attrs: dict[str, dict[str, Any]] = {}
    constants: dict[str, Any] = {}
    for k, node in enumerate(graph.nodes):
        origin = node.origin
        where = os.path.basename(origin.where)
        node_ops.append(ops.setdefault((node.op.name, node.op.version), len(ops)))
        code = codes.get(id(node.type))
        if code is None:
            code = codes[id(node.type)] = types.setdefault(node.type, len(types))
        node_types.append(code)
        node_origins.append(origins.setdefault((origin.kind, where, origin.of), len(origins)))
        inputs += [index[i] for i in node.inputs]
        starts.append(len(inputs))
        if node.op.name == "constant":
            constants[f"c{k}"] = node.attr("value").array
        elif node.attrs:
            attrs[str(k)] = dict(node.attrs)
    columns = {
        "ops": list(ops), "types": [(t.dtype.name, t.shape) for t in types], "origins": list(origins), "node_ops": node_ops, "node_types": node_types,
        "node_origins": node_origins, "starts": starts, "inputs": inputs, "attrs": attrs,
        "names": [[index[n] for n in graph.inputs.values()], [[name, index[n]] for name, n in graph.outputs.items()]],
    }  # fmt: skip
    texts = {name: json.dumps(value, separators=(",", ":")) for name, value in columns.items()}
    head = {"format_version": str(FORMAT_VERSION), "min_reader": str(FORMAT_VERSION), "graph_digest": graph.digest}
    return tensors.write(constants, {**head, **texts, "checksum": _checksum(texts, constants)})


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a `.gir` file."""
    with open(path, "wb") as file:
        file.write(dump(graph))


def load(source: bytes | str | os.PathLike[str], limits: Limits | None = None) -> Graph:
    """The graph in a `.gir` file or its bytes; FormatError, LimitError, UnknownOpError or InvariantError."""
    most = limits or Limits()
    data = source if isinstance(source, bytes) else _read(source)
    if data[8:9] != b"{":
        raise FormatError("this is not a .gir file: it does not begin as safetensors do; write graphs with graph.save")
    file = tensors.read(data, max_header=most.header_bytes)
    columns = _columns(file)
    if len(columns["node_ops"]) > most.nodes:
        raise LimitError(f"the graph has {len(columns['node_ops'])} nodes, over the limit of {most.nodes}")
    try:
        with collector.paused():
            graph = _rebuild(columns, file)
    except GraphError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"the file's columns do not describe a graph: {error!r}; save it again") from None
    return graph


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise FormatError(f"cannot read {os.fspath(path)!r}: {error.strerror}; check the path") from None


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
    if not version.isdigit():
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


def _rebuild(columns: Mapping[str, Any], file: tensors.Tensors) -> Graph:
    ops = [_op(name, version) for name, version in columns["ops"]]
    types = [tensor_type(as_dtype(dtype), tuple(shape)) for dtype, shape in columns["types"]]
    origins = [Origin(*parts) for parts in columns["origins"]]
    starts, inputs, attrs = columns["starts"], columns["inputs"], columns["attrs"]
    node_types, node_origins = columns["node_types"], columns["node_origins"]
    count = len(columns["node_ops"])
    if len(starts) != count + 1 or starts[0] != 0 or starts[-1] != len(inputs) or sorted(starts) != starts:
        raise FormatError("the inputs' offsets do not fit the nodes; save the graph again")
    nodes: list[Node] = []
    for k, code in enumerate(columns["node_ops"]):
        sources = inputs[starts[k] : starts[k + 1]]
        if sources and not 0 <= min(sources) <= max(sources) < k:
            raise _bad_reference(k, sources, count)
        op = ops[code]
        own = (("value", Literal(file[f"c{k}"])),) if op.name == "constant" else _attributes(attrs.get(str(k)), op)
        node = make(op, tuple([nodes[i] for i in sources]), own, origins[node_origins[k]])
        stored = types[node_types[k]]
        if node.type is not stored and node.type != stored:
            raise InvariantError(f"node {k}, {node!r}, has another type in the file: {stored}")
        nodes.append(node)
    given, outputs = columns["names"]
    return Graph.from_nodes(tuple(nodes), {name: nodes[i] for name, i in outputs}, [nodes[i] for i in given])


def _op(name: str, version: int) -> Op:
    op = lookup(name)
    if version != op.version:
        raise FormatError(f"op {name!r} has version {version} in the file and {op.version} here: update Gradfleet")
    return op


def _bad_reference(k: int, sources: list[int], count: int) -> InvariantError:
    bad = next(i for i in sources if not 0 <= i < k)
    if not 0 <= bad < count:
        return InvariantError(
            f"node {k} takes node {bad} as input, which does not exist (a dangling input); save the graph again"
        )
    what = "itself (a cycle)" if bad == k else f"node {bad}, which comes later (a forward reference or a cycle)"
    return InvariantError(f"node {k} takes {what} as input; inputs come before their users")


def _attributes(given: dict[str, Any] | None, op: Op) -> tuple[tuple[str, Any], ...]:
    if not given:
        return ()
    for name, value in given.items():
        if isinstance(value, list | str) and len(value) > MAX_ATTRIBUTE_ITEMS:
            raise LimitError(
                f"attribute {name} of {op.name} has {len(value)} elements, over the limit of {MAX_ATTRIBUTE_ITEMS}"
            )
    return tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in sorted(given.items()))


FACES["save"] = save
