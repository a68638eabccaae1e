"""Cut evaluation equals uncut evaluation, whatever the chunk size; the combine tree never looks at the workers."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphir as gi
from graphir.partition.data import partition
from graphir.partition.plan import Along, Plan, Read, Step
from scheduler.check import check_plan
from scheduler.driver.local import run_plan
from scheduler.pipeline import compile
from workers.tree import Tree, chunk_owner, chunk_range, joined, subtrees

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


def corners() -> dict[str, gi.Graph]:
    x, z, t = gi.input("x", ("n", 4)), gi.input("z", ("8*n",)), gi.arange("n", dtype="float64") * 0.01
    y = gi.flip(gi.exp(x), axis=0)
    eights = gi.broadcast_to(gi.arange(8, dtype="float64")[:, None], (8, "n"))
    square = gi.input("square", ("n", "n"))
    clashing = {name: gi.input(name, ("n", 4)) for name in ("x.whole", "%1", "%3.whole", "x[0]")}
    return {
        "partial inside": gi.Graph({"out": gi.einsum("ni,ij,nj->", x, x.T @ x, x)}),
        "flat gram": gi.Graph({"out": gi.reshape(x @ x.T, (-1,)) * 2.0}),
        "rows of eight": gi.Graph({"out": gi.reshape(z, ("n", 8)) * 2.0, "across": gi.reshape(z, (8, "n")) * 2.0}),
        "leading eight": gi.Graph({"out": z + gi.reshape(eights, ("8*n",))}),
        "centred": gi.Graph({"sum": x - gi.sum(x, axis=0), "mean": x - gi.mean(x, axis=0)}),
        "both axes": gi.Graph({"a": square @ x, "b": square.T @ x, "c": gi.sum(square, axis=0), "d": square}),
        "twice the rows": gi.Graph({"out": gi.sum((x @ x.T) * gi.exp(x @ x.T).T, axis=0), "all": (x @ x.T) @ x}),
        "one row more": gi.Graph({"out": gi.input("more", ("n + 1",))[1:] * x[:, 0] + gi.sum(y) * t}),
        "dear and whole": gi.Graph({"out": x @ gi.exp(gi.tanh(y)).T, "slice": gi.exp(gi.tanh(y)) * x}),
        "names": gi.Graph({"y": y + x, "gram": x @ x.T, **{name: v * y for name, v in clashing.items()}}),
        "sums": gi.Graph({"all": gi.sum(x), "minus": -gi.sum(x, axis=0) + gi.sum(x * x, axis=0), "in": x}),
    }


GRAPHS = {
    "network": network(),
    "batch normalisation": network(normalise=True),
    "softmax over n": network(over_rows=True),
    "both": network(normalise=True, over_rows=True),
    **oddities(),
    **corners(),
}


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 7, 10, 11, 50])
def test_cut_equals_uncut(name: str, chunk: int) -> None:
    graph = GRAPHS[name]
    feeds = feeds_for(graph)
    whole = gi.evaluate(graph, feeds, sizes={"n": N})
    plan = check_plan(partition(graph, {"n": N}, "n", chunk))
    assert plan.chunks == math.ceil(N / chunk)
    cut = run_plan(plan, feeds)
    assert list(cut) == list(whole)
    for key, expected in whole.items():
        assert cut[key].dtype == expected.dtype
        np.testing.assert_allclose(cut[key], expected, rtol=1e-10, atol=1e-12, err_msg=key)


@given(st.sampled_from(sorted(GRAPHS)), st.integers(1, N))
def test_any_chunk_size_has_the_outputs_of_the_simplified_graph(name: str, chunk: int) -> None:
    feeds, whole = feeds_for(GRAPHS[name]), gi.evaluate(GRAPHS[name], feeds_for(GRAPHS[name]), sizes={"n": N})
    cut = run_plan(compile(GRAPHS[name], {"n": N}, chunk={"n": chunk}), feeds)
    for key, expected in whole.items():
        np.testing.assert_allclose(cut[key], expected, rtol=1e-10, atol=1e-12, err_msg=key)


@pytest.mark.parametrize("name", GRAPHS)
def test_an_uncut_plan_is_one_step_with_the_same_bits(name: str) -> None:
    plan = compile(GRAPHS[name], {"n": N}, cut=[])
    assert [step.kind for step in plan.steps] == ["single"]
    feeds = feeds_for(GRAPHS[name])
    whole = gi.evaluate(GRAPHS[name], feeds, sizes={"n": N})
    assert all(np.array_equal(value, whole[key]) for key, value in run_plan(plan, feeds).items())


@pytest.mark.parametrize("twice", [False, True])
def test_long_and_shared_creations_are_cloned_in_linear_time(twice: bool) -> None:
    t = gi.arange("n", dtype="float64") * 0.01
    for _ in range(3000):
        t = t * t + t * 0.5 if twice else gi.sin(t)
    graph = gi.Graph({"out": gi.input("x", ("n", 2)) * t[:, None]})
    plan = check_plan(partition(graph, {"n": N}, "n", 4))
    feeds = feeds_for(graph)
    np.testing.assert_allclose(run_plan(plan, feeds)["out"], gi.evaluate(graph, feeds)["out"], rtol=1e-12)
    assert len(plan.steps) == 1
    assert len(plan.steps[0].program) <= len(graph)


def test_no_chunk_holds_a_summand_of_the_whole_dimension() -> None:
    plan = partition(GRAPHS["centred"], {"n": N}, "n", 3)
    partial = [value for value in plan.values.values() if value.layout == "partial"]
    assert partial
    assert all("n" not in value.type.shape for value in partial)


def test_what_is_dear_and_needed_whole_is_made_once() -> None:
    plan = partition(GRAPHS["dear and whole"], {"n": N}, "n", 3)
    tanhs = [step.kind for step in plan.steps for node in step.program.nodes if node.op.name == "tanh"]
    assert "single" in tanhs
    assert all(
        "n.local" in node.type.shape
        for step in plan.steps
        if step.kind == "map"
        for node in step.program.nodes
        if node.op.name == "tanh"
    )


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
    [
        ({"n": 0}, "n", 1, "size 0"),
        ({"n": 3}, "n", 0, "at least one"),
        ({"n": 3}, "m", 1, "'m'"),
        ({}, "n", 1, "not given"),
    ],
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

    alone = joined(total, {(0, k): str(k) for k in range(total)}, join)
    roots: dict[tuple[int, int], str] = {}
    for worker, (start, stop) in enumerate(parts):
        tree: Tree[str] = Tree(total, join)
        for k in range(start, stop):
            tree.add((0, k), str(k))
        assert sorted(tree.parts) == sorted(subtrees(start, stop, total))
        assert all(chunk_owner(k, workers, total) == worker for k in range(start, stop))
        roots |= tree.parts
    assert joined(total, roots, join) == alone


Broken = dict[str, tuple[Plan, str]]
change = dataclasses.replace


def with_step(plan: Plan, number: int, **changes: object) -> Plan:
    """The plan with another step in this place."""
    steps = list(plan.steps)
    steps[number] = change(steps[number], **changes)  # type: ignore[arg-type]  # any field
    return change(plan, steps=tuple(steps))


def with_blocks(plan: Plan, value: str, *blocks: Along) -> Plan:
    """The plan in which a value has other blocks."""
    return change(plan, values={**plan.values, value: change(plan.values[value], blocks=blocks)})


def broken(plan: Plan) -> Broken:
    """Plans with one rule broken each, and what is said."""
    at = next(number for number, step in enumerate(plan.steps) if step.kind == "map")
    place = next(number for number, step in enumerate(plan.steps) if step.kind == "combine")
    return {**broken_whole(plan, at), **broken_steps(plan, at, place), **broken_values(plan, plan.steps[place])}


def broken_whole(plan: Plan, at: int) -> Broken:
    """Borders, the order of steps and the outputs."""
    before, step, after = plan.steps[:at], plan.steps[at], plan.steps[at + 1 :]
    return {
        "short": (change(plan, borders={"n": plan.borders["n"][:-1]}), "do not go from 0 to 11"),
        "empty chunk": (change(plan, borders={"n": (0, 4, 4, 11)}), "do not increase"),
        "backwards": (change(plan, steps=plan.steps[::-1]), "not ordered"),
        "missing step": (change(plan, steps=before + after), "read before it is written"),
        "twice": (change(plan, steps=(*before, step, step, *after)), "written more than once"),
        "output": (change(plan, outputs={**plan.outputs, "loss": "nothing"}), "not made"),
        "no output": (change(plan, outputs={}), "not those of the graph"),
    }


def broken_steps(plan: Plan, at: int, place: int) -> Broken:
    """A map step and a combine step."""
    first, combine = plan.steps[at], plan.steps[place]
    sliced = tuple(Read(r.input, r.value, (("n", 0),)) for r in first.reads)
    turned = {"program": gi.Graph(combine.program.outputs), "reads": combine.reads[::-1]}
    return {
        "no reads": (with_step(plan, at, reads=()), "reads are not"),
        "no writes": (with_step(plan, at, writes=()), "writes are not"),
        "no grid": (with_step(plan, at, over=()), "a map step over"),
        "strange grid": (with_step(plan, at, over=("m",)), "but .'n',. are cut"),
        "joined along nothing": (with_step(plan, place, along=None), "reads the partial value"),
        "sliced": (with_step(plan, at, reads=sliced), "slices along .n. are taken of the shard"),
        "one side": (with_step(plan, place, **turned), "reads are not"),
    }


def broken_values(plan: Plan, combine: Step) -> Broken:
    """What is joined, and the input x."""
    values = plan.values
    (partial,) = {read.value for read in combine.reads}
    (joined,) = combine.writes
    other = change(values[partial], type=values[partial].type.with_shape((99,)))
    like_partial = change(values[partial], id=joined)
    return {
        "unknown": (change(plan, values={k: v for k, v in values.items() if k != partial}), "not declared"),
        "type": (change(plan, values={**values, partial: other}), "written as"),
        "layout": (change(plan, values={**values, joined: like_partial}), "writes the partial"),
        "operator": (with_blocks(plan, partial, Along("n", combine="mean")), "'mean'"),
        "axis": (with_blocks(plan, "x", Along("n", 1)), "not along 'n'"),
        "two kinds": (with_blocks(plan, "x", Along("n", 0, "sum")), "is combined by 'sum'"),
        "strange dimension": (with_blocks(plan, "x", Along("m", 0)), "has blocks along"),
    }


@pytest.mark.parametrize("rule", list(broken(partition(GRAPHS["network"], {"n": N}, "n", 3))))
def test_a_broken_plan_is_refused(rule: str) -> None:
    plan, said = broken(partition(GRAPHS["network"], {"n": N}, "n", 3))[rule]
    with pytest.raises(gi.PlanError, match=said):
        check_plan(plan)


def test_a_plan_over_the_memory_limit_is_refused_with_advice() -> None:
    sizes = {"n": 10**6}
    with pytest.raises(gi.LimitError, match=r"chunk=\{'n': \d+\} would fit[\s\S]*test_partition.py"):
        compile(GRAPHS["network"], sizes, chunk={"n": 10**6}, memory_limit=3 * 10**8)
    assert compile(GRAPHS["network"], sizes, chunk={"n": 1000}, memory_limit=3 * 10**8).chunks == 1000
