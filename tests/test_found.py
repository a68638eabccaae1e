"""Equal work is done once: the second job has the result of the first, with the same bits, without running."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir.client import Client, Job, connect
from scheduler.job.spec import JobSpec
from scheduler.job.work import work_of
from tests.served import serving

WAIT = 90.0


@pytest.fixture(scope="module", params=["embedded", "http"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    directory = tmp_path_factory.mktemp("kept")
    if request.param == "embedded":
        with connect(workers=0, directory=directory) as found:
            yield found
    else:
        data = tmp_path_factory.getbasetemp()
        with serving(directory, "--workers", 0, "--allow-data", data) as served, connect(served.url) as found:
            yield found


def descend(client: Client, seed: int, **options: Any) -> Job:
    x, w = gi.input("x", ("n", 3)), gi.input("w", (3,))
    loss = gi.mean((x @ w - 1.0) ** 2)
    graph = gi.Graph({"loss": loss, "w_next": w - 0.1 * gi.grad(loss, [w])[0]})
    feeds = {"x": np.random.default_rng(seed).normal(size=(40, 3)), "w": np.zeros(3)}
    return client.submit(graph, feeds, **{"carry": {"w": "w_next"}, "steps": 5, **options})


def story(job: Job) -> list[str]:
    return [event["type"] for event in job.events()]


def bits(job: Job) -> dict[str, bytes]:
    return {name: np.asarray(value).tobytes() for name, value in job.result(WAIT).items()}


def test_the_same_graph_and_data_have_their_result_at_once(client: Client) -> None:
    first = descend(client, 1)
    expected = bits(first)
    again = descend(client, 1, name="again", retries=0, priority=2, checkpoint_every=2)
    assert again.id != first.id
    assert again.status == "succeeded"
    assert bits(again) == expected
    assert story(again) == ["found"]
    assert next(again.events())["job"] == first.id
    again.progress()


def test_other_work_runs(client: Client) -> None:
    bits(descend(client, 2))
    for other in (descend(client, 3), descend(client, 2, steps=6), descend(client, 2, fresh=True)):
        assert story(other)[-1] == "finished"
    large = descend(client, 2, chunk={"n": 7})
    assert story(large)[-1] == "finished"


def test_a_dataset_that_has_changed_is_other_work(client: Client, tmp_path: Path) -> None:
    x = gi.input("x", ("n",))
    graph = gi.Graph({"sum": gi.sum(x)})
    file = tmp_path / "x.npy"
    for rows, end in ((10, "finished"), (10, "found"), (11, "finished")):
        if end == "finished":
            np.save(file, np.arange(float(rows)))
        job = client.submit(graph, {"x": gi.dataset(file)})
        assert job.result(WAIT)["sum"] == sum(range(rows))
        assert story(job)[-1] == end


def test_results_that_are_gone_are_computed_again(tmp_path: Path) -> None:
    x = gi.input("x", ("n",))
    graph, value = gi.Graph({"y": x + 1.0}), np.arange(100_000.0)
    with connect(workers=0, directory=tmp_path) as kept:
        job = kept.submit(graph, {"x": value})
        job.result(WAIT)
        assert story(kept.submit(graph, {"x": value})) == ["found"]
        kept.service.values.drop(kept.service.store.job(job.id).job.result)
        again = kept.submit(graph, {"x": value})
        np.testing.assert_array_equal(again.result(WAIT)["y"], value + 1.0)
        assert story(again)[-1] == "finished"


def test_others_never_have_a_result_that_is_somebody_s(tmp_path: Path) -> None:
    with connect(workers=0, directory=tmp_path) as kept:
        x = gi.input("x", ("n",))
        graph, feeds = gi.Graph({"y": x + 1.0}), {"x": np.arange(5.0)}
        options = {"steps": 1, "retries": 3}
        ids = []
        for owner in ("ann", "bob", "ann"):
            ids.append(kept.service.submit(graph, feeds, options, owner=owner))
            kept.job(ids[-1]).result(WAIT)
        assert [story(kept.job(id))[-1] for id in ids] == ["finished", "finished", "found"]


def test_data_without_a_tag_may_change_unnoticed() -> None:
    def feed(tag: str) -> dict[str, Any]:
        file = {"url": "http://x/x.npy", "size": 8, "tag": tag, "rows": 1}
        snapshot = {"dtype": "float64", "shape": [1], "files": [file]}
        return {"x": {"kind": "dataset", "url": "http://x/x.npy", "snapshot": snapshot}}

    def work(tag: str, **more: Any) -> str | None:
        return work_of(JobSpec.model_validate({"graph": "a" * 64, "feeds": feed(tag), **more}))

    assert work("") is None
    assert work("etag 1") == work("etag 1", name="b", key="c", fresh=True, deadline=3.0)
    assert len({work("etag 1"), work("etag 2"), work("etag 1", steps=2), work("etag 1", reproducible=False)}) == 4


def test_a_temporary_service_keeps_nothing_to_find() -> None:
    with connect(workers=0) as client:
        assert [story(descend(client, 1))[-1] for _ in range(2)] == ["finished"] * 2
