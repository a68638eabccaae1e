"""Minibatches: rows by a permutation of each epoch, the same bits for any workers, after a kill and after a restart."""

import os
import signal
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import graphir as gi
from graphir.client import Client, Job, connect
from graphir.errors import GraphError, JobFailed, ShapeError
from graphir.partition.minibatch import Minibatch, Order, permutation
from scheduler.driver.inline import InlinePool
from scheduler.driver.local import run_plan
from scheduler.driver.ray import RayPool
from scheduler.job.spec import SpecError
from scheduler.local import EmbeddedService
from scheduler.memory import peak_bytes
from scheduler.pipeline import compile
from scheduler.place import place
from tests.jobs import WAIT, bits, until
from workers.data import Source
from workers.feed import Feed
from workers.route import Route

ROWS, BATCH, STEPS, SEED = 53, 8, 15, 11
CARRY = {"w": "w_next", "v": "v_next"}


def descent() -> gi.Graph:
    """Least squares with momentum; the rows lie along axis 0, along axis 1, and along both of a matrix of weights."""
    x, y, w, v = gi.input("x", ("n", 4)), gi.input("y", (1, "n")), gi.input("w", (4,)), gi.input("v", (4,))
    pair = gi.input("pair", ("n", "n"), "float32")
    error = x @ w - y[0]
    loss = gi.mean(error**2) + gi.mean(error * (gi.astype(pair, "float64") @ error)) / 100
    (dw,) = gi.grad(loss, [w])
    velocity = 0.9 * v + dw
    return gi.Graph({"loss": loss, "w_next": w - 0.05 * velocity, "v_next": velocity, "error": error})


RNG = np.random.default_rng(5)
GRAPH = descent()
FEEDS: dict[str, Any] = {
    "x": RNG.normal(size=(ROWS, 4)),
    "y": RNG.normal(size=(1, ROWS)),
    "pair": RNG.normal(size=(ROWS, ROWS)).astype("float32"),
    "w": np.zeros(4),
    "v": np.zeros(4),
}


def order(total: int, seed: int | None, epoch: int, part: int) -> Any:
    counter, key = np.array([0, 0, part, 3], np.uint64), np.array([seed or 0, epoch], np.uint64)
    words = np.random.Philox(counter=counter, key=key).random_raw(total)
    return np.arange(total) if seed is None else np.argsort(words, kind="stable")


