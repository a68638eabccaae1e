"""The ONNX package's own tests: exactly those pass that docs/conformance.md does not list."""

from pathlib import Path

import pytest

from graphir.onnx import conformance
from graphir.onnx.conformance import KINDS, Outcome

DOCUMENT = Path(__file__).resolve().parent.parent / conformance.DOCUMENT


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return {kind: conformance.run(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_tests_that_are_not_listed_pass(kind: str, outcomes: dict[str, Outcome]) -> None:
    listed = conformance.listed(DOCUMENT.read_text()).get(kind, set())
    failed = set(outcomes[kind].failed)
    assert sorted(failed - listed) == []
    assert sorted(listed - failed) == []
    assert outcomes[kind].ran > 20


def test_the_document_is_what_its_command_writes(outcomes: dict[str, Outcome]) -> None:
    assert DOCUMENT.read_text() == conformance.render(outcomes), "run: python -m graphir.onnx.conformance"
