"""Phases: a plan's steps grouped into rounds of calls.

A "map" phase is a run of map steps, one call a worker. A "finish" phase is the combine and single steps up to
the next map step, one call in all; what it reads of shard values is collected before. The last phase is always
a finish phase that also puts together the shard values among the outputs that are asked for.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby

from scheduler.plan import Plan
from workers.chunks import StepWork, Work


@dataclass(frozen=True, slots=True)
class Phase:
    """Steps first:last. needs: whole values read; gathers: shard values read; gives: values needed later."""

    kind: str
    first: int
    last: int
    needs: tuple[str, ...]
    gathers: tuple[str, ...] = ()
    gives: tuple[str, ...] = ()


def work(plan: Plan) -> Work:
    """The plan as plain data for workers."""
    steps = tuple(
        StepWork(s.kind, s.program.digest, tuple((r.input, r.value, r.axis) for r in s.reads), s.writes)
        for s in plan.steps
    )
    shards = {
        value.id: value.axis for value in plan.values.values() if value.axis is not None and value.layout == "shard"
    }
    partials = frozenset(step.reads[0][1] for step in steps if step.kind == "combine")
    return Work(dict(plan.sizes), plan.local, plan.borders or (0, 0), steps, shards, partials, plan.check_finite)


def phases(plan: Plan, outputs: Collection[str], carried: Collection[str]) -> tuple[Phase, ...]:
    """The rounds that compute some of the plan's outputs; `carried` inputs come as whole values each time."""
    spans: list[tuple[str, int, int]] = []
    for kind, run in groupby(enumerate(plan.steps), key=lambda item: item[1].kind == "map"):
        numbers = [number for number, _ in run]
        spans.append(("map" if kind else "finish", numbers[0], numbers[-1] + 1))
    if not spans or spans[-1][0] == "map":
        spans.append(("finish", len(plan.steps), len(plan.steps)))
    wanted = tuple(dict.fromkeys(plan.outputs[name] for name in outputs if plan.outputs[name] not in carried))
    return tuple(_phase(plan, span, span is spans[-1], wanted, carried) for span in spans)


def _phase(
    plan: Plan, span: tuple[str, int, int], ends: bool, wanted: tuple[str, ...], carried: Collection[str]
) -> Phase:
    kind, first, last = span
    reads = tuple(dict.fromkeys(read.value for step in plan.steps[first:last] for read in step.reads))
    written = {value for step in plan.steps[first:last] for value in step.writes}
    outside = [value for value in reads if value not in written]
    fed = [value for value in outside if value in carried or _comes_whole(plan, value)]
    if kind == "map":
        return Phase(kind, first, last, tuple(fed))
    held = set(plan.graph.inputs) - set(carried)
    shards = [v for v in (*reads, *(wanted if ends else ())) if plan.values[v].layout == "shard" and v not in carried]
    gathers = tuple(dict.fromkeys(v for v in shards if v not in held or v in wanted))
    later = {read.value for step in plan.steps[last:] for read in step.reads} | set(wanted)
    unwritten = [value for value in wanted if ends and value in held and value not in gathers]
    gives = tuple(v for v in dict.fromkeys((*_written(plan, first, last), *gathers, *unwritten)) if v in later)
    return Phase(kind, first, last, tuple(fed), gathers, gives)


def _comes_whole(plan: Plan, value: str) -> bool:
    return plan.values[value].layout == "whole" and value not in plan.graph.inputs


def _written(plan: Plan, first: int, last: int) -> list[str]:
    return [value for step in plan.steps[first:last] for value in step.writes]