def taken(seed: int | None, step: int, parts: int) -> Any:
    """The rows of a step."""
    each = BATCH // parts
    epoch, place = divmod(step, ROWS // parts // each)
    rows = []
    for part in range(parts):
        begin, end = ROWS * part // parts, ROWS * (part + 1) // parts
        rows += list(begin + order(end - begin, seed, epoch, part)[place * each : (place + 1) * each])
    return np.array(rows)


def trained(
    evaluate: Callable[[dict[str, Any]], dict[str, Any]], seed: int | None, steps: int, parts: int = 1
) -> dict[str, bytes]:
    """The training as a plain loop, with rows taken by numpy."""
    carried = {"w": FEEDS["w"], "v": FEEDS["v"]}
    out: dict[str, Any] = {}
    for step in range(steps):
        rows = taken(seed, step, parts)
        batch = {"x": FEEDS["x"][rows], "y": FEEDS["y"][:, rows], "pair": FEEDS["pair"][np.ix_(rows, rows)]}
        out = evaluate({**batch, **carried})
        carried = {name: out[output] for name, output in CARRY.items()}
    return bits(out)


def by_plan(feeds: dict[str, Any]) -> dict[str, Any]:
    return run_plan(PLAN, feeds)


PLAN = compile(GRAPH, {"n": BATCH}, chunk={"n": 3})


def submit(client: Client, **options: Any) -> Job:
    options = {"carry": CARRY, "batch": {"n": BATCH}, "shuffle": SEED, "chunk": {"n": 3}, **options}
    return client.submit(GRAPH, FEEDS, **options)


# ---- the order of rows ----


@given(st.integers(1, 300), st.integers(0, 2**64 - 1), st.integers(0, 2**31))
def test_an_epoch_is_a_permutation_of_the_rows(total: int, seed: int, epoch: int) -> None:
    assert sorted(permutation(total, seed, epoch)) == list(range(total))
    assert permutation(total, seed, epoch).tobytes() == permutation(total, seed, epoch).tobytes()


def test_the_order_stays_what_it_is_for_ever() -> None:
    """Results depend on it: these are the orders of version 0.1."""
    found = [permutation(8, 0, 0).tolist(), permutation(8, 0, 1).tolist(), permutation(8, 2**64 - 1, 0).tolist()]
    assert found == [[0, 7, 3, 4, 6, 1, 2, 5], [1, 6, 2, 5, 7, 3, 0, 4], [4, 6, 3, 0, 7, 5, 1, 2]]


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 7), st.integers(0, 9), st.booleans())
def test_the_steps_of_an_epoch_take_different_rows(
    total: int, each: int, parts: int, epoch: int, shuffled: bool
) -> None:
    if each > total // parts:
        return
    batch = Minibatch("n", each * parts, total, 3 if shuffled else None, {"x": (0,)}, parts)
    order = Order(batch)
    found = [row for k in range(batch.steps) for row in order.rows(epoch * batch.steps + k)]
    assert len(found) == len(set(found)) == total // parts // each * each * parts
    assert set(found) <= set(range(total))
    for begin in range(0, batch.size, each):  # so many rows of a batch come from each part, and drawn says from where
        low, high = batch.drawn(begin, begin + each)
        assert high - low <= -(-total // parts)
        assert all(low <= row < high for k in range(batch.steps) for row in order.rows(k)[begin : begin + each])
    again = Order(batch)  # another worker, which began in the middle
    for k in reversed(range(batch.steps)):
        step = epoch * batch.steps + k
        assert again.rows(step).tolist() == order.rows(step).tolist()


def test_every_row_comes_everywhere_equally_often_and_epochs_do_not_resemble() -> None:
    epochs, total = 4000, 12
    orders = np.array([permutation(total, 1, epoch) for epoch in range(epochs)])
    counts = np.array([np.bincount(orders[:, place], minlength=total) for place in range(total)])
    statistic = ((counts - epochs / total) ** 2 / (epochs / total)).sum()
    assert 1e-4 < stats.chi2.sf(statistic, (total - 1) ** 2) < 1 - 1e-4
    pairs = np.bincount(
        orders[:-1, 0] * total + orders[1:, 0], minlength=total**2
    )  # the first row, and the next epoch's
    assert stats.chisquare(pairs).pvalue > 1e-4
    seeds = np.array([permutation(total, seed, 0)[0] for seed in range(epochs)])
    assert stats.chisquare(np.bincount(seeds, minlength=total)).pvalue > 1e-4


# ---- jobs ----


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_training_has_the_bits_of_a_plain_loop(local_ray: None, workers: int) -> None:
    with connect(workers=workers) as client:
        for seed, parts in ((SEED, 1), (None, 1), (SEED, 4), (None, 2)):
            shuffle = False if seed is None else seed
            found = submit(client, steps=STEPS, shuffle=shuffle, parts=parts).result(WAIT)
            assert bits(found) == trained(by_plan, seed, STEPS, parts)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_a_rank_is_given_the_parts_that_its_chunks_are_drawn_from(parts: int) -> None:
    x, w = gi.input("x", ("n", 2)), gi.input("w", (2,))
    graph = gi.Graph({"s": gi.sum(gi.tanh(x @ w))})
    batch = Minibatch("n", 8, 53, SEED, {"x": (0,)}, parts)
    plan = replace(compile(graph, {"n": 8}, chunk={"n": 2}), batch=batch)
    data = RNG.normal(size=(53, 2))
    spans = []
    for rank in range(2):
        route = Route(place(plan, 2, {}, ["s"]), 2)
        begin, end = route.rows(rank, "x", 53)
        spans.append((begin, end))
        some = Feed(data[begin:end], "float64", begin, 53, batch, (0,))
        whole = Feed(data, "float64", 0, 53, batch, (0,))
        for step in range(2 * batch.steps):
            for feed in (some, whole):
                feed.turn(Order(batch).rows(step))
            for (chunk,) in route.wanted(rank, "x"):
                mine, all_ = (feed.slice(0, 2 * chunk, 2 * chunk + 2) for feed in (some, whole))
                assert mine.tobytes() == all_.tobytes() == data[taken(SEED, step, parts)][2 * chunk :][:2].tobytes()
    assert spans == ([(0, 53), (0, 53)] if parts == 1 else [(0, 26), (26, 53)])
    bounds = [
        peak_bytes(p, place(p, 2, {}, ["s"]), 2, {}) for p in (plan, replace(plan, batch=replace(batch, parts=1)))
    ]
    assert (bounds[0] < bounds[1]) == (parts > 1)


def test_only_the_parts_that_chunks_are_drawn_from_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = RNG.normal(size=(53, 2))
    np.save(tmp_path / "x.npy", data)
    read: list[tuple[int, int]] = []
    plain = Source.read

    def noted(self: Source, start: int, stop: int) -> Any:
        read.append((start, stop))
        return plain(self, start, stop)

    monkeypatch.setattr(Source, "read", noted)
    batch = Minibatch("n", 8, 53, SEED, {"x": (0,)}, 4)
    feed = Feed(gi.dataset(tmp_path / "x.npy"), "float64", batch=batch, axes=(0,))
    for step in range(20):
        feed.turn(Order(batch).rows(step))
        found = feed.slice(0, 4, 8)
        assert found.tobytes() == data[taken(SEED, step, 4)][4:].tobytes()
    assert read == [(26, 53)]  # once, and the last two parts only


def test_uncut_it_has_the_bits_of_gi_evaluate() -> None:
    with connect(workers=0) as client:
        found = submit(client, steps=STEPS, chunk=None, cut=[]).result(WAIT)
    assert bits(found) == trained(lambda feeds: gi.evaluate(GRAPH, feeds), SEED, STEPS)


@pytest.mark.parametrize("victims", [1, 2])
def test_killed_workers_change_no_bit(local_ray: None, victims: int) -> None:
    """One leaves its values to the other; with both they are gone, and the job goes back to its checkpoint."""
    steps = 1200
    with connect(workers=2) as client:
        submit(client, steps=1).result(WAIT)
        job = submit(client, steps=steps, checkpoint_every=40)
        until(lambda: client.service.status(job.id)["step"] > 50)
        assert isinstance(client.service, EmbeddedService)
        assert isinstance(client.service.pool, RayPool)
        for pid in client.service.pool.pids()[:victims]:
            os.kill(pid, signal.SIGKILL)
        found = bits(job.result(WAIT))
        assert "worker_lost" in {event["type"] for event in job.events()}
    assert found == trained(by_plan, SEED, steps)


def test_a_restart_goes_on_in_the_midst_of_an_epoch(tmp_path: Path) -> None:
    steps = 300
    with connect(workers=0, directory=tmp_path) as first:
        job = submit(first, steps=steps, checkpoint_every=7)
        until(lambda: any(e["type"] == "checkpointed" for e in first.service.events(job.id)))
    with connect(workers=0, directory=tmp_path) as second:
        again = second.job(job.id)
        found = bits(again.result(WAIT))
        assert "resumed" in {event["type"] for event in again.events()}
    assert found == trained(by_plan, SEED, steps)


@pytest.mark.parametrize(("rows", "left"), [(48, 0), (53, 5)])
def test_epochs_take_every_row_as_often(local_ray: None, rows: int, left: int) -> None:
    place, seen = gi.input("place", ("n",), "int64"), gi.input("seen", (rows,), "int64")
    here = gi.astype(place[:, None] == gi.arange(rows)[None, :], "int64")
    graph = gi.Graph({"seen_next": seen + gi.sum(here, axis=0)})
    feeds = {"place": np.arange(rows), "seen": np.zeros(rows, "int64")}
    with connect(workers=2) as client:
        job = client.submit(graph, feeds, carry={"seen": "seen_next"}, batch=8, epochs=3)
        counts = job.result(WAIT)["seen_next"]
        assert client.service.status(job.id)["steps"] == 3 * 6
    assert counts.sum() == 3 * (rows - left)
    assert counts.max() <= 3
    assert left or counts.min() == 3


def test_rows_come_from_files_too(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(FEEDS["x"]))
    np.save(tmp_path / "pair.npy", FEEDS["pair"].astype("float16"))
    np.savez_compressed(tmp_path / "y.npz", y=FEEDS["y"])
    half = {**FEEDS, "pair": FEEDS["pair"].astype("float16").astype("float32")}
    from_files = {
        "x": gi.dataset(tmp_path / "x.npy"),
        "pair": gi.dataset(tmp_path / "pair.npy"),
        "y": gi.dataset(tmp_path / "y.npz", column="y"),
    }
    with connect(workers=0) as client:
        for parts in (1, 2):
            options: dict[str, Any] = {
                "carry": CARRY,
                "batch": BATCH,
                "steps": STEPS,
                "chunk": {"n": 3},
                "parts": parts,
            }
            expected = client.submit(GRAPH, half, **options).result(WAIT)
            found = client.submit(GRAPH, {**FEEDS, **from_files}, **options).result(WAIT)
            assert bits(found) == bits(expected)


def test_a_file_that_has_lost_rows_fails_its_job_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FEEDS["x"])
    with connect(workers=0) as client:
        blocker = submit(client, steps=100_000)
        job = client.submit(GRAPH, {**FEEDS, "x": gi.dataset(tmp_path / "x.npy")}, batch=BATCH)
        np.save(tmp_path / "x.npy", FEEDS["x"][:7])
        blocker.cancel()
        with pytest.raises(JobFailed, match="'x'|x.npy"):
            job.result(WAIT)


