"""What is removed, and that nothing is that a job needs: every interleaving that hypothesis finds, and real processes."""

import hashlib
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

import graphir as gi
from graphir.client import connect
from graphir.transport import BlobGone
from scheduler.api.sweeper import Sweeper
from scheduler.job.access import Access
from scheduler.job.blobs import BlobMissing, Blobs
from scheduler.job.events import CancelRequested
from scheduler.job.naming import ValueGone
from scheduler.job.retention import DAY, Keep, Retention
from scheduler.job.spec import parse_spec
from scheduler.job.store import SMALL_BYTES, Store, UnknownJob
from scheduler.job.values import Values
from tests.jobs import WAIT
from tests.served import gradfleet, serving

KEEP = Keep(results=10 * DAY, uploads=DAY)


def large(number: int) -> bytes:
    return number.to_bytes(4, "little") * (SMALL_BYTES // 4 + 1)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Sweeping(RuleBasedStateMachine):
    """Users that put, name and forget values in any order, while time goes by and sweeps come between any two steps."""

    jobs = Bundle("jobs")

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.store = Store(f"sqlite:///{self.folder.name}/jobs.sqlite", durable=False)
        self.blobs = Blobs(f"{self.folder.name}/blobs", durable=False)
        self.values, self.access = Values(self.store, self.blobs), Access(self.store)
        self.retention = Retention(self.store, self.values, KEEP)
        self.now = time.time()
        self.named: dict[str, tuple[set[str], float | None]] = {}
        self.fresh: dict[str, float] = {}

    @rule(number=st.integers(0, 5), owner=st.sampled_from(["ann", "bob"]))
    def upload(self, number: int, owner: str) -> None:
        digest = self.blobs.put_stream([large(number)])
        os.utime(self.blobs.root / digest[:2] / digest[2:], (self.now, self.now))
        self.access.hold(owner, digest, len(large(number)), self.now)
        self.fresh[digest] = self.now

    @rule(target=jobs, numbers=st.lists(st.integers(0, 5), min_size=1, max_size=3), small=st.binary(max_size=2))
    def submit(self, numbers: list[int], small: bytes) -> str:
        """Name values that were put some time ago, as one who has them still would; put them again if he is told to."""
        digests = [sha256(large(number)) for number in numbers]
        feeds = {
            f"x{k}": {"kind": "array", "blob": d, "dtype": "int8", "shape": [SMALL_BYTES + 4]}
            for k, d in enumerate(digests)
        }
        beside = {sha256(small): small}
        spec = parse_spec({"graph": sha256(small), "feeds": feeds})
        while True:
            try:
                id = self.store.submit(spec, self.now, values=beside)
                break
            except ValueGone as gone:
                self.values.forget(gone)
                for number in numbers:
                    self.blobs.put(large(number))
        self.named[id] = ({*digests, sha256(small)}, None)
        return id

    @rule(job=jobs)
    def end(self, job: str) -> None:
        if self.named[job][1] is None:
            self.store.append(job, [CancelRequested(self.now)])
            self.named[job] = (self.named[job][0], self.now)

    @rule(days=st.sampled_from([0.01, 0.6, 1.5, 11.0]))
    def wait(self, days: float) -> None:
        self.now += days * DAY

    @rule()
    def sweep(self) -> None:
        self.retention.collect(self.now)
        gone = {job for job, (_, ended) in self.named.items() if ended is not None and self.now - ended > KEEP.results}  # type: ignore[operator]
        for job in gone:
            with pytest.raises(UnknownJob):
                self.store.job(job)
        needed = {digest for job, (digests, _) in self.named.items() if job not in gone for digest in digests}
        needed |= {digest for digest, when in self.fresh.items() if self.now - when < KEEP.uploads}
        there = {each.digest for each in self.blobs.listed() if each.put < self.now - KEEP.uploads}
        assert there <= needed  # what is not needed and not young is gone

    @invariant()
    def what_is_needed_is_there(self) -> None:
        if not hasattr(self, "named"):
            return
        for digests, ended in self.named.values():
            if ended is None or self.now - ended <= KEEP.results:  # type: ignore[operator]
                for digest in digests:
                    assert sha256(bytes(self.values.view(digest))) == digest
        for digest, when in self.fresh.items():
            if self.now - when < KEEP.uploads:
                assert self.blobs.has(digest)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.folder.cleanup()


TestSweeping = Sweeping.TestCase
TestSweeping.settings = settings(max_examples=30, stateful_step_count=25)


@pytest.fixture(params=["sqlite", "postgresql"])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    sqlite = request.param == "sqlite"
    with Store(
        f"sqlite:///{tmp_path / 'jobs.sqlite'}" if sqlite else request.getfixturevalue("postgres").fresh()
    ) as found:
        yield found


def job_of(*digests: str) -> Any:
    return parse_spec(
        {
            "graph": digests[0],
            "feeds": {d[:9]: {"kind": "array", "blob": d, "dtype": "int8", "shape": [1]} for d in digests[1:]},
        }
    )


def aged(blobs: Blobs, digest: str) -> None:
    os.utime(blobs.root / digest[:2] / digest[2:], (0, 0))


def test_a_value_that_is_removed_between_put_and_naming_is_noticed(tmp_path: Path, store: Store) -> None:
    blobs = Blobs(tmp_path / "blobs")
    values = Values(store, blobs)
    beside: dict[str, bytes] = {}
    little, big = values.put(b"graph", beside), values.put(large(1), {})
    first = store.submit(job_of(little), 0.0, values=beside)
    store.append(first, [CancelRequested(1.0)])
    aged(blobs, big)
    swept = Retention(store, values, Keep(results=DAY)).collect(time.time())
    assert (swept.jobs, swept.blobs, swept.values) == (1, 1, 1)
    store.seen.keep_value(little, b"graph")  # as another process would have it, which did not sweep
    with pytest.raises(ValueGone) as caught:
        store.submit(job_of(little, big), 2.0, values=beside)
    assert set(caught.value.digests) == {little, big}
    assert store.jobs() == []
    values.forget(caught.value)
    values.put(large(1), beside)
    id = store.submit(job_of(little, big), 2.0, values=beside)
    Retention(store, values, Keep(uploads=0.0)).collect(time.time() + 1)
    assert bytes(values.view(big)) == large(1)
    assert bytes(values.view(little)) == b"graph"
    assert store.job(id).spec.graph == little


def test_what_was_named_during_a_sweep_stays(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(tmp_path / "blobs")
    values, access = Values(store, blobs), Access(store)
    digests = [blobs.put(large(number)) for number in range(4)]
    for digest in digests:
        aged(blobs, digest)
    listed = Blobs.listed

    def slow(self: Blobs) -> Any:
        """After the sweep has read the jobs, others come."""
        found = list(listed(self))
        store.submit(job_of(digests[0], digests[1]), time.time())
        access.hold("ann", digests[2], 1, time.time())
        return iter(found)

    monkeypatch.setattr(Blobs, "listed", slow)
    assert Retention(store, values, Keep()).collect(time.time()).blobs == 1
    assert [blobs.has(digest) for digest in digests] == [True, True, True, False]


def test_holdings_end_with_what_they_are_of(tmp_path: Path, store: Store) -> None:
    blobs = Blobs(tmp_path / "blobs")
    values, access = Values(store, blobs), Access(store)
    digest, other = blobs.put(large(1)), blobs.put(large(2))
    for owner in ("ann", "bob"):
        access.hold(owner, digest, 7, 0.0)
        access.hold(owner, other, 7, 0.0)
    store.submit(job_of(digest), time.time(), owner="ann")
    for each in (digest, other):
        aged(blobs, each)
    swept = Retention(store, values, Keep()).collect(time.time())
    assert (access.size("ann", digest), access.size("bob", digest), access.size("ann", other)) == (7, None, None)
    assert (access.held("ann"), access.held("bob"), swept.blobs) == (7, 0, 1)
    access.hold("bob", digest, 7, 5.0)
    with pytest.raises(gi.errors.LimitError):
        access.hold("bob", blobs.put(large(3)), 7, 5.0, most=13)
    assert access.held("bob") == 7


def test_a_clock_that_jumps_removes_nothing(tmp_path: Path, store: Store) -> None:
    blobs = Blobs(tmp_path / "blobs")
    digest = blobs.put(large(1))
    clock = {"day": time.time(), "steady": 100.0}

    def go_on(seconds: float) -> None:
        clock["steady"] += seconds
        clock["day"] += seconds

    values = Values(store, blobs)
    sweeper = Sweeper(store, values, Keep(), day=lambda: clock["day"], steady=lambda: clock["steady"])
    assert sweeper.sweep()
    clock["day"] += 100 * DAY
    assert not sweeper.sweep()
    go_on(DAY / 2)
    assert not sweeper.sweep()
    assert blobs.has(digest)
    go_on(DAY / 2)
    assert sweeper.sweep()
    assert not blobs.has(digest)


def test_uploads_and_jobs_while_a_service_sweeps_all_the_time(tmp_path: Path) -> None:
    """Real processes: uploads are young for half a second here, so only what the database says protects them."""
    x = gi.input("x", ("n",))
    graph = gi.Graph({"y": gi.sum(x * 2.0)})

    def use(number: int) -> None:
        rows = np.arange(20_000.0) + number % 3
        with connect(served.url) as client:
            done = 0
            while done < 4:
                try:
                    job = client.submit(graph, {"x": rows})
                except BlobGone:  # removed before it was named, which is told; what was accepted is safe
                    continue
                assert job.result(WAIT)["y"] == 2 * rows.sum()
                done += 1

    options = ("--keep-uploads", 5e-6, "--sweep-seconds", 0.01)
    with serving(tmp_path, "--workers", 0, *options) as served:
        data = large(7)
        digest = sha256(data)
        with ThreadPoolExecutor(4) as pool:
            users = [pool.submit(use, number) for number in range(4)]
            while not all(user.done() for user in users):
                answer = httpx.put(f"{served.url}/v1/blobs/{digest}", content=data, timeout=WAIT, trust_env=False)
                assert answer.status_code in (201, 204, 503), answer.text
            for user in users:
                user.result()


def test_sweep_is_a_command(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "blobs")
    old, young = blobs.put(large(1)), blobs.put(large(2))
    aged(blobs, old)
    done = gradfleet("sweep", "--directory", tmp_path, "--json")
    assert '"blobs": 1' in done.stdout, done.stderr
    assert blobs.has(young)
    with pytest.raises(BlobMissing):
        blobs.path(old)
