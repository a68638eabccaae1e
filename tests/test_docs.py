"""Every Python block of the documents runs as printed, and prints what the next text block says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"```python\n(.*?)```\n+prints\n+```text\n(.*?)```", re.S)
EXAMPLES = [
    pytest.param(code, printed, id=f"{document.name}-{number}")
    for document in DOCUMENTS
    for number, (code, printed) in enumerate(BLOCK.findall(document.read_text()))
]


def test_every_python_block_says_what_it_prints() -> None:
    blocks = sum(document.read_text().count("```python") for document in DOCUMENTS)
    assert blocks == len(EXAMPLES) > 0


@pytest.mark.parametrize(("code", "printed"), EXAMPLES)
def test_example(code: str, printed: str) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "example", "exec"), {})
    assert out.getvalue() == printed


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)", document.read_text()):
        assert (document.parent / target).exists(), target
