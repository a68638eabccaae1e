"""Random numbers: against NumPy's Philox and SciPy's tests of distributions, cut, batched, and what is refused."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import parser
from scipy import stats

import graphir as gi
from graphir.onnx import exporter
from graphir.ops.random import philox
from graphir.partition.data import partition
from scheduler.driver.local import run_plan

random = gi.random
SEEDS = st.integers(0, 2**128 - 1)


def value(expr: gi.Expr, **feeds: Any) -> Any:
    return gi.evaluate(gi.Graph({"out": expr}), feeds)["out"]


@given(SEEDS, st.lists(st.integers(0, 5), max_size=3))
def test_bits_and_uniform_numbers_are_those_of_numpy(seed: int, shape: list[int]) -> None:
    expected = np.random.Philox(key=seed).random_raw(int(np.prod(shape))).reshape(shape)
    np.testing.assert_array_equal(value(random.bits(random.key(seed), shape)), expected)
    numbers = np.random.Generator(np.random.Philox(key=seed)).random(shape)
    np.testing.assert_array_equal(value(random.uniform(random.key(seed), shape)), numbers)


@given(SEEDS, st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4))
def test_keys_are_made_by_the_same_function(seed: int, counter: list[int]) -> None:
    words = np.array([seed & (2**64 - 1), seed >> 64], "uint64")
    before = (sum(word << (64 * k) for k, word in enumerate(counter)) - 1) % 2**256  # NumPy counts up before it draws
    expected = np.random.Philox(key=seed, counter=before).random_raw(4)
    np.testing.assert_array_equal(philox(np.array(counter, "uint64"), words), expected)


CUTS: dict[str, Callable[[gi.Expr], gi.Expr]] = {
    "rows": lambda key: random.normal(key, ("n", 3)),
    "columns": lambda key: random.uniform(key, (3, "n")),
    "middle": lambda key: random.bits(key, (2, "n", 3)),
    "twice as many": lambda key: random.uniform(key, (4, "2*n")),
    "choices": lambda key: random.bernoulli(key, 0.3, ("n",)),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_cut_changes_no_number(name: str) -> None:
    x = gi.input("x", ("n",))
    drawn = CUTS[name](random.key(11))
    graph = gi.Graph({"drawn": drawn, "sum": gi.sum(x)})
    feeds = {"x": np.ones(13)}
    whole = gi.evaluate(graph, feeds)["drawn"]
    for chunk in (1, 4, 5, 13):
        plan = partition(graph, {"n": 13}, "n", chunk)
        assert np.array_equal(run_plan(plan, feeds)["drawn"], whole)
    plan = partition(gi.Graph({"s": gi.sum(gi.astype(drawn, "float64")) + gi.sum(x)}), {"n": 13}, "n", 4)
    assert plan.notes == ()
    np.testing.assert_allclose(run_plan(plan, feeds)["s"], np.sum(whole, dtype="float64") + 13, rtol=1e-12)


@settings(max_examples=25)
@given(SEEDS, st.integers(1, 6))
def test_split_keys_differ_and_a_batch_of_them_draws_as_each_alone(seed: int, num: int) -> None:
    keys = value(random.split(random.key(seed), num))
    assert len({tuple(k) for k in keys}) == num
    key = gi.input("key", (2,), "uint64")
    graph = gi.Graph({"out": random.normal(key, (3,))})
    batched = gi.evaluate(gi.vmap(graph, over=["key"], size=num), {"key": keys})["out"]
    for row, own in zip(batched, keys, strict=True):
        assert np.array_equal(row, gi.evaluate(graph, {"key": own})["out"])


def test_folding_in_depends_on_both_and_a_step_may_be_folded_in() -> None:
    step = gi.input("step", (), "int64")
    key = random.key(3)
    draws = {tuple(value(random.fold_in(key, step), step=k)) for k in range(50)}
    draws |= {tuple(value(random.fold_in(random.key(4), k))) for k in range(50)}
    draws |= {tuple(k) for k in value(random.split(key, 50))}
    assert len(draws) == 150
    first, second = random.split(key)
    assert not np.array_equal(value(first), value(second))


DISTRIBUTIONS: dict[str, tuple[Callable[[gi.Expr], gi.Expr], Any]] = {
    "uniform": (lambda key: random.uniform(key, 20_000, minval=-2, maxval=3), stats.uniform(-2, 5)),
    "uniform32": (lambda key: random.uniform(key, 20_000, "float32"), stats.uniform()),
    "normal": (lambda key: random.normal(key, 20_000), stats.norm()),
    "normal32": (lambda key: random.normal(key, 20_000, "float32"), stats.norm()),
    "exponential": (lambda key: random.exponential(key, 20_000), stats.expon()),
    "gumbel": (lambda key: random.gumbel(key, 20_000), stats.gumbel_r()),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_numbers_follow_their_distribution(name: str) -> None:
    draw, expected = DISTRIBUTIONS[name]
    for seed in range(3):
        assert stats.kstest(value(draw(random.key(seed))), expected.cdf).pvalue > 1e-3


def test_neighbours_are_independent() -> None:
    x = value(random.normal(random.key(1), (50_000, 2)))
    assert abs(stats.pearsonr(x[:, 0], x[:, 1]).statistic) < 0.02
    assert abs(stats.pearsonr(x[:-1, 0], x[1:, 0]).statistic) < 0.02


@pytest.mark.parametrize(("name", "count"), [("normal", 5), ("exponential", 4), ("gumbel", 3)])
def test_moments_are_those_of_the_distribution(name: str, count: int) -> None:
    """Sample moments lie within five of their standard errors, by SciPy's moments."""
    draw, expected = DISTRIBUTIONS[name]
    x = value(draw(random.key(21)))
    for order in range(1, count):
        mean = expected.moment(order)
        spread = math.sqrt((expected.moment(2 * order) - mean**2) / x.size)
        assert abs(np.mean(x**order) - mean) < 5 * spread


