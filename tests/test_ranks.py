"""Ranks that exchange values among themselves compute what one computes alone, to the last bit."""

import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.partition.plan import Plan
from scheduler.driver.local import run_plan
from scheduler.driver.pool import put_together, wanted
from scheduler.pipeline import compile
from scheduler.place import place, ranks_for
from tests.test_partition import GRAPHS, N, feeds_for
from workers import blas
from workers.iteration import Kept
from workers.mesh import SHARED_BYTES, Mesh, PeerLost
from workers.route import Route
from workers.runner import Runner, Stopped
from workers.work import EVERYWHERE, Work

RNG = np.random.default_rng(12)


class Ranks:
    """Runners of one job on threads, each with a mesh of its own, over real sockets."""

    def __init__(self, plan: Plan, count: int, carry: Mapping[str, str], *, apart: bool = False) -> None:
        self.plan = plan
        self.work: Work = place(plan, count, carry, wanted(plan, carry, list(plan.graph.outputs)))
        self.meshes = [Mesh() for _ in range(count)]
        hosts = [f"host {k}" if apart else mesh.address.host for k, mesh in enumerate(self.meshes)]
        for mesh, host in zip(self.meshes, hosts, strict=True):
            mesh.address = replace(mesh.address, host=host)
        self.addresses = tuple(mesh.address for mesh in self.meshes)
        self.programs = {step.program.digest: step.program for step in plan.steps}
        self.runners = [self.runner(rank) for rank in range(count)]
        self.ticket = 0

    def runner(self, rank: int) -> Runner:
        return Runner(self.work, self.programs, rank, self.addresses, self.meshes[rank])

    def feed(self, feeds: Mapping[str, Any], carry: Mapping[str, str]) -> None:
        for runner in self.runners:
            for name in feeds.keys() - carry.keys():
                runner.hold(name, np.asarray(feeds[name]), self.plan.graph.inputs[name].type.dtype.name)
            runner.restore(0, {name: np.asarray(feeds[name]) for name in carry})

    def each(self, work: Callable[[Runner], Any]) -> list[Any]:
        with ThreadPoolExecutor(len(self.runners)) as threads:
            return list(threads.map(work, self.runners))

    def run(self, step: int, count: int) -> list[dict[str, float]]:
        self.ticket += 1
        for mesh in self.meshes:
            mesh.begin(self.ticket)
        with blas.threads(1):  # else the first rank to end sets the number back for all
            numbers: list[list[dict[str, float]]] = self.each(lambda runner: runner.run(self.ticket, step, count))
        return numbers[0]

    def outputs(self) -> dict[str, bytes]:
        parts: Sequence[Mapping[str, Kept]] = [runner.outputs() for runner in self.runners]
        outputs = self.plan.outputs
        return {name: put_together(self.plan, value, parts).tobytes() for name, value in outputs.items()}

    def close(self) -> None:
        for mesh in self.meshes:
            mesh.close()


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(("chunk", "count"), [(1, 2), (2, 3), (3, 2), (4, 7), (11, 2)])
def test_any_number_of_ranks_gives_the_bits_of_one_process(name: str, chunk: int, count: int) -> None:
    graph, feeds = GRAPHS[name], feeds_for(GRAPHS[name])
    plan = compile(graph, {"n": N}, cut=["n"], chunk={"n": chunk})
    ranks = Ranks(plan, count, {})
    try:
        ranks.feed(feeds, {})
        ranks.run(0, 1)
        expected = {output: value.tobytes() for output, value in run_plan(plan, feeds).items()}
        assert ranks.outputs() == expected
    finally:
        ranks.close()


