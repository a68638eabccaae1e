"""What of the ONNX package's own tests passes: `python -m graphir.onnx.conformance` writes docs/conformance.md.

Every test that does not pass is listed with its reason, and the project's tests hold the list to be exact. The tests
of large models are left out: they download their data.
"""

import argparse
import re
import unittest
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx.backend.test

from graphir.errors import GraphError
from graphir.onnx.backend import GraphirBackend

KINDS = {
    "node": "OnnxBackendNodeModelTest",
    "simple": "OnnxBackendSimpleModelTest",
    "pytorch-converted": "OnnxBackendPyTorchConvertedModelTest",
    "pytorch-operator": "OnnxBackendPyTorchOperatorModelTest",
}
"""The runner's test classes by the names of their data."""

FOREIGN = re.compile(
    r"element type (?!bool|u?int(8|16|32|64)\b|float(16)?\b|double\b)|type (sequence|optional|sparse)|Sequence|Optional"
)
"""Reasons that a test has no tensors of the language's dtypes."""

RANDOM = re.compile(r"bernoulli|training_dropout")
OTHER_NUMBERS = "random numbers, which are not those of the reference"
"""Tests whose expected results are one draw."""

DOCUMENT = Path("docs/conformance.md")


@dataclass(frozen=True, slots=True)
class Outcome:
    """The tests of one kind: how many ran, and why those failed that did."""

    ran: int
    failed: dict[str, str]

    @property
    def foreign(self) -> int:
        """How many failed for a type that the language does not have."""
        return sum(bool(FOREIGN.search(reason)) for reason in self.failed.values())


class _Collector(unittest.TestResult):
    """Keeps the exception of each test that failed."""

    def __init__(self) -> None:
        super().__init__()
        self.reasons: dict[str, str] = {}

    def addError(self, test: unittest.TestCase, err: object) -> None:
        """An exception of any kind."""
        if isinstance(err, tuple):
            self.reasons[_name(test)] = reason_of(err[1])

    addFailure = addError


def _name(test: unittest.TestCase) -> str:
    return test.id().rsplit(".", 1)[-1].removeprefix("test_").removesuffix("_cpu")


def reason_of(error: object) -> str:
    """An exception in a few words, the same in every run."""
    text = str(error).split("\n")[0]
    known = (
        (r"operator '([^']+)' is not supported", "operator {} is not supported"),
        (r"element type (\S+) is not supported", "element type {}"),
        (r"has the type (\w+)", "type {}"),
        (r"^(input \d+) \('.*decides a shape", "{} decides a shape and is not known"),
    )
    for pattern, sentence in known:
        match = re.search(pattern, text)
        if match:
            return sentence.format(match.group(1))
    if isinstance(error, GraphError):
        return text.split(";")[0][:160]
    what = "differs from the expected result" if isinstance(error, AssertionError) else text[:60]
    return what if isinstance(error, AssertionError) else f"{type(error).__name__}: {what}"


def run(kind: str, backend: type[GraphirBackend] = GraphirBackend) -> Outcome:
    """Run the tests of one kind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference data of some tests overflows on purpose
        cases = onnx.backend.test.BackendTest(backend, __name__).test_cases
        loader = unittest.TestLoader()
        names = [name for name in loader.getTestCaseNames(cases[KINDS[kind]]) if name.endswith("_cpu")]
        collector = _Collector()
        unittest.TestSuite(cases[KINDS[kind]](name) for name in names).run(collector)
    reasons = {name: OTHER_NUMBERS if RANDOM.match(name) else why for name, why in collector.reasons.items()}
    return Outcome(len(names), reasons)


def render(outcomes: dict[str, Outcome]) -> str:
    """The document."""
    lines = [
        "# ONNX conformance",
        "",
        f"The tests that the `onnx` package {onnx.__version__} ships, run through its own `BackendTest` runner. Generated",
        "by `python -m graphir.onnx.conformance`; the tests of this project hold it to be exact.",
        "",
        "| tests | ran | passed | of those with bool, int and float tensors |",
        "|---|---|---|---|",
    ]
    for kind, outcome in outcomes.items():
        passed, own = outcome.ran - len(outcome.failed), outcome.ran - outcome.foreign
        lines.append(f"| {kind} | {outcome.ran} | {passed} | {passed} of {own} ({100 * passed / own:.1f} %) |")
    for kind, outcome in outcomes.items():
        lines += ["", f"## {kind}: not passed, with the reason", ""]
        groups: dict[str, list[str]] = defaultdict(list)
        for name, reason in sorted(outcome.failed.items()):
            groups[reason].append(name)
        lines += [f"- {reason}: {', '.join(f'`{name}`' for name in groups[reason])}" for reason in sorted(groups)]
    return "\n".join(lines) + "\n"


def listed(document: str) -> dict[str, set[str]]:
    """The tests that a document lists, by kind."""
    found: dict[str, set[str]] = {}
    for part in document.split("\n## ")[1:]:
        kind, _, rest = part.partition(":")
        found[kind] = {name for line in rest.splitlines()[1:] for name in re.findall(r"`([^`]+)`", line)}
    return found


def main() -> None:
    """Write the document."""
    parser = argparse.ArgumentParser(description="Write what of ONNX's own tests passes.")
    parser.add_argument("-o", "--output", type=Path, default=DOCUMENT)
    arguments = parser.parse_args()
    arguments.output.write_text(render({kind: run(kind) for kind in KINDS}))


if __name__ == "__main__":
    main()
