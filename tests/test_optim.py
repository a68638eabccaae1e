"""Optimisers: 20 steps against PyTorch, L-BFGS's minima against SciPy, and jobs that carry the states."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

import graphir as gi
from graphir.client import connect
from graphir.errors import AttributeValueError, DisconnectedError, DTypeError, GraphError, InvariantError, ShapeError
from graphir.partition.data import partition
from scheduler.driver.local import run_plan

optim = gi.optim
RNG = np.random.default_rng(11)
X, T = RNG.normal(size=(40, 5)), RNG.normal(size=(40, 3))
START = {"w": RNG.normal(size=(5, 3)), "b": RNG.normal(size=3)}
STEPS = 20
Optimiser = Callable[..., Any]


def model(dtype: str = "float64") -> tuple[gi.Expr, list[gi.Expr]]:
    x, t = gi.input("x", ("n", 5), dtype), gi.input("t", ("n", 3), dtype)
    w, b = gi.input("w", (5, 3), dtype), gi.input("b", (3,), dtype)
    return gi.mean((gi.tanh(x @ w + b) - t) ** 2), [w, b]


def iterate(step: Any, loss: gi.Expr, start: dict[str, Any], steps: int, **data: Any) -> list[dict[str, Any]]:
    graph, values, seen = gi.Graph({"loss": loss, **step.outputs}), {**start, **step.start}, []
    for _ in range(steps):
        found = gi.evaluate(graph, {**data, **values})
        values = {name: found[output] for name, output in step.carry.items()}
        seen.append({**values, "loss": found["loss"]})
    return seen


def with_torch(
    make: Optimiser, steps: int = STEPS, schedule: Optimiser | None = None, clip: float | None = None
) -> Any:
    parameters = [torch.tensor(START[name], requires_grad=True) for name in ("w", "b")]
    x, t = torch.tensor(X), torch.tensor(T)
    optimiser = make(parameters)
    rates = schedule(optimiser) if schedule else None

    def closure() -> Any:
        optimiser.zero_grad()
        loss = ((torch.tanh(x @ parameters[0] + parameters[1]) - t) ** 2).mean()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        return loss

    for _ in range(steps):
        loss = optimiser.step(closure)
        if rates is not None:
            rates.step()
        yield {"w": parameters[0].detach().numpy(), "b": parameters[1].detach().numpy(), "loss": loss.detach().numpy()}


def agree(step: Any, loss: gi.Expr, expected: Any, rtol: float = 1e-12) -> None:
    for own, other in zip(iterate(step, loss, START, STEPS, x=X, t=T), expected, strict=True):
        for name, value in other.items():
            np.testing.assert_allclose(own[name], value, rtol=rtol, atol=rtol)


RULES: dict[str, tuple[Optimiser, dict[str, Any], Any, dict[str, Any]]] = {
    "sgd": (optim.sgd, {}, torch.optim.SGD, {}),
    "decay": (optim.sgd, {"weight_decay": 0.1}, torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": (optim.sgd, {"momentum": 0.9}, torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (optim.sgd, {"momentum": 0.9, "nesterov": True}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (optim.adam, {}, torch.optim.Adam, {}),
    "adam's decay": (optim.adam, {"weight_decay": 0.1, "beta1": 0.8}, torch.optim.Adam, {"weight_decay": 0.1, "betas": (0.8, 0.999)}),
    "amsgrad": (optim.adam, {"amsgrad": True}, torch.optim.Adam, {"amsgrad": True}),
    "adamw": (optim.adamw, {}, torch.optim.AdamW, {}),
    "rmsprop": (optim.rmsprop, {}, torch.optim.RMSprop, {}),
    "centered": (optim.rmsprop, {"centered": True, "momentum": 0.5}, torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
    "adagrad": (optim.adagrad, {"initial": 0.1}, torch.optim.Adagrad, {"initial_accumulator_value": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize("name", RULES)
def test_twenty_steps_are_those_of_torch(name: str) -> None:
    make, own, reference, options = RULES[name]
    loss, parameters = model()
    agree(make(loss, parameters, rate=0.03, **own), loss, with_torch(lambda p: reference(p, lr=0.03, **options)))


def test_clipping_is_that_of_torch() -> None:
    loss, parameters = model()
    expected = with_torch(lambda p: torch.optim.SGD(p, lr=0.3), clip=0.05)
    agree(optim.sgd(loss, parameters, rate=0.3, clip=0.05), loss, expected)


def test_fixed_steps_of_lbfgs_are_those_of_torch() -> None:
    loss, parameters = model()
    expected = with_torch(lambda p: torch.optim.LBFGS(p, lr=0.7, max_iter=1, history_size=4, tolerance_grad=0.0))
    agree(optim.lbfgs(loss, parameters, rate=0.7, history=4), loss, expected, rtol=1e-10)


RATES = torch.optim.lr_scheduler
SCHEDULES: dict[str, tuple[Any, Any]] = {
    "constant": (optim.constant(0.2), lambda o: RATES.ConstantLR(o, factor=1.0)),
    "exponential": (optim.exponential(0.2, 0.9), lambda o: RATES.ExponentialLR(o, 0.9)),
    "staircase": (optim.exponential(0.2, 0.5, every=7, staircase=True), lambda o: RATES.StepLR(o, 7, 0.5)),
    "polynomial": (optim.polynomial(0.2, 15, power=2), lambda o: RATES.PolynomialLR(o, 15, 2)),
    "cosine": (optim.cosine(0.2, 20, end=0.01), lambda o: RATES.CosineAnnealingLR(o, 20, 0.01)),
    "warmup": (optim.warmup(8, 0.2, start=0.05), lambda o: RATES.LinearLR(o, 0.25, 1.0, 8)),
    "piecewise": (optim.piecewise([0.2, 0.02, 0.002], [4, 11]), lambda o: RATES.MultiStepLR(o, [4, 11], 0.1)),
    "one cycle": (optim.one_cycle(0.2, 20), lambda o: RATES.OneCycleLR(o, 0.2, 20, cycle_momentum=False)),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step\\(\\)`")
def test_schedules_are_those_of_torch(name: str) -> None:
    own, reference = SCHEDULES[name]
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    rates, expected = reference(optimiser), []
    for _ in range(STEPS):
        expected.append(optimiser.param_groups[0]["lr"])
        rates.step()
    step = gi.input("step")
    graph = gi.Graph({"rate": own(step)}, inputs=[step])
    found = [gi.evaluate(graph, {"step": np.float64(k)})["rate"] for k in range(STEPS)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-17)


def test_a_schedule_moves_an_optimiser() -> None:
    loss, parameters = model()
    expected = with_torch(lambda p: torch.optim.Adam(p, lr=0.1), schedule=lambda o: RATES.ExponentialLR(o, 0.8))
    agree(optim.adam(loss, parameters, rate=optim.exponential(0.1, 0.8)), loss, expected)


def rosenbrock(w: gi.Expr) -> gi.Expr:
    return gi.sum(100 * (w[1:] - w[:-1] ** 2) ** 2 + (1 - w[:-1]) ** 2)


@pytest.mark.parametrize("size", [2, 6])
def test_lbfgs_reaches_scipys_minimum(size: int) -> None:
    w = gi.input("w", (size,))
    loss, start = rosenbrock(w), np.linspace(-1.2, 1.0, size)
    reference = scipy.optimize.minimize(
        scipy.optimize.rosen,
        start,
        jac=scipy.optimize.rosen_der,
        method="L-BFGS-B",
        options={"gtol": 1e-12, "ftol": 1e-16},
    )
    last = iterate(optim.lbfgs(loss, [w], trials=16), loss, {"w": start}, 100)[-1]
    np.testing.assert_allclose(last["w"], reference.x, atol=1e-5)
    assert last["loss"] <= reference.fun + 1e-12


@given(start=st.lists(st.floats(-2, 2), min_size=3, max_size=3), history=st.integers(1, 4))
def test_backtracking_never_raises_the_loss(start: list[float], history: int) -> None:
    w = gi.input("w", (3,))
    loss = rosenbrock(w)
    seen = iterate(optim.lbfgs(loss, [w], trials=6, history=history), loss, {"w": np.array(start)}, 8)
    losses = [values["loss"] for values in seen]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("make", [optim.adam, optim.lbfgs, optim.sgd])
def test_float32_stays(make: Optimiser) -> None:
    loss, parameters = model("float32")
    step = make(loss, parameters, rate=optim.constant(0.1))
    data = {k: v.astype("float32") for k, v in {"x": X, "t": T, **START}.items()}
    found = gi.evaluate(gi.Graph({"loss": loss, **step.outputs}), {**data, **step.start})
    assert {found[f"{name}_next"].dtype for name in START} == {np.dtype("float32")}


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("make", [optim.adam, lambda *a: optim.lbfgs(*a, trials=4)], ids=["adam", "lbfgs"])
def test_workers_give_the_bits_of_the_inline_pool(make: Optimiser) -> None:
    loss, parameters = model()
    step = make(loss, parameters)
    graph, feeds = gi.Graph({"loss": loss, **step.outputs}), {"x": X, "t": T, **START, **step.start}
    results = []
    for workers in (0, 2):
        with connect(workers=workers) as client:
            results.append(client.submit(graph, feeds, carry=dict(step.carry), steps=8, chunk={"n": 7}).result(60.0))
    assert {k: v.tobytes() for k, v in results[0].items()} == {k: v.tobytes() for k, v in results[1].items()}
    last = iterate(step, loss, START, 8, x=X, t=T)[-1]
    np.testing.assert_allclose(results[0]["w_next"], last["w"], rtol=1e-9)


def test_one_step_is_cut_and_combined_by_the_local_driver() -> None:
    loss, parameters = model()
    step = optim.adam(loss, parameters)
    graph, feeds = gi.Graph({"loss": loss, **step.outputs}), {"x": X, "t": T, **START, **step.start}
    plan = partition(graph, {"n": 40}, "n", 7)
    found, expected = run_plan(plan, feeds), gi.evaluate(graph, feeds)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-12, atol=1e-15)


def test_two_optimisers_share_a_graph() -> None:
    loss, (w, b) = model()
    first, second = optim.adam(loss, [w]), optim.adam(loss, [b], prefix="slow.")
    assert set(first.carry) == {"w", "w_mean", "w_square", "step"}
    assert set(second.carry) == {"b", "slow.b_mean", "slow.b_square", "slow.step"}
    gi.Graph({**first.outputs, **second.outputs})


W, N = gi.input("w", (3,)), gi.input("n", (3,), "int64")
BAD: dict[str, tuple[Callable[[], Any], type[GraphError], str]] = {
    "loss": (lambda: optim.adam(W, [W]), ShapeError, "float scalar"),
    "expression": (lambda: optim.adam(1.0, [W]), DTypeError, "expression"),
    "no input": (lambda: optim.sgd(gi.sum(W * 2), [W * 2], rate=1), InvariantError, "gi.input"),
    "none": (lambda: optim.sgd(gi.sum(W), [], rate=1), InvariantError, "one input or more"),
    "integers": (lambda: optim.sgd(gi.sum(W) + gi.sum(N), [N], rate=1), DTypeError, "floats"),
    "twice": (lambda: optim.sgd(gi.sum(W), [W, W], rate=1), InvariantError, "share a name"),
    "taken": (lambda: optim.adam(gi.sum(W) * gi.input("step"), [W]), InvariantError, "prefix"),
    "named size": (lambda: optim.adam(gi.sum(gi.input("v", ("n",))), [gi.input("v", ("n",))]), ShapeError, "numbers"),
    "unused": (lambda: optim.sgd(gi.sum(W), [gi.input("u")], rate=1), DisconnectedError, "u"),
    "rate": (lambda: optim.sgd(gi.sum(W), [W], rate=-1), AttributeValueError, "rate"),
    "schedule": (lambda: optim.sgd(gi.sum(W), [W], rate=lambda s: W * s), ShapeError, "schedule"),
    "nesterov": (lambda: optim.sgd(gi.sum(W), [W], rate=1, nesterov=True), AttributeValueError, "momentum"),
    "beta": (lambda: optim.adam(gi.sum(W), [W], beta1=1.0), AttributeValueError, "beta1"),
    "history": (lambda: optim.lbfgs(gi.sum(W), [W], history=0), AttributeValueError, "history"),
    "dtypes": (lambda: optim.lbfgs(gi.sum(W) + gi.input("h", (), "float32"), [W, gi.input("h", (), "float32")]), DTypeError, "one dtype"),
    "borders": (lambda: optim.piecewise([1, 2], [3, 4]), AttributeValueError, "borders"),
    "cycle": (lambda: optim.one_cycle(1.0, 2), AttributeValueError, "peak"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_said(name: str) -> None:
    call, kind, words = BAD[name]
    with pytest.raises(kind, match=words):
        call()


def test_updates_are_shown_by_their_names() -> None:
    w = gi.input("w", (3,))
    assert repr(gi.optim.sgd(gi.sum(w * w), [w], rate=0.1, momentum=0.9)).startswith("<Updates of w; states: w_")
    assert repr(gi.optim.sgd(gi.sum(w * w), [w], rate=0.1)) == "<Updates of w; states: none>"
