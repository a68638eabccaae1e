"""What a plan is expected to take on some workers, in words."""

from collections.abc import Mapping
from dataclasses import replace

from graphir.partition.cost import DEFAULT, Rates
from graphir.partition.plan import Plan
from graphir.units import in_bytes, in_seconds
from scheduler.memory import peak_bytes
from scheduler.place import place, ranks_for
from scheduler.simulate import Cluster, Forecast, simulate
from workers.speeds import Measured
from workers.work import EVERYWHERE


def with_outlook(
    plan: Plan, workers: int, carry: Mapping[str, str], rates: Rates | Measured = DEFAULT, hosts: int = 0
) -> Plan:
    """The plan, whose text also says what is expected of one iteration on so many workers of so many machines."""
    ranks = ranks_for(plan, workers)
    work = place(plan, ranks, carry, list(plan.outputs), imagined=True)
    cores = rates.cores if isinstance(rates, Measured) else 1
    forecast = simulate(plan, Cluster(ranks, rates, hosts=min(hosts, ranks), cores=cores), carry)
    everywhere = sum(step.at == EVERYWHERE for step in work.steps)
    shared = f", on {hosts} machine(s) of {cores} core(s)" if hosts and isinstance(rates, Measured) else ""
    lines = [
        f"on {workers} worker(s){shared}, of which {ranks} have something to do:",
        *(f"  {line}" for line in described(forecast, rates)),
        f"  at most {in_bytes(peak_bytes(plan, work, ranks, carry))} of values on a worker",
        f"  {everywhere} step(s) that every worker performs for itself, since all need what they make",
    ]
    return replace(plan, outlook=tuple(lines))


def described(forecast: Forecast, rates: Rates | Measured) -> list[str]:
    """One line for each thing that is expected."""
    origin = (
        f"by speeds measured on {rates.when} with {rates.workers} worker(s) at once, kernels {rates.fingerprint}"
        if isinstance(rates, Measured)
        else "by assumed rates (`gradfleet calibrate` measures them)"
    )
    return [
        f"about {in_seconds(forecast.seconds)} an iteration, {origin}",
        f"workers compute {forecast.busy:.0%} of it",
        f"{in_bytes(forecast.sent)} in {forecast.messages} message(s) between workers, "
        f"at most {in_bytes(forecast.most_sent)} from one",
        f"{forecast.tasks} run(s) of programs",
    ]
