"""The service on a real Ray: same bits for any pool, workers killed, errors that name their node, restarts."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.client import Client, Job, connect
from graphir.errors import (
    DatasetError,
    DTypeError,
    FeedError,
    GraphError,
    JobCancelled,
    JobFailed,
    ShapeError,
)
from scheduler.driver.ray import RayPool
from scheduler.local import EmbeddedService
from tests.jobs import WAIT, bits, until
from tests.test_grid import momentum

pytestmark = pytest.mark.usefixtures("local_ray")

Array = np.ndarray[Any, Any]
Feeds = dict[str, Any]
ROWS, STEPS = 1000, 20
CARRY = {"w": "w_next", "b": "b_next"}


def logistic() -> gi.Graph:
    """One step of logistic regression by gradient descent."""
    x = gi.input("x", shape=("n", 8), dtype="float64")
    t = gi.input("t", shape=("n",), dtype="float64")
    w = gi.input("w", shape=(8,), dtype="float64")
    b = gi.input("b", shape=(), dtype="float64")
    z = x @ w + b
    loss = gi.mean(gi.log1p(gi.exp(-gi.abs(z))) + gi.maximum(z, 0.0) - z * t)
    dw, db = gi.grad(loss, [w, b])
    return gi.Graph(outputs={"loss": loss, "w_next": w - 0.5 * dw, "b_next": b - 0.5 * db})


def data() -> Feeds:
    """A separable problem with some noise."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(ROWS, 8))
    t = (x @ np.arange(-3.0, 5.0) + rng.normal(size=ROWS) > 0).astype(np.float64)
    return {"x": x, "t": t, "w": np.zeros(8), "b": np.zeros(())}


def oracle(feeds: Feeds, steps: int) -> Feeds:
    """The same training in numpy, by hand."""
    x, t, w, b = feeds["x"], feeds["t"], feeds["w"], feeds["b"]
    loss = np.nan
    for _ in range(steps):
        z = x @ w + b
        loss = np.mean(np.logaddexp(0, z) - z * t)
        error = (1 / (1 + np.exp(-z)) - t) / len(t)
        w, b = w - 0.5 * (x.T @ error), b - 0.5 * error.sum()
    return {"loss": loss, "w_next": w, "b_next": b}


LONG = 2_000
"""Steps of a job that runs long enough to be disturbed."""


def train(client: Client, **options: Any) -> Job:
    options = {"carry": CARRY, "steps": STEPS, "chunk": {"n": 97}, **options}
    return client.submit(logistic(), data(), **options)


@pytest.fixture(scope="module")
def client(local_ray: None) -> Iterator[Client]:
    with connect(workers=2) as connected:
        yield connected


@pytest.fixture(scope="module")
def reference(local_ray: None) -> dict[str, bytes]:
    with connect(workers=0) as inline:
        return bits(train(inline).result(WAIT))


def pids(client: Client) -> list[int]:
    assert isinstance(client.service, EmbeddedService)
    assert isinstance(client.service.pool, RayPool)
    return client.service.pool.pids()


def test_training_agrees_with_numpy(client: Client) -> None:
    found, expected = train(client).result(WAIT), oracle(data(), STEPS)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-14)


def test_a_job_is_computed_by_the_backend_it_names(client: Client) -> None:
    """Chunk by chunk by XLA, near the oracle but not with NumPy's bits; the same bits for two workers as for none."""
    pytest.importorskip("jax")
    found, expected = train(client, backend="jax").result(WAIT), oracle(data(), STEPS)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-14)
    with connect(workers=0) as inline:
        assert bits(train(inline, backend="jax").result(WAIT)) == bits(found)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_same_bits(workers: int, reference: dict[str, bytes], client: Client) -> None:
    if workers == 2:
        assert bits(train(client).result(WAIT)) == reference
        return
    with connect(workers=workers) as other:
        job = train(other)
        assert bits(job.result(WAIT)) == reference
        assert len(set(pids(other))) == workers


