"""The service over HTTP, as `connect(url)` uses it; needs no more than a client's machine has.

Every request may be made again: blobs are named by their content, a submission has a key, events are asked for by number.
So what fails on the way (a connection that breaks, a server that starts anew) is tried again with growing pauses, for as
long as `PATIENCE` seconds, and only then raised as ServiceUnavailable. What the server refuses is raised at once, as the
error of the same name that an embedded service would raise.
"""

import base64
import hashlib
import json
import mmap
import tempfile
import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import IO, Any

import httpx
import numpy as np

from graphir import tensors, wire
from graphir.dataset import Dataset
from graphir.errors import GraphError, ServiceUnavailable
from graphir.feeds import check_names, convert
from graphir.graph import Graph
from graphir.node import Array
from graphir.sheet import in_notebook
from graphir.transport import CHUNK, BlobGone, Sent, Tries, bar, check, offset, problem, trusted

PATIENCE = 60.0
"""Seconds for which a server that does not answer is asked again."""
MAPPED_BYTES = 1 << 26
"""Results over this size are kept in a file without a name, and mapped."""
SMALL_BYTES, INSIDE_BYTES = 1 << 16, 1 << 20
"""Graphs and arrays of at most so many bytes, and together so many, are sent inside the submission and not as blobs."""
UPLOADS = 4
MAX_KNOWN = 100_000
_AGAIN = frozenset({502, 503, 504})
_FROM_THE_BEGINNING = frozenset({409, 422})
"""What was there is there no more, or was not what it seemed."""


@dataclass(frozen=True, slots=True)
class RemotePlan:
    """How a service would cut a graph: its explanation, picture and figures."""

    text: str
    svg: str
    stages: int
    chunks: int
    borders: dict[str, tuple[int, ...]]
    sizes: dict[str, int]
    notes: tuple[str, ...] = ()
    outlook: tuple[str, ...] = field(default=())

    @property
    def cuts(self) -> tuple[str, ...]:
        """The dimensions that are cut."""
        return tuple(self.borders)

    def to_text(self) -> str:
        """What is cut, the steps and why, what each moves, and what is expected of an iteration."""
        return self.text

    def to_svg(self) -> str:
        """The steps and their nodes in colours."""
        return self.svg

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        return in_notebook(self.svg, self.text)


