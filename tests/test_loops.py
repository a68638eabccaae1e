"""Scans with their bodies planned: the bits of the reference, whatever is carried, stacked, summed, viewed or repeated."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import graphir as gi
from graphir.interpret import evaluate
from workers.backends.numpy import loops
from workers.executor import Executor

N = 9


def same(outputs: dict[str, Any], feeds: dict[str, Any]) -> dict[str, np.ndarray]:
    """Both evaluations, twice, to the bit."""
    graph = gi.Graph(outputs)
    given = {name: feeds[name] for name in graph.inputs}
    wanted, execute = evaluate(graph, given), Executor(graph)
    for _ in range(2):
        found = execute(given)
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name], value, strict=True)
    return wanted


def feeds() -> dict[str, np.ndarray]:
    r = np.random.default_rng(5)
    square = 0.3 * r.standard_normal((4, 4))
    return {"u": r.standard_normal((N, 3, 4)), "w": square, "h": r.standard_normal((3, 4)), "s": r.standard_normal(N)}


def inputs() -> tuple[gi.Expr, ...]:
    return gi.input("u", (N, 3, 4)), gi.input("w", (4, 4)), gi.input("h", (3, 4)), gi.input("s", (N,))


BODIES: dict[str, Any] = {
    "recurrent": lambda c, x, w: (gi.tanh(x + c @ w),) * 2,
    "only stacked": lambda c, x, w: (c, gi.exp(x @ w)),
    "carried as a view": lambda c, x, w: (gi.flip(gi.tanh(c + x), axis=1), c * x),
    "transposed inside": lambda c, x, w: (gi.permute_dims(gi.permute_dims(c, (1, 0)) * gi.permute_dims(x, (1, 0)), (1, 0)), c),
    "stacked view of a value": lambda c, x, w: ((y := c * 0.5 + x), gi.permute_dims(y, (1, 0))),
    "what does not change": lambda c, x, w: (c @ (w @ w) + gi.sum(gi.exp(w)), x * gi.arange(4, dtype="float64")),
    "reduced": lambda c, x, w: (c + gi.sum(x, axis=0), gi.max(x, axis=1)),
    "a number": lambda c, x, w: (c * gi.mean(x), gi.sum(x)),
    "nested": lambda c, x, w: (gi.scan(lambda d, row: (d * 0.5 + row, None), c, gi.broadcast_to(x, (5, 3, 4)))[0], c),
    "two equal": lambda c, x, w: (gi.sin(x), gi.sin(x)),
}  # fmt: skip


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", list(BODIES))
def test_values_and_gradients_have_the_reference_bits(name: str, reverse: bool) -> None:
    u, w, h, _ = inputs()
    last, stacked = gi.scan(lambda c, x: BODIES[name](c, x, w), h, u, reverse=reverse)
    loss = gi.sum(gi.sin(last)) + gi.sum(stacked**2)
    gradients = gi.grad(loss, [u, w, h], disconnected="zero")
    same({"last": last, "stacked": stacked, **{f"g{k}": g for k, g in enumerate(gradients)}}, feeds())
    second = gi.grad(gi.sum(gradients[0] ** 2), [u], disconnected="zero")[0]
    same({"second": second}, feeds())


@pytest.mark.parametrize("checkpoints", [None, 2])
def test_states_that_wait_a_step_are_not_overwritten(checkpoints: int | None) -> None:
    """A value that is carried on under another name must outlive the step after it."""
    u, w, h, _ = inputs()

    def step(carry: Any, x: Any) -> Any:
        now, before, first = carry
        return (gi.tanh(now @ w + before), now, before), (now, before - first)

    (a, b, c), (d, e) = gi.scan(step, (h, h * 2.0, h), u, checkpoints=checkpoints)
    loss = gi.sum(a * b + c) + gi.sum(d * e)
    same({"a": a, "b": b, "c": c, "d": d, "e": e, "dw": gi.grad(loss, [w])[0]}, feeds())


def test_outputs_do_not_share_memory_with_inputs_or_one_another() -> None:
    u, w, h, _ = inputs()
    last, stacked = gi.scan(lambda c, x: (gi.tanh(x + c @ w),) * 2, h, u)
    values = feeds()
    found = Executor(gi.Graph({"last": last, "stacked": stacked}))({name: values[name] for name in ("u", "w", "h")})
    assert not np.shares_memory(found["last"], found["stacked"])
    assert not any(np.shares_memory(found[out], values[name]) for out in found for name in values)


@pytest.mark.parametrize("form", ["sliced", "permuted", "repeated", "whole"])
def test_arrays_that_lie_otherwise_in_memory(form: str) -> None:
    base = gi.input("base", (N, 4, 6))
    views = {
        "sliced": base[:, :3, :4],
        "permuted": gi.permute_dims(base, (0, 2, 1))[:, :3, :4],
        "repeated": gi.broadcast_to(base[0, :3, :4], (N, 3, 4)),
        "whole": base[:, :3, :4] * 1.0,
    }
    u, (_, w, h, _) = views[form], inputs()
    first = gi.broadcast_to(h[0], (3, 4)) if form == "repeated" else u[0]
    last, stacked = gi.scan(lambda c, x: (gi.tanh(x * 2.0 + c @ gi.permute_dims(w, (1, 0))), c + x), first, u)
    loss = gi.sum(last) + gi.sum(stacked * stacked)
    values = feeds() | {"base": np.random.default_rng(1).standard_normal((N, 4, 6))}
    same({"last": last, "stacked": stacked, "dw": gi.grad(loss, [w])[0]}, values)


def test_numbers_are_carried_and_stacked() -> None:
    *_, s = inputs()
    last, stacked = gi.scan(lambda c, x: ((c + x) * 0.5, c * x), gi.constant(1.0), s)
    same({"last": last, "stacked": stacked, "ds": gi.grad(gi.sum(stacked) + last, [s])[0]}, feeds())


def test_an_error_names_the_step_and_the_line() -> None:
    table, places = gi.input("table", (4,)), gi.input("places", (N,), "int64")
    total = gi.scan(lambda c, k: (c + gi.take(table, k, axis=0), None), gi.constant(0.0), places)[0]
    given = {"table": np.arange(4.0), "places": np.array([0, 1, 2, 3, 0, 7, 1, 1, 1])}
    messages = []
    for run in (lambda g: evaluate(g, given), lambda g: Executor(g)(given)):
        with pytest.raises(gi.ShapeError, match="index 7 is out of range") as caught:
            run(gi.Graph({"total": total}))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "in step 5" in messages[0]


def test_the_planned_loop_is_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def unused(group: Any) -> Any:
        def plain(*arrays: Any, **attributes: Any) -> Any:
            raise AssertionError("the reference's loop ran")

        return plain

    monkeypatch.setattr(loops, "joint_kernel", unused)
    u, w, h, _ = inputs()
    last, stacked = gi.scan(lambda c, x: (gi.tanh(x + c @ w),) * 2, h, u)
    loss = gi.sum(last) + gi.sum(stacked**2)
    same({"last": last, "dw": gi.grad(loss, [w])[0]}, feeds())


def test_large_values_of_a_step_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "BUFFERS_BYTES", 100)  # room for one of 96 bytes
    u, w, h, _ = inputs()
    last, stacked = gi.scan(lambda c, x: (gi.tanh(x + c @ w) * gi.exp(-x), c), h, u)
    same({"last": last, "stacked": stacked}, feeds())


def test_while_loops_have_the_reference_bits_and_errors() -> None:
    h, w = gi.input("h", (3, 4)), gi.input("w", (4, 4))
    grown = gi.while_loop(
        lambda c: gi.sum(c[0]) < 40.0, lambda c: (gi.abs(c[0]) * 1.5 + gi.abs(c[0] @ w), c[1] + 1), (h, gi.constant(0))
    )
    same({"h": grown[0], "k": grown[1]}, feeds())
    table, k = gi.input("table", (4,)), gi.constant(0)
    picked = gi.while_loop(lambda c: c < 9, lambda c: c + 1 + gi.astype(gi.take(table, c, axis=0), "int64") * 0, k)
    endless = gi.while_loop(lambda c: c >= 0, lambda c: c + 1, k, limit=7)
    for value, kind in ((picked, gi.ShapeError), (endless, gi.LimitError)):
        graph, messages = gi.Graph({"y": value}), []
        given = {"table": np.ones(4)} if "table" in graph.inputs else {}
        for run in (evaluate, lambda g, f: Executor(g)(f)):
            with pytest.raises(kind) as caught:
                run(graph, given)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


UNARY = [gi.tanh, gi.sin, lambda x: x * 0.5, lambda x: gi.flip(x, axis=1), lambda x: gi.permute_dims(x, (1, 0)), gi.abs]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12), st.booleans()
)
def test_random_bodies(program: list[tuple[int, int, int]], reverse: bool) -> None:
    """Square values, so that any may be transposed and any combined."""
    u, w = gi.input("u", (N, 4, 4)), gi.input("w", (4, 4))

    def step(carry: Any, x: Any) -> Any:
        values = [x, w, *carry]
        for op, left, right in program:
            a, b = values[left % len(values)], values[right % len(values)]
            values.append(UNARY[op](a) if op < len(UNARY) else a + b if op == 6 else gi.tanh(a @ b))
        return (gi.tanh(values[-1]), gi.tanh(values[-2])), values[-1] * 0.1

    (a, b), c = gi.scan(step, (w, gi.zeros((4, 4))), u, reverse=reverse)
    loss = gi.sum(a * b) + gi.sum(c)
    r = np.random.default_rng(len(program))
    values = {"u": r.standard_normal((N, 4, 4)), "w": 0.3 * r.standard_normal((4, 4))}
    gradients = gi.grad(loss, [u, w], disconnected="zero")
    same({"a": a, "b": b, "c": c, "du": gradients[0], "dw": gradients[1]}, values)