def test_a_grid_of_chunks_is_carried_and_outlives_a_worker(client: Client) -> None:
    graph, carry, feeds = momentum()
    options: dict[str, Any] = {"carry": carry, "chunk": {"n": 4, "h": 3}}
    with connect(workers=0) as inline:
        plan = inline.plan(graph, feeds, chunk={"n": 4, "h": 3})
        assert plan.chunks == 12
        undisturbed = bits(inline.submit(graph, feeds, steps=LONG, **options).result(WAIT))
    job = client.submit(graph, feeds, steps=LONG, checkpoint_every=50, **options)
    until(lambda: client.service.status(job.id)["step"] > 10)
    os.kill(pids(client)[1], signal.SIGKILL)
    assert bits(job.result(WAIT)) == undisturbed


def test_the_job_is_cut(client: Client) -> None:
    plan = client.plan(logistic(), data(), chunk={"n": 97})
    assert plan.chunks == 11
    assert plan.borders["n"][-1] == ROWS


def test_each_step_publishes_its_numbers(client: Client) -> None:
    events = list(train(client).events())
    steps = [event for event in events if event["type"] == "step_done"]
    assert [event["step"] for event in steps] == list(range(STEPS))
    losses = [dict(event["scalars"])["loss"] for event in steps]
    assert losses[0] == pytest.approx(np.log(2), rel=1e-12)
    assert losses == sorted(losses, reverse=True)
    assert events[-1]["type"] == "finished"


def test_a_killed_worker_does_not_change_the_bits(client: Client) -> None:
    with connect(workers=0) as inline:
        reference = bits(train(inline, steps=LONG).result(WAIT))
    train(client, steps=1).result(WAIT)
    before = pids(client)
    job = train(client, steps=LONG)
    until(lambda: client.service.status(job.id)["step"] > 3)
    os.kill(before[1], signal.SIGKILL)
    assert bits(job.result(WAIT)) == reference
    assert "worker_lost" in {event["type"] for event in job.events()}
    after = pids(client)
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_the_first_worker_may_die_too(client: Client, reference: dict[str, bytes]) -> None:
    train(client, steps=1).result(WAIT)
    os.kill(pids(client)[0], signal.SIGKILL)
    job = train(client)
    assert bits(job.result(WAIT)) == reference
    assert "worker_lost" in {event["type"] for event in job.events()}


def test_without_retries_a_lost_worker_fails_the_job(client: Client) -> None:
    train(client, steps=1).result(WAIT)
    os.kill(pids(client)[1], signal.SIGKILL)
    with pytest.raises(JobFailed, match="worker-1 was lost"):
        train(client, retries=0).result(WAIT)
    assert train(client, steps=1).result(WAIT).keys() == {"loss", "w_next", "b_next"}


def test_a_failing_kernel_names_its_node_and_spares_the_pool(client: Client) -> None:
    x = gi.input("x", shape=("n",), dtype="float64")
    i = gi.input("i", shape=(2,), dtype="int64")
    graph = gi.Graph(outputs={"y": gi.take(x, i, axis=0)})
    good = client.submit(graph, {"x": np.arange(5.0), "i": np.array([1, 4])}).result(WAIT)
    assert good["y"].tolist() == [1.0, 4.0]
    before = pids(client)
    job = client.submit(graph, {"x": np.arange(5.0), "i": np.array([1, 99])})
    with pytest.raises(JobFailed, match="take") as caught:
        job.result(WAIT)
    assert "Traceback" in str(caught.value)
    assert "worker-" in str(caught.value)
    (failed,) = [event for event in job.events() if event["type"] == "task_failed"]
    assert "take" in failed["node"]
    assert failed["deterministic"]
    assert pids(client) == before
    assert client.submit(graph, {"x": np.arange(5.0), "i": np.array([0, 0])}).result(WAIT)["y"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"w": None}, FeedError),
        ({"surplus": np.zeros(2)}, FeedError),
        ({"w": np.zeros(9)}, ShapeError),
        ({"t": np.zeros(ROWS - 1)}, ShapeError),
        ({"w": np.zeros(8, complex)}, DTypeError),
    ],
)
def test_wrong_feeds_are_refused_at_submission(client: Client, change: Feeds, error: type[GraphError]) -> None:
    feeds = {name: value for name, value in {**data(), **change}.items() if value is not None}
    (name,) = change
    known = len(client.jobs())
    with pytest.raises(error, match=name):
        client.submit(logistic(), feeds, carry=CARRY)
    assert len(client.jobs()) == known