class RemoteService:
    """Jobs of a service at a URL. May be used by several threads."""

    def __init__(self, url: str, token: str | None = None, *, patience: float = PATIENCE) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        try:
            self.url = httpx.URL(url.rstrip("/") + "/")
            if self.url.scheme not in ("http", "https") or not self.url.host:
                raise httpx.InvalidURL("it has no http:// or https:// with a host")
            self._http = httpx.Client(
                base_url=self.url,
                headers=headers,
                timeout=httpx.Timeout(60.0, connect=10.0),
                trust_env=False,
                verify=trusted(),
            )
        except (httpx.InvalidURL, UnicodeError, TypeError) as error:
            raise ServiceUnavailable(f"{url!r} cannot be connected to: {error}") from None
        self._patience = patience
        self._known: set[str] = set()
        self._graphs: dict[str, tuple[str, bytes]] = {}
        self._closed = threading.Event()

    def submit(self, graph: Graph, feeds: Mapping[str, Any], options: Mapping[str, Any]) -> str:
        """Upload what the service has not, and submit."""
        check_names(graph, feeds)
        blobs: dict[str, memoryview] = {}
        given = {name: self._feed(name, feeds[name], graph, blobs) for name in graph.inputs}
        digest = self._graph(graph, blobs)
        chosen = {name: value for name, value in options.items() if value is not None}
        chosen.setdefault("key", uuid.uuid4().hex)  # so that it may be sent again
        small = _small(blobs)
        inside = {name: base64.b64encode(blobs.pop(name)).decode() for name in small}
        body = _dumped({"graph": digest, "feeds": given, "values": inside, **chosen})
        self._upload(blobs)
        try:
            answer = self._json("POST", "v1/jobs", content=body)
        except BlobGone:  # the service has forgotten what it had
            self._known.difference_update(blobs)
            self._upload(blobs)
            answer = self._json("POST", "v1/jobs", content=body)
        return str(answer["id"])

    def plan(self, graph: Graph, feeds: Mapping[str, Any], **options: Any) -> RemotePlan:
        """The plan of a job that is not run. Arrays stay here: their shapes are enough."""
        check_names(graph, feeds)
        given: dict[str, dict[str, Any]] = {}
        for name, node in graph.inputs.items():
            value = feeds[name]
            if isinstance(value, Dataset):
                given[name] = {"kind": "dataset", **value.to_json()}
            else:
                array = convert(name, value, node.type)
                given[name] = {"kind": "shape", "dtype": array.dtype.name, "shape": list(array.shape)}
        blobs: dict[str, memoryview] = {}
        digest = self._graph(graph, blobs)
        self._upload(blobs)
        chosen = {name: value for name, value in options.items() if value is not None}
        return _plan(self._json("POST", "v1/plans", content=_dumped({"graph": digest, "feeds": given, **chosen})))

    def calibrate(self, plan: Any = None) -> Any:
        """A service's workers are measured where it runs."""
        raise ServiceUnavailable("workers of a remote service are measured there, by `gradfleet calibrate`")

    def job_plan(self, id: str) -> RemotePlan:
        """The plan of a job."""
        return _plan(self._json("GET", f"v1/jobs/{_part(id)}/plan"))

    def jobs(self) -> list[str]:
        """The ids of the latest jobs, the latest first."""
        return [str(job["id"]) for job in self._json("GET", "v1/jobs")["jobs"]]

    def feeds(self, id: str) -> dict[str, dict[str, Any]]:
        """What the inputs of a job were given."""
        found: dict[str, dict[str, Any]] = self._json("GET", f"v1/jobs/{_part(id)}/feeds")
        return found

    def status(self, id: str) -> dict[str, Any]:
        """Where the job is, and its error if it has one."""
        found: dict[str, Any] = self._json("GET", f"v1/jobs/{_part(id)}")
        return found

    def events(self, id: str, after: int = 0, wait: float = 0.0) -> list[dict[str, Any]]:
        """Some events after a number; the service waits for one at most so many seconds."""
        query = {"after": after, "wait": wait}
        found = self._json("GET", f"v1/jobs/{_part(id)}/events", params=query, headers={"Accept": "application/json"})
        events: list[dict[str, Any]] = found["events"]
        return events

    def cancel(self, id: str) -> None:
        """Ask the job to stop."""
        self._call("DELETE", f"v1/jobs/{_part(id)}")

    def result(self, id: str) -> dict[str, Array]:
        """The outputs of a job that succeeded: arrays in memory, or mapped read-only from a file where they are large."""
        with tempfile.TemporaryFile() as file:
            size = self._download(f"v1/jobs/{_part(id)}/result", file)
            file.flush()
            if size > MAPPED_BYTES:
                mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
                return dict(tensors.read(mapped, source=f"the result of job {id}"))
            file.seek(0)
            found = tensors.read(file.read(), source=f"the result of job {id}")
        return {name: np.array(value) for name, value in found.items()}

    def close(self) -> None:
        """Close the connections; jobs go on."""
        self._closed.set()
        self._http.close()

    def _feed(self, name: str, value: Any, graph: Graph, blobs: dict[str, memoryview]) -> dict[str, Any]:
        if isinstance(value, Dataset):
            return {"kind": "dataset", "url": value.url, "column": value.to_json()["column"]}
        array = convert(name, value, graph.inputs[name].type)
        data = tensors.as_bytes(array)
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"kind": "array", "blob": digest, "dtype": array.dtype.name, "shape": list(array.shape)}

    def _graph(self, graph: Graph, blobs: dict[str, memoryview]) -> str:
        known = self._graphs.get(graph.digest)
        if known is None:
            data = wire.dump(graph)
            known = hashlib.sha256(data).hexdigest(), data
            self._graphs = {graph.digest: known}  # the last one: a loop submits one graph many times
        blobs[known[0]] = memoryview(known[1])
        return known[0]

    def _upload(self, blobs: Mapping[str, memoryview]) -> None:
        """Send the blobs that the service has not, several at a time."""
        new = {digest: data for digest, data in blobs.items() if digest not in self._known}
        if len(self._known) > MAX_KNOWN:
            self._known.clear()
        with bar(sum(data.nbytes for data in new.values())) as told:
            if len(new) == 1:
                [(digest, data)] = new.items()
                self._put(digest, data, told)
            elif new:
                with ThreadPoolExecutor(UPLOADS) as pool:
                    list(pool.map(lambda digest: self._put(digest, new[digest], told), new))
        self._known.update(new)

    def _put(self, digest: str, data: memoryview, told: Callable[[int], None] = lambda count: None) -> None:
        """Send a blob; one that was cut in the middle goes on from where it was."""
        place, headers = f"v1/blobs/{digest}", {"Content-Type": "application/octet-stream"}
        if data.nbytes <= CHUNK:
            self._call("PUT", place, content=bytes(data), headers=headers)
            told(data.nbytes)
            return
        tries, seen = Tries(self.url, self._patience, self._closed), 0
        for _ in tries:
            here = self._call("HEAD", place, missing_ok=True)
            begin = data.nbytes if here.status_code == 200 else min(offset(here), data.nbytes - 1)
            told(begin - seen)
            sent = Sent(data, begin, told)
            seen = begin
            if here.status_code == 200:
                return
            part = {"Content-Range": f"bytes {begin}-{data.nbytes - 1}/{data.nbytes}"} if begin else {}
            size = {"Content-Length": str(data.nbytes - begin)}
            try:
                answer = self._http.put(place, content=iter(sent), headers={**headers, **size, **part})
            except httpx.TransportError as error:
                tries.last = error
            else:
                if answer.status_code not in _AGAIN and not (begin and answer.status_code in _FROM_THE_BEGINNING):
                    check(answer)
                    return
                tries.last = problem(answer)
            if sent.at > begin + CHUNK:
                tries.got_on()  # so it is worth while to go on, however long it takes
            seen = sent.at
        raise tries.error()

    def _download(self, path: str, file: IO[bytes]) -> int:
        """The bytes at a path; what was received before a connection broke is not asked for again."""
        tries = Tries(self.url, self._patience, self._closed)
        for _ in tries:
            have = file.seek(0, 2)
            headers = {"Range": f"bytes={have}-"} if have else {}
            try:
                with self._http.stream("GET", path, headers=headers) as answer:
                    if answer.status_code not in (200, 206):
                        answer.read()
                    if answer.status_code in _AGAIN:
                        tries.last = problem(answer)
                        continue
                    check(answer)
                    if answer.status_code == 200:
                        file.seek(0)
                        file.truncate()
                    for chunk in answer.iter_bytes(CHUNK):
                        file.write(chunk)
                return file.tell()
            except httpx.TransportError as error:
                tries.last = error
        raise tries.error()

    def _json(self, method: str, path: str, **given: Any) -> Any:
        try:
            return self._call(method, path, **given).json()
        except ValueError as error:
            raise ServiceUnavailable(f"{self.url} answers {path} with no JSON ({error}); is it Gradfleet?") from None

    def _call(self, method: str, path: str, *, missing_ok: bool = False, **given: Any) -> httpx.Response:
        headers = dict(given.pop("headers", {}))
        if "content" in given:
            headers.setdefault("Content-Type", "application/json")
        tries = Tries(self.url, self._patience, self._closed)
        for _ in tries:
            try:
                answer = self._http.request(method, path, headers=headers, **given)
            except httpx.TransportError as error:
                tries.last = error
                continue
            if answer.status_code in _AGAIN:
                tries.last = problem(answer)
                continue
            if not (missing_ok and answer.status_code == 404):
                check(answer)
            return answer
        raise tries.error()


def _plan(data: Mapping[str, Any]) -> RemotePlan:
    facts: dict[str, Any] = {name: data[name] for name in ("text", "svg", "stages", "chunks", "sizes")}
    borders = {name: tuple(ends) for name, ends in data["borders"].items()}
    return RemotePlan(**facts, borders=borders, notes=tuple(data["notes"]), outlook=tuple(data["outlook"]))


def _small(blobs: Mapping[str, memoryview]) -> list[str]:
    """Those that travel in the submission itself, which saves a request for each."""
    found, room = [], INSIDE_BYTES
    for digest, data in blobs.items():
        if data.nbytes <= min(SMALL_BYTES, room):
            room -= data.nbytes
            found.append(digest)
    return found


def _dumped(data: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(data, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise GraphError(
            f"the job's options are not plain values: {error}; use text, numbers, lists and dicts"
        ) from None


def _part(id: str) -> str:
    """A job's id as a part of a path: anything else is no id."""
    return id if id.isalnum() and id.isascii() else hashlib.sha256(id.encode(errors="replace")).hexdigest()
