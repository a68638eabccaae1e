"""Requests that are made again, uploads that go on, and errors that come back as what they were.

The parts of the HTTP client that know nothing of jobs: `remote` puts them together.
"""

import json
import os
import random
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
from tqdm import tqdm

from graphir import errors
from graphir.errors import GraphError, LimitError, QueueFull, ServiceUnavailable

PAUSE, LONGEST_PAUSE = 0.05, 2.0
CHUNK = 1 << 20
_AUTHORITIES = {"SSL_CERT_FILE", "SSL_CERT_DIR"}
SHOWN_BYTES = 1 << 26
"""Sending more than this is shown by a bar."""


class Tries:
    """Again and again with growing pauses, spread by chance so that many clients do not come at once."""

    def __init__(self, url: httpx.URL, patience: float, closed: threading.Event) -> None:
        self._url, self._patience, self._closed = url, patience, closed
        self.last: Exception | None = None
        self.got_on()

    def got_on(self) -> None:
        """Something was reached, so patience begins anew."""
        self._deadline, self._pause = time.monotonic() + self._patience, PAUSE

    def __iter__(self) -> Iterator[None]:
        while True:
            yield
            if time.monotonic() + self._pause > self._deadline or self._closed.is_set():
                return
            self._closed.wait(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def error(self) -> GraphError:
        """What is raised in the end."""
        if isinstance(self.last, GraphError):
            return self.last
        kind = type(self.last).__name__
        return ServiceUnavailable(
            f"{self._url} does not answer ({kind}: {self.last}); is `gradfleet serve` running there?"
        )


class BlobGone(GraphError):
    """The service asks for bytes that it does not have."""


def check(answer: httpx.Response) -> None:
    """Raise what the service refuses."""
    if answer.status_code >= 400:
        raise problem(answer)


def problem(answer: httpx.Response) -> GraphError:
    """The error of a problem document, as the class of that name, or the nearest of its bases, that exists here."""
    try:
        document = json.loads(answer.content)
        detail, kinds = str(document["detail"]), [str(kind) for kind in document["kinds"]]
    except (ValueError, KeyError, TypeError):
        detail, kinds = f"the server answers {answer.status_code} {answer.reason_phrase}", []
    if "BlobMissing" in kinds:
        return BlobGone(detail)
    for kind in kinds:
        found = getattr(errors, kind, None)
        if isinstance(found, type) and issubclass(found, GraphError):
            return found(detail)
    known = {401: errors.Unauthorized, 403: errors.Unauthorized, 413: LimitError, 429: QueueFull}
    unavailable = ServiceUnavailable if answer.status_code >= 500 else GraphError
    return known.get(answer.status_code, unavailable)(detail)


class Sent:
    """The bytes of a blob from a place on, in pieces; `at`: how far they have gone."""

    def __init__(self, data: memoryview, begin: int, told: Callable[[int], None]) -> None:
        self._data, self.at, self._told = data, begin, told

    def __iter__(self) -> Iterator[bytes]:
        while self.at < self._data.nbytes:
            piece = bytes(self._data[self.at : self.at + CHUNK])
            yield piece
            self.at += len(piece)
            self._told(len(piece))


def offset(answer: httpx.Response) -> int:
    """How many bytes of an upload that was cut the service has."""
    text = answer.headers.get("Upload-Offset", "0")
    return int(text) if text.isdecimal() else 0


@contextmanager
def bar(total: int) -> Iterator[Callable[[int], None]]:
    """What is told how many bytes were sent shows it, where there is much to send and somebody to see it."""
    if total < SHOWN_BYTES or not sys.stderr.isatty():
        yield lambda count: None
        return
    lock = threading.Lock()
    with tqdm(total=total, desc="sending", unit="B", unit_scale=True, unit_divisor=1024) as bar:

        def told(count: int) -> None:
            with lock:
                bar.update(count)

        yield told


def trusted() -> ssl.SSLContext | bool:
    """Whose certificates are believed: those that the environment names, as for an authority of one's own, or the usual ones."""
    return ssl.create_default_context() if _AUTHORITIES & os.environ.keys() else True
