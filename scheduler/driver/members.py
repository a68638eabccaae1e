"""The workers of a pool as the driver knows them, and which of them a job may have."""

from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from graphir.errors import VersionError
from scheduler.driver.pool import check_kernels
from workers.actor import Hello
from workers.fingerprint import Fingerprint, fingerprint
from workers.mesh import Address

PROGRAMS = 256
"""How many programs a worker keeps."""
Ref = Any


@dataclass(eq=False)
class Member:
    """One worker of a pool, the programs and set-ups that it knows, who was asked for and who came in its place."""

    actor: Any
    pid: int
    address: Address
    kernels: Fingerprint
    memory: int
    known: OrderedDict[str, None] = field(default_factory=OrderedDict)
    ready: OrderedDict[str, None] = field(default_factory=OrderedDict)
    asked: tuple[Any, Ref] | None = None
    successor: "Member | None" = None

    def learns(self, name: str, most: int) -> bool:
        """Whether a set-up is new to it, which then knows it as the last of `most`."""
        new = name not in self.ready
        self.ready[name] = None
        self.ready.move_to_end(name)
        while len(self.ready) > most:
            self.ready.popitem(last=False)
        return new

    def missing(self, digests: Collection[str]) -> tuple[list[str], tuple[str, ...]]:
        """Which programs it has to be sent, and which it may forget."""
        new = [digest for digest in digests if digest not in self.known]
        for digest in digests:
            self.known[digest] = None
            self.known.move_to_end(digest)
        old = tuple(self.known)[: max(0, len(self.known) - max(PROGRAMS, len(digests)))]
        for digest in old:
            del self.known[digest]
        return new, old


def shares(members: Sequence[Member]) -> list[int]:
    """The bytes that each may take: those of its machine or container, shared by the workers that are there."""
    beside = Counter(member.address.host for member in members)
    return [member.memory // beside[member.address.host] for member in members]


@dataclass(slots=True)
class Assignment:
    """A job's name, number and priority, and which workers it may have: those of one fingerprint, or any."""

    name: str
    number: int
    priority: int
    reproducible: bool
    kernels: str | None

    def fitting(self, members: Sequence[Member]) -> list[Member]:
        """The workers that it may have; a reproducible job keeps to the kernels that it began with."""
        if self.reproducible:
            self.kernels = check_kernels([member.kernels for member in members], self.kernels)
        return [member for member in members if self.fits(member)]

    def fits(self, member: Member) -> bool:
        """Whether it may have this worker."""
        return not self.reproducible or member.kernels.digest == self.kernels


def greeted(actor: Any, asked: Ref, timeout: float | None = None) -> Member:
    """The worker that was asked who it is, or VersionError if it speaks for other code than this."""
    mine = fingerprint()
    try:
        answer = ray.get(asked, timeout=timeout)
    except (GetTimeoutError, RayActorError):
        raise
    except Exception as error:  # other code may answer anything, or fail in any way
        cause = getattr(error, "cause", None) or error
        raise VersionError(
            f"a worker does not run gradfleet {mine.version}; install it on all machines: {cause}"
        ) from error
    if not isinstance(answer, Hello):
        raise VersionError(
            f"a worker answers as no worker of gradfleet {mine.version} does; install it on all machines"
        )
    theirs = answer.kernels
    if (theirs.version, theirs.protocol) != (mine.version, mine.protocol):
        raise VersionError(
            f"the worker {answer.pid} at {answer.address.ip} runs gradfleet {theirs.version} (protocol "
            f"{theirs.protocol}), the service {mine.version} (protocol {mine.protocol}); install one version on all"
        )
    return Member(actor, answer.pid, answer.address, theirs, answer.memory)
