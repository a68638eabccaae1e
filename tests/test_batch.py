"""Batching, jvp, jacobian and hessian against JAX, and vmap of every op against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import graphir as gi
from graphir.batch import vmap
from graphir.example import Example
from graphir.graph import Graph
from graphir.interpret import evaluate
from graphir.jacobian import hessian, jacobian, jvp
from graphir.node import REGISTRY, Op
from graphir.ops.sources import input_

jax.config.update("jax_enable_x64", True)
S = 3
CASES = [
    pytest.param(op, example, over, id=f"{op.name}-{k}-{over:b}")
    for op in REGISTRY.values()
    if op.name not in ("input",) and op.arity != 0
    for k, example in enumerate(op.examples)
    for over in range(1, 1 << len(example.inputs))
]


@pytest.mark.parametrize(("op", "example", "over"), CASES)
def test_vmap_of_every_op_equals_a_loop(op: Op, example: Example, over: int) -> None:
    inputs = [input_(name=f"v{k}", dtype=s.dtype, shape=s.shape) for k, s in enumerate(example.inputs)]
    graph = Graph({"out": op(*inputs, **example.attrs)}, inputs=inputs)
    chosen = [f"v{k}" for k in range(len(inputs)) if over >> k & 1]
    rng = np.random.default_rng(5)
    values = {}
    for k, (sample, array) in enumerate(zip(example.inputs, example.arrays(), strict=True)):
        if f"v{k}" in chosen:
            rows = [array, np.roll(array, 1), array[..., ::-1].copy() if array.ndim else array]
            if sample.diagonal:  # they stay invertible and definite
                rows = [array, 2 * array, 3 * array]
            array = np.stack([rows[r] for r in rng.permutation(S)]).astype(sample.dtype)
            if op.name == "searchsorted" and k == 0:
                array.sort(axis=-1)  # only sorted vectors have an answer
        values[f"v{k}"] = array
    found = evaluate(vmap(graph, chosen, "s"), values)["out"]
    each = [evaluate(graph, {n: v[r] if n in chosen else v for n, v in values.items()})["out"] for r in range(S)]
    assert found.dtype == each[0].dtype
    np.testing.assert_allclose(found, np.stack(each), rtol=1e-5 if found.dtype == np.float32 else 1e-12, atol=1e-13)


x, w = gi.input("jx", (4,)), gi.input("jw", (4, 3))
VALUES = {"jx": np.linspace(-1, 1, 4), "jw": np.random.default_rng(1).standard_normal((4, 3))}
OF = gi.tanh(gi.sin(x) @ w) * gi.sum(x * x)


def jax_of(x: jax.Array, w: jax.Array) -> jax.Array:
    return jnp.tanh(jnp.sin(x) @ w) * jnp.sum(x * x)


def run(**outputs: gi.Expr) -> dict[str, np.ndarray]:
    return gi.evaluate(gi.Graph(outputs, inputs=[x, w]), VALUES)


def test_jvp_agrees_with_jax() -> None:
    tangents = [np.arange(4.0), np.ones((4, 3))]
    (found,) = jvp([OF], [x, w], tangents)
    expected = jax.jvp(jax_of, tuple(VALUES.values()), tuple(tangents))[1]
    np.testing.assert_allclose(run(out=found)["out"], expected, rtol=1e-12)


def test_jacobian_and_its_jacobian_agree_with_jax() -> None:
    jx, jw = jacobian(OF, [x, w])
    assert (jx.shape, jw.shape) == ((3, 4), (3, 4, 3))
    (second,) = jacobian(jx, [w])
    found = run(jx=jx, jw=jw, second=second)
    expected = jax.jacrev(jax_of, (0, 1))(*VALUES.values())
    np.testing.assert_allclose(found["jx"], expected[0], rtol=1e-12)
    np.testing.assert_allclose(found["jw"], expected[1], rtol=1e-12)
    np.testing.assert_allclose(found["second"], jax.jacrev(jax.jacrev(jax_of, 0), 1)(*VALUES.values()), rtol=1e-11)


def test_hessian_agrees_with_jax() -> None:
    loss = gi.sum(gi.log1p(gi.exp(x @ w))) + gi.sum(x**3)
    blocks = hessian(loss, [x, w])
    found = run(**{f"b{i}{j}": block for i, row in enumerate(blocks) for j, block in enumerate(row)})

    def jax_loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.log1p(jnp.exp(x @ w))) + jnp.sum(x**3)

    expected = jax.hessian(jax_loss, (0, 1))(*VALUES.values())
    for i in range(2):
        for j in range(2):
            np.testing.assert_allclose(found[f"b{i}{j}"], expected[i][j], rtol=1e-11, atol=1e-12)


def test_a_named_size_stays_named() -> None:
    rows = gi.input("jr", ("n", 4))
    (found,) = jacobian(gi.sum(gi.tanh(rows), axis=1), [rows])
    assert found.shape == ("n", "n", 4)
    value = np.random.default_rng(2).standard_normal((5, 4))
    out = gi.evaluate(gi.Graph({"out": found}), {"jr": value})["out"]
    np.testing.assert_allclose(out, jax.jacrev(lambda r: jnp.sum(jnp.tanh(r), axis=1))(value), rtol=1e-12, atol=1e-300)


def test_what_is_wrong_is_said() -> None:
    graph = gi.Graph({"out": OF})
    with pytest.raises(gi.ShapeError, match="inputs are"):
        vmap(graph, ["nothing"], 3)
    with pytest.raises(gi.ShapeError, match="one tangent for each"):
        jvp([OF], [x], [])
    with pytest.raises(gi.DisconnectedError):
        jacobian(gi.astype(OF, "int64"), [x])
