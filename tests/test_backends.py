"""One suite for all back-ends: every op, example and dtype against the reference evaluation, and what they do with odd values.

A back-end takes part by a line in BACKENDS: how far, in units of the dtype's rounding, its results may be from the reference's
largest element; 0 is the same bits. What a back-end lacks it refuses when the executor is made.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphir as gi
from graphir import control  # noqa: F401  # declares its ops
from graphir.errors import EvaluationError, GraphError, LimitError, ShapeError, SingularMatrixError
from graphir.example import Example
from graphir.graph import Graph
from graphir.interpret import evaluate
from graphir.node import REGISTRY, Node, Op
from graphir.ops.random import random_bits
from graphir.ops.sources import input_, iota, literal
from scheduler.accept import with_backend
from workers import backends
from workers.executor import Executor

BACKENDS: dict[str, float] = {"numpy": 0, "llvm": 16, "jax": 64}
LIBRARIES = {"jax": "jax", "llvm": "llvmlite"}
UP_TO_SIGN = {("qr", "jax"), ("qr_complete", "jax"), ("eigh", "jax"), ("svd", "jax"), ("svd_complete", "jax")}
"""Decompositions whose vectors are determined up to their signs."""

ops = [op for op in REGISTRY.values() if op.name != "input"]
present: list[Any] = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(importlib.util.find_spec(LIBRARIES.get(name, "numpy")) is None, reason="no library"),
    )
    for name in BACKENDS
]


def cast_to(example: Example, dtype: str) -> Example:
    """The example with its main dtype exchanged."""
    main = example.inputs[0].dtype
    return replace(example, inputs=tuple(replace(s, dtype=dtype) if s.dtype == main else s for s in example.inputs))


def graph_of(op: Op, example: Example) -> tuple[Graph, dict[str, np.ndarray]]:
    leaves = tuple(input_(name=f"arg{k}", dtype=s.dtype, shape=s.shape) for k, s in enumerate(example.inputs))
    return Graph({"out": op(*leaves, **example.attrs)}, inputs=leaves), {
        f"arg{k}": array for k, array in enumerate(example.arrays())
    }


def typed_cases(everything: bool) -> Iterator[tuple[Op, Example]]:
    """Each op's examples, and the first of each in every other dtype that it takes."""
    for op in ops:
        for k, example in enumerate(op.examples):
            yield op, example
            if not example.inputs or (k and not everything) or "graph" in op.attrs.values():
                continue
            for dtype in ("float16", "float32", "float64", "int8", "int32", "int64", "uint16", "uint64", "bool"):
                other = cast_to(example, dtype)
                if other == example:
                    continue
                try:
                    evaluate(*graph_of(op, other))
                except GraphError:
                    continue  # not a type that the op takes, or not with these values
                yield op, other


def agree(backend: str, node: Node, found: np.ndarray, wanted: np.ndarray) -> None:
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    if (node.op.name, backend) in UP_TO_SIGN:
        found, wanted = np.abs(found), np.abs(wanted)
    if wanted.dtype.kind != "f" or not BACKENDS[backend]:
        np.testing.assert_array_equal(found, wanted)
        return
    finite = np.abs(wanted[np.isfinite(wanted)])
    room = (
        BACKENDS[backend] * np.finfo(wanted.dtype).eps * max(float(finite.max(initial=0)), np.finfo(wanted.dtype).tiny)
    )
    np.testing.assert_allclose(found, wanted, rtol=0, atol=room)