def test_streams_of_split_keys_share_no_number() -> None:
    keys = value(random.split(random.key(6), 40))
    streams = [value(random.bits(random.key(6), 1000)), *[value(random.bits(key, 1000)) for key in keys]]
    assert len(np.unique(np.concatenate(streams))) == 41_000


def test_choices_have_their_frequencies() -> None:
    key, p = random.key(5), np.array([0.1, 0.2, 0.3, 0.4])
    counts = np.bincount(value(random.categorical(key, gi.broadcast_to(np.log(p), (20_000, 4)))), minlength=4)
    assert stats.chisquare(counts, 20_000 * p).pvalue > 1e-3
    ints = value(random.randint(key, (20_000,), -3, 4))
    assert stats.chisquare(np.bincount(ints + 3, minlength=7)).pvalue > 1e-3
    assert stats.binomtest(int(value(random.bernoulli(key, 0.3, (20_000,))).sum()), 20_000, 0.3).pvalue > 1e-3
    chances = value(random.bernoulli(key, gi.constant([0.0, 1.0])))
    assert chances.tolist() == [False, True]


@given(st.integers(1, 30), SEEDS)
def test_a_permutation_has_every_element_once(n: int, seed: int) -> None:
    key = random.key(seed)
    assert sorted(value(random.permutation(key, n))) == list(range(n))
    rows = np.arange(3.0 * n).reshape(3, n)
    moved = value(random.permutation(key, rows, axis=1))
    assert np.array_equal(np.sort(moved, axis=1), rows)
    assert np.array_equal(moved - moved[:1], rows - rows[:1])  # whole columns move


