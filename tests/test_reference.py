"""The reference says what docstrings, commands and routes say."""

import inspect
from pathlib import Path

import pytest

import graphir as gi
from graphir.client import Client
from scheduler import reference
from scheduler.cli import cli
from tests.served import ROOT


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return reference.documents()


@pytest.mark.parametrize("name", ["reference.md", "commands.md", "http.md"])
def test_documents_are_current(written: dict[str, str], name: str) -> None:
    found = (ROOT / reference.FOLDER / name).read_text()
    assert found == written[name], f"docs/{name} is out of date; run: python -m scheduler.reference"


def test_every_public_name_is_there(written: dict[str, str]) -> None:
    assert [name for name in gi.__all__ if f"gi.{name}" not in written["reference.md"]] == []
    methods = [name for name, _ in inspect.getmembers(Client, inspect.isfunction) if not name.startswith("_")]
    section = written["reference.md"].split("## gi.Client\n")[1].split("\n## ")[0]
    assert methods
    assert [name for name in methods if f"- `.{name}(" not in section] == []


def test_everything_that_is_there_says_what_it_is(written: dict[str, str]) -> None:
    lines = [line for line in written["reference.md"].splitlines() if line.startswith("- ")]
    assert len(lines) > 250
    assert [line for line in lines if line.endswith(("`:", "`: "))] == []


def test_every_command_and_route_is_there(written: dict[str, str]) -> None:
    for name in cli.commands:
        assert f"## gradfleet {name}" in written["commands.md"]
    described = reference.openapi()
    routes = [f"## {method.upper()} {path}\n" for path, methods in described["paths"].items() for method in methods]
    assert len(routes) > 10
    assert [route for route in routes if route not in written["http.md"]] == []


def test_check_says_what_is_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(reference, "FOLDER", tmp_path)
    with pytest.raises(SystemExit) as ended:
        reference.main(["--check"], said.append)
    assert ended.value.code == 1
    assert [line.split()[0] for line in said] == [
        str(tmp_path / name) for name in ("reference.md", "commands.md", "http.md")
    ]
    reference.main([])
    reference.main(["--check"])
