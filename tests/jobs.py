"""What tests of jobs share: waiting, bits, the journal's kinds of events, the pool behind a client."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from graphir.client import Client, Job
from scheduler.driver.ray import RayPool
from scheduler.local import EmbeddedService

WAIT = 120.0
"""Seconds that a test waits for what should come much sooner."""


def until(condition: Callable[[], Any], what: str = "it did not happen") -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def bits(result: Job | Mapping[str, Any]) -> dict[str, bytes]:
    """The bytes of each output, of a job when it has ended."""
    values = result.result(WAIT) if isinstance(result, Job) else result
    return {name: np.asarray(value).tobytes() for name, value in values.items()}


def kinds(job: Job) -> list[str]:
    """The types of a job's events until it ends, in order."""
    return [event["type"] for event in job.events()]


def service_of(client: Client) -> EmbeddedService:
    """The service in this process."""
    assert isinstance(client.service, EmbeddedService)
    return client.service


def pool_of(client: Client) -> RayPool:
    """The Ray pool of the service in this process, which has started."""
    pool = service_of(client).pool
    assert isinstance(pool, RayPool)
    return pool


def under_way(client: Client, job: Job, step: int) -> None:
    """Wait until a job has done some steps."""
    until(lambda: client.service.status(job.id)["step"] >= step, f"step {step} was not reached")
