"""The job store: nothing acknowledged is lost, nothing is stored twice, journal and status agree."""

import hashlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, text

from graphir.errors import FormatError
from scheduler.job.events import (
    CancelRequested,
    Event,
    Finished,
    Release,
    RunStep,
    Started,
    StepDone,
    TaskFailed,
    scalars,
)
from scheduler.job.ids import job_id
from scheduler.job.seen import EVENTS, JOBS, VALUE_BYTES, Logged, Record, Seen
from scheduler.job.spec import JobSpec
from scheduler.job.state import IllegalTransition, Status, new_job, replay
from scheduler.job.store import KeyReused, SeqConflict, Store, UnknownJob
from scheduler.job.tables import StoreError

ROOT = Path(__file__).parents[1]
GRAPH = "a" * 64
RESULT = "c" * 64


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with Store(url) as opened:
        yield opened


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@contextmanager
def raw(url: str) -> Iterator[Connection]:
    """The database as it is."""
    if url.startswith("sqlite"):
        file_of(url).parent.mkdir(exist_ok=True)
    engine = create_engine(url)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def spec(**fields: object) -> JobSpec:
    return JobSpec.model_validate({"graph": GRAPH, **fields})


def journal(store: Store, job: str) -> list[Event]:
    return [logged.event for logged in store.events(job)]


def test_a_job_from_submission_to_result(store: Store) -> None:
    described = spec(steps=2, name="softmax", feeds={"x": {"kind": "dataset", "url": "x.npy"}})
    job = store.submit(described, 100.0)
    record = store.job(job)
    assert (record.id, record.spec, record.job.status, record.seq) == (job, described, Status.QUEUED, 0)
    assert (record.created, record.updated) == (100.0, 100.0)
    assert store.events(job) == []
    appended = store.append(job, [Started(101.0, "r")])
    assert appended.seq == 1
    assert RunStep(0, 1) in appended.commands
    happened = [StepDone(102.0, 0, 1, scalars({"loss": float("nan")})), StepDone(103.0, 1, 1)]
    assert store.append(job, happened, after=1).seq == 3
    assert store.result(job) is None
    done = store.append(job, [Finished(104.0, 1, RESULT)])
    assert Release() in done.commands
    assert store.result(job) == RESULT
    record = store.job(job)
    assert (record.job, record.seq, record.updated) == (done.job, 4, 104.0)
    assert record.job.status is Status.SUCCEEDED
    assert [logged.seq for logged in store.events(job, after=1, limit=2)] == [2, 3]
    assert journal(store, job) == [Started(101.0, "r"), *happened, Finished(104.0, 1, RESULT)]
    assert replay(described, journal(store, job)) == record.job


def test_events_that_are_ignored_are_not_kept(store: Store) -> None:
    job = store.submit(spec(), 1.0)
    store.append(job, [Started(2.0), CancelRequested(3.0)])
    late = store.append(job, [StepDone(4.0, 0, 1), CancelRequested(5.0)])
    assert (late.seq, late.commands, late.job.status) == (2, (), Status.CANCELLED)
    assert len(store.events(job)) == 2


def test_a_refused_event_keeps_nothing_and_tells_the_story(store: Store) -> None:
    job = store.submit(spec(steps=3), 1.0)
    store.append(job, [Started(2.0, "runner-7")])
    with pytest.raises(IllegalTransition, match=r"2\.000 started runner='runner-7'"):
        store.append(job, [StepDone(3.0, 0, 1), StepDone(4.0, 2, 1)])
    assert journal(store, job) == [Started(2.0, "runner-7")]
    assert store.job(job).job.step == 0


def test_the_journal_is_not_written_behind_a_reader_s_back(store: Store) -> None:
    job = store.submit(spec(), 1.0)
    store.append(job, [Started(2.0)], after=0)
    with pytest.raises(SeqConflict, match="is at 1, not 0"):
        store.append(job, [CancelRequested(3.0)], after=0)
    assert store.job(job).job.status is Status.RUNNING


def test_unknown_jobs(store: Store) -> None:
    for use in (store.job, store.events, store.result):
        with pytest.raises(UnknownJob, match="there is no job 'nothing'"):
            use("nothing")
    with pytest.raises(UnknownJob):
        store.append("nothing", [Started(1.0)])


def test_one_key_one_job(store: Store) -> None:
    first = store.submit(spec(key="k", steps=2), 1.0)
    assert store.submit(spec(key="k", steps=2), 2.0) == first
    with pytest.raises(KeyReused, match=f"key 'k' was used for job {first}"):
        store.submit(spec(key="k", steps=3), 3.0)
    assert store.submit(spec(key="k", steps=3), 4.0, owner="somebody else") != first
    assert store.submit(spec(steps=2), 5.0) != store.submit(spec(steps=2), 5.0)
    assert len(store.jobs()) == 4


