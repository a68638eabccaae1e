"""scan: values and derivatives against jax.lax.scan, cuts, files, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import graphir as gi
from graphir.cost import operations
from graphir.partition.data import partition
from scheduler.driver.local import run_plan
from workers.executor import Executor

jax.config.update("jax_enable_x64", True)
T, N, D, H = 5, 6, 3, 4
RNG = np.random.default_rng(3)
VALUES = {
    "scan_x": RNG.standard_normal((T, N, D)),
    "scan_h": RNG.standard_normal((N, H)),
    "scan_u": RNG.standard_normal((H, H)) / 2,
    "scan_w": RNG.standard_normal((D, H)),
}
x = gi.input("scan_x", (T, "n", D))
h0 = gi.input("scan_h", ("n", H))
u = gi.input("scan_u", (H, H))
w = gi.input("scan_w", (D, H))


def network() -> gi.Expr:
    def step(carry, row):
        h, total = carry
        h = gi.tanh(h @ u + row @ w)
        return (h, total + gi.sum(h * h)), gi.sum(h, axis=1)

    (h, total), ys = gi.scan(step, (h0, gi.constant(0.0)), x)
    return total + gi.sum(h**3) + gi.sum(ys * ys)


def jax_network(x, h, u, w):
    def step(carry, row):
        h, total = carry
        h = jnp.tanh(h @ u + row @ w)
        return (h, total + jnp.sum(h * h)), jnp.sum(h, axis=1)

    (h, total), ys = jax.lax.scan(step, (h, 0.0), x)
    return total + jnp.sum(h**3) + jnp.sum(ys * ys)


WRT = [x, h0, u, w]


def gradients() -> gi.Graph:
    loss = network()
    names = ("dx", "dh", "du", "dw")
    return gi.Graph({"loss": loss, **dict(zip(names, gi.grad(loss, WRT), strict=True))}, inputs=WRT)


def test_a_network_and_its_gradient_agree_with_jax() -> None:
    found = gi.evaluate(gradients(), VALUES)
    value, expected = jax.value_and_grad(jax_network, (0, 1, 2, 3))(*VALUES.values())
    np.testing.assert_allclose(found.pop("loss"), value, rtol=1e-12)
    for name, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(found[name], want, rtol=1e-11, atol=1e-12)


def test_second_and_third_derivatives_agree_with_jax() -> None:
    v = RNG.standard_normal((H, H))
    (product,) = gi.hvp(network(), [u], [v])
    cubic = gi.sum(product * product)
    (third,) = gi.grad(cubic, [u])
    found = gi.evaluate(gi.Graph({"hv": product, "third": third}, inputs=WRT), VALUES)
    rest = list(VALUES.values())

    def hv(u):
        return jax.jvp(lambda u: jax.grad(jax_network, 2)(rest[0], rest[1], u, rest[3]), (u,), (v,))[1]

    np.testing.assert_allclose(found["hv"], hv(rest[2]), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(found["third"], jax.grad(lambda u: jnp.sum(hv(u) ** 2))(rest[2]), rtol=1e-9, atol=1e-9)


def test_the_gradient_is_cut_along_n_in_one_map_with_weights_as_partial_sums() -> None:
    graph = gradients()
    whole = gi.evaluate(graph, VALUES)
    for chunk in (1, 2, 4, 6):
        plan = partition(graph, {"n": N}, "n", chunk)
        assert plan.notes == ()
        assert sum(step.kind == "map" for step in plan.steps) == 1
        found = run_plan(plan, VALUES)
        for name, want in whole.items():
            np.testing.assert_allclose(found[name], want, rtol=1e-11, atol=1e-12, err_msg=name)


def test_an_executor_and_a_file_give_the_same_bits() -> None:
    graph = gradients()
    loaded = gi.load(gi.dump(graph))
    assert loaded.digest == graph.digest
    assert "body" in loaded.to_text()
    expected = gi.evaluate(graph, VALUES)
    for found in (gi.evaluate(loaded, VALUES), Executor(loaded)(VALUES)):
        for name, want in expected.items():
            assert np.array_equal(found[name], want), name


def test_a_step_runs_forward_once_for_value_and_gradient() -> None:
    from graphir import walk

    groups = walk.siblings(gradients().nodes)
    assert len(groups) == 2  # the scan with its history, and its adjoint


def test_reverse_and_no_xs_agree_with_jax() -> None:
    s = gi.input("scan_s", (7,))
    value = np.linspace(0.1, 0.9, 7)
    back, stacked = gi.scan(lambda c, v: (c * v + 1, {"c": c}), gi.constant(1.0), s, reverse=True)
    powers, _ = gi.scan(lambda c, _: (gi.sin(c), None), s, length=3)
    graph = gi.Graph({"back": back, "c": stacked["c"], "powers": powers})
    found = gi.evaluate(graph, {"scan_s": value})
    b, ys = jax.lax.scan(lambda c, v: (c * v + 1, c), 1.0, value, reverse=True)
    np.testing.assert_allclose(found["back"], b)
    np.testing.assert_allclose(found["c"], ys)
    np.testing.assert_allclose(found["powers"], np.sin(np.sin(np.sin(value))))


def test_a_scan_in_a_scan_differentiates() -> None:
    m = gi.input("scan_m", (3, 4))
    value = RNG.uniform(0.5, 1.5, (3, 4))

    def outer(c, row):
        inner, _ = gi.scan(lambda d, v: (gi.sin(d * v) + c, None), c, row)
        return inner, inner

    last, ys = gi.scan(outer, gi.constant(0.3), m)
    loss = last * gi.sum(ys)
    (dm,) = gi.grad(loss, [m])
    (second,) = gi.grad(gi.sum(dm * dm), [m])

    def of(m):
        def outer(c, row):
            inner, _ = jax.lax.scan(lambda d, v: (jnp.sin(d * v) + c, None), c, row)
            return inner, inner

        last, ys = jax.lax.scan(outer, 0.3, m)
        return last * jnp.sum(ys)

    found = gi.evaluate(gi.Graph({"dm": dm, "second": second}), {"scan_m": value})
    np.testing.assert_allclose(found["dm"], jax.grad(of)(value), rtol=1e-11)
    np.testing.assert_allclose(found["second"], jax.grad(lambda m: jnp.sum(jax.grad(of)(m) ** 2))(value), rtol=1e-9)


def test_no_steps_give_the_first_value_and_empty_stacks() -> None:
    z = gi.input("scan_z", ("t", 2))
    last, ys = gi.scan(lambda c, v: (c * v, c + v), gi.constant([1.0, 2.0]), z)
    (dz,) = gi.grad(gi.sum(last) + gi.sum(ys), [z])
    found = gi.evaluate(gi.Graph({"last": last, "ys": ys, "dz": dz}), {"scan_z": np.zeros((0, 2))})
    np.testing.assert_array_equal(found["last"], [1.0, 2.0])
    assert found["ys"].shape == found["dz"].shape == (0, 2)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(gi.DTypeError, match="carried value 0"):
        gi.scan(lambda c, v: (gi.astype(c, "float32"), None), h0, x)
    with pytest.raises(gi.ShapeError, match="carried value 0"):
        gi.scan(lambda c, v: (c @ gi.constant(np.ones((H, 2))), None), h0, x)
    with pytest.raises(gi.ShapeError, match="keep its form"):
        gi.scan(lambda c, v: ((c, c), None), h0, x)
    with pytest.raises(gi.ShapeError, match="one length"):
        gi.scan(lambda c, v: (c, None), h0)
    with pytest.raises(gi.ShapeError, match="pair"):
        gi.scan(lambda c, v: c, h0, x)
    with pytest.raises(gi.ShapeError, match="needs an axis"):
        gi.scan(lambda c, v: (c, None), h0, gi.constant(1.0))


def test_a_gradient_computes_no_product_of_a_step_again() -> None:
    total = gi.sum(gi.scan(lambda h, row: (gi.tanh(h @ u + row @ w), None), h0, x)[0])
    (second,) = gi.hvp(total, [u], [gi.constant(np.ones((H, H)))])
    value = operations(gi.Graph({"l": total}), {"n": 64})
    du, dw = gi.grad(total, [u, w])
    assert operations(gi.Graph({"l": total, "du": du, "dw": dw}), {"n": 64}) < 3 * value
    assert operations(gi.Graph({"hv": second}), {"n": 64}) < 10 * value
