"""The profile of a run: every call once, its bytes and operations, as text and as a trace."""

import json

import numpy as np
import pytest

import graphir as gi
from graphir.cost import operations
from workers.executor import Executor
from workers.profile import footprint


def regression(n: int = 20_000) -> tuple[gi.Graph, dict[str, np.ndarray]]:
    x, y, w = gi.input("x", ("n", 5)), gi.input("y", ("n",)), gi.input("w", (5,))
    loss = gi.mean(gi.log1p(gi.exp(-y * (x @ w))))
    graph = gi.Graph({"loss": loss, "dw": gi.grad(loss, [w])[0]})
    r = np.random.default_rng(0)
    return graph, {"x": r.standard_normal((n, 5)), "y": np.sign(r.standard_normal(n)), "w": r.standard_normal(5)}


def test_every_operation_is_counted_once() -> None:
    graph, feeds = regression()
    profile = Executor(graph, threads=1).profile(feeds, runs=3)
    counted = sum(entry.operations for entry in profile.entries)
    hoisted = operations(graph, {"n": 20_000}) - counted  # what depends on sizes alone is done once, before
    assert 0 <= hoisted < 100
    assert any(entry.nodes > 1 and "fused" in entry.name for entry in profile.entries)
    assert all(entry.seconds > 0 for entry in profile.entries)


def test_bytes_of_a_product() -> None:
    x, w = gi.input("x", (300, 200), "float32"), gi.input("w", (200, 50), "float32")
    feeds = {"x": np.ones((300, 200), np.float32), "w": np.ones((200, 50), np.float32)}
    (entry,) = Executor(gi.Graph({"y": x @ w})).profile(feeds, runs=1).entries
    assert entry.bytes == 4 * (300 * 200 + 200 * 50 + 300 * 50)
    assert entry.operations == 2 * 300 * 200 * 50
    assert "test_profile.py" in entry.where


def test_views_move_nothing_and_broadcasts_count_once() -> None:
    x = gi.input("x", (40, 50))
    shown = Executor(gi.Graph({"y": gi.permute_dims(x, (1, 0))})).profile({"x": np.ones((40, 50))}, runs=1)
    assert [entry.bytes for entry in shown.entries] == [0]
    assert footprint(np.broadcast_to(np.ones(3), (1000, 3))) == 24
    assert footprint(np.ones((0, 3))) == 0


def test_the_text_has_the_longest_first_and_the_machine() -> None:
    graph, feeds = regression()
    profile = Executor(graph).profile(feeds, runs=2)
    head, columns, *lines = profile.to_text().splitlines()
    assert "GB/s read" in head
    assert "of limit" in columns
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times, reverse=True)
    assert sum(int(line.split()[2]) for line in lines) == len(profile.entries)
    assert "more lines" in profile.to_text(most=1)
    assert profile.roofline.read > 1e8
    assert min(profile.roofline.products.values()) > 1e8


def test_the_trace_is_one_thread_of_calls_that_do_not_overlap() -> None:
    graph, feeds = regression()
    trace = json.loads(Executor(graph).profile(feeds).to_chrome())
    calls = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert calls
    assert {"bytes", "operations", "GB/s", "where"} <= calls[0]["args"].keys()
    ends = [call["ts"] + call["dur"] for call in calls]
    assert all(end <= call["ts"] + 1e-3 for end, call in zip(ends, calls[1:], strict=False))


def test_a_scan_is_one_call_with_all_its_steps() -> None:
    u = gi.input("u", (50, 4))
    graph = gi.Graph({"s": gi.scan(lambda h, given: (gi.tanh(h + given),) * 2, gi.zeros((4,)), u)[1]})
    profile = Executor(graph).profile({"u": np.ones((50, 4))}, runs=1)
    assert sum(entry.operations for entry in profile.entries) == operations(graph)


def test_errors_are_those_of_a_call() -> None:
    graph, feeds = regression()
    with pytest.raises(gi.GraphError):
        Executor(graph).profile({"x": feeds["x"]})
