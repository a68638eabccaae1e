"""What a plan is expected to take on some workers, in words."""

from collections.abc import Mapping
from dataclasses import replace

from scheduler.cost import DEFAULT, Rates
from scheduler.memory import peak_bytes
from scheduler.place import place, ranks_for
from scheduler.plan import Plan
from scheduler.simulate import Cluster, Forecast, simulate
from scheduler.units import in_bytes, in_seconds
from workers.work import EVERYWHERE


def with_outlook(plan: Plan, workers: int, carry: Mapping[str, str], rates: Rates = DEFAULT) -> Plan:
    """The plan, whose text also says what is expected of one iteration on so many workers."""
    ranks = ranks_for(plan, workers)
    work = place(plan, ranks, carry, list(plan.outputs))
    forecast = simulate(plan, Cluster(ranks, rates), carry)
    everywhere = sum(step.at == EVERYWHERE for step in work.steps)
    lines = [
        f"on {workers} worker(s), of which {ranks} have something to do:",
        *(f"  {line}" for line in described(forecast)),
        f"  at most {in_bytes(peak_bytes(plan, work, ranks, carry))} of values on a worker",
        f"  {everywhere} step(s) that every worker performs for itself, since all need what they make",
    ]
    return replace(plan, outlook=tuple(lines))


def described(forecast: Forecast) -> list[str]:
    """One line for each thing that is expected."""
    return [
        f"about {in_seconds(forecast.seconds)} an iteration, by estimated rates; workers compute {forecast.busy:.0%} of it",
        f"{in_bytes(forecast.sent)} in {forecast.messages} message(s) between workers, "
        f"at most {in_bytes(forecast.most_sent)} from one",
        f"{forecast.tasks} run(s) of programs",
    ]