def test_small_values_are_kept_with_what_names_them(url: str, store: Store) -> None:
    feed, made, refused = b"feed", b"\0" * 1000, b"never"
    job = store.submit(spec(), 1.0, values={digest_of(feed): feed})
    store.append(job, [Started(2.0), StepDone(3.0, 0, 1)])
    with pytest.raises(IllegalTransition):
        store.append(job, [Finished(4.0, 7, digest_of(refused))], values={digest_of(refused): refused})
    store.append(job, [Finished(4.0, 1, digest_of(made))], values={digest_of(made): made, digest_of(feed): feed})
    store.append(job, [Finished(5.0, 1, digest_of(refused))], values={digest_of(refused): refused})  # too late
    again = store.submit(spec(), 6.0, values={digest_of(feed): feed})
    with Store(url) as other:
        assert [other.value(digest_of(data)) for data in (feed, made, refused)] == [feed, made, None]
        with raw(url) as database:
            changed = {"data": b"fee!", "digest": digest_of(feed)}
            database.execute(text("UPDATE small_values SET data = :data WHERE digest = :digest"), changed)
        assert other.value(digest_of(feed)) == feed  # it has been read before
    with Store(url) as other:
        with pytest.raises(StoreError, match="is damaged"):
            other.value(digest_of(feed))
        assert other.job(again).job.status is Status.QUEUED


def test_what_was_seen_is_true_and_what_others_wrote_is_noticed(url: str, store: Store) -> None:
    job = store.submit(spec(steps=3), 1.0)
    store.append(job, [Started(2.0, "r")])
    assert [logged.seq for logged in store.seen.events(job, 0)] == [1]
    with Store(url) as other:
        assert other.seen.record(job) is None
        other.append(job, [StepDone(3.0, 0, 1)])
        assert store.seen.events(job, 1) == []
        assert store.append(job, [StepDone(4.0, 1, 1)]).seq == 3  # not a step that was expected here
        assert store.seen.events(job, 1) == []  # the second event was not seen, so the third is not told
        assert store.seen.events(job, 2) == store.events(job, 2)
        other.append(job, [CancelRequested(5.0)])
    late = store.append(job, [StepDone(6.0, 2, 1)])
    assert (late.job.status, late.seq, late.commands) == (Status.CANCELLED, 4, ())
    seen = store.seen.record(job)
    assert seen is not None
    assert seen == store.job(job)


def test_what_is_seen_is_bounded() -> None:
    seen, record = Seen(), Record("j", "", spec(), new_job(spec()), 0, 1.0, 1.0)
    for seq in range(1, EVENTS + 10):
        seen.keep(replace(record, seq=seq), [Logged(seq, StepDone(1.0, seq, 1))])
    assert seen.events("j", 0) == []
    assert [logged.seq for logged in seen.events("j", EVENTS)] == list(range(EVENTS + 1, EVENTS + 10))
    for number in range(JOBS):
        seen.keep(replace(record, id=str(number)))
    assert seen.record("j") is None
    size = VALUE_BYTES // 4
    for number in range(5):
        seen.keep_value(str(number), bytes(size))
    assert [seen.value(str(number)) is None for number in range(5)] == [True, False, False, False, False]


def test_listing(store: Store) -> None:
    ids = [store.submit(spec(name=f"job {i}"), 100.0 + i, owner="ab"[i % 2]) for i in range(10)]
    assert ids == sorted(ids)
    assert [record.id for record in store.jobs(limit=4)] == ids[:5:-1]
    assert [record.id for record in store.jobs(limit=4, before=ids[6])] == ids[5:1:-1]
    assert [record.id for record in store.jobs(owner="b")] == ids[::-2]
    assert store.jobs(limit=0) == []


def test_unfinished_jobs_are_taken_up_oldest_first(store: Store) -> None:
    ids = [store.submit(spec(retries=0), 100.0 + i) for i in range(5)]
    store.append(ids[0], [CancelRequested(200.0)])
    store.append(ids[1], [Started(200.0)])
    store.append(ids[2], [Started(200.0), TaskFailed(201.0, 1, "ValueError", "no")])
    assert [record.id for record in store.unfinished()] == [ids[1], ids[3], ids[4]]


@given(st.floats(0, 2**48 / 1000 - 1), st.floats(0, 2**48 / 1000 - 1), st.binary(min_size=10, max_size=10))
def test_ids_sort_by_time(one: float, two: float, entropy: bytes) -> None:
    first, second = job_id(one, entropy), job_id(two, entropy)
    assert len(first) == 26
    assert first.isalnum()
    assert (first < second) == (int(one * 1000) < int(two * 1000))


def test_ids_need_randomness(url: str) -> None:
    with Store(url, entropy=bytes) as store:
        store.submit(spec(), 1.0)
        with pytest.raises(StoreError, match="entropy must be random"):
            store.submit(spec(), 1.0)


