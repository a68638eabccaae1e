"""`client.map`: many points as one batched job, with the values that each has alone."""

from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir import sweep as sweeps
from graphir.client import Client, connect
from graphir.errors import FeedError, GraphError, JobFailed, ShapeError
from scheduler.local import EmbeddedService

RNG = np.random.default_rng(8)


def model(width: int = 3) -> gi.Graph:
    """A loss and its gradient; rows without a size that is known beforehand."""
    x, w, c = gi.input("x", ("n", width)), gi.input("w", (width,)), gi.input("c", (), "float64")
    loss = gi.mean(gi.tanh(x @ w) ** 2) + c * gi.sum(w**2)
    return gi.Graph({"loss": loss, "dw": gi.grad(loss, [w])[0], "rows": gi.tanh(x) * c})


def points(count: int, rows: int = 5) -> list[dict[str, Any]]:
    x = RNG.normal(size=(rows, 3))
    return [{"x": x, "w": RNG.normal(size=3), "c": 0.1 * k} for k in range(count)]


def check(
    found: list[dict[str, Any]], graph: gi.Graph, given: list[dict[str, Any]], exact: tuple[str, ...] = ()
) -> None:
    assert len(found) == len(given)
    for out, feeds in zip(found, given, strict=True):
        expected = gi.evaluate(graph, feeds)
        assert out.keys() == expected.keys()
        for name, value in expected.items():
            assert isinstance(out[name], np.ndarray)
            assert (out[name].dtype, out[name].shape) == (value.dtype, value.shape)
            np.testing.assert_allclose(out[name], value, rtol=1e-12, atol=1e-14)
            assert name not in exact or out[name].tobytes() == np.asarray(value).tobytes()


@pytest.fixture(scope="module")
def client() -> Any:
    with connect(workers=0) as connected:
        yield connected


def test_points_are_one_job_with_the_values_of_each_alone(client: Client) -> None:
    graph, given = model(), points(50)
    found = client.map(graph, given)
    check(found, graph, given, exact=("rows",))
    assert len(found.jobs) == 1
    assert "50 points are one job" in found.notes[0]
    plan = found.jobs[0].plan()
    assert plan.sizes["point"] == 50
    assert plan.chunks > 1
    assert plan.graph.inputs["x"].type.rank == 2  # alike at all points, and so sent once


def test_any_workers_give_the_same_bits(local_ray: None, client: Client) -> None:
    graph, given = model(), points(40)
    here = client.map(graph, given)
    with connect(workers=2) as other:
        there = other.map(graph, given)
    for one, two in zip(here, there, strict=True):
        assert {name: value.tobytes() for name, value in one.items()} == {n: v.tobytes() for n, v in two.items()}


def test_few_points_with_many_rows_are_cut_along_their_rows(client: Client) -> None:
    graph, given = model(), points(3, rows=100_000)
    found = client.map(graph, given)
    check(found, graph, given)
    assert list(found.jobs[0].plan().borders) == ["n"]


def test_points_of_different_sizes_go_in_groups_and_come_back_in_order(client: Client) -> None:
    graph = model()
    given = [points(1, rows)[0] for rows in (4, 7, 4, 7, 4, 2)]
    found = client.map(graph, given)
    check(found, graph, given)
    assert len(found.jobs) == 3


def test_training_runs_are_batched_too(client: Client) -> None:
    """A sweep over rates: what is carried differs between points, though it begins alike."""
    x, y, w, rate = gi.input("x", ("n", 3)), gi.input("y", ("n",)), gi.input("w", (3,)), gi.input("rate", ())
    loss = gi.mean((x @ w - y) ** 2)
    graph = gi.Graph({"loss": loss, "w2": w - rate * gi.grad(loss, [w])[0]})
    shared = {"x": RNG.normal(size=(40, 3)), "y": RNG.normal(size=40), "w": np.zeros(3)}
    given = [{**shared, "rate": 0.02 * k} for k in range(8)]
    other = [{**each, "x": RNG.normal(size=(40, 3))} for each in given]
    batched: dict[str, Any] = {"batch": {"n": 16}, "epochs": 3, "shuffle": 5}
    for points_, more in ((given, {"steps": 12}), (other, batched), (given, batched)):
        together = client.map(graph, points_, carry={"w": "w2"}, **more)
        apart = client.map(graph, points_, carry={"w": "w2"}, batched=False, **more)
        assert (len(together.jobs), len(apart.jobs)) == (1, 8)
        for one, two in zip(together, apart, strict=True):
            np.testing.assert_allclose(one["w2"], two["w2"], rtol=1e-10)
            np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-10)
    assert len({out["w2"].tobytes() for out in together}) == 8


