"""The pool without workers: every step in this process, one chunk after the other."""

import time
from collections.abc import Callable, Collection, Mapping

from graphir.errors import GraphError
from graphir.node import Array
from graphir.partition.plan import Plan
from scheduler.driver.lanes import Lanes
from scheduler.driver.pool import (
    Feeds,
    Interrupted,
    check_kernels,
    never,
    put_together,
    said_of_memory,
    task_error,
    tell_bound,
    wanted,
)
from scheduler.job.events import Assembled, Event
from scheduler.place import place
from workers.fingerprint import fingerprint
from workers.iteration import Kept
from workers.runner import Runner, Stopped

NAME = "inline"


class InlinePool:
    """Performs plans in the calling process; the same arithmetic as on workers."""

    memory = None
    """The machine's."""

    def open(
        self,
        plan: Plan,
        feeds: Feeds,
        carry: Mapping[str, str],
        fetch: Collection[str],
        interrupted: Callable[[], bool] = never,
        priority: int = 0,
        *,
        reproducible: bool = True,
        kernels: str | None = None,
    ) -> "InlineSession":
        """Begin a job."""
        check_kernels([fingerprint()], kernels if reproducible else None)
        return InlineSession(plan, feeds, carry, fetch, interrupted)

    def close(self) -> None:
        """Nothing was started."""


class InlineSession:
    """One job in the calling process."""

    def __init__(
        self,
        plan: Plan,
        feeds: Feeds,
        carry: Mapping[str, str],
        fetch: Collection[str],
        interrupted: Callable[[], bool],
    ) -> None:
        self._plan, self._step, self._told = plan, 0, False
        kept = wanted(plan, carry, fetch)
        self._shown = [name for name in kept if name in fetch or name in carry.values()]
        programs = {step.program.digest: step.program for step in plan.steps}
        work = place(plan, 1, carry, kept)
        self._runner = Runner(work, programs, stopped=interrupted)
        self._bound = lambda: said_of_memory(plan, work, 1, carry)
        self._activity, self._lanes = self._runner.activity, Lanes(plan)
        self._activity.clock = time.monotonic
        try:
            for name in feeds.keys() - carry.keys():
                self._runner.hold(name, feeds[name], plan.graph.inputs[name].type.dtype.name)
        except GraphError as error:
            raise task_error(error, NAME) from error

    def restore(self, carried: Mapping[str, Array], step: int) -> None:
        """Set the carried values before a step."""
        self._step = step
        self._runner.restore(self._step, carried)

    def advance(self, most: int) -> list[dict[str, float]]:
        """Perform one iteration."""
        try:
            numbers = self._runner.run(0, self._step, 1)
        except Stopped:
            raise Interrupted from None
        except (GraphError, ValueError, TypeError, ArithmeticError, LookupError, MemoryError, OSError) as error:
            tell_bound(error, self._bound)
            raise task_error(error, NAME) from error
        self._step += 1
        return numbers

    def carried(self) -> dict[str, Array]:
        """The carried values as they are now."""
        return self._whole(self._runner.carried(self._step))

    def outputs(self) -> dict[str, Array]:
        """The outputs of the last iteration that are fetched or carried."""
        found = self._whole(self._runner.outputs())
        return {name: found[self._plan.outputs[name]] for name in self._shown}

    def replace(self, worker: str) -> None:
        """Nothing dies here alone."""

    def news(self) -> list[Event]:
        """Once, what this process computes with, and now and then what it did."""
        told, self._told = self._told, True
        self._lanes.take(0, self._activity.sign(0))
        return self._lanes.news() if told else [Assembled(0.0, 1, 1, fingerprint().digest, str(fingerprint()))]

    def release(self) -> None:
        """Forget the job's values."""
        del self._runner

    def _whole(self, values: Mapping[str, Kept]) -> dict[str, Array]:
        return {name: put_together(self._plan, name, [values]) for name in values}
