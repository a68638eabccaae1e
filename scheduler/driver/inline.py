"""The pool without workers: every step in this process, one chunk after the other."""

from collections.abc import Callable, Collection, Mapping

from graphir.errors import GraphError
from graphir.node import Array
from scheduler.driver.phases import phases, work
from scheduler.driver.pool import Feeds, Interrupted, never, task_error, wanted
from scheduler.plan import Plan
from workers.chunks import ChunkRunner, Parts, Stopped

NAME = "inline"


class InlinePool:
    """Performs plans in the calling process; the same arithmetic as on workers."""

    def open(
        self,
        plan: Plan,
        feeds: Feeds,
        carry: Mapping[str, str],
        fetch: Collection[str],
        interrupted: Callable[[], bool] = never,
    ) -> "InlineSession":
        """Begin a job."""
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
        self._plan, self._carry = plan, carry
        self._keep, self._numbers = wanted(plan, carry, fetch)
        self._shown = [name for name in self._keep if name in fetch or name in carry.values()]
        programs = {step.program.digest: step.program for step in plan.steps}
        self._runner = ChunkRunner(work(plan), programs, 0, max(plan.chunks, 0), interrupted)
        self._phases = phases(plan, self._keep, carry)
        self._carried: dict[str, Array] = {}
        self._outputs: dict[str, Array] = {}
        try:
            for name in feeds.keys() - carry.keys():
                self._runner.hold(name, feeds[name], plan.graph.inputs[name].type.dtype.name)
        except GraphError as error:
            raise task_error(error, NAME) from error

    def restore(self, carried: Mapping[str, Array]) -> None:
        """Set the carried values."""
        self._carried = dict(carried)

    def step(self) -> dict[str, float]:
        """Perform one iteration."""
        try:
            values = self._perform()
        except Stopped:
            raise Interrupted from None
        except (GraphError, ValueError, TypeError, ArithmeticError, LookupError, MemoryError, OSError) as error:
            raise task_error(error, NAME) from error
        outputs = {name: values[self._plan.outputs[name]] for name in self._keep}
        self._outputs = outputs
        self._carried = {name: outputs[output] for name, output in self._carry.items()}
        return {name: float(outputs[name]) for name in self._numbers}

    def carried(self) -> dict[str, Array]:
        """The carried values as they are now."""
        return dict(self._carried)

    def outputs(self) -> dict[str, Array]:
        """The outputs of the last iteration that are fetched or carried."""
        return {name: self._outputs[name] for name in self._shown}

    def replace(self, worker: str) -> None:
        """Nothing dies here alone."""

    def release(self) -> None:
        """Forget the job's values."""
        self._carried, self._outputs = {}, {}

    def _perform(self) -> dict[str, Array]:
        values = dict(self._carried)
        parts: list[Parts] = []
        for phase in self._phases:
            wholes = {name: values[name] for name in phase.needs}
            span = phase.first, phase.last
            if phase.kind == "map":
                parts.append(self._runner.map(*span, wholes))
                continue
            collected = [self._runner.collect(phase.gathers)] if phase.gathers else []
            given = self._runner.finish(span, phase.gives, wholes, parts, collected)
            values |= dict(zip(phase.gives, given, strict=True))
        return values
