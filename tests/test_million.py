"""A million operations: a chain and a wide random graph, through everything that walks graphs."""

import gc
import random

import pytest

import graphir as gi
from scheduler.pipeline import compile

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
COUNT = 1_000_000


def chain() -> tuple[gi.Expr, gi.Expr]:
    start = gi.input("start")
    value = start
    for _ in range(COUNT):
        value = gi.sin(value)
    return start, value


def wide() -> tuple[gi.Expr, gi.Expr]:
    """Every node takes two random earlier ones; what nobody used is added up in the end."""
    rng = random.Random(0)
    start = gi.input("start")
    nodes = [start, start * 0.5]
    used = [True, False]
    while len(nodes) < COUNT * 9 // 10:
        a, b = rng.randrange(len(nodes)), len(nodes) - 1 - rng.randrange(min(len(nodes), 1000))
        used[a] = used[b] = True
        nodes.append(nodes[a] + nodes[b] if rng.random() < 0.5 else nodes[a] * nodes[b])
        used.append(False)
    ends = [node for node, taken in zip(nodes, used, strict=True) if not taken]
    total = ends[0]
    for node in ends[1:]:
        total = total + node
    return start, total


@pytest.mark.parametrize("make", [chain, wide])
def test_a_million_operations(make: object) -> None:
    start, value = make()  # type: ignore[operator]
    (gradient,) = gi.grad(value, [start])
    before = gi.Graph({"value": value})
    graph = before.append({"gradient": gradient})
    assert len(before) > COUNT * 0.6
    assert len(graph) > 2 * len(before) * 0.8
    assert graph.nodes[: len(before.nodes)] == before.nodes
    assert gi.verify(graph) is graph
    assert gi.load(gi.dump(graph)) == graph
    assert graph.to_text().count("\n") == len(graph) + 3
    plan = compile(before, {})
    assert len(plan.steps) > 1 or "is not divided: " in plan.to_text()
    assert sum(len(step.program) for step in plan.steps) >= len(before)
    del graph, before, gradient, value, start
    gc.collect()  # freeing must not recurse either
