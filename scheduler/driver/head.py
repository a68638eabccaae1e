"""A Ray of our own on this machine: starting it, and watching its head process (GCS), without which it lasts a minute.

Whoever uses it has to stop then: its object numbers begin again in the next Ray, so no thread may use two of them. A Ray that somebody else started is that one's to supervise: its workers go on for a minute without a head, then Ray ends
every process that is connected, this one too; the jobs are in the store.
"""

import logging
import os
import socket
import threading
from collections.abc import Callable

import ray
from ray.exceptions import RayError

from graphir.errors import ServiceUnavailable
from scheduler.driver.closed import Closed, on_loopback

_LOG = logging.getLogger(__name__)
LOOK_SECONDS = 1.0
"""How often somebody looks whether the head is there."""
MISSES = 3
"""After how many times in vain it is taken for dead."""


def look_for(address: str) -> None:
    """ServiceUnavailable if nothing listens at the address of a head, HOST:PORT; others, such as "auto", are not looked for."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), LOOK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ServiceUnavailable(f"no Ray answers at {address}: {error}; see --ray-address") from None


class OwnRay:
    """A local Ray with a CPU for each worker. `lost` says that its head is gone; `tell` is called then, in a thread."""

    def __init__(self, cpus: int, object_store_memory: int | None, tell: Callable[[], None]) -> None:
        self._cpus, self._memory, self._tell = cpus, object_store_memory, tell
        self.lost = False
        self._closing = threading.Event()
        self._start()
        threading.Thread(target=self._watch, name="gradfleet-head", daemon=True).start()

    def stop(self) -> None:
        """End it."""
        self._closing.set()
        ray.shutdown()
        self._closed.open()

    def _start(self) -> None:
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # those of calls that an interrupted job left behind
        self._closed = Closed()
        try:
            with on_loopback():
                ray.init(
                    address="local",  # not one that somebody has started on this machine
                    num_cpus=self._cpus,
                    object_store_memory=self._memory,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="error",
                )
        except (RuntimeError, ValueError, ConnectionError, OSError, RayError) as error:
            self._closed.open()
            raise ServiceUnavailable(f"a local Ray cannot be started: {error}; is another one broken?") from error
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._address = host, int(port)

    def _watch(self) -> None:
        misses = 0
        while not self._closing.wait(LOOK_SECONDS):
            misses = 0 if self._answers() else misses + 1
            if misses >= MISSES:
                _LOG.warning("the head of the local Ray is gone")
                self.lost = True
                self._tell()
                return

    def _answers(self) -> bool:
        try:
            socket.create_connection(self._address, LOOK_SECONDS).close()
        except OSError:
            return False
        return True


class JoinedRay:
    """A Ray that others run, at an address such as "10.0.0.1:6379", or "auto" for the one of this machine."""

    lost = False

    def __init__(self, address: str) -> None:
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        except (RuntimeError, ValueError, ConnectionError, OSError, RayError) as error:
            raise ServiceUnavailable(f"no Ray answers at {address!r}: {error}; see --ray-address") from error

    def stop(self) -> None:
        """Leave it."""
        ray.shutdown()
