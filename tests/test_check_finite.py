"""Where a NaN or an infinity comes from: the first node, its origin, the step, and the inputs that were finite."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphir as gi
from scheduler.driver.local import run_plan
from scheduler.pipeline import compile
from workers.executor import Executor

X = np.array([2.0, 1.0, 0.5, 0.0])
HERE = r"\S*test_check_finite\.py:\d+"
Evaluate = Callable[[gi.Graph, dict[str, Any]], dict[str, np.ndarray]]
WAYS: dict[str, Evaluate] = {
    "reference": lambda graph, feeds: gi.evaluate(graph, feeds, check_finite=True),
    "executor": lambda graph, feeds: Executor(graph)(feeds, check_finite=True),
    "uncut": lambda graph, feeds: run_plan(compile(graph, {"n": 4}, cut=[]), feeds, check_finite=True),
    "cut": lambda graph, feeds: run_plan(compile(graph, {"n": 4}, chunk={"n": 3}), feeds, check_finite=True),
}
x, c = gi.input("x", ("n",)), gi.input("c")


def said(way: str, graph: gi.Graph, feeds: dict[str, Any]) -> str:
    with pytest.raises(gi.NonFiniteError) as caught:
        WAYS[way](graph, feeds)
    return str(caught.value)


def assert_says(text: str, *lines: str) -> None:
    found = text.split("\n")
    assert len(found) == len(lines), text
    for line, pattern in zip(found, lines, strict=True):
        assert re.fullmatch(pattern, line), f"{line}\n{pattern}"


def first_derivative(value: gi.Expr, wrt: gi.Expr) -> gi.Graph:
    return gi.Graph({"d": gi.grad(value, [wrt])[0]})


@pytest.mark.parametrize("way", WAYS)
def test_a_logarithm_of_zero_in_the_middle_of_a_gradient(way: str) -> None:
    graph = first_derivative(gi.sum(gi.log(gi.square(x)) * 3.0), x)
    index, range_ = (0, r"\[0, 0\]") if way == "cut" else (3, r"\[0, 4\]")  # the second chunk is one element
    assert_says(
        said(way, graph, {"x": X}),
        rf"adjoint of `log` at {HERE} gives inf at index \[{index}\], from finite inputs: "
        rf"input 0 \(.+\) in \[3, 3\], input 1 \(.+\) in {range_}; "
        "change the inputs, or evaluate with check_finite=False",
        rf"  at divide\(float64\[\S+\], float64\[\S+\]\) -> \S+, vjp of log at {HERE}",
    )


def test_the_first_node_is_named_where_the_value_is_asked_for_too() -> None:
    value = gi.sum(gi.log(x))
    graph = gi.Graph({"value": value}).append({"d": gi.grad(value, [x])[0]})
    assert_says(
        said("reference", graph, {"x": X}),
        rf"`log` at {HERE} gives -inf at index \[3\], from finite inputs: input 0 \('x'\) in \[0, 2\]; .*",
        rf"  at log\(float64\[n\]\) -> float64\[n\], {HERE}",
    )


def test_inputs_that_are_not_finite_are_not_called_so() -> None:
    graph = gi.Graph({"out": gi.where(x > 0.7, gi.sqrt(x), 0.0)})
    text = said("reference", graph, {"x": [1.0, np.nan, 4.0]})
    assert re.match(rf"`sqrt` at {HERE} gives nan at index \[1\], from inputs that are not all finite: ", text)


def test_an_infinite_constant_is_meant() -> None:
    graph = first_derivative(gi.logsumexp(x), x)  # compares with a constant -inf
    np.testing.assert_array_equal(
        gi.evaluate(graph, {"x": X}, check_finite=True)["d"], gi.evaluate(graph, {"x": X})["d"]
    )
    masked = gi.Graph({"out": gi.where(x > 0.7, x, -np.inf)})
    assert "input 0 (greater) in [0, 1]" in said("reference", masked, {"x": X})


# ---- inside bodies ----


def total(checkpoints: int | None = None, reverse: bool = False) -> gi.Expr:
    last, _ = gi.scan(lambda s, v: (s + gi.sqrt(v) * s, None), c, x, checkpoints=checkpoints, reverse=reverse)
    return last


@pytest.mark.parametrize("way", ["reference", "executor", "uncut"])
@pytest.mark.parametrize("checkpoints", [None, 2])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_step_of_an_adjoint_scan(way: str, checkpoints: int | None, reverse: bool) -> None:
    graph = first_derivative(total(checkpoints, reverse), x)
    text = said(way, graph, {"x": X, "c": 1.0})
    assert_says(
        text,
        rf"adjoint of `sqrt` at {HERE} gives inf at index \[0\], from finite inputs: .*",
        rf"  at divide\(float64\[\], float64\[\]\) -> float64\[\], vjp of sqrt at {HERE}",
        "  in step 3",
        rf"  in (retraced_)?scan\(.*\) -> float64\[n\], .*{HERE}",
    )


def nested() -> gi.Expr:
    def outer(s: gi.Expr, v: gi.Expr) -> tuple[gi.Expr, None]:
        inner, _ = gi.scan(lambda t, _: (gi.log(t), None), v, length=3)
        return s * inner, None

    return gi.scan(outer, c, x)[0]


BODIES: dict[str, tuple[Callable[[], gi.Expr], list[float], list[str]]] = {
    "the step of a scan forward": (lambda: gi.scan(lambda s, v: (s * gi.log(v), None), c, x)[0], [2.0, 0.0], ["step 1"]),
    "a scan in a scan": (nested, [20.0, 1.0], ["step 1", "scan", "step 1"]),
    "a chosen branch": (lambda: gi.cond(c > 0, lambda v: gi.log(v), lambda v: v, x), [2.0, 0.0], ["the first branch"]),
    "the other branch": (lambda: gi.cond(c < 0, lambda v: v, lambda v: gi.log(v), x), [2.0, 0.0], ["the second branch"]),
    "a loop": (lambda: gi.while_loop(lambda s: gi.sum(s) > -9, gi.log, x), [1.0, 1.0], ["step 1"]),
    "a checkpointed function": (lambda: gi.checkpoint(lambda v: gi.log(v))(x), [2.0, 0.0], []),
}  # fmt: skip


@pytest.mark.parametrize("way", ["reference", "executor"])
@pytest.mark.parametrize("name", BODIES)
def test_nodes_in_bodies_are_named_with_what_surrounds_them(name: str, way: str) -> None:
    make, values, around = BODIES[name]
    graph = gi.Graph({"out": make()}, inputs=[x, c])
    text = said(way, graph, {"x": values, "c": 1.0})
    lines = text.split("\n")
    assert re.match(
        rf"`log` at {HERE} gives -inf at index \[[01]\], from finite inputs: input 0 in \[0, [02]\]; ", text
    )
    assert [line.split("(")[0].removeprefix("  in ") for line in lines[2:-1]] == around
    assert re.fullmatch(rf"  in \w+\(.*\) -> \S+, {HERE}", lines[-1])


def test_a_finite_evaluation_has_the_same_bits_with_the_check() -> None:
    graph = first_derivative(total(2) + gi.sum(gi.sin(x)), x)
    feeds = {"x": X + 1.0, "c": 1.0}
    executor = Executor(graph)
    for out in (WAYS["reference"](graph, feeds), executor(feeds), executor(feeds, check_finite=True), executor(feeds)):
        np.testing.assert_array_equal(out["d"], gi.evaluate(graph, feeds)["d"])
    with pytest.raises(gi.NonFiniteError, match="step 3"):
        executor({"x": X, "c": 1.0}, check_finite=True)
