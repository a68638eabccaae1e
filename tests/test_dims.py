"""Dimensions are polynomials: equal texts if and only if equal polynomials."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphir import dims
from graphir.errors import ShapeError

NAMES = ("n", "m", "k")
texts = st.recursive(
    st.sampled_from(NAMES) | st.integers(0, 9).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+*"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=6,
)
points = [{name: random.Random(f"{seed}{name}").randrange(1, 50) for name in NAMES} for seed in range(12)]


@given(texts, texts)
def test_equal_text_means_equal_polynomials(left: str, right: str) -> None:
    a, b = dims.dim(left), dims.dim(right)
    values = [(eval(left, {}, p), eval(right, {}, p)) for p in points]
    assert [(dims.evaluate(a, p), dims.evaluate(b, p)) for p in points] == values
    assert (a == b) == all(x == y for x, y in values)
    assert dims.dim(a) == a


@given(texts, texts)
def test_arithmetic(left: str, right: str) -> None:
    a, b = dims.dim(left), dims.dim(right)
    for p in points[:3]:
        x, y = dims.evaluate(a, p), dims.evaluate(b, p)
        assert dims.evaluate(dims.add(a, b), p) == x + y
        assert dims.evaluate(dims.multiply(a, b), p) == x * y
        assert dims.evaluate(dims.floordiv(a, 3), p) == x // 3
        assert dims.evaluate(dims.subtract(dims.add(a, b), b), p) == x
    product = dims.multiply(a, "n")
    assert dims.exact_quotient(product, "n") == a or a == 0


@given(texts)
def test_renaming_and_solving(text: str) -> None:
    a = dims.dim(text)
    renamed = dims.rename(a, {"n": "n.local"})
    for p in points[:3]:
        assert dims.evaluate(renamed, {**p, "n.local": p["n"]}) == dims.evaluate(a, p)
        known = {"m": p["m"], "k": p["k"]}
        solved = dims.solve(a, dims.evaluate(a, p), known)
        if solved is not None:
            assert solved[0] == "n"
            assert dims.evaluate(a, {**known, "n": solved[1]}) == dims.evaluate(a, p)


BAD: list[Any] = [
    "",
    "n +",
    "n ** 2",
    "f(n)",
    "n/2",
    "1.5",
    "-1 -",
    "__import__('os')",
    "n" * 300,
    "(" * 200,
    -1,
    1.5,
    None,
    True,
    "n//0",
]


@pytest.mark.parametrize("value", BAD, ids=lambda v: repr(v)[:20])
def test_bad_dimensions(value: Any) -> None:
    with pytest.raises(ShapeError):
        dims.dim(value)


def test_negative_and_unknown_sizes_are_errors() -> None:
    with pytest.raises(ShapeError, match="must not be negative"):
        dims.evaluate("n - 3", {"n": 1})
    with pytest.raises(ShapeError, match="'n' is not known"):
        dims.evaluate("2*n", {})
