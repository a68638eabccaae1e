"""The invariants of plans, checked once a plan is made and before anything runs.

Borders cover the cut dimension. Steps are ordered by stage, then map, combine, single. Each value is written once,
before it is read, in the layout that its kind of step makes. Programs are sound graphs whose inputs and outputs
have the types of what is read and written; the local size occurs in map programs only. A broken rule is a
PlanError, which names the step.
"""

from collections import Counter
from itertools import pairwise

from graphir import dims
from graphir.axes import COMBINES
from graphir.errors import InvariantError, LimitError, PlanError
from graphir.node import describe
from graphir.types import TensorType
from graphir.verify import verify
from scheduler.plan import Plan, Read, Step, Value
from workers.executor import Executor

ORDER = ("map", "combine", "single")
"""The kinds of step within a stage, in the order in which they run."""


def check_plan(plan: Plan) -> Plan:
    """The plan itself if it is sound; PlanError that names the broken rule otherwise."""
    _check_borders(plan)
    for value in plan.values.values():
        _check_value(plan, value)
    _check_order(plan)
    ready = set(plan.graph.inputs)
    for number, step in enumerate(plan.steps):
        try:
            _check_step(plan, step, ready)
        except PlanError as error:
            raise error.at(f"step {number}, {step.kind} of stage {step.stage}") from None
        ready.update(step.writes)
    _check_outputs(plan, ready)
    return plan


def _require(true: bool, message: str) -> None:
    if not true:
        raise PlanError(f"{message}; the plan was not made by `compile`, or there is a defect in it: please report it")


def _check_borders(plan: Plan) -> None:
    end = 1 if plan.cut is None else plan.sizes.get(plan.cut)
    good = len(plan.borders) > 1 and plan.borders[0] == 0 and plan.borders[-1] == end
    _require(good, f"the borders {plan.borders} do not go from 0 to {end}")
    _require(all(a < b for a, b in pairwise(plan.borders)), f"the borders {plan.borders} do not increase")


def _check_value(plan: Plan, value: Value) -> None:
    _require(
        (value.layout == "shard") == (value.axis is not None),
        f"the {value.layout} value {value.id} has axis {value.axis}",
    )
    _local(plan, value.type, value.axis)
    operator = value.combine in COMBINES if value.layout == "partial" else value.combine is None
    _require(operator, f"the {value.layout} value {value.id} is combined by {value.combine!r}")


def _check_order(plan: Plan) -> None:
    places = [(step.stage, ORDER.index(step.kind)) for step in plan.steps]
    _require(places == sorted(places), "the steps are not ordered by stage, then map, combine, single")
    _require(plan.cut is not None or all(step.kind == "single" for step in plan.steps), "an uncut plan has a map step")
    written = Counter([*plan.graph.inputs, *(value for step in plan.steps for value in step.writes)])
    twice = [value for value, times in written.items() if times > 1]
    _require(not twice, f"the values {twice} are written more than once")


def _check_step(plan: Plan, step: Step, ready: set[str]) -> None:
    try:
        verify(step.program)
    except InvariantError as error:
        raise PlanError(f"the program is not sound: {error}") from None
    _require([r.input for r in step.reads] == list(step.program.inputs), "the reads are not the program's inputs")
    _require(step.writes == tuple(step.program.outputs), "the writes are not the program's outputs")
    for name in (*(read.value for read in step.reads), *step.writes):
        _require(name in plan.values, f"the value {name} is not declared")
    for read in step.reads:
        _require(read.value in ready, f"the value {read.value} is read before it is written")
        given = step.program.inputs[read.input].type
        needed = _read_type(plan, step, read)
        _require(given == needed, f"input {read.input} is {given}, but reading {read.value} gives {needed}")
    for name in step.writes:
        _check_write(plan, step, plan.values[name])
    if step.kind == "combine":
        _check_combine(plan, step)
    elif step.kind == "single":
        local = [node for node in step.program.nodes if any(plan.local in dims.names(d) for d in node.type.shape)]
        _require(not local, f"the local size occurs outside a map step, in {local[:1]}")


def _read_type(plan: Plan, step: Step, read: Read) -> TensorType:
    value = plan.values[read.value]
    partial = value.layout == "partial"
    _require(partial == (step.kind == "combine"), f"a {step.kind} step reads the {value.layout} value {value.id}")
    if read.axis is not None:
        _require(step.kind == "map" and value.layout == "whole", f"slices are taken of the {value.layout} {value.id}")
        return _local(plan, value.type, read.axis)
    return _local(plan, value.type, value.axis) if step.kind == "map" else value.type


def _check_write(plan: Plan, step: Step, value: Value) -> None:
    whole = value.layout == "whole"
    _require(whole == (step.kind != "map"), f"a {step.kind} step writes the {value.layout} value {value.id}")
    given, needed = step.program.outputs[value.id].type, _local(plan, value.type, value.axis)
    _require(given == needed, f"the value {value.id} is written as {given}, not as {needed}")


def _check_combine(plan: Plan, step: Step) -> None:
    _require([read.input for read in step.reads] == ["left", "right"], "a combine step reads 'left' and 'right'")
    _require(len({read.value for read in step.reads}) == len(step.writes) == 1, "a combine step joins one value")


def _local(plan: Plan, type_: TensorType, axis: int | None) -> TensorType:
    """The type of a chunk's slice along `axis`."""
    if axis is None:
        return type_
    good = plan.cut is not None and axis < type_.rank and dims.is_multiple_of(type_.shape[axis], plan.cut)
    _require(good, f"axis {axis} of {type_} is not along {plan.cut!r}")
    assert plan.cut is not None
    local = dims.rename(type_.shape[axis], {plan.cut: plan.local})
    return type_.with_shape((*type_.shape[:axis], local, *type_.shape[axis + 1 :]))


def _check_outputs(plan: Plan, ready: set[str]) -> None:
    _require(list(plan.outputs) == list(plan.graph.outputs), "the outputs are not those of the graph")
    for name, value in plan.outputs.items():
        _require(value in ready and value in plan.values, f"output {name!r} is the value {value}, which is not made")
        found, node = plan.values[value], plan.graph.outputs[name]
        good = found.layout != "partial" and found.type == node.type
        _require(good, f"output {name!r} of type {node.type} is the {found.layout} value {value} of type {found.type}")


def check_memory(plan: Plan, limit: int) -> Plan:
    """The plan itself if no step's values are estimated to take more than `limit` bytes at once; LimitError otherwise."""
    rows = max(b - a for a, b in zip(plan.borders, plan.borders[1:], strict=False))
    for step in plan.steps:
        sizes = {**plan.sizes, plan.local: rows} if step.kind == "map" else plan.sizes
        needed, node = Executor(step.program).peak_bytes(sizes)
        if needed > limit:
            advice = (
                "use smaller chunks" if step.kind == "map" and rows > 1 else "use smaller sizes, or a larger machine"
            )
            raise LimitError(
                f"a {step.kind} step needs about {needed} bytes at once, over the limit of {limit}; {advice}"
            ).at(describe(node))
    return plan