# ---- what is refused, and what is said ----


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"batch": ROWS + 1}, SpecError, "more than the 53 that are fed"),
        ({"batch": {"m": 4}}, SpecError, r"named dimensions of the inputs are \['n'\]"),
        ({"batch": 0}, SpecError, "at least 1"),
        ({"batch": {"n": 2.5}}, SpecError, "at least 1"),
        ({"batch": {"n": 2, "m": 2}}, SpecError, "names 2 dimensions"),
        ({"batch": None, "epochs": 3}, SpecError, "give batch"),
        ({"epochs": 0}, SpecError, "epochs=0"),
        ({"epochs": 2, "steps": 4}, SpecError, "both given"),
        ({"parts": 3}, SpecError, "as many from each of 3 parts"),
        ({"parts": 0}, SpecError, "parts=0"),
        ({"batch": None, "parts": 2}, SpecError, "give batch"),
        ({"shuffle": -1}, SpecError, "shuffle"),
        ({"shuffle": "sometimes"}, SpecError, "shuffle"),
    ],
)
def test_impossible_batches_are_refused(options: dict[str, Any], error: type[GraphError], said: str) -> None:
    with connect(workers=0) as client:
        with pytest.raises(error, match=said):
            submit(client, **options)
        assert client.jobs() == []


