"""The recurrent network of examples/rnn.py: cut along its examples, on two Ray workers, against JAX."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import graphir as gi

jax.config.update("jax_enable_x64", True)
ROOT = Path(__file__).resolve().parent.parent


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rnn", ROOT / "examples" / "rnn.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rnn = load()


def feeds() -> dict[str, Any]:
    with np.load(rnn.DATA / "digits_train.npz") as data:
        rows = {"x": data["x"][:300].astype("float64"), "t": data["t"][:300]}
    return {**rows, **rnn.start()}


def jax_loss(p: dict[str, Any], x: Any, t: Any) -> Any:
    rows = jnp.transpose(x.reshape(-1, rnn.SIDE, rnn.SIDE), (1, 0, 2))
    first = jnp.zeros((len(x), rnn.HIDDEN))
    h, _ = jax.lax.scan(lambda h, row: (jnp.tanh(h @ p["u"] + row @ p["w"] + p["b"]), None), first, rows)
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(h @ p["v"]), t[:, None], axis=1))


def test_a_step_on_two_workers_agrees_with_jax_and_has_the_same_bits_as_inline(local_ray: None) -> None:
    values = feeds()
    graph, _ = rnn.step(rate=0.5)
    parameters = {name: values[name] for name in rnn.SHAPES}
    loss, gradients = jax.value_and_grad(jax_loss)(parameters, values["x"], values["t"])
    found = []
    for workers in (0, 2):
        with gi.connect(workers=workers) as client:
            plan = client.plan(graph, values, workers=2, chunk={"n": 64})
            assert plan.notes == ()
            (stage,) = [step for step in plan.steps if step.kind == "map"]
            assert sum(node.op.name == "retraced_scan" for node in stage.program.nodes) == len(rnn.SHAPES) - 1
            found.append(client.submit(graph, values, chunk={"n": 64}).result(60))
    for name, value in found[0].items():
        assert np.array_equal(found[1][name], value), name
    np.testing.assert_allclose(found[0]["loss"], loss, rtol=1e-12)
    for name, gradient in gradients.items():
        np.testing.assert_allclose((values[name] - found[0][f"{name}_next"]) / 0.5, gradient, rtol=1e-9, atol=1e-12)


def test_it_learns(local_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    rnn.main(steps=60)
    printed = capsys.readouterr().out
    assert "map 0" in printed
    assert float(printed.rsplit("accuracy ", 1)[1]) > 0.9
