"""Measuring the workers of a pool: one alone, then as many at once as there are cores, then messages between two.

What was measured is kept in a file of the user's cache, by the fingerprint of the workers' kernels, and serves forecasts.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import ray

from graphir import wire
from graphir.partition.cost import DEFAULT
from graphir.partition.plan import Plan
from scheduler.driver.ray import RayPool
from scheduler.measured import runs
from workers import cachefolder
from workers.speeds import Measured, mean, mean_profile


def calibrate(pool: RayPool) -> Measured:
    """Measure, in about five seconds; jobs that run meanwhile disturb it."""
    pool.refresh()
    members = list(pool.members)
    alone, cores = ray.get(members[0].actor.calibrate.remote())
    beside = members[: max(1, cores)]
    together = (
        [speeds for speeds, _ in ray.get([m.actor.calibrate.remote() for m in beside])] if beside[1:] else [alone]
    )
    message, network = DEFAULT.message, DEFAULT.network
    if beside[1:]:
        one, other = beside[:2]
        with pool.issuing() as ticket:
            refs = [
                one.actor.exchange.remote(ticket, other.address, True),
                other.actor.exchange.remote(ticket, one.address, False),
            ]
        message, network = ray.get(refs[0])
        ray.get(refs[1])
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return Measured(members[0].kernels.digest, when, len(beside), cores, alone, mean(together), message, network)


def rehearse(pool: RayPool, plan: Plan, measured: Measured) -> Measured:
    """With what the plan's programs take, on one worker alone and on as many at once as there are cores."""
    pool.refresh()
    programs = [(wire.dump(program), sizes, times) for program, sizes, times in runs(plan)]
    members = list(pool.members)[: max(1, measured.cores)]
    alone = ray.get(members[0].actor.rehearse.remote(programs))
    if not members[1:]:
        return measured.rehearsed(alone, alone)
    several = ray.get([member.actor.rehearse.remote(programs) for member in members])
    return measured.rehearsed(alone, mean_profile(several))


def path(fingerprint: str) -> Path:
    """Where speeds of workers with these kernels are kept."""
    return cachefolder.folder() / f"speeds-{fingerprint}.json"


def keep(measured: Measured) -> Path:
    """Write them; a reader sees the old file or the new one."""
    target = path(measured.fingerprint)
    cachefolder.write(target, json.dumps(measured.to_json()).encode())
    return target


def kept(fingerprint: str) -> Measured | None:
    """What was measured of such workers; None if nothing was, or by a version that kept it otherwise."""
    try:
        return Measured.from_json(json.loads(path(fingerprint).read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def summary(measured: Measured) -> list[str]:
    """What was measured, in words."""
    lines = [f"kernels {measured.fingerprint}, {measured.cores} core(s), measured on {measured.when}"]
    each = {"one worker alone": measured.alone, f"each of {measured.workers} at once": measured.together}
    for who, speeds in each.items():
        products = ", ".join(
            f"{2e-9 / min(y for _, y in table):.3g} in {dtype}" for dtype, table in speeds.outer.items()
        )
        lines.append(f"{who}: products, at most {products} (thousand million operations a second);")
        lines.append(
            f"  memory {1e-9 / speeds.read[-1][1]:.3g} GB/s read from far, {1e-9 / speeds.written[-1][1]:.3g} GB/s written; "
            f"{speeds.node * 1e6:.2g} us an operation, {speeds.task * 1e6:.2g} us a task"
        )
    return [*lines, f"between workers: {measured.message * 1e6:.3g} us a message, {measured.network / 1e9:.3g} GB/s"]