@pytest.mark.parametrize("backend", present)
def test_every_op_agrees_in_one_program(backend: str) -> None:
    """All ops' first examples in every dtype: many programs in one, so that compiling does not take long."""
    cases = list(typed_cases(everything=False))
    for start in range(0, len(cases), 40):
        outputs: dict[str, Node] = {}
        feeds: dict[str, np.ndarray] = {}
        for k, (op, example) in enumerate(cases[start : start + 40]):
            leaves = [input_(name=f"x{k}.{j}", dtype=s.dtype, shape=s.shape) for j, s in enumerate(example.inputs)]
            outputs[f"y{k}"] = op(*leaves, **example.attrs)
            feeds |= {f"x{k}.{j}": array for j, array in enumerate(example.arrays())}
        graph = Graph(outputs)
        feeds = {name: feeds[name] for name in graph.inputs}
        wanted, found = evaluate(graph, feeds), Executor(graph, backend)(feeds)
        for name, node in graph.outputs.items():
            try:
                agree(backend, node, found[name], wanted[name])
            except AssertionError as error:
                raise AssertionError(f"{node.op.name} of {[str(i.type) for i in node.inputs]}: {error}") from None


@pytest.mark.slow
@pytest.mark.parametrize("backend", present)
@pytest.mark.parametrize("op", ops, ids=lambda op: op.name)
def test_every_example_in_every_dtype_agrees(op: Op, backend: str) -> None:
    for own, example in typed_cases(everything=True):
        if own is op:
            graph, feeds = graph_of(op, example)
            agree(backend, graph.outputs["out"], Executor(graph, backend)(feeds)["out"], evaluate(graph, feeds)["out"])


# ---- odd values ----

ODD = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-3, 30.0, -30.0, 88.0, 710.0, -745.0, 1e10, -1e10, np.inf, -np.inf, np.nan]
FLOATING = [op for op in ops if op.arity in (1, 2) and not op.attrs and op.axes is REGISTRY["add"].axes]


@pytest.mark.parametrize("backend", present)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_odd_values_go_through_every_elementwise_op(backend: str, dtype: str) -> None:
    """NaN, infinities, signed zeros, and what overflows; near an overflow eight times the room."""
    one = np.array(ODD, dtype)
    first, second = (grid.reshape(-1) for grid in np.meshgrid(one, one))
    x, y = (input_(name=name, dtype=dtype, shape=first.shape) for name in "xy")
    outputs = {}
    for op in FLOATING:
        try:
            outputs[op.name] = op(*(x, y)[: op.arity])
        except GraphError:
            continue  # of integers or bools
    graph = Graph(outputs, inputs=(x, y))
    feeds = {"x": first, "y": second}
    with np.errstate(all="ignore"):
        wanted = evaluate(graph, feeds)
    found = Executor(graph, backend)(feeds)
    for name, node in graph.outputs.items():
        same = np.asarray(found[name] == wanted[name]) | (np.isnan(found[name]) & np.isnan(wanted[name]))
        if node.type.dtype.kind == "f" and BACKENDS[backend]:
            with np.errstate(all="ignore"):
                near = np.abs(found[name] - wanted[name]) <= 8 * BACKENDS[backend] * np.finfo(dtype).eps * np.abs(
                    wanted[name]
                )
            same |= near | (np.abs(wanted[name]) < np.finfo(dtype).tiny) & (np.abs(found[name]) <= np.finfo(dtype).tiny)
        bad = np.flatnonzero(~same)
        assert not bad.size, (
            f"{name}({first[bad[0]]}, {second[bad[0]]}): {found[name][bad[0]]}, not {wanted[name][bad[0]]}"
        )


@pytest.mark.parametrize("backend", present)
def test_arrays_of_any_form_are_taken(backend: str) -> None:
    x = gi.input("x", ("n", 4))
    execute = Executor(Graph({"y": gi.sum(gi.exp(x), axis=0), "x": x}), backend)
    base = np.random.default_rng(0).standard_normal((6, 8))
    frozen = base[:, :4].copy()
    frozen.flags.writeable = False
    for given in (base[:, ::2], base[:, :4].astype(">f8"), np.asfortranarray(base[:, :4]), frozen, base[:0, :4]):
        out = execute({"x": given})
        np.testing.assert_allclose(out["y"], np.exp(given).sum(0), rtol=1e-13)
        np.testing.assert_array_equal(out["x"], given)