def momentum(width: int) -> tuple[gi.Graph, dict[str, str], dict[str, Any]]:
    """Descent with a state for each row beside the weights, and one that is not differentiated."""
    x, y, w = gi.input("x", ("n", width)), gi.input("y", ("n",)), gi.input("w", (width,))
    rows, seen = gi.input("rows", ("n",)), gi.input("seen")
    error = x @ w - y + 0.1 * rows
    loss = gi.mean(error**2)
    (dw,) = gi.grad(loss, [w])
    outputs = {"loss": loss, "w2": w - 0.1 * dw, "rows2": rows * 0.5 + error, "seen2": seen + gi.size("n")}
    feeds = {"x": RNG.normal(size=(29, width)), "y": RNG.normal(size=29), "w": np.zeros(width)}
    return (
        gi.Graph(outputs),
        {"w": "w2", "rows": "rows2", "seen": "seen2"},
        {**feeds, "rows": np.zeros(29), "seen": 0.0},
    )


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("width", [3, SHARED_BYTES // 4])
@pytest.mark.parametrize("count", [1, 2, 3, 6, 11])
def test_iterations_go_on_by_themselves(count: int, width: int, apart: bool) -> None:
    graph, carry, feeds = momentum(width)
    plan = compile(graph, {"n": 29}, chunk={"n": 4})
    now, losses = dict(feeds), []
    for _ in range(6):
        out = run_plan(plan, now)
        losses.append(float(out["loss"]))
        now |= {name: out[output] for name, output in carry.items()}
    ranks = Ranks(plan, min(count, ranks_for(plan, count)), carry, apart=apart)
    try:
        ranks.feed(feeds, carry)
        numbers = ranks.run(0, 1) + ranks.run(1, 5)
        assert [float(each["loss"]) for each in numbers] == losses
        assert ranks.outputs() == {name: value.tobytes() for name, value in out.items()}
        assert ranks.run(1, 5) == numbers[1:]  # the values before it are still here
    finally:
        ranks.close()


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_sums_are_joined_along_one_tree_whoever_joins(chunks: int, count: int, everywhere: bool) -> None:
    x = gi.input("x", ("n",), "float32")
    plan = compile(gi.Graph({"s": gi.sum(x), "m": gi.max(x)}), {"n": chunks}, chunk={"n": 1})
    feeds = {"x": RNG.normal(size=chunks).astype("float32")}
    ranks = Ranks(plan, count, {})
    steps = tuple(replace(s, at=EVERYWHERE if everywhere and s.kind != "map" else 0) for s in ranks.work.steps)
    ranks.work = replace(ranks.work, steps=steps)
    ranks.runners = [ranks.runner(rank) for rank in range(count)]
    try:
        ranks.feed(feeds, {})
        ranks.run(0, 1)
        assert ranks.outputs() == {name: value.tobytes() for name, value in run_plan(plan, feeds).items()}
    finally:
        ranks.close()


@given(st.integers(1, 60), st.integers(1, 40))
def test_a_value_reaches_each_of_its_readers_once(chunks: int, count: int) -> None:
    x, w = gi.input("x", ("n",)), gi.input("w")
    loss = gi.sum((x - w) ** 2)
    plan = compile(gi.Graph({"next": w - gi.grad(loss, [w])[0]}), {"n": 60}, chunk={"n": -(-60 // chunks)})
    route = Route(place(plan, count, {"w": "next"}, ["next"]), count)
    for value, readers in route.wholes.items():
        if value in route.makers and route.work.steps[route.makers[value]].at != EVERYWHERE:
            reached = [to for rank in range(count) for to in route.receivers(value, rank)]
            assert sorted([*reached, route.work.steps[route.makers[value]].at]) == sorted(
                readers | {route.work.steps[route.makers[value]].at}
            )
            assert all(rank in route.receivers(value, route.giver(value, rank)) for rank in reached)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("size", [0, 1, 1000, 3_000_000])
def test_arrays_arrive_as_they_were_sent(size: int, apart: bool) -> None:
    left, right = Mesh(), Mesh()
    address = replace(right.address, host="elsewhere") if apart else right.address
    sent = [RNG.normal(size=(size, 1)).astype(dtype) for dtype in ("float64", "float32", "int16", "bool")]

    def write() -> None:
        for round_ in range(3):
            for number, array in enumerate(sent):
                left.send(address, (1, round_, number), array)
        left.drain(lambda: False)

    try:
        writer = threading.Thread(target=write)
        writer.start()
        for round_ in range(3):
            for number, array in enumerate(sent):
                found = right.receive(left.address, (1, round_, number), lambda: False)
                assert found is not None
                assert found.dtype == array.dtype
                np.testing.assert_array_equal(found, array)
        writer.join()
    finally:
        left.close()
        right.close()


def test_shared_buffers_are_used_again_and_nothing_is_left() -> None:
    left, right = Mesh(), Mesh()
    before = len(os.listdir("/proc/self/fd"))
    array = np.ones(SHARED_BYTES)
    for turn in range(50):
        left.send(right.address, (1, turn), array)
        left.flush()
        assert right.receive(left.address, (1, turn), lambda: False) is not None
        right.flush()
        left.flush()
    assert len(os.listdir("/proc/self/fd")) - before <= 6
    left.close()
    right.close()


def test_a_stranger_is_not_heard() -> None:
    mesh = Mesh()
    try:
        for message in (b"", b"\0" * 12, b"\xff" * 4096, b"\x02\0\0\0\0\0\0\0\0\0\0\0{}", b"GET / HTTP/1.1\r\n\r\n"):
            with socket.create_connection((mesh.address.ip, mesh.address.port)) as stranger:
                stranger.sendall(message)
                stranger.shutdown(socket.SHUT_WR)
                for _ in range(3):
                    mesh.flush()
                with suppress(ConnectionResetError):
                    assert stranger.recv(10) == b""
        friend = Mesh()
        wrong = replace(mesh.address, key=b"guessed")
        friend.send(wrong, (1, "x"), np.ones(3))
        friend.drain(lambda: False)
        asked = iter(range(5))
        assert mesh.receive(friend.address, (1, "x"), lambda: next(asked, None) is None) is None
        friend.close()
    finally:
        mesh.close()


def test_a_peer_that_is_gone_is_told() -> None:
    left, right = Mesh(), Mesh()
    left.send(right.address, (1, "a"), np.ones(3))
    left.flush()
    assert right.receive(left.address, (1, "a"), lambda: False) is not None
    left.close()
    with pytest.raises(PeerLost, match="closed its connection"):
        right.receive(left.address, (1, "b"), lambda: False)
    with pytest.raises(PeerLost):
        right.send(left.address, (1, "b"), np.ones(3))
    right.close()


def test_a_rank_that_waits_is_stopped() -> None:
    graph, carry, feeds = momentum(3)
    ranks = Ranks(compile(graph, {"n": 29}, chunk={"n": 4}), 2, carry)
    try:
        ranks.feed(feeds, carry)
        asked = iter(range(40))
        ranks.runners[0].stopped = lambda: next(asked, None) is None
        with pytest.raises(Stopped):
            ranks.runners[0].run(1, 0, 1)  # rank 1 never runs
    finally:
        ranks.close()