def test_random_numbers_and_branches_are_those_of_each_point(client: Client) -> None:
    key, x = gi.input("key", (2,), "uint64"), gi.input("x", ("n",))
    noisy = x + gi.random.normal(key, ("n",))
    chosen = gi.cond(gi.sum(x) > 0, lambda v: gi.sin(v), lambda v: v * 2.0, noisy)
    graph = gi.Graph({"y": chosen, "z": noisy})
    given = [{"key": np.array([k, 1], "uint64"), "x": RNG.normal(size=6)} for k in range(7)]
    found = client.map(graph, given)
    check(found, graph, given)


def test_equal_points_no_points_and_one_point(client: Client) -> None:
    graph, given = model(), points(1) * 4
    check(client.map(graph, given), graph, given)
    assert client.map(graph, []) == []
    check(client.map(graph, points(1)[:0] + given[:1]), graph, given[:1])


def test_memory_bounds_how_many_points_go_together(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, given = model(), points(20)
    one = 8 * (3 + 1) + 8 * (1 + 3 + 5 * 3)  # x is one array for all
    monkeypatch.setattr(sweeps, "MAX_BYTES", 6 * one + 7)
    found = client.map(graph, given)
    check(found, graph, given)
    assert [note.split(" points")[0] for note in found.notes] == ["6", "6", "6", "2"]
    assert len(found.jobs) == 4


def test_a_sweep_whose_steps_need_too_much_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    x, s = gi.input("x", (30,)), gi.input("s", ())
    graph = gi.Graph({"y": gi.sum(gi.sin(x[:, None] * x[None, :] * s))})
    given = [{"x": np.arange(30.0), "s": 0.01 * k} for k in range(64)]
    with connect(workers=0) as client:
        assert isinstance(client.service, EmbeddedService)
        monkeypatch.setattr(client.service, "memory_limit", 40_000)
        found = client.map(graph, given)
        check(found, graph, given)
        assert 1 < len(found.jobs) < 64
        assert "64 points are halved: " in found.notes[0]
        assert "at once, over the limit of" in found.notes[0]


def test_what_cannot_be_batched_is_a_job_each_and_says_why(client: Client, tmp_path: Any) -> None:
    x = gi.input("x", ("n",))
    graph = gi.Graph({"y": gi.sum(x)})
    given = []
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.arange(4.0) + number)
        given.append({"x": gi.dataset(tmp_path / f"{number}.npy")})
    found = client.map(graph, given)
    assert [float(out["y"]) for out in found] == [6.0, 10.0, 14.0]
    assert len(found.jobs) == 3


def test_a_dataset_that_all_points_share_is_read_once(client: Client, tmp_path: Any) -> None:
    graph, given = model(), points(6)
    np.save(tmp_path / "x.npy", given[0]["x"])
    found = client.map(graph, [{**point, "x": gi.dataset(tmp_path / "x.npy")} for point in given])
    check(found, graph, given)
    assert len(found.jobs) == 1


def test_chunk_and_cut_are_for_single_points(client: Client) -> None:
    graph, given = model(), points(3)
    for options in ({"chunk": {"n": 2}}, {"cut": []}):
        found = client.map(graph, given, **options)
        check(found, graph, given)
        assert len(found.jobs) == 3


def test_a_key_makes_a_sweep_idempotent(client: Client) -> None:
    graph, given = model(), points(4)
    first, again = client.map(graph, given, key="sweep"), client.map(graph, given, key="sweep")
    assert [job.id for job in first.jobs] == [job.id for job in again.jobs]
    mixed = [*given, points(1, rows=9)[0]]
    assert len(client.map(graph, mixed, key="mixed").jobs) == 2


@pytest.mark.parametrize(
    ("change", "error"),
    [({"w": None}, FeedError), ({"w": np.zeros(4)}, ShapeError), ({"more": 1.0}, FeedError), ({"c": "x"}, GraphError)],
)
def test_a_wrong_point_is_refused(client: Client, change: dict[str, Any], error: type[GraphError]) -> None:
    given = points(4)
    given[2] = {name: value for name, value in {**given[2], **change}.items() if value is not None}
    with pytest.raises(error):
        client.map(model(), given)


def test_a_point_that_fails_fails_the_sweep(client: Client) -> None:
    a = gi.input("a", (2, 2))
    graph = gi.Graph({"y": gi.linalg.inv(a)})
    good, bad = np.eye(2), np.zeros((2, 2))
    with pytest.raises(JobFailed, match="SingularMatrixError"):
        client.map(graph, [{"a": good * k} for k in (1.0, 2.0)] + [{"a": bad}])