@pytest.mark.parametrize("backend", present)
def test_values_that_are_refused(backend: str) -> None:
    m, b, k = gi.input("m", (2, 2)), gi.input("b", (2, 1)), gi.input("k", (3,), "int64")
    cases: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
        (gi.take(m, k, axis=0), {"m": np.eye(2), "k": [0, 5, 1]}, ShapeError, "out of range"),
        (gi.linalg.solve(m, b), {"m": np.zeros((2, 2)), "b": np.ones((2, 1))}, SingularMatrixError, "singular"),
        (gi.linalg.cholesky(m), {"m": -np.eye(2)}, SingularMatrixError, "not positive definite"),
        (k**k, {"k": [1, 2, -3]}, EvaluationError, "negative integer powers"),
        (gi.while_loop(lambda v: gi.all(v < 9.0), lambda v: v - 1.0, m, limit=5), {"m": np.ones((2, 2))}, LimitError, "after 5 steps"),
        (gi.scan(lambda c, i: (c + gi.take(m, i, axis=0), None), gi.zeros((2,)), k)[0], {"m": np.eye(2), "k": [0, 1, 7]}, ShapeError, "out of range"),
    ]  # fmt: skip
    for value, feeds, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            Executor(Graph({"y": value}), backend)(feeds)
        assert "test_backends.py" in str(caught.value)


# ---- whole programs ----


def programs() -> dict[str, tuple[Graph, dict[str, Any]]]:
    """Values and gradients that mix the families, with a named size."""
    r = np.random.default_rng(3)
    x, t, w = gi.input("x", ("n", 6)), gi.input("t", ("n",), "int64"), gi.input("w", (6, 3))
    loss = gi.nn.cross_entropy(gi.tanh(x @ w), t)
    feeds = {"x": r.standard_normal((11, 6)), "t": r.integers(0, 3, 11), "w": r.standard_normal((6, 3))}
    softmax = Graph({"loss": loss, "dw": gi.grad(loss, [w])[0], "hv": gi.hvp(loss, [w], [gi.ones_like(w)])[0]})
    u, v = gi.input("u", (9, 4)), gi.input("v", (4, 4))
    found = {}
    for checkpoints in (None, 3):
        last, all_of_them = gi.scan(lambda h, g: ((a := gi.tanh(g + h @ v)), a * g), u[0], u, checkpoints=checkpoints)
        value = gi.sum(last) + gi.sum(all_of_them**2)
        graph = Graph({"value": value, **dict(zip(("du", "dv"), gi.grad(value, [u, v]), strict=True))})
        found[f"scan-{checkpoints}"] = graph, {"u": r.standard_normal((9, 4)), "v": 0.3 * r.standard_normal((4, 4))}
    s = gi.input("s", (5,))
    chosen = gi.sum(gi.cond(gi.sum(s) > 0, lambda a: gi.sin(a), lambda a: a * a, s))
    looped = gi.while_loop(lambda a: gi.sum(a) < 50.0, lambda a: a * 1.5 + 1.0, gi.abs(s))
    found["cond"] = Graph({"c": chosen, "dc": gi.grad(chosen, [s])[0], "l": looped}), {"s": r.standard_normal(5)}
    drawn = gi.random.normal(gi.random.key(7), ("n", 3))
    found["random"] = Graph({"d": drawn, "m": gi.mean(drawn * x[:, :3])}), {"x": feeds["x"]}
    return found | {"softmax": (softmax, feeds)}


@pytest.mark.parametrize("backend", present)
@pytest.mark.parametrize("name", list(programs()))
def test_programs_agree(name: str, backend: str) -> None:
    graph, feeds = programs()[name]
    wanted, found = evaluate(graph, feeds), Executor(graph, backend)(feeds)
    for output, node in graph.outputs.items():
        agree(backend, node, found[output], wanted[output])


