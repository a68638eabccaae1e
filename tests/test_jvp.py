"""Forward derivatives: of every op against central differences, through control flow against JAX."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import graphir as gi
from benchmarks.forward import MODELS, forward
from graphir.example import Example
from graphir.node import REGISTRY, Op
from graphir.ops.sources import input_
from graphir.reverse import carries

jax.config.update("jax_enable_x64", True)
STEP = 1e-6
CASES = [
    pytest.param(op, example, id=f"{op.name}-{k}")
    for op in REGISTRY.values()
    for k, example in enumerate(op.examples)
    if op.name not in ("input", "custom_vjp") and not isinstance(op.vjp, str)
]


@pytest.mark.parametrize(("op", "example"), CASES)
def test_tangents_of_every_op_agree_with_central_differences(op: Op, example: Example) -> None:
    inputs = [input_(name=f"arg{k}", dtype=s.dtype, shape=s.shape) for k, s in enumerate(example.inputs)]
    node = op(*inputs, **example.attrs)
    moving = [k for k in range(len(inputs)) if carries(node, k) and example.inputs[k].dtype == "float64"]
    if not moving or node.type.dtype != np.float64:
        return  # differences of float32 say nothing at this step
    rng, values = np.random.default_rng(7), dict(enumerate(example.arrays()))
    along = {k: np.asarray(rng.uniform(-1, 1, values[k].shape)) for k in moving}
    (tangent,) = gi.jvp([gi.Expr(node)], [gi.Expr(inputs[k]) for k in moving], list(along.values()))
    graph = gi.Graph({"value": node, "tangent": tangent}, inputs=inputs)

    def at(step: float) -> dict[str, np.ndarray]:
        return gi.evaluate(graph, {f"arg{k}": v + step * along[k] if k in along else v for k, v in values.items()})

    expected = (at(STEP)["value"] - at(-STEP)["value"]) / (2 * STEP)
    np.testing.assert_allclose(at(0.0)["tangent"], expected, rtol=1e-6, atol=1e-8)


def recurrent(lib: Any, scan: Callable[..., Any], x: Any, w: Any) -> Any:
    def step(h: Any, row: Any) -> tuple[Any, Any]:
        h = lib.tanh(h @ w + row)
        return h, h * row

    last, stacked = scan(step, lib.zeros(3), x)
    return lib.sum(last * last) + lib.sum(lib.sin(stacked))


def chosen(cond: Callable[..., Any], x: Any, w: Any) -> Any:
    positive = x[0, 0] > 0
    return cond(positive, lambda a, b: (a @ b).sum(), lambda a, b: (a * a).sum() * b[0, 0], x, w)


X, W = np.random.default_rng(8).normal(size=(5, 3)), np.random.default_rng(9).normal(size=(3, 3))
x, w = gi.input("x", (5, 3)), gi.input("w", (3, 3))
ZEROS = gi.zeros((3,))
CONTROL: dict[str, tuple[Callable[[], gi.Expr], Callable[[jax.Array, jax.Array], jax.Array]]] = {
    "scan": (lambda: recurrent(gi, gi.scan, x, w), lambda x, w: recurrent(jnp, jax.lax.scan, x, w)),
    "checkpointed scan": (
        lambda: recurrent(gi, lambda *a: gi.scan(*a, checkpoints=2), x, w),
        lambda x, w: recurrent(jnp, jax.lax.scan, x, w),
    ),
    "cond": (
        lambda: gi.cond(x[0, 0] > 0, lambda a, b: gi.sum(a @ b), lambda a, b: gi.sum(a * a) * b[0, 0], x, w),
        lambda x, w: chosen(jax.lax.cond, x, w),
    ),
    "checkpoint": (
        lambda: gi.sum(gi.checkpoint(lambda a, b: gi.tanh(a @ b) * gi.sin(a))(x, w)),
        lambda x, w: jnp.sum(jnp.tanh(x @ w) * jnp.sin(x)),
    ),
}


@pytest.mark.parametrize("name", CONTROL)
@pytest.mark.parametrize("moving", ["x", "w", "xw"])
def test_tangents_pass_through_control_flow(name: str, moving: str) -> None:
    """First order, and the tangent of the gradient, which is a Hessian-vector product."""
    ours, theirs = CONTROL[name]
    value, inputs = ours(), {"x": x, "w": w}
    tangents = {k: np.cos(np.arange(15.0 if k == "x" else 9.0)).reshape(inputs[k].shape) for k in moving}
    wrt = [inputs[k] for k in moving]
    first, second = gi.jvp([value, gi.grad(value, [w])[0]], wrt, list(tangents.values()))
    found = gi.evaluate(gi.Graph({"first": first, "second": second}, inputs=[x, w]), {"x": X, "w": W})
    along = (tangents.get("x", np.zeros_like(X)), tangents.get("w", np.zeros_like(W)))
    np.testing.assert_allclose(found["first"], jax.jvp(theirs, (X, W), along)[1], rtol=1e-11)
    np.testing.assert_allclose(found["second"], jax.jvp(jax.grad(theirs, 1), (X, W), along)[1], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_reverse_mode_twice_agrees_with_forward_mode(name: str) -> None:
    values, wrt = MODELS[name]()
    tangents = [gi.input(f"d{k}", v.shape, v.dtype) for k, v in enumerate(wrt)]
    (twice,) = gi.jvp(values, wrt, tangents)
    (ahead,) = forward([v.node for v in values], [v.node for v in wrt], [t.node for t in tangents])
    assert ahead is not None
    graph, rng = gi.Graph({"twice": twice, "ahead": ahead}), np.random.default_rng(10)
    feeds = {
        key: rng.integers(0, 9, 6) if node.type.dtype.kind == "i" else rng.normal(size=node.type.bind({"n": 6})) / 4
        for key, node in graph.inputs.items()
    }
    out = gi.evaluate(graph, feeds)
    np.testing.assert_allclose(out["twice"], out["ahead"], rtol=1e-5 if out["twice"].dtype == np.float32 else 1e-11)
