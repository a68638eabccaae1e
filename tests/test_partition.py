"""Cut evaluation equals uncut evaluation, whatever the chunk size; the combine tree never looks at the workers."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphir as gi
from scheduler.check import check_plan
from scheduler.driver.local import run_plan
from scheduler.partition.data import partition
from scheduler.pipeline import compile
from scheduler.plan import Plan
from workers.tree import chunk_range, join_range, join_roots

N = 11


def feeds_for(graph: gi.Graph) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    made = {}
    for name, node in graph.inputs.items():
        shape = node.type.bind({"n": N})
        made[name] = rng.integers(0, 3, shape) if node.type.dtype.kind == "i" else rng.standard_normal(shape)
    return made


def with_gradients(loss: gi.Expr, *weights: gi.Expr) -> gi.Graph:
    first = gi.grad(loss, weights)
    norm = sum((gi.sum(g * g) for g in first), gi.constant(0.0))
    second = gi.grad(norm, weights)
    return gi.Graph(
        {"loss": loss, **{f"g{k}": g for k, g in enumerate(first)}, **{f"h{k}": h for k, h in enumerate(second)}}
    )


def network(normalise: bool = False, over_rows: bool = False) -> gi.Graph:
    x, t = gi.input("x", ("n", 4)), gi.input("t", ("n",), "int64")
    w, v = gi.input("w", (4, 5)), gi.input("v", (5, 3))
    hidden = gi.tanh(x @ w)
    if normalise:
        hidden = (hidden - gi.mean(hidden, axis=0)) / gi.sqrt(gi.var(hidden, axis=0) + 1e-3)
    logits = hidden @ v
    if over_rows:
        logits = logits + gi.softmax(logits, axis=0)
    picked = gi.take_along_axis(logits, t[:, None], axis=1)[:, 0]
    return with_gradients(gi.mean(gi.logsumexp(logits, axis=1) - picked), w, v)


def oddities() -> dict[str, gi.Graph]:
    x, w = gi.input("x", ("n", 4)), gi.input("w", (4, 4))
    y = gi.exp(x @ w * 0.1)
    table = gi.input("table", (3, 4))
    t = gi.input("t", ("n",), "int64")
    looked = gi.take(table, t, axis=0)
    return {
        "gram": gi.Graph({"out": gi.sum(x @ x.T, axis=1), "whole": x @ x.T}),
        "position": gi.Graph({"out": x * gi.arange("n", dtype="float64")[:, None], "n": gi.size("n") + 0}),
        "merged": gi.Graph({"out": gi.reshape(y, (-1,)) * 2.0}),
        "gathered": gi.Graph({"out": gi.argmax(y, axis=0), "flip": gi.flip(y, axis=0) + y}),
        "extremes": gi.Graph(
            {"max": gi.max(y), "min": gi.min(y, axis=0), "lse": gi.logsumexp(y), "any": gi.any(y > 1.5)}
        ),
        "embedding": with_gradients(gi.mean(gi.sum(looked * y, axis=1)), table, w),
        "tied": with_gradients(gi.mean(gi.tanh(gi.tanh(x @ w) @ w)), w),
        "whole only": gi.Graph({"out": w @ w, "one": gi.ones(("n", 2)), "x": x}),
    }


GRAPHS = {
    "network": network(),
    "batch normalisation": network(normalise=True),
    "softmax over n": network(over_rows=True),
    "both": network(normalise=True, over_rows=True),
    **oddities(),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 7, 10, 11, 50])
def test_cut_equals_uncut(name: str, chunk: int) -> None:
    graph = GRAPHS[name]
    feeds = feeds_for(graph)
    whole = gi.evaluate(graph, feeds, sizes={"n": N})
    plan = partition(graph, {"n": N}, "n", chunk)
    assert plan.chunks == math.ceil(N / chunk)
    cut = run_plan(plan, feeds)
    assert list(cut) == list(whole)
    for key, expected in whole.items():
        assert cut[key].dtype == expected.dtype
        np.testing.assert_allclose(cut[key], expected, rtol=1e-10, atol=1e-12, err_msg=key)


def test_batch_normalisation_takes_more_stages_than_a_plain_network() -> None:
    stages = [partition(GRAPHS[k], {"n": N}, "n", 3).stages for k in ("network", "batch normalisation", "both")]
    assert stages[0] < stages[1] < stages[2]


def test_what_is_gathered_is_said_with_its_line() -> None:
    notes = partition(GRAPHS["gathered"], {"n": N}, "n", 3).notes
    assert any("argmax" in note and "test_partition.py" in note for note in notes)


def test_the_demo_step_moves_only_sums() -> None:
    plan = partition(GRAPHS["network"], {"n": N}, "n", 3)
    rows = [v.id for v in plan.values.values() if v.layout == "whole" and "n" in v.type.shape]
    assert rows == []


@pytest.mark.parametrize(
    ("sizes", "cut", "chunk", "said"),
    [({"n": 0}, "n", 1, "size 0"), ({"n": 3}, "n", 0, "at least one"), ({"n": 3}, "m", 1, "'m'")],
)
def test_impossible_plans(sizes: dict[str, int], cut: str, chunk: int, said: str) -> None:
    with pytest.raises(gi.PlanError, match=said):
        partition(GRAPHS["network"], sizes, cut, chunk)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.integers(1, 40))
def test_the_tree_is_the_same_for_any_workers(leaves: list[float], workers: int) -> None:
    total = len(leaves)
    parts = [chunk_range(k, workers, total) for k in range(workers)]
    assert [k for start, stop in parts for k in range(start, stop)] == list(range(total))

    def join(a: str, b: str) -> str:
        return f"({a}+{b})"

    names = {k: str(k) for k in range(total)}
    alone = join_roots(total, join_range(0, total, total, names, join), join)
    roots: dict[tuple[int, int], str] = {}
    for start, stop in parts:
        roots |= join_range(start, stop, total, names, join)
    assert join_roots(total, roots, join) == alone


def _broken(plan: Plan, **changes: Any) -> Plan:
    return dataclasses.replace(plan, **changes)


def test_broken_plans_are_refused_by_the_rule_they_break() -> None:
    plan = check_plan(partition(GRAPHS["batch normalisation"], {"n": N}, "n", 3))
    steps = plan.steps
    cases = [
        (_broken(plan, steps=steps[1:]), "before it is made"),
        (_broken(plan, steps=(*steps, steps[-1])), "second time"),
        (_broken(plan, steps=steps[:-1]), "no step makes|before it is made"),
        (_broken(plan, borders=(0, 3, 3, 11)), "must grow"),
        (_broken(plan, steps=tuple(dataclasses.replace(step, reads=()) for step in steps)), "does not read"),
        (_broken(plan, steps=(dataclasses.replace(steps[0], writes=()), *steps[1:])), "does not write"),
        (_broken(plan, values={}), "no type"),
    ]
    for broken, said in cases:
        with pytest.raises(gi.PlanError, match=said):
            check_plan(broken)


def test_a_plan_over_the_memory_limit_is_refused_with_advice() -> None:
    sizes = {"n": 10**6}
    with pytest.raises(gi.LimitError, match=r"smaller chunks[\s\S]*test_partition.py"):
        compile(GRAPHS["network"], sizes, chunk={"n": 10**6}, memory_limit=10**7)
    assert compile(GRAPHS["network"], sizes, chunk={"n": 1000}, memory_limit=10**7).chunks == 1000
