"""Placement: which rank performs which step of a plan, decided from the plan and the number of ranks alone.

Tasks over cut dimensions go to ranks in contiguous ranges (`workers.route`). Other combine and single steps are performed by rank 0,
or by every rank where all need the result and that is cheaper than handing it on. Independent single steps of one stage are spread over
the ranks by list scheduling (Graham 1969): each goes where it can end first.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace
from math import ceil, log2

from graphir.partition.cost import DEFAULT, program_seconds, value_bytes
from graphir.partition.plan import Plan, Value
from workers.route import Route
from workers.work import EVERYWHERE, ReadWork, StepWork, Work

MESSAGE_SECONDS, BYTES_A_SECOND = DEFAULT.message, DEFAULT.network


def ranks_for(plan: Plan, workers: int) -> int:
    """How many of the workers have something to do."""
    mapped = max((plan.cells(step.over) for step in plan.steps if step.kind == "map"), default=1)
    beside = Counter(step.stage for step in plan.steps if step.kind == "single")
    return max(1, min(workers, max(mapped, *beside.values(), 1)))


def place(plan: Plan, ranks: int, carry: Mapping[str, str], wanted: Collection[str], *, imagined: bool = False) -> Work:
    """The placed plan. carry: the output that feeds each input of the next iteration; wanted: outputs to keep.

    imagined: nobody will run it, so its programs need no digests, which take long for large ones.
    """
    work = _unplaced(plan, carry, wanted, imagined)
    if ranks == 1:
        return work
    at = _spread(plan, ranks)
    work = replace(work, steps=tuple(replace(s, at=at[k]) for k, s in enumerate(work.steps)))
    for number in reversed(range(len(work.steps))):
        step = work.steps[number]
        if not step.over and _by_all(plan, work, number, ranks):
            steps = (*work.steps[:number], replace(step, at=EVERYWHERE), *work.steps[number + 1 :])
            work = replace(work, steps=steps)
    return work


def _unplaced(plan: Plan, carry: Mapping[str, str], wanted: Collection[str], imagined: bool) -> Work:
    steps = tuple(
        StepWork(
            s.kind,
            "" if imagined else s.program.digest,
            tuple(ReadWork(r.input, r.value, r.slices) for r in s.reads),
            s.writes,
            s.over,
            s.along,
        )
        for s in plan.steps
    )
    types = {name: plan.graph.outputs[name].type for name in wanted}
    numbers = {name: plan.outputs[name] for name, t in types.items() if t.shape == () and t.dtype.kind == "f"}
    return Work(
        dict(plan.sizes),
        dict(plan.borders),
        steps,
        {v.id: {along.dim: along.axis for along in v.blocks} for v in plan.values.values() if v.blocks},
        frozenset(plan.graph.inputs),
        {name: plan.outputs[output] for name, output in carry.items()},
        tuple(dict.fromkeys(plan.outputs[name] for name in wanted)),
        numbers,
        plan.check_finite,
        plan.batch,
        plan.backend,
    )


def _by_all(plan: Plan, work: Work, number: int, ranks: int) -> bool:
    """Whether every rank performs the step: all need what it makes, and its result is dearer to send than its operands."""
    step = work.steps[number]
    if not _needed_by_all(work, step, ranks):
        return False
    made = {value for other in work.steps[:number] for value in other.writes}
    out = sum(_bytes(plan, plan.values[value]) for value in step.writes)
    if step.kind == "combine":
        rounds = ceil(log2(ranks))
        exchanged = (ranks - 1) * (MESSAGE_SECONDS / 4 + out / BYTES_A_SECOND) + MESSAGE_SECONDS
        passed = 2 * rounds * (MESSAGE_SECONDS + out / BYTES_A_SECOND)
        return exchanged <= passed
    if program_seconds(plan.steps[number].program, plan.sizes) > 2 * MESSAGE_SECONDS + out / BYTES_A_SECOND and _beside(
        plan, number
    ):
        return False
    read = sum(_bytes(plan, plan.values[value]) for value in {read.value for read in step.reads} if value in made)
    return read <= 4 * out


def _beside(plan: Plan, number: int) -> bool:
    """Whether other single steps of the same stage may run at the same time."""
    stage = plan.steps[number].stage
    return sum(step.kind == "single" and step.stage == stage for step in plan.steps) > 1


def _needed_by_all(work: Work, step: StepWork, ranks: int) -> bool:
    route = Route(work, ranks)
    return any(len(route.wholes.get(value, ())) == ranks for value in step.writes)


def _spread(plan: Plan, ranks: int) -> list[int]:
    """A rank for each step: 0, or where independent single steps of one stage end first."""
    busy = [0.0] * ranks
    ready: dict[str, tuple[float, int]] = {}
    at = []
    singles = Counter(step.stage for step in plan.steps if step.kind == "single")
    for step in plan.steps:
        if step.kind != "single" or singles[step.stage] == 1:
            at.append(0)
            continue
        seconds = program_seconds(step.program, plan.sizes)
        starts = [
            max(busy[rank], *(_arrival(plan, ready, r.value, rank) for r in step.reads), 0.0) for rank in range(ranks)
        ]
        rank = min(range(ranks), key=lambda rank: (starts[rank], rank))
        busy[rank] = starts[rank] + seconds
        ready |= dict.fromkeys(step.writes, (busy[rank], rank))
        at.append(rank)
    return at


def _arrival(plan: Plan, ready: Mapping[str, tuple[float, int]], value: str, rank: int) -> float:
    when, where = ready.get(value, (0.0, rank))
    return when if where == rank else when + MESSAGE_SECONDS + _bytes(plan, plan.values[value]) / BYTES_A_SECOND


def _bytes(plan: Plan, value: Value) -> int:
    return value_bytes(value.type, plan.sizes)
