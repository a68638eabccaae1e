"""Curves: every iteration is there while they are few, no spike is lost when they are many, and rules stay in their picture."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import graphir as gi
from graphir import draw, plot
from graphir.partition import palette
from graphir.plot import MOST, Series, curve
from graphir.sheet import scoped

SVG = "{http://www.w3.org/2000/svg}"
NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


def series(values: list[float]) -> Series:
    found = Series()
    for step, value in enumerate(values):
        found.add(step, value)
    return found


@given(st.lists(NUMBERS, min_size=1, max_size=50))
def test_any_numbers_make_a_picture(values: list[float]) -> None:
    root = ET.fromstring(curve("<loss & more>", series(values)))
    drawn = [len((line.get("points") or "").split()) for line in root.iter(f"{SVG}polyline")]
    assert sum(drawn) == sum(map(math.isfinite, values))
    for line in root.iter(f"{SVG}polyline"):
        for point in (line.get("points") or "").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= plot.WIDTH
            assert 0 <= y <= plot.HEIGHT


def test_of_many_iterations_the_extremes_are_kept() -> None:
    values = np.random.default_rng(0).normal(size=50_000)
    values[31_415] = 99.0
    found = series(list(values))
    assert MOST // 2 <= len(found.points) <= MOST
    assert found.count == len(values)
    assert max(point.high for point in found.points) == 99.0
    assert min(point.low for point in found.points) == values.min()
    for point in found.points:
        begin = point.step // found.stride * found.stride
        part = values[begin : begin + found.stride]
        assert (point.low, point.high, point.value) == (part.min(), part.max(), part[-1])


def test_a_number_that_is_none_is_not_thinned_away() -> None:
    values = [1.0] * 10_000
    values[1234] = math.nan
    assert sum(math.isnan(point.value) for point in series(values).points) == 1


def test_iterations_made_again_take_the_place_of_the_former_ones() -> None:
    found = series([3.0, 2.0, 1.0])
    found.add(1, 2.5)
    assert [point.value for point in found.points] == [3.0, 2.5]


@pytest.mark.parametrize("sheet", [draw.STYLE, palette.STYLE, plot.STYLE])
def test_every_rule_of_a_picture_stays_in_it(sheet: str) -> None:
    inner = sheet.replace("@media (prefers-color-scheme:dark){", "").removesuffix("}")
    selectors = [each for rule in inner.split("}") if rule.strip() for each in rule.split("{")[0].split(",")]
    assert selectors
    assert {selector.split()[0] for selector in selectors} < {".gf-graph", ".gf-plan", ".gf-curve"}


def test_lists_of_selectors_are_placed_one_by_one() -> None:
    assert scoped("a", ".b,.c{x:y}", "text{}") == ".a .b,.a .c{x:y}@media (prefers-color-scheme:dark){.a text{}}"


def test_pictures_of_graphs_have_no_rules_of_their_own_elements() -> None:
    assert " style=" not in gi.Graph({"y": gi.input("x", ("n",)) + 1.0}).to_svg()