def test_values_that_cannot_be_batched_are_named() -> None:
    x, rows = gi.input("x", ("n",)), gi.input("rows", ("n",))
    wide = gi.input("wide", ("2*n",))
    with connect(workers=0) as client:
        state = gi.Graph({"y": rows + x})
        with pytest.raises(SpecError, match="'rows' is carried"):
            client.submit(state, {"x": np.ones(4), "rows": np.ones(4)}, carry={"rows": "y"}, batch=2, steps=2)
        mixed = gi.Graph({"y": gi.sum(x) + gi.sum(wide)})
        with pytest.raises(ShapeError, match="'wide' has the axis"):
            client.submit(mixed, {"x": np.ones(4), "wide": np.ones(8)}, batch=2)
        two = gi.Graph({"y": gi.sum(x) + gi.sum(gi.input("z", ("m",)))})
        with pytest.raises(SpecError, match="needs the name of a dimension"):
            client.submit(two, {"x": np.ones(4), "z": np.ones(3)}, batch=2)


def test_the_plan_is_one_for_a_batch_and_says_so() -> None:
    with connect(workers=0) as client:
        plan = client.plan(GRAPH, FEEDS, batch={"n": BATCH}, shuffle=SEED, chunk={"n": 3}, carry=CARRY)
        assert (plan.sizes, plan.borders) == ({"n": BATCH}, {"n": (0, 3, 6, 8)})
        text = plan.to_text()
        assert "8 of 53 rows of 'n', shuffled anew in each epoch, with seed 11; 6 iteration(s) an epoch, 5 left" in text
        assert "every worker holds all of 'x', 'y', 'pair'" in text
        assert submit(client, steps=2).plan().batch == plan.batch
        told = client.plan(GRAPH, FEEDS, batch=BATCH, parts=4).to_text()
        assert "as many from each of 4 parts, shuffled" in told
        assert "every worker holds its parts of" in told
        assert "in order" in client.plan(GRAPH, FEEDS, batch=BATCH, shuffle=False).to_text()


def test_a_batch_of_little_work_has_few_chunks() -> None:
    """By default; the number is a function of the graph and the sizes, and so are the bits."""
    x, w = gi.input("x", ("n", 200), "float32"), gi.input("w", (200, 100), "float32")
    graph = gi.Graph({"d": gi.grad(gi.mean(gi.tanh(x @ w) ** 2), [w])[0]})
    feeds = {"x": np.zeros((100_000, 200), "float32"), "w": np.zeros((200, 100), "float32")}
    with connect(workers=0) as client:
        counts = [client.plan(graph, feeds, batch=batch).chunks for batch in (64, 5_000, 20_000, 100_000)]
        assert counts == sorted(counts)
        assert (counts[0], counts[-1]) == (1, 16)
        assert 1 < counts[1] < 16
        assert client.plan(graph, feeds, batch=64, chunk={"n": 16}).chunks == 4
        assert client.plan(graph, feeds).chunks == 16


def test_memory_stays_below_what_the_plan_states() -> None:
    rows, batch = 40_000, 500
    x, w = gi.input("x", ("n", 20), "float32"), gi.input("w", (20,), "float32")
    graph = gi.Graph({"d": gi.grad(gi.mean(gi.tanh(x @ w) ** 2), [w])[0]})
    with connect(workers=0) as client:
        given = {"x": np.ones((rows, 20), "float32"), "w": np.ones(20, "float32")}
        plan = client.plan(graph, given, batch=batch, chunk={"n": 100})
        session = InlinePool().open(plan, {}, {}, ["d"])
        tracemalloc.start()
        try:
            session._runner.hold("x", np.ones((rows, 20), "float32"), "float32")
            session._runner.hold("w", given["w"], "float32")
            for _ in range(3):
                session.advance(1)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    bound = peak_bytes(plan, place(plan, 1, {}, ["d"]), 1, {})
    assert rows * 20 * 4 < peak <= bound + 500_000
    assert bound < 3 * rows * 20 * 4