@pytest.mark.parametrize(
    "options",
    [
        {"carry": {"nothing": "w_next"}},
        {"carry": {"w": "nothing"}},
        {"carry": {"w": "b_next"}},
        {"fetch": ["nothing"]},
        {"steps": 0},
        {"batch": ROWS + 1},
        {"backend": "other"},
    ],
)
def test_wrong_options_are_refused_at_submission(client: Client, options: Feeds) -> None:
    with pytest.raises(GraphError):
        client.submit(logistic(), data(), **options)


def test_a_job_takes_the_kernels_of_its_back_end(client: Client) -> None:
    """Compiled ones have other last bits, and the same ones again."""
    compiled, again = [train(client, steps=20, backend="llvm").result(WAIT) for _ in range(2)]
    assert bits(compiled) == bits(again)
    expected = oracle(data(), 20)
    for name, found in compiled.items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-10, atol=1e-12)


def test_fetch_selects_outputs_and_keeps_the_carried(client: Client) -> None:
    found = train(client, fetch=["loss"], carry={"w": "w_next"}, steps=2).result(WAIT)
    assert found.keys() == {"loss", "w_next"}


def test_cancel_ends_a_long_job(client: Client) -> None:
    job = train(client, steps=1_000_000)
    until(lambda: any(e["type"] == "step_done" for e in client.service.events(job.id)))
    assert job.status == "running"
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(WAIT)
    assert job.status == "cancelled"
    assert train(client, steps=1).result(WAIT)


def test_result_gives_up_after_its_timeout(client: Client) -> None:
    job = train(client, steps=1_000_000)
    with pytest.raises(TimeoutError, match=job.id):
        job.result(0.2)
    job.cancel()


def test_a_deadline_ends_a_job(client: Client) -> None:
    with pytest.raises(JobFailed, match="deadline"):
        train(client, steps=1_000_000, deadline=0.5).result(WAIT)


def test_a_job_is_found_again_after_a_restart(tmp_path: Path, reference: dict[str, bytes]) -> None:
    with connect(workers=0, directory=tmp_path) as first:
        job = train(first)
        assert bits(job.result(WAIT)) == reference
    with connect(workers=0, directory=tmp_path) as second:
        again = second.job(job.id)
        assert again.status == "succeeded"
        assert bits(again.result()) == reference
        assert [found.id for found in second.jobs()] == [job.id]


def test_an_unfinished_job_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    steps = 400
    with connect(workers=0, directory=tmp_path) as first:
        job = train(first, steps=steps, checkpoint_every=2)
        until(lambda: any(e["type"] == "checkpointed" for e in first.service.events(job.id)))
    with connect(workers=0, directory=tmp_path) as second:
        again = second.job(job.id)
        found = bits(again.result(WAIT))
        assert "resumed" in {event["type"] for event in again.events()}
        assert found == bits(train(second, steps=steps).result(WAIT))


def test_datasets_are_read_by_the_workers(tmp_path: Path, client: Client, reference: dict[str, bytes]) -> None:
    feeds = data()
    np.save(tmp_path / "x.npy", feeds["x"])
    np.savez_compressed(tmp_path / "t.npz", t=feeds["t"], other=np.zeros(3))
    feeds |= {"x": gi.dataset(tmp_path / "x.npy"), "t": gi.dataset(tmp_path / "t.npz", column="t")}
    job = client.submit(logistic(), feeds, carry=CARRY, steps=STEPS, chunk={"n": 97})
    assert bits(job.result(WAIT)) == reference


