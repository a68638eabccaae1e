"""Plan invariants, checked on every plan before it is performed: one typed error for each broken rule."""

from graphir.errors import LimitError, PlanError
from graphir.node import describe
from graphir.verify import verify
from scheduler.plan import Plan, Step
from workers.executor import Executor


def check_plan(plan: Plan) -> Plan:
    """The plan itself if it is sound; PlanError that names the step otherwise."""
    if list(plan.borders) != sorted(set(plan.borders)) or len(plan.borders) < 2:
        raise PlanError(f"chunk borders {plan.borders[:5]} must grow; this is a defect of the partitioner")
    made = set(plan.graph.inputs)
    for number, step in enumerate(plan.steps):
        where = f"step {number} ({step.kind}, stage {step.stage})"
        _check_step(plan, step, made, where)
        made |= set(step.writes)
    missing = [f"{name} = {value}" for name, value in plan.outputs.items() if value not in made]
    if missing or list(plan.outputs) != list(plan.graph.outputs):
        raise PlanError(
            f"no step makes the output {missing or 'names of the graph'}; this is a defect of the partitioner"
        )
    return plan


def _check_step(plan: Plan, step: Step, made: set[str], where: str) -> None:
    verify(step.program)
    if [read.input for read in step.reads] != list(step.program.inputs):
        raise PlanError(f"{where} does not read what its program takes")
    if list(step.writes) != list(step.program.outputs):
        raise PlanError(f"{where} does not write what its program makes")
    for read in step.reads:
        if read.value not in made:
            raise PlanError(f"{where} reads {read.value!r} before it is made")
        if read.axis is not None and step.kind != "map":
            raise PlanError(f"{where} slices {read.value!r}; only map steps do")
    again = made & set(step.writes)
    if again:
        raise PlanError(f"{where} makes {sorted(again)[0]!r} a second time")
    unknown = [name for name in (*step.writes, *(r.value for r in step.reads)) if name not in plan.values]
    if unknown:
        raise PlanError(f"{where} uses {unknown[0]!r}, of which the plan says no type")


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
