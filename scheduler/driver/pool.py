"""Pool: what the job loop needs of something that performs a plan's iterations, in process or on Ray.

A pool performs several jobs at a time, each in a session. `advance` runs iterations and moves on only over those that
succeeded everywhere: after an error the carried values are those of before, and they may be run again.
"""

import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from graphir.dataset import Dataset
from graphir.errors import FingerprintError, LimitError
from graphir.node import Array
from graphir.partition.plan import Plan
from graphir.units import in_bytes
from scheduler.job.events import Event, is_deterministic
from scheduler.memory import peak_bytes
from workers.fingerprint import Fingerprint
from workers.iteration import Kept, joined_blocks
from workers.work import Work

Feeds: TypeAlias = Mapping[str, Array | Dataset]


class WorkerDied(Exception):
    """A worker is gone. `state_lost`: carried values are gone with it."""

    def __init__(self, worker: str, reason: str, *, state_lost: bool = False) -> None:
        super().__init__(f"worker {worker}: {reason}")
        self.worker, self.reason, self.state_lost = worker, reason, state_lost


class Interrupted(Exception):
    """The job was stopped while a step was under way."""


def never() -> bool:
    """Nobody stops the job."""
    return False


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of a task as the journal tells it."""

    error: str
    message: str
    traceback: str
    node: str | None
    worker: str
    deterministic: bool


class TaskError(Exception):
    """A task raised on a living worker."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def task_error(error: BaseException, worker: str, trace: str | None = None) -> TaskError:
    """The task's error, with the node that its message names."""
    message = "\n".join([str(error.args[0]) if error.args else str(error), *getattr(error, "__notes__", ())])
    _, found, place = message.partition("\n  at ")
    text = trace if trace is not None else "".join(traceback.format_exception(error))
    node = place.strip() if found else None
    return TaskError(Failure(type(error).__name__, message, text, node, worker, is_deterministic(error)))


class Session(Protocol):
    """One job on a pool."""

    def restore(self, carried: Mapping[str, Array], step: int) -> None:
        """Set the carried values before a step, from which iterations go on."""

    def advance(self, most: int) -> list[dict[str, float]]:
        """Perform at least one and at most `most` iterations; the 0-d float outputs of each.

        The workers may go on with the rest of the `most` meanwhile. Raises WorkerDied, TaskError or Interrupted.
        """

    def carried(self) -> dict[str, Array]:
        """The carried values as they are now. Raises WorkerDied."""

    def outputs(self) -> dict[str, Array]:
        """The outputs of the last iteration that are fetched or carried. Raises WorkerDied."""

    def replace(self, worker: str) -> None:
        """Go on with another worker in the place of a dead one."""

    def news(self) -> list[Event]:
        """What has happened to the workers since the last call, for the journal; the times are still to be set."""

    def release(self) -> None:
        """End the job and forget its values."""


def said_of_memory(plan: Plan, work: Work, ranks: int, carry: Mapping[str, str]) -> str:
    """What the plan says of a worker's memory."""
    return f"by the plan a worker holds at most {in_bytes(peak_bytes(plan, work, ranks, carry))} of values"


def tell_bound(wrong: BaseException, said: Callable[[], str]) -> None:
    """Add that to an error for want of memory."""
    if isinstance(wrong, MemoryError) or (isinstance(wrong, LimitError) and "memory" in str(wrong)):
        what, found, place = str(wrong).partition("\n  at ")
        wrong.args = (f"{what}; {said()}{found}{place}",)


class Pool(Protocol):
    """Workers that perform plans, several jobs' at a time; each session is used by one thread."""

    @property
    def memory(self) -> int | None:
        """The bytes that each worker may take; None if there is none, or nobody has said."""

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
    ) -> Session:
        """Begin a job. carry: the output that feeds each input of the next iteration.

        reproducible: FingerprintError if workers have different kernels, or others than those of fingerprint `kernels`.

        interrupted: asked now and then while a call of the session waits; if it holds, the call raises Interrupted
        and the job goes no further than the chunks under way. priority: of its calls beside those of other jobs.
        """

    def close(self) -> None:
        """Stop what this pool started."""


def check_kernels(found: Sequence[Fingerprint], needed: str | None) -> str | None:
    """The fingerprint that a reproducible job's workers all have; FingerprintError if they differ from it or in it."""
    kinds = {kernels.digest: kernels for kernels in found}
    if not kinds or needed in kinds:
        return needed
    first, *others = kinds.values()
    if needed is not None:
        raise FingerprintError(
            f"the job began on workers with kernels {needed}, and there are now only others ({first.digest}: {first}), "
            "which may give other bits; start workers like those, or submit it with reproducible=False"
        )
    if others:
        raise FingerprintError(
            f"the workers have {len(kinds)} kinds of kernels, whose results may differ in their last bits "
            f"({first.differences(others[0])}); use machines and installations that are alike, or reproducible=False"
        )
    return first.digest


def wanted(plan: Plan, carry: Mapping[str, str], fetch: Collection[str]) -> list[str]:
    """The outputs to keep: those asked for, those carried, and numbers to watch."""
    types = {name: plan.graph.outputs[name].type for name in plan.graph.outputs}
    numbers = [name for name, type_ in types.items() if type_.shape == () and type_.dtype.kind == "f"]
    return [name for name in types if name in fetch or name in carry.values() or name in numbers]


def put_together(plan: Plan, value: str, parts: Sequence[Mapping[str, Kept]]) -> Array:
    """A value from what each rank has of it: the whole, or blocks."""
    held = [part[value] for part in parts if value in part]
    whole = next((array for array in held if not isinstance(array, dict)), None)
    if whole is not None:
        return whole
    blocks = {cell: array for blocks in held if isinstance(blocks, dict) for cell, array in blocks.items()}
    return joined_blocks(blocks, [along.axis for along in plan.values[value].blocks])