def test_threads_submit_one_key_once(store: Store) -> None:
    barrier = threading.Barrier(8)

    def submit(i: int) -> str:
        barrier.wait()
        return store.submit(spec(key="same"), 1.0 + i)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(submit, range(8)))) == 1
    assert len(store.jobs()) == 1


def test_threads_append_to_their_own_and_to_one_job(store: Store) -> None:
    steps, threads = 12, 6
    shared = store.submit(spec(steps=1), 0.0)
    store.append(shared, [Started(0.0)])

    def work(i: int) -> str:
        job = store.submit(spec(steps=steps), 1.0 + i)
        store.append(job, [Started(2.0, f"thread {i}")])
        for step in range(steps):
            store.append(job, [StepDone(3.0 + step, step, 1)])
            store.append(shared, [TaskFailed(1.0, 0, "OSError", "late")])
            store.jobs(limit=3)
        store.append(shared, [StepDone(4.0, 0, 1)] if i == 0 else [])
        store.append(job, [Finished(99.0, 1, RESULT)])
        return job

    with ThreadPoolExecutor(threads) as pool:
        ids = list(pool.map(work, range(threads)))
    for i, job in enumerate(ids):
        logged = store.events(job)
        assert [one.seq for one in logged] == list(range(1, steps + 3))
        assert logged[0].event == Started(2.0, f"thread {i}")
        assert store.job(job).job.status is Status.SUCCEEDED
    assert journal(store, shared) == [Started(0.0), StepDone(4.0, 0, 1)]


def test_two_takers_of_one_job_only_one_gets_it(url: str, store: Store) -> None:
    job = store.submit(spec(), 1.0)
    barrier = threading.Barrier(4)

    def take(i: int) -> bool:
        with Store(url) as own:
            barrier.wait()
            try:
                own.append(job, [Started(2.0, f"runner {i}")], after=0)
            except SeqConflict:
                return False
            return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, range(4))) == 1
    assert len(store.events(job)) == 1


WRITER = """
import itertools, sys
from scheduler.job.events import Started, StepDone
from scheduler.job.spec import JobSpec
from scheduler.job.store import Store

store = Store(sys.argv[1])
job = store.submit(JobSpec(graph="a" * 64, steps=10**9, key="k"), 1.0)
store.append(job, [Started(2.0)])
print(job, 1, flush=True)
for step in itertools.count():
    print(job, store.append(job, [StepDone(3.0, step, 1, (("loss", 1 / (step + 1)),))]).seq, flush=True)
"""


@pytest.mark.parametrize("events", [1, 40])
def test_what_was_acknowledged_outlives_a_killed_process(url: str, events: int) -> None:
    command = [sys.executable, "-c", WRITER, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        assert writer.stdout is not None
        for _ in range(events):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        lines = [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    with Store(url) as store:
        (record,) = store.unfinished()
        acknowledged = max([events, *(int(line.split()[1]) for line in lines)])
        assert record.seq >= acknowledged
        kept = journal(store, record.id)
        losses = [scalars({"loss": 1 / (step + 1)}) for step in range(record.seq - 1)]
        assert kept == [Started(2.0), *(StepDone(3.0, step, 1, loss) for step, loss in enumerate(losses))]
        assert replay(record.spec, kept) == record.job
        assert store.submit(record.spec, 9.0) == record.id


def test_a_damaged_row_is_a_typed_error(url: str, store: Store) -> None:
    job = store.submit(spec(), 1.0)
    store.append(job, [Started(2.0)])
    with raw(url) as database:
        database.execute(text("UPDATE jobs SET state = :state"), {"state": json.dumps({"steps": "many"})})
        database.execute(text("UPDATE events SET type = 'melted'"))
    with pytest.raises(FormatError, match="a stored job"):
        store.job(job)
    with pytest.raises(FormatError, match="unknown type 'melted'"):
        store.events(job)


def test_a_user_s_other_jobs_are_not_looked_at(sqlite: str) -> None:
    """Submitting asks how many have not ended and whether the work was done, so it must not slow down with what there was."""
    asked = {
        "SELECT count(*) FROM jobs WHERE status IN ('queued', 'running') AND owner = 'ann'": "(owner=? AND status=?)",
        "SELECT id FROM jobs WHERE owner = 'ann' AND work = 'w' AND status = 'succeeded' ORDER BY id DESC LIMIT 1": (
            "(owner=? AND work=? AND status=?)"
        ),
    }
    with Store(sqlite) as store:
        store.submit(spec(), 1.0, owner="ann")
        with store.transaction() as connection:
            for question, index in asked.items():
                plan = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {question}").all())
                assert index in plan
                assert "TEMP B-TREE" not in plan
        assert (store.waiting("ann"), store.waiting("bob"), store.waiting()) == (1, 0, 1)
