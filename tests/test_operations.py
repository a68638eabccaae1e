"""docs/operations.md is what the registry says, and the Array API's names are there but for those it lists."""

import inspect
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest

import graphir as gi
from graphir.node import REGISTRY
from graphir.onnx import operations
from graphir.onnx.writer import JOINT_RULES, RULES

DOCUMENT = Path(__file__).resolve().parent.parent / operations.DOCUMENT
MODULE_ONLY = {
    "__array_api_version__", "__version__", "Device", "ArrayAPIStrictFlags", "set_array_api_strict_flags",
    "get_array_api_strict_flags", "reset_array_api_strict_flags",
}  # fmt: skip
"""What array_api_strict exports of its own."""


def test_the_document_is_what_the_registry_says() -> None:
    regenerate = "docs/operations.md is out of date; run: python -m graphir.onnx.operations"
    assert DOCUMENT.read_text() == operations.render(), regenerate


def test_every_op_has_a_line() -> None:
    assert {op.name for members in operations.declared().values() for op in members} == set(REGISTRY)


def test_functions_that_are_named_exist() -> None:
    for op, paths in operations.CALLED.items():
        assert op in REGISTRY
        assert all(callable(operations.public(path) or getattr(gi.Expr, path[5:], None)) for path in paths), paths


@pytest.mark.parametrize("op", operations.UNWRITTEN)
def test_what_is_said_not_to_be_written_has_no_rule(op: str) -> None:
    assert op in REGISTRY
    assert op not in RULES
    assert op not in JOINT_RULES


def test_the_standards_names_are_there_but_for_those_listed() -> None:
    names = set(array_api_strict.__all__) - MODULE_ONLY
    assert array_api_strict.__array_api_version__ == "2024.12"
    assert {name for name in names if not hasattr(gi, name)} == set(operations.LEFT_OUT)
    assert [name for name in array_api_strict.linalg.__all__ if not hasattr(gi.linalg, name)] == []


STANDARD = {
    f"{prefix}{name}": (getattr(theirs, name), getattr(ours, name))
    for prefix, theirs, ours in (("", array_api_strict, gi), ("linalg.", array_api_strict.linalg, gi.linalg))
    for name in theirs.__all__
    if inspect.isfunction(getattr(theirs, name)) and hasattr(ours, name)
}


@pytest.mark.parametrize("name", STANDARD)
def test_functions_take_the_standards_arguments(name: str) -> None:
    theirs, ours = (inspect.signature(function).parameters for function in STANDARD[name])
    unnamed = [p for p in theirs.values() if p.kind is p.POSITIONAL_ONLY]
    named = {k for k, p in theirs.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    assert named - ours.keys() <= set(operations.ARGUMENTS_LEFT_OUT)
    places = [p for p in ours.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    assert len(unnamed) <= len(places) or any(p.kind is p.VAR_POSITIONAL for p in ours.values())
    for k in named & ours.keys() - {"dtype"}:
        assert ours[k].default == theirs[k].default or theirs[k].default is inspect.Parameter.empty


CREATED: dict[str, tuple[Any, ...]] = {
    "zeros": ((2,),), "ones": ((2, 3),), "empty": ((2,),), "eye": (3,), "linspace": (0.0, 1.0, 5), "arange": (4,),
    "full": ((2,), 3),
}  # fmt: skip


@pytest.mark.parametrize("name", CREATED)
@pytest.mark.parametrize("dtype", [None, "float32", "int64"])
def test_created_values_have_the_standards_dtype(name: str, dtype: str | None) -> None:
    own = gi.evaluate(gi.Graph({"out": getattr(gi, name)(*CREATED[name], dtype=dtype)}), {})["out"]
    strict = None if dtype is None else getattr(array_api_strict, dtype)
    expected = np.asarray(getattr(array_api_strict, name)(*CREATED[name], dtype=strict))
    assert (own.shape, own.dtype) == (expected.shape, expected.dtype)
    if name != "empty":
        np.testing.assert_array_equal(own, expected)