def test_every_order_of_three_is_as_likely() -> None:
    keys = value(random.split(random.key(8), 6000))
    graph = gi.vmap(gi.Graph({"p": random.permutation(gi.input("k", (2,), "uint64"), 3)}), over=["k"], size=6000)
    orders = gi.evaluate(graph, {"k": keys})["p"]
    counts = np.unique(orders @ [9, 3, 1], return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def test_bounds_are_differentiable() -> None:
    low, high = gi.input("low"), gi.input("high")
    total = gi.sum(random.uniform(random.key(2), (5,), minval=low, maxval=high))
    dlow, dhigh = gi.grad(total, [low, high])
    unit = np.random.Generator(np.random.Philox(key=2)).random(5)
    np.testing.assert_allclose(value(dhigh), unit.sum(), rtol=1e-14)
    np.testing.assert_allclose(value(dlow), (1 - unit).sum(), rtol=1e-14)


def test_what_is_wrong_is_said() -> None:
    key = random.key(0)
    with pytest.raises(gi.DTypeError, match=r"make one with gi\.random\.key"):
        random.uniform(gi.constant([1, 2]), (3,))
    with pytest.raises(gi.ShapeError, match="take one of several"):
        random.normal(random.split(key), (3,))
    with pytest.raises(gi.DTypeError, match="floats"):
        random.uniform(key, (3,), "int64")
    with pytest.raises(gi.DTypeError, match="integers"):
        random.randint(key, (3,), 0, 5, "float64")
    with pytest.raises(gi.DTypeError, match="one integer"):
        random.fold_in(key, 0.5)
    with pytest.raises(gi.AttributeValueError, match="seed"):
        random.key(-1)
    with pytest.raises(gi.AttributeValueError, match="nothing to draw"):
        random.randint(key, (3,), 5, 5)
    for p in (-0.1, 1.5, float("nan")):
        with pytest.raises(gi.AttributeValueError, match="probability"):
            random.bernoulli(key, p, (3,))


# ---- ONNX ----


def onnxruntime_gives(graph: gi.Graph, **feeds: Any) -> dict[str, Any]:
    data = exporter.to_bytes(graph)
    onnx.checker.check_model(data, full_check=True)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return dict(zip(graph.outputs, session.run(list(graph.outputs), feeds), strict=True))


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_onnxruntime_draws_the_same_bits_for_any_size_and_key(n: int) -> None:
    key, x = gi.input("key", (2,), "uint64"), gi.input("x", ("n",))
    first, second = random.split(random.fold_in(key, 5))
    graph = gi.Graph(
        {
            "rows": random.bits(first, ("n", 3)),
            "uniform": random.uniform(second, (2, "n")),
            "choices": random.bernoulli(key, 1 / (1 + gi.exp(-x))),
            "moved": random.permutation(first, x),
        }
    )
    for seed in (0, 7, 2**128 - 1):
        feeds = {"key": value(random.key(seed)), "x": np.linspace(-2, 2, n)}
        expected = gi.evaluate(graph, feeds)
        for name, found in onnxruntime_gives(graph, **feeds).items():
            np.testing.assert_array_equal(found, expected[name], err_msg=name)


def test_onnxruntime_draws_the_same_normal_numbers() -> None:
    keys = gi.vmap(gi.Graph({"z": random.normal(gi.input("key", (2,), "uint64"), (5,))}), over=["key"], size="b")
    feeds = {"key": value(random.split(random.key(4), 3))}
    found = onnxruntime_gives(keys, **feeds)["z"]
    np.testing.assert_allclose(found, gi.evaluate(keys, feeds)["z"], rtol=1e-12)


def read(body: str, **feeds: Any) -> dict[str, Any]:
    model = parser.parse_model('<ir_version: 10, opset_import: ["" : 21]>\n' + body)
    return gi.evaluate(gi.from_onnx(model.SerializeToString()), feeds)


def test_random_operators_of_models_follow_their_distributions() -> None:
    found = read(
        """g (double[20000] p, float[1,3] l) => (double[20000] u, float[20000] z, double[20000] b, int32[1,20000] m) {
            u = RandomUniformLike <low = -1.0, high = 3.0, seed = 2.0> (p)
            z = RandomNormal <mean = 5.0, scale = 2.0, shape = [20000]> ()
            b = Bernoulli (p)
            m = Multinomial <sample_size = 20000> (l)
        }""",
        p=np.full(20_000, 0.3),
        l=np.log(np.array([[0.2, 0.3, 0.5]], "float32")),
    )
    assert stats.kstest(found["u"], stats.uniform(-1, 4).cdf).pvalue > 1e-3
    assert stats.kstest(found["z"], stats.norm(5, 2).cdf).pvalue > 1e-3
    assert stats.binomtest(int(found["b"].sum()), 20_000, 0.3).pvalue > 1e-3
    assert stats.chisquare(np.bincount(found["m"][0], minlength=3), [4000, 6000, 10_000]).pvalue > 1e-3


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_dropout_in_training_scales_what_its_mask_keeps(ratio: float) -> None:
    found = read(
        f"""g (double[20000] x) => (double[20000] y, bool[20000] kept)
        <double ratio = {{{ratio}}}, bool training = {{1}}> {{
            y, kept = Dropout <seed = 3> (x, ratio, training)
        }}""",
        x=np.arange(20_000.0),
    )
    scale = 1 / (1 - ratio) if ratio < 1 else 0.0
    np.testing.assert_allclose(found["y"], np.arange(20_000.0) * found["kept"] * scale, rtol=1e-15)
    assert stats.binomtest(int(found["kept"].sum()), 20_000, 1 - ratio).pvalue > 1e-3