def test_unreadable_datasets_are_refused(tmp_path: Path, client: Client) -> None:
    (tmp_path / "broken.npy").write_bytes(b"not an array")
    for name in ("broken.npy", "missing.npy"):
        with pytest.raises(DatasetError, match=name):
            client.submit(logistic(), {**data(), "x": gi.dataset(tmp_path / name)})


def test_columns_of_different_length_are_refused(tmp_path: Path, client: Client) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((10, 8)), t=np.zeros(9))
    columns = {name: gi.dataset(tmp_path / "d.npz", column=name) for name in ("x", "t")}
    with pytest.raises(ShapeError, match="'t'"):
        client.submit(logistic(), {**data(), **columns})


def test_a_dataset_that_vanishes_fails_its_job_only(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", data()["x"])
    with connect(workers=0) as inline:
        blocker = train(inline, steps=1_000_000)
        job = inline.submit(logistic(), {**data(), "x": gi.dataset(tmp_path / "x.npy")})
        (tmp_path / "x.npy").unlink()
        blocker.cancel()
        with pytest.raises(JobFailed, match=r"x\.npy"):
            job.result(WAIT)
        assert train(inline, steps=1).result(WAIT)


def test_map_gives_one_result_for_each_feed(client: Client) -> None:
    x = gi.input("x", shape=(), dtype="float64")
    graph = gi.Graph(outputs={"y": x * x})
    found = client.map(graph, [{"x": 1.0}, {"x": 2.0}, {"x": 3.0}])
    assert [float(each["y"]) for each in found] == [1.0, 4.0, 9.0]


def test_progress_and_timeline(tmp_path: Path, client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    job = train(client, steps=3)
    job.progress()
    assert "3/3" in capsys.readouterr().err
    job.timeline(tmp_path / "trace.json")
    assert "step 2" in (tmp_path / "trace.json").read_text()


def test_check_finite_stops_the_job_at_the_node(client: Client) -> None:
    x = gi.input("x", shape=("n",))
    graph = gi.Graph({"out": gi.sum(gi.log(x))})
    feeds = {"x": np.array([1.0, 2.0, 0.0, 3.0])}
    assert client.submit(graph, feeds, chunk={"n": 2}).result(WAIT)["out"] == -np.inf
    with pytest.raises(
        JobFailed, match=r"`log` at \S*test_service.py:\d+ gives -inf at index \[0\], from finite inputs: "
    ):
        client.submit(graph, feeds, chunk={"n": 2}, check_finite=True).result(WAIT)
    last, _ = gi.scan(lambda s, v: (s + gi.sqrt(v), None), gi.constant(0.0), x)
    derivative = gi.Graph({"d": gi.grad(gi.square(last), [x])[0]})
    with pytest.raises(gi.NonFiniteError) as here:
        gi.evaluate(derivative, feeds, check_finite=True)
    with pytest.raises(JobFailed) as there:
        client.submit(derivative, feeds, cut=[], check_finite=True).result(WAIT)
    said = str(here.value).replace(f"{Path(__file__).parent}/", "")  # a submitted graph names files without folders
    first, place, step, *_ = said.split("\n")
    assert first.startswith("adjoint of `sqrt` at ")
    assert step == "  in step 2"
    assert "\n".join([first, place, step]) in str(there.value)
    huge = {"x": np.full(4, 1e308)}
    with pytest.raises(JobFailed, match="gives inf at .* from finite inputs: input 0"):  # where parts are joined
        client.submit(gi.Graph({"s": gi.sum(x)}), huge, chunk={"n": 1}, check_finite=True).result(WAIT)
    assert client.submit(graph, {"x": np.ones(3)}).result(WAIT)["out"] == 0.0
