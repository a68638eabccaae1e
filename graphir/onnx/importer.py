"""From an ONNX model to a Graph: operators in order, functions and subgraphs inlined, constants worked out.

Each operator becomes nodes whose origin is the file and the operator's name. An operator without a rule of its own is
read as the function body that the standard gives for it, if it gives one. An operator on constants is evaluated at
once, as far as `Limits.folded_elements` allows.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

from graphir import array, interpret
from graphir.errors import BindError, FormatError, GraphError, LimitError, UnknownOpError
from graphir.expr import Expr
from graphir.graph import Graph
from graphir.node import Array, made_by
from graphir.onnx import families as _families
from graphir.onnx.bodies import body_of
from graphir.onnx.call import RULES, Call, Result
from graphir.onnx.contents import Knowledge
from graphir.onnx.dtypes import DTYPE_OF, attribute_value, element_dtype
from graphir.onnx.model_file import DEFAULT_DOMAINS, Limits, ModelFile, open_model, opset_versions
from graphir.onnx.scope import Row, Scope, Value, input_expr, missing
from graphir.onnx.variables import Variables
from graphir.origin import Origin
from graphir.products import element_count
from graphir.walk import ancestors

Attributes = Mapping[str, AttributeProto]
MISFITS = (TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError)
"""What damaged parts of a model raise, such as names that are not UTF-8."""
FAMILIES = _families
"""The package whose import fills RULES."""


def read(
    source: bytes | str | os.PathLike[str],
    bind: Mapping[str, Any],
    limits: Limits | None = None,
    parameters: bool | Sequence[str] = False,
) -> Graph:
    """The graph of a model; FormatError, UnknownOpError, LimitError or another GraphError that names file and node."""
    file = open_model(source, limits or Limits())
    try:
        chosen = _chosen(file, parameters)
        while True:
            try:
                return Importer(file).graph(bind, chosen)
            except BindError as error:
                decisive = chosen.intersection(error.inputs) if parameters is True else frozenset()
                if not decisive:
                    raise
                chosen -= decisive
    except GraphError as error:
        raise error.at(file.name) from None
    except MISFITS as error:
        raise FormatError(f"the model's parts do not fit together: {error!r:.200}").at(file.name) from error


def values(source: bytes | str | os.PathLike[str], limits: Limits | None = None) -> dict[str, Array]:
    """The float initialisers of a model by name."""
    file = open_model(source, limits or Limits())
    try:
        return {proto.name: file.tensor(proto) for proto in file.model.graph.initializer if proto.name in _floats(file)}
    except GraphError as error:
        raise error.at(file.name) from None


def _floats(file: ModelFile) -> frozenset[str]:
    kinds = {code for code, dtype in DTYPE_OF.items() if dtype.kind == "f"}
    return frozenset(proto.name for proto in file.model.graph.initializer if proto.data_type in kinds)


def _chosen(file: ModelFile, parameters: bool | Sequence[str]) -> frozenset[str]:
    """The initialisers that become inputs."""
    if isinstance(parameters, bool):
        return _floats(file) if parameters else frozenset()
    known = {proto.name for proto in file.model.graph.initializer}
    unknown = sorted(set(parameters) - known)
    if unknown:
        raise FormatError(f"parameters names {unknown[0]!r}; the model's initialisers are {sorted(known)[:20]}")
    return frozenset(parameters)


class Importer:
    """The state of one reading."""

    def __init__(self, file: ModelFile) -> None:
        self.file = file
        self.knowledge = Knowledge()
        self.variables = Variables(file.model)
        self.opsets = file.opsets()
        self.functions = {(_domain(f), f.name): f for f in file.model.functions}
        self.scope = Scope(None, 0)
        self.operators = 0
        self.bytes = 0

    def graph(self, bind: Mapping[str, Any], parameters: frozenset[str] = frozenset()) -> Graph:
        """The whole model; the initialisers among `parameters` are inputs, after the model's own."""
        proto = self.file.model.graph
        unknown = sorted(set(bind) - {info.name for info in proto.input})
        if unknown:
            raise FormatError(f"bind names {unknown[0]!r}; the model's inputs are {[i.name for i in proto.input]}")
        fixed = {tensor.name for tensor in proto.initializer}
        leaves = []
        for info in proto.input:
            if info.name in bind:
                self._name(info.name, array.constant(np.asarray(bind[info.name])))
            elif info.name not in fixed:
                leaves.append(input_expr(info))
                self.scope.add(info.name, leaves[-1])
        for tensor in proto.initializer:
            if tensor.name in parameters and not self.scope.has(tensor.name):
                leaves.append(array.input(tensor.name, tuple(tensor.dims), element_dtype(tensor.data_type)))
                self.scope.add(tensor.name, leaves[-1])
        found = self.variables.resolved(self._body(proto))
        names = [info.name for info in proto.output]
        if len(set(names)) < len(names):
            raise FormatError("two outputs of the model have the same name; export the model again")
        return Graph(dict(zip(names, found, strict=True)), inputs=leaves)

    def tensor(self, proto: TensorProto) -> Array:
        """The array of a tensor, within the limit on constants."""
        value = self.file.tensor(proto)
        self.bytes += value.nbytes
        if self.bytes > self.file.limits.constant_bytes:
            raise LimitError(
                f"the model's constants are over the limit of {self.file.limits.constant_bytes} bytes; "
                "read with a larger Limits(constant_bytes=...)"
            )
        return value

    def subgraph(self, graph: GraphProto, inputs: Sequence[Expr]) -> list[Expr]:
        """The outputs of a graph that an attribute holds; it sees the values around it."""
        if len(inputs) != len(graph.input):
            raise FormatError(f"subgraph {graph.name!r} takes {len(graph.input)} inputs, not {len(inputs)}")
        outer = self.scope
        self.scope = self._inner(outer)
        for info, value in zip(graph.input, inputs, strict=True):
            self._name(info.name, value)
        found = self._body(graph)
        self.scope = outer
        return found

    def named(self, name: str) -> Expr:
        """A value that an attribute names."""
        value = self.scope.find(name)
        if not isinstance(value, Expr):
            raise FormatError(f"an attribute names {name!r}, no tensor that is made before; export the model again")
        return value

    def _name(self, name: str, value: Value) -> None:
        self.scope.add(name, self.variables.stand_in(name, value) if isinstance(value, Expr) else value)

    def _inner(self, outer: Scope | None) -> Scope:
        depth = self.scope.depth + 1
        if depth > self.file.limits.depth:
            raise LimitError(f"functions and subgraphs are over {self.file.limits.depth} deep; flatten the model")
        return Scope(outer, depth)

    def _body(self, graph: GraphProto) -> list[Expr]:
        """The outputs of a graph whose inputs are in the scope."""
        if graph.sparse_initializer:
            raise FormatError("sparse initialisers are not supported; export the model with dense ones")
        for proto in graph.initializer:
            if proto.name not in self.scope.values:
                self._name(proto.name, array.constant(self.tensor(proto)))
        self._operators(graph.node, self.opsets, {})
        found = [(info.name, self.scope.find(info.name)) for info in graph.output]
        for name, value in found:
            if not isinstance(value, Expr):
                raise self._no_tensor(name, value, graph.node)
        return [value for _, value in found if isinstance(value, Expr)]

    def _no_tensor(self, name: str, value: Value, nodes: Sequence[NodeProto]) -> FormatError:
        """The error for an output that is not there, or is a sequence or an empty optional value."""
        if not self.scope.has(name):
            return missing(name, "an output", nodes)
        what = "optional" if value is None else "sequence"
        return FormatError(f"output {name!r} has the type {what}; only dense tensors can be outputs")

    def _operators(self, nodes: Sequence[NodeProto], opsets: Mapping[str, int], given: Attributes) -> None:
        """Read operators in order; `given` are the attributes of the function call around them."""
        for position, node in enumerate(nodes):
            label = (node.name or str(position)).replace(os.sep, ".")
            place = f"{node.op_type} node {node.name or position!r} of {self.file.name}"
            self.operators += 1
            try:
                if self.operators > self.file.limits.operators:
                    raise LimitError(f"the model has over {self.file.limits.operators} operators")
                with made_by(Origin("user", f"{self.file.name}:{label}")):
                    self._operator(nodes, node, opsets, given)
            except GraphError as error:
                raise error.at(place) from None
            except MISFITS as error:
                raise FormatError(f"the operator's parts do not fit together: {error!r:.200}").at(place) from error

    def _operator(
        self, nodes: Sequence[NodeProto], node: NodeProto, opsets: Mapping[str, int], given: Attributes
    ) -> None:
        inputs = tuple(self._input(name, nodes) if name else None for name in node.input)
        results = self._results(node, inputs, opsets, _attributes(node, given))
        captures = any(
            proto.type == AttributeProto.GRAPH for proto in node.attribute
        )  # its results are settled already
        folds = not captures and all(value is None or _is_constant(value) for value in inputs)
        if len(results) < len(node.output):
            results = [*results, *[None] * (len(node.output) - len(results))]
        for name, value in zip(node.output, results, strict=False):
            if name:
                self._name(name, self._settled(value, folds) if isinstance(value, Expr) else value)

    def _input(self, name: str, nodes: Sequence[NodeProto]) -> Value:
        """A value by name; None for an optional one that was left out further up."""
        if not self.scope.has(name):
            raise missing(name, "an input", nodes)
        return self.scope.find(name)

    def _results(
        self, node: NodeProto, inputs: tuple[Value, ...], opsets: Mapping[str, int], given: Attributes
    ) -> Sequence[Value]:
        key = (_domain(node), node.op_type)
        if key in self.functions:
            return self._function(self.functions[key], inputs, given)
        if key[0] not in opsets:
            raise FormatError(f"the model does not import an operator set of domain {key[0]!r}; export it again")
        opset = opsets[key[0]]
        rule = RULES.get(key)
        if rule is not None:
            decoded = {name: attribute_value(proto) for name, proto in given.items()}
            return _several(rule(Call(node, inputs, decoded, opset, self)))
        found = body_of(node, inputs, given, opset)
        if found is None:
            name = ".".join(filter(None, key))
            raise UnknownOpError(
                f"operator {name!r} is not supported in operator set {opset}; replace it and export again"
            )
        return self._function(found[0], inputs, found[1])

    def _function(self, function: FunctionProto, inputs: Sequence[Value], given: Attributes) -> list[Value]:
        """A function's body on these inputs; it does not see the values around the call."""
        if len(inputs) > len(function.input):
            raise FormatError(f"function {function.name!r} takes {len(function.input)} inputs, not {len(inputs)}")
        outer = self.scope
        self.scope = self._inner(None)
        for position, name in enumerate(function.input):
            self._name(name, inputs[position] if position < len(inputs) else None)
        defaults = {proto.name: proto for proto in function.attribute_proto}
        opsets = {**self.opsets, **opset_versions(function.opset_import)}
        self._operators(function.node, opsets, {**defaults, **given})
        found = [self.scope.find(name) for name in function.output]  # optional ones may be left out
        self.scope = outer
        return found

    def _settled(self, value: Expr, folds: bool) -> Expr:
        """A constant instead of a value that depends on no input, or whose contents are known numbers."""
        node = value.node
        if node.op.name in ("constant", "input"):
            return value
        known = self.knowledge.of(node)
        if known is not None and not any(isinstance(d, str) for d in known.flat):
            return array.constant(known.astype(node.type.dtype))
        if not folds:
            return value
        for part in ancestors([node]):
            count = element_count(part.type.shape)
            if part.op.name == "size" or isinstance(count, str) or count > self.file.limits.folded_elements:
                return value
        return array.constant(interpret.evaluate(Graph({"out": node}), {})["out"])


def _domain(proto: NodeProto | FunctionProto) -> str:
    return "" if proto.domain in DEFAULT_DOMAINS else proto.domain


def _several(result: Result) -> Sequence[Value]:
    return (result,) if isinstance(result, Expr | Row) else result


def _is_constant(value: Value) -> bool:
    return isinstance(value, Expr) and value.node.op.name == "constant"


def _attributes(node: NodeProto, given: Attributes) -> dict[str, AttributeProto]:
    """A node's attributes; those that refer to the function's are taken from its call, or left out."""
    found: dict[str, AttributeProto] = {}
    for proto in node.attribute:
        if not proto.ref_attr_name:
            found[proto.name] = proto
        elif proto.ref_attr_name in given:
            found[proto.name] = AttributeProto()
            found[proto.name].CopyFrom(given[proto.ref_attr_name])
            found[proto.name].name = proto.name
    return found
