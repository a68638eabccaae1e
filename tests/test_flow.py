"""cond, while_loop and checkpoint: values and derivatives against JAX, cuts, files, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import graphir as gi
from graphir import walk
from graphir.partition.data import partition
from scheduler.driver.local import run_plan
from workers.executor import Executor

jax.config.update("jax_enable_x64", True)
RNG = np.random.default_rng(8)
X, W = RNG.standard_normal((6, 3)), RNG.standard_normal((3, 2))
x, w, flag = gi.input("flow_x", ("n", 3)), gi.input("flow_w", (3, 2)), gi.input("flow_flag", (), "bool")


def check(graph: gi.Graph, feeds: dict, expected: dict, rtol: float = 1e-11) -> None:
    loaded = gi.load(gi.dump(graph))
    assert loaded.digest == graph.digest
    found = gi.evaluate(loaded, feeds)
    fast = Executor(graph)(feeds)
    for name, want in expected.items():
        np.testing.assert_allclose(found[name], want, rtol=rtol, atol=1e-12, err_msg=name)
        assert np.array_equal(found[name], fast[name]), name


@pytest.mark.parametrize("which", [True, False])
def test_cond_and_its_derivatives_agree_with_jax(which: bool) -> None:
    value = gi.cond(flag, lambda a: gi.sum(gi.sin(a @ w)), lambda a: gi.sum(a**3) * gi.sum(w), x)
    dx, dw = gi.grad(value, [x, w])
    (second,) = gi.grad(gi.sum(dx * dx), [w])

    def of(x, w):
        return jax.lax.cond(which, lambda a: jnp.sum(jnp.sin(a @ w)), lambda a: jnp.sum(a**3) * jnp.sum(w), x)

    expected = {
        "value": of(X, W),
        "dx": jax.grad(of)(X, W),
        "dw": jax.grad(of, 1)(X, W),
        "second": jax.grad(lambda w: jnp.sum(jax.grad(of)(X, w) ** 2))(W),
    }
    graph = gi.Graph({"value": value, "dx": dx, "dw": dw, "second": second})
    check(graph, {"flow_x": X, "flow_w": W, "flow_flag": np.array(which)}, expected)


def test_only_the_chosen_branch_is_evaluated() -> None:
    def endless(a):
        return gi.while_loop(lambda c: gi.sum(c) < 1e9, lambda c: c, a, limit=3)

    graph = gi.Graph({"out": gi.cond(flag, endless, lambda a: a + 1, w)})
    found = gi.evaluate(graph, {"flow_w": W, "flow_flag": np.array(False)})["out"]
    np.testing.assert_array_equal(found, W + 1)
    with pytest.raises(gi.LimitError, match="larger limit"):
        gi.evaluate(graph, {"flow_w": W, "flow_flag": np.array(True)})


def test_while_loop_agrees_with_jax_and_has_no_derivative() -> None:
    last, steps = gi.while_loop(lambda c: gi.max(c[0]) < 50, lambda c: (c[0] * 2 + gi.sum(w) ** 2, c[1] + 1), (x, 0))

    def of(x):
        return jax.lax.while_loop(
            lambda c: jnp.max(c[0]) < 50, lambda c: (c[0] * 2 + jnp.sum(W) ** 2, c[1] + 1), (x, 0)
        )

    expected = of(X)
    check(gi.Graph({"x": last, "k": steps}), {"flow_x": X, "flow_w": W}, dict(zip("xk", expected, strict=True)))
    with pytest.raises(gi.DisconnectedError, match="use scan"):
        gi.grad(gi.sum(last), [x])


def layer(a):
    return gi.tanh(gi.exp(gi.sin(a @ w)) @ gi.matrix_transpose(w))


def deep(wrap) -> gi.Expr:
    value = x
    for _ in range(4):
        value = wrap(value)
    return gi.sum(value * value)


@pytest.mark.parametrize("wrap", [gi.checkpoint(layer), lambda a: gi.checkpoint(layer(a))], ids=["function", "value"])
def test_checkpoints_change_no_derivative_and_keep_less(wrap) -> None:
    plain, kept = deep(layer), deep(wrap)
    graphs = [gi.append_gradients(gi.Graph({"loss": v}, inputs=[x, w]), "loss", ["flow_w"]) for v in (plain, kept)]
    expected = gi.evaluate(graphs[0], {"flow_x": X, "flow_w": W})
    check(graphs[1], {"flow_x": X, "flow_w": W}, expected)
    peaks = [Executor(g).peak_bytes({"n": 10_000})[0] for g in graphs]
    assert peaks[1] < peaks[0]


def test_checkpoints_and_conds_are_cut_along_n_without_gathering() -> None:
    inside = gi.cond(flag, lambda a: gi.tanh(a), lambda a: a * 2, gi.checkpoint(layer)(x))
    loss = gi.sum(inside * inside)
    graph = gi.Graph({"loss": loss, "dw": gi.grad(loss, [w])[0]})
    feeds = {"flow_x": X, "flow_w": W, "flow_flag": np.array(True)}
    whole = gi.evaluate(graph, feeds)
    plan = partition(graph, {"n": 6}, "n", 2)
    assert plan.notes == ()
    for name, value in run_plan(plan, feeds).items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-12, err_msg=name)


def test_conditions_in_a_batch_choose_row_by_row() -> None:
    c, v = gi.input("flow_c", (), "bool"), gi.input("flow_v", (2,))
    graph = gi.Graph({"out": gi.cond(c, gi.sin, lambda a: a * 3, v)}, inputs=[c, v])
    flags, rows = np.array([True, False, True]), RNG.standard_normal((3, 2))
    found = gi.evaluate(gi.vmap(graph, ["flow_c", "flow_v"], "s"), {"flow_c": flags, "flow_v": rows})["out"]
    np.testing.assert_array_equal(found, np.where(flags[:, None], np.sin(rows), rows * 3))


def test_equal_bodies_are_one_node() -> None:
    left, right = (gi.cond(flag, lambda a: gi.sin(a), lambda a: a, w) for _ in range(2))
    assert left.node is right.node
    assert len([n for n in walk.ancestors([left.node]) if n.op.name == "cond"]) == 1


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(gi.DTypeError, match="one bool"):
        gi.cond(x > 0, lambda: w, lambda: w)
    with pytest.raises(gi.ShapeError, match="branches give"):
        gi.cond(flag, lambda: w, lambda: w[0])
    with pytest.raises(gi.ShapeError, match="make them alike"):
        gi.cond(flag, lambda: w, lambda: (w, w))
    with pytest.raises(gi.DTypeError, match="one bool"):
        gi.while_loop(lambda c: c < 1, lambda c: c, w)
    with pytest.raises(gi.ShapeError, match="carried value 0"):
        gi.while_loop(lambda c: gi.sum(c) < 1, lambda c: c[0], w)
