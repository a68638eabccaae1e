"""Lanes: what workers did comes out as it was told, in any process, bounded, and beside the steps in a trace."""

import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphir as gi
from graphir.client import Job, connect
from graphir.lanes import MOST, Spans
from graphir.story import Story
from graphir.timeline import chrome_trace
from scheduler.driver.lanes import PARTS, Lanes
from scheduler.job.events import Worked
from scheduler.pipeline import compile
from tests.test_service import WAIT, logistic
from workers.activity import Activity, Sign

SVG = "{http://www.w3.org/2000/svg}"


def worked(end: float, seconds: float, busy: float, waited: float = 0.0) -> dict[str, Any]:
    lane = {"worker": "worker-0", "steps": [[1, "map 0", busy]], "waited": waited}
    return {"type": "worked", "time": end, "seconds": seconds, "lanes": [lane], "seq": 1}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lanes_are_differences_of_signs_and_begin_anew_with_another_worker() -> None:
    clock = Clock()
    plan = compile(logistic(), {"n": 10}, chunk={"n": 5})
    lanes = Lanes(plan, clock)
    number = next(k for k, step in enumerate(plan.steps) if step.kind == "map")
    program = plan.steps[number].program.digest
    told = []
    for now, spent, waited in ((1.0, (4, 0.5), 0.25), (2.0, (9, 1.25), 0.25), (3.0, (2, 0.125), 0.5)):
        clock.now = now
        lanes.take(0, Sign(("between", None, ()), 0.0, {program: spent}, 0, 0.0, waited))
        (event,) = lanes.news()
        assert isinstance(event, Worked)
        told.append((event.seconds, event.lanes[0].steps, event.lanes[0].waited))
    name = f"map {plan.steps[number].stage}"
    assert told == [
        (1.0, ((number, name, 0.5),), 0.25),
        (1.0, ((number, name, 0.75),), 0.0),
        (1.0, ((number, name, 0.125),), 0.5),
    ]
    assert lanes.news() == []  # nothing new


def test_the_longer_a_job_runs_the_more_seldom_it_is_told() -> None:
    clock = Clock()
    lanes = Lanes(compile(logistic(), {"n": 10}), clock)
    count = 0
    for _ in range(200_000):
        clock.now += 0.25
        lanes.take(0, Sign(("between", None, ()), 0.0, {}, 0, 0.0))
        count += len(lanes.news())
    assert PARTS < count < 5 * PARTS * np.log(clock.now)


def test_an_activity_counts_its_waiting() -> None:
    clock = Clock()
    activity = Activity(clock)
    for seconds, what in ((1.0, "computes"), (2.0, "waits"), (4.0, "waits")):
        activity.begin(what, "p" if what == "computes" else 1)
        clock.now += seconds
        activity.end()
    sign = activity.sign(0)
    assert (sign.waited, sign.spent) == (6.0, {"p": (1, 1.0)})


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0, 1)), min_size=1, max_size=800))
def test_spans_are_bounded_and_keep_all_that_was_done(given_: list[tuple[float, float]]) -> None:
    spans, now, total = Spans(), 100.0, 0.0
    for seconds, share in given_:
        now, total = now + seconds, total + seconds * share
        spans.add(worked(now, seconds, seconds * share, 0.5 * seconds * (1 - share)))
    assert 1 <= len(spans) <= MOST
    if total:
        assert spans.shares() == {1: pytest.approx(1.0)}
    root = ET.fromstring(spans.svg())
    lane = next(r for r in root.iter(f"{SVG}rect") if r.get("class") == "lane")
    left, right = float(lane.get("x", "0")), float(lane.get("x", "0")) + float(lane.get("width", "0"))
    bars = [g.find(f"{SVG}rect") for g in root.iter(f"{SVG}g")]
    for bar in bars:
        if bar is not None:
            assert left - 0.5 <= float(bar.get("x", "nan")) <= right + 0.5
    assert len(bars) == len(spans)


def test_a_trace_has_a_thread_for_each_worker() -> None:
    events = [
        {"type": "started", "time": 0.0, "seq": 1},
        worked(2.0, 1.0, 0.5, 0.25),
        {"type": "finished", "time": 3.0, "seq": 3},
    ]
    trace = chrome_trace(events)["traceEvents"]
    (span,) = [each for each in trace if each.get("cat") == "worker"]
    assert (span["ts"], span["dur"], span["args"]) == (1e6, 1e6, {"map 0": 0.5, "waits": 0.25})
    assert [each["args"]["name"] for each in trace if each["ph"] == "M"] == ["worker-0"]
    (whole,) = [each for each in trace if each.get("cat") == "job"]
    assert (whole["ts"], whole["dur"]) == (0.0, 3e6)


def slow() -> gi.Graph:
    x, w = gi.input("x", ("n", 400)), gi.input("w", (400, 400))
    return gi.Graph({"w_next": w * 0.5 + 1e-9 * (gi.matrix_transpose(x) @ (x @ w)), "size": gi.sum(w)})


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("workers", [0, 2])
def test_real_workers_tell_what_they_do(workers: int) -> None:
    with connect(workers=workers) as client:
        x = np.random.default_rng(0).normal(size=(2000, 400))
        job: Job = client.submit(
            slow(), {"x": x, "w": np.eye(400)}, carry={"w": "w_next"}, steps=200_000, chunk={"n": 500}
        )
        story, lanes = Story(), set()
        for event in job.events():
            story.take([event])
            if event["type"] == "worked":
                lanes |= {lane["worker"] for lane in event["lanes"]}
                busy = [sum(s for *_, s in lane["steps"]) + lane["waited"] for lane in event["lanes"]]
                if len(lanes) == max(1, workers) and max(busy) > 0:
                    break
        job.cancel()
        assert lanes == {f"worker-{rank}" for rank in range(max(1, workers))}
        assert sum(story.spans.shares().values()) == pytest.approx(1.0)
        assert "computed" in story.lanes()
        with pytest.raises(gi.JobCancelled):
            job.result(WAIT)
