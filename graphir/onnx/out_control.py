"""How control flow is written: scans as Scan, cond as If, while_loop as Loop, and bodies of `call` in place.

Graphs inside operators use the values outside by their names, as ONNX allows.
"""

from collections.abc import Callable, Sequence
from typing import Any

from onnx import GraphProto, ValueInfoProto, helper

from graphir import walk
from graphir.control.scan import plain_scan
from graphir.control.steps import layout_of
from graphir.node import Node
from graphir.onnx.dtypes import CODE_OF
from graphir.onnx.writer import JOINT_RULES, Writer, write_nodes
from graphir.types import BOOL, INT64, TensorType

Rule = Callable[..., list[str]]


def _writes(op: str) -> Callable[[Rule], Rule]:
    def declare(rule: Rule) -> Rule:
        JOINT_RULES[op] = rule
        return rule

    return declare


def _info(name: str, type_: TensorType) -> ValueInfoProto:
    shape = [d if isinstance(d, int) else None for d in type_.shape]
    return helper.make_tensor_value_info(name, CODE_OF[type_.dtype], shape)


def _values(w: Writer, inputs: Sequence[Node], given: Sequence[str], wanted: Sequence[Node]) -> list[str]:
    """The names of values of a body, written where `w` writes."""
    names = dict(zip(inputs, given, strict=True))
    write_nodes(w, walk.ancestors(wanted), names)
    return [names[node] for node in wanted]


def _graph(w: Writer, name: str, inputs: list[ValueInfoProto], results: Sequence[tuple[str, TensorType]]) -> GraphProto:
    """What `w` has written as a graph inside an operator; its outputs have names of their own."""
    outputs = [_info(w.emit("Identity", value), type_) for value, type_ in results]
    for info, operator in zip(outputs, w.nodes[len(w.nodes) - len(outputs) :], strict=True):
        info.name = operator.output[0]
    return helper.make_graph(w.nodes, name, inputs, outputs)


def _attrs(nodes: Sequence[Node]) -> tuple[dict[str, Any], list[int]]:
    attrs = dict(nodes[0].attrs)
    del attrs["output"]
    return attrs, [node.attr("output") for node in nodes]


@_writes("call")
def _call(w: Writer, nodes: Sequence[Node], *inputs: str) -> list[str]:
    attrs, outputs = _attrs(nodes)
    body = attrs["body"]
    return _values(w, body.inputs, inputs, [body.outputs[k] for k in outputs])


@_writes("cond")
def _cond(w: Writer, nodes: Sequence[Node], condition: str, *inputs: str) -> list[str]:
    attrs, outputs = _attrs(nodes)
    branches = {}
    for attribute, name in (("then_branch", "then"), ("else_branch", "otherwise")):
        inner, body = w.inner(), attrs[name]
        found = _values(inner, body.inputs, inputs, [body.outputs[k] for k in outputs])
        types = [body.output_types[k] for k in outputs]
        branches[attribute] = _graph(inner, name, [], list(zip(found, types, strict=True)))
    return w.emit_several("If", len(outputs), condition, **branches)


@_writes("while_loop")
def _while(w: Writer, nodes: Sequence[Node], *inputs: str) -> list[str]:
    """The loop ends after `limit` steps, where ours raises."""
    attrs, outputs = _attrs(nodes)
    test, body = attrs["test"], attrs["body"]
    count = len(body.outputs)
    (first,) = _values(w, test.inputs, inputs, test.outputs)
    inner = w.inner()
    carried = [inner.fresh("carried") for _ in range(count)]
    after = _values(inner, body.inputs, [*carried, *inputs[count:]], body.outputs)
    (goes_on,) = _values(inner, test.inputs, [*after, *inputs[count:]], test.outputs)
    infos = [_info(inner.fresh("step"), TensorType(INT64, ())), _info(inner.fresh("going"), TensorType(BOOL, ()))]
    infos += [_info(name, type_) for name, type_ in zip(carried, body.output_types, strict=True)]
    results = [(goes_on, TensorType(BOOL, ())), *zip(after, body.output_types, strict=True)]
    graph = _graph(inner, "step", infos, results)
    limit = w.constant(attrs["limit"], INT64)
    found = w.emit_several("Loop", count, limit, first, *inputs[:count], body=graph)
    return [found[k] for k in outputs]


@_writes("scan")
def _scan(w: Writer, nodes: Sequence[Node], *inputs: str) -> list[str]:
    """Carried values and sums are states; stacked values and histories are scan outputs."""
    attrs, outputs = _attrs(nodes)
    plan = layout_of(attrs)
    end = plan.carries + plan.scanned
    needed = plan.needed(outputs)
    sums = [k for k in outputs if plan.kind(k) == "summed"]
    stacked = [k for k in outputs if plan.kind(k) in ("stacked", "history")]
    inner = w.inner()
    given = [inner.fresh("inside") for _ in range(end)]
    values = _values(inner, plan.body.inputs, [*given, *inputs[end:]], [plan.of(k) for k in (*needed, *sums, *stacked)])
    types = [plan.of(k).type for k in (*needed, *sums, *stacked)]
    totals = [inner.fresh("total") for _ in sums]
    split = len(needed)
    for place, total in enumerate(totals):
        values[split + place] = inner.emit("Add", total, values[split + place])
    scanned, slices = list(inputs[plan.carries : end]), given[plan.carries :]
    slice_types = [node.type for node in plan.body.inputs[plan.carries : end]]
    if not scanned:  # the runtime counts steps by what is scanned
        scanned, slices = [w.fill(0, BOOL, (plan.length,))], [inner.fresh("counted")]
        slice_types = [TensorType(BOOL, ())]
    states = [(given[c], plan.body.inputs[c].type) for c in needed]
    states += list(zip(totals, types[split:], strict=False))
    infos = [_info(name, type_) for name, type_ in (*states, *zip(slices, slice_types, strict=True))]
    graph = _graph(inner, "step", infos, list(zip(values, types, strict=True)))
    starts = [inputs[c] for c in needed]
    starts += [w.fill(0, plan.of(k).type.dtype, plan.of(k).type.shape) for k in sums]
    backwards = {"scan_input_directions": [1] * len(scanned)} if plan.reverse else {}
    if plan.reverse and stacked:
        backwards["scan_output_directions"] = [1] * len(stacked)
    found = w.emit_several(
        "Scan", len(values), *starts, *scanned, body=graph, num_scan_inputs=len(scanned), **backwards
    )
    places = {k: name for k, name in zip((*needed, *sums, *stacked), found, strict=True) if k not in needed}
    places |= {c: found[k] for k, c in enumerate(needed)}
    return [places[k] for k in outputs]


@_writes("retraced_scan")
def _retraced_scan(w: Writer, nodes: Sequence[Node], *inputs: str) -> list[str]:
    """As a scan over the other's history, which then is kept whole."""
    _, outputs = _attrs(nodes)
    plain = plain_scan(nodes[0].inputs, dict(nodes[0].attrs))
    names = dict(zip(nodes[0].inputs, inputs, strict=True))
    wanted = [plain[k] for k in outputs]
    write_nodes(w, walk.ancestors(wanted, stop=frozenset(names)), names)
    return [names[node] for node in wanted]
