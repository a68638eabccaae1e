"""docs/operations.md is what the registry says, and the Array API's names are there but for those it lists."""

from pathlib import Path

import array_api_strict
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
