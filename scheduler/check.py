"""The invariants of plans, checked once a plan is made and before anything runs.

Borders cover the cut dimensions. Steps are ordered by stage, then map, combine, single. Each value is written once,
before it is read, in the layout that its kind of step makes. Programs are sound graphs whose inputs and outputs
have the types of what is read and written; a local size occurs only in steps over its dimension. A broken rule is a
PlanError, which names the step.
"""

from collections import Counter
from itertools import pairwise

from graphir import dims
from graphir.axes import COMBINES
from graphir.errors import InvariantError, PlanError
from graphir.partition.plan import ORDER, Plan, Read, Step, Value
from graphir.types import TensorType
from graphir.verify import verify


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
    for dim, ends in plan.borders.items():
        end = plan.sizes.get(dim)
        good = len(ends) > 1 and ends[0] == 0 and ends[-1] == end
        _require(good, f"the borders {ends} of {dim!r} do not go from 0 to {end}")
        _require(all(a < b for a, b in pairwise(ends)), f"the borders {ends} of {dim!r} do not increase")


def _check_value(plan: Plan, value: Value) -> None:
    _require(_in_order(plan, value.dims), f"the value {value.id} has blocks along {value.dims}, not along {plan.cuts}")
    for along in value.blocks:
        if along.axis is not None:
            _require(along.combine is None, f"the shard value {value.id} is combined by {along.combine!r}")
            good = along.axis < value.type.rank and dims.is_multiple_of(value.type.shape[along.axis], along.dim)
            _require(good, f"axis {along.axis} of {value.id}, {value.type}, is not along {along.dim!r}")
        _require(along.combine in (None, *COMBINES), f"the partial value {value.id} is combined by {along.combine!r}")


def _in_order(plan: Plan, over: tuple[str, ...]) -> bool:
    return over == tuple(dim for dim in plan.cuts if dim in over)


def _check_order(plan: Plan) -> None:
    places = [(step.stage, ORDER.index(step.kind)) for step in plan.steps]
    _require(places == sorted(places), "the steps are not ordered by stage, then map, combine, single")
    for step in plan.steps:
        _require(_in_order(plan, step.over), f"a step is over {step.over}, but {plan.cuts} are cut")
        _require(
            step.kind == "combine" or bool(step.over) == (step.kind == "map"), f"a {step.kind} step over {step.over}"
        )
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
    others = {dims.local(dim) for dim in plan.cuts if dim not in step.over}
    types = {kind.type for kind in step.program.columns.kinds}
    local = {type_ for type_ in types if any(others & dims.names(d) for d in type_.shape)}
    strange = [node for node in step.program.nodes if node.type in local] if local else []
    _require(not strange, f"a local size occurs outside a map step over its dimension, in {strange[:1]}")


def _read_type(plan: Plan, step: Step, read: Read) -> TensorType:
    """The type of what is read; along a dimension that the step is not over all slices are there."""
    value, sliced = plan.values[read.value], dict(read.slices)
    for along in value.blocks:
        if along.dim not in step.over:
            joined = step.kind == "combine" and along.dim == step.along
            _require(joined or along.axis is not None, f"a {step.kind} step reads the {value.layout} value {value.id}")
    shape = list(value.local_type(step.over).shape)
    for dim, axis in sliced.items():
        free = dim in step.over and dim not in value.dims
        _require(free, f"slices along {dim!r} are taken of the {value.layout} value {value.id}")
        good = axis < len(shape) and dims.is_multiple_of(shape[axis], dim)
        _require(good, f"axis {axis} of {value.id}, {value.type}, is not along {dim!r}")
        shape[axis] = dims.rename(shape[axis], {dim: dims.local(dim)})
    return value.type.with_shape(tuple(shape))


def _check_write(plan: Plan, step: Step, value: Value) -> None:
    _require(value.dims == step.over, f"a {step.kind} step over {step.over} writes the {value.layout} value {value.id}")
    given, needed = step.program.outputs[value.id].type, value.local_type(step.over)
    _require(given == needed, f"the value {value.id} is written as {given}, not as {needed}")


def _check_combine(plan: Plan, step: Step) -> None:
    _require([read.input for read in step.reads] == ["left", "right"], "a combine step reads 'left' and 'right'")
    _require(len({read.value for read in step.reads}) == len(step.writes) == 1, "a combine step joins one value")
    value = plan.values[step.reads[0].value]
    operators = {along.dim: along.combine for along in value.blocks}
    good = set(value.dims) == {*step.over, step.along} and operators.get(step.along or "") is not None
    _require(good, f"the value {value.id}, with blocks along {value.dims}, is joined along {step.along!r}")


def _check_outputs(plan: Plan, ready: set[str]) -> None:
    _require(list(plan.outputs) == list(plan.graph.outputs), "the outputs are not those of the graph")
    for name, value in plan.outputs.items():
        _require(value in ready and value in plan.values, f"output {name!r} is the value {value}, which is not made")
        found, node = plan.values[value], plan.graph.outputs[name]
        good = found.layout != "partial" and found.type == node.type
        _require(good, f"output {name!r} of type {node.type} is the {found.layout} value {value} of type {found.type}")