@pytest.mark.parametrize("backend", present)
def test_a_chunk_has_its_own_part_of_what_counts_positions(backend: str) -> None:
    key = literal([3, 4], "uint64")
    whole = Graph({"u": random_bits(key, shape=("n", 3), whole=("n", 3)), "k": iota(shape=("n",))})
    chunk = Graph({"u": random_bits(key, shape=("m", 3), whole=("n", 3)), "k": iota(shape=("m",))})
    wanted = evaluate(whole, {}, sizes={"n": 12})
    execute = Executor(chunk, backend)
    for start in (0, 5, 8):
        found = execute.run({}, {"m": 4, "n": 12}, {"m": start})
        for name in ("u", "k"):
            np.testing.assert_array_equal(found[name], wanted[name][start : start + 4])


def test_what_a_backend_lacks_is_refused_when_the_executor_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    ops_of_jax = pytest.importorskip("workers.backends.jax.ops", reason="no library")
    monkeypatch.delitem(ops_of_jax.PLAIN, "expm1")
    x = gi.input("x", (3,))
    inside = gi.scan(lambda c, given: (c + gi.expm1(given), None), gi.zeros(()), x)[0]
    for value in (gi.expm1(x), inside):
        with pytest.raises(backends.UnsupportedOpError, match=r"'jax' has no op 'expm1'(.|\n)*test_backends.py"):
            Executor(Graph({"y": value}), "jax")


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(name="jax")

    monkeypatch.setattr(backends, "import_module", missing)
    with pytest.raises(backends.UnknownBackendError, match=r"pip install 'gradfleet\[jax\]'"):
        Executor(Graph({"y": gi.constant(1.0)}), "jax")


def test_jax_keeps_its_users_configuration() -> None:
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    x = gi.input("x", (3,), "int64")
    out = Executor(Graph({"y": x * 2**40}), "jax")({"x": [1, 2, 3]})["y"]
    np.testing.assert_array_equal(out, np.array([1, 2, 3]) * 2**40)
    assert out.dtype == np.int64
    assert jax.config.jax_enable_x64 == before
    out[0] = 5  # the caller's own


def test_a_program_is_compiled_once_for_its_sizes() -> None:
    whole = pytest.importorskip("workers.backends.jax")
    x = gi.input("x", ("n",))
    graph = Graph({"y": gi.cumulative_sum(x * 3.0)})
    before = set(whole._programs._entries)
    for n in (3, 4, 3, 4):
        Executor(graph, "jax")({"x": np.ones(n)})
    assert len(set(whole._programs._entries) - before) == 2


def test_a_profile_of_one_program() -> None:
    pytest.importorskip("jax")
    x = gi.input("x", (30, 4))
    profile = Executor(Graph({"y": gi.sum(gi.exp(x))}), "jax").profile({"x": np.ones((30, 4))}, runs=1)
    (entry,) = profile.entries
    assert entry.nodes == 3
    assert entry.bytes == 30 * 4 * 8 + 8


def test_auto_is_what_is_installed_and_a_job_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("llvmlite")
    x = gi.input("x", ("n",))
    graph, feeds = Graph({"y": gi.exp(x) * gi.tanh(x)}), {"x": np.linspace(-3, 3, 100_001)}
    assert with_backend({"backend": "auto", "steps": 3}) == {"backend": "llvm", "steps": 3}
    assert with_backend({"steps": 3}) == {"steps": 3}
    compiled, plain = Executor(graph, "llvm")(feeds)["y"], Executor(graph, "numpy")(feeds)["y"]
    assert compiled.tobytes() != plain.tobytes()
    assert Executor(graph, "auto")(feeds)["y"].tobytes() == compiled.tobytes()
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert with_backend({"backend": "auto"}) == {"backend": "numpy"}
    assert Executor(graph, "auto")(feeds)["y"].tobytes() == plain.tobytes()
