"""From a Graph to an ONNX model: standard operators of opset 21, derivative nodes included.

Operators keep the order of the graph's nodes. Each carries the node's origin as its documentation, so that a viewer
tells derivatives apart. The model is written all or nothing.
"""

import os
from collections.abc import Iterable
from tempfile import NamedTemporaryFile

from onnx import GraphProto, ModelProto, NodeProto, helper

from graphir.errors import FormatError, LimitError
from graphir.graph import Graph
from graphir.node import Node
from graphir.onnx import out_control as _control
from graphir.onnx import out_elementwise as _elementwise
from graphir.onnx import out_functions as _functions
from graphir.onnx import out_indexing as _indexing
from graphir.onnx import out_layout as _layout
from graphir.onnx import out_linalg as _linalg
from graphir.onnx import out_random as _random
from graphir.onnx import out_reduction as _reduction
from graphir.onnx import out_scans as _scans
from graphir.onnx import out_signal as _signal
from graphir.onnx import out_windows as _windows
from graphir.onnx.dtypes import CODE_OF
from graphir.onnx.writer import Writer, write_nodes

OPSET = 21
IR_VERSION = 10
MAX_BYTES = (1 << 31) - 1
"""The largest message that protobuf reads."""

FAMILIES = (
    _control, _elementwise, _functions, _indexing, _layout, _linalg, _random, _reduction, _scans, _signal, _windows,
)  # fmt: skip
"""The modules whose import fills RULES."""


def write(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write the model's bytes beside `path` and move them there."""
    data = to_bytes(graph)
    target = os.path.realpath(path)
    with NamedTemporaryFile(dir=os.path.dirname(target), prefix=".onnx-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, target)
        except BaseException:  # an interrupt, too, must not leave the temporary file behind
            os.unlink(file.name)
            raise


def to_bytes(graph: Graph) -> bytes:
    """The bytes of the ONNX model."""
    total = sum(node.attr("value").array.nbytes for node in graph.nodes if node.op.name == "constant")
    model = to_model(graph) if total <= MAX_BYTES else None
    if model is None or model.ByteSize() > MAX_BYTES:
        raise LimitError(f"the model is over ONNX's limit of {MAX_BYTES} bytes; feed large constants as inputs")
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def to_model(graph: Graph) -> ModelProto:
    """The graph as an ONNX model."""
    clash = [name for name, node in graph.outputs.items() if graph.inputs.get(name, node) is not node]
    if clash:
        raise FormatError(f"{clash[0]!r} names an input and another output; ONNX needs distinct names, so rename one")
    writer = Writer(graph)
    names: dict[Node, str] = {}
    write_nodes(writer, graph.nodes, names)
    _rename(writer.nodes, _name_outputs(writer, graph, names))
    return helper.make_model(
        _graph_proto(graph, writer),
        producer_name="gradfleet",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


def _name_outputs(writer: Writer, graph: Graph, names: dict[Node, str]) -> dict[str, str]:
    """Values renamed to outputs; an output that is an input, a constant or another output gets an Identity."""
    made = {name for operator in writer.nodes for name in operator.output}
    renaming: dict[str, str] = {}
    writer.label, writer.origin = "outputs", ""
    for output, node in graph.outputs.items():
        name = names[node]
        if name in made and name not in renaming:
            renaming[name] = output
        elif name != output:
            renaming[writer.emit("Identity", name)] = output
    return renaming


def _rename(operators: Iterable[NodeProto], renaming: dict[str, str]) -> None:
    """Other names, in the graphs inside operators too."""
    for operator in operators:
        for names in (operator.input, operator.output):
            for k, name in enumerate(names):
                names[k] = renaming.get(name, name)
        for attribute in operator.attribute:
            _rename(attribute.g.node, renaming)


def _graph_proto(graph: Graph, writer: Writer) -> GraphProto:
    inputs, outputs = (
        [helper.make_tensor_value_info(name, CODE_OF[n.type.dtype], n.type.shape) for name, n in side.items()]
        for side in (graph.inputs, graph.outputs)
    )
    return helper.make_graph(writer.nodes, "gradfleet", inputs, outputs, writer.initializers)
