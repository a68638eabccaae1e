"""Every command: JSON alone on stdout with --json, progress on stderr, exit codes 0, 1 and 2, and completion in shells."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.shell_completion import ShellComplete

import graphir as gi
import graphir.client
from graphir.client import Client, connect
from scheduler import reference
from scheduler.cli import cli, main
from tests.served import ENVIRONMENT, ROOT, Served, serving

SILENT = {"gradfleet serve"}
"""Says where it listens, on stderr."""
PATHS = [path for path, _ in reference.commands_of(cli) if path not in SILENT]
FEEDS = ["--feed", "x=x.npy", "--feed", "w=w.npy"]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), "--workers", 0) as service:
        yield service


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs and data: one that works, and one that fails once it has its numbers."""
    made = tmp_path_factory.mktemp("files")
    x, w, at = gi.input("x", ("n", 3)), gi.input("w", (3,)), gi.input("at", (2,), "int64")
    loss = gi.mean((x @ w) ** 2)
    (dw,) = gi.grad(loss, [w])
    gi.Graph({"loss": loss, "w_next": w - 0.1 * dw}).save(made / "good.gir")
    gi.Graph({"taken": gi.take(w, at)}).save(made / "bad.gir")
    np.save(made / "x.npy", np.ones((20, 3)))
    np.save(made / "w.npy", np.ones(3))
    np.save(made / "at.npy", np.array([0, 7]))
    return made


@pytest.fixture
def at_home(folder: Path, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In that folder, with the service's URL, and with embedded clients that need no Ray."""

    def local(url: str | None = None, *, workers: int | None = None, **options: Any) -> Client:
        return connect(url, workers=0, **options) if url is None else connect(url, **options)

    monkeypatch.chdir(folder)
    monkeypatch.setenv("GRADFLEET_URL", served.url)
    monkeypatch.setenv("GRADFLEET_DIRECTORY", str(tmp_path / "tokens"))
    monkeypatch.setattr(graphir.client, "connect", local)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """The command line in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["gradfleet", *map(str, words)])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def job(served: Served, graph: str = "good.gir", *, wait: bool = True) -> str:
    """A job of the service."""
    with connect(served.url) as client:
        names = gi.load(graph).inputs
        sent = client.submit(gi.load(graph), {name: np.load(f"{name}.npy") for name in names})
        if wait:
            list(sent.events())
        return sent.id


def words_of(path: str, served: Served, out: Path) -> list[object]:
    """A call of each command that succeeds."""
    known: dict[str, Any] = {
        "gradfleet run": lambda: ["good.gir", *FEEDS, "--steps", 3, "--carry", "w=w_next"],
        "gradfleet demo": lambda: ["--output", out / "demo"],
        "gradfleet grad": lambda: ["good.gir", "--wrt", "w", "-o", out / "grad.gir"],
        "gradfleet show": lambda: ["good.gir"],
        "gradfleet plan": lambda: ["good.gir", *FEEDS],
        "gradfleet simulate": lambda: ["good.gir", *FEEDS, "--workers", 4],
        "gradfleet submit": lambda: ["good.gir", *FEEDS],
        "gradfleet status": lambda: [job(served)],
        "gradfleet watch": lambda: [job(served)],
        "gradfleet result": lambda: [job(served)],
        "gradfleet cancel": lambda: [job(served)],
        "gradfleet jobs": list,
        "gradfleet token create": lambda: ["ann"],
        "gradfleet token list": list,
        "gradfleet token revoke": lambda: ["bob"],
        "gradfleet sweep": list,
    }
    return [*path.split()[1:], *known[path]()]


@pytest.mark.parametrize(
    "path", [path for path in PATHS if path != "gradfleet calibrate"]
)  # which needs Ray: see test_calibrate
def test_with_json_there_is_nothing_else_on_stdout(
    path: str, at_home: Path, served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if path == "gradfleet token revoke":
        assert call(monkeypatch, "token", "create", "bob") == 0
    words = words_of(path, served, at_home)
    capsys.readouterr()
    assert call(monkeypatch, *words, "--json") == 0
    out = capsys.readouterr().out
    found = [json.loads(line) for line in out.splitlines()]
    assert found
    assert len(found) == 1 or path == "gradfleet watch"  # whose events come one by one


def test_every_command_that_prints_has_json() -> None:
    commands = dict(reference.commands_of(cli))
    assert commands.keys() == {*PATHS, *SILENT}
    for path in PATHS:
        assert "--json" in {flag for option in commands[path].params for flag in option.opts}, path


def test_progress_goes_to_stderr_and_results_to_stdout(
    at_home: Path, served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *words_of("gradfleet run", served, at_home)) == 0
    said = capsys.readouterr()
    assert said.out.startswith("loss: float64[]\n")
    assert "3/3" in said.err
    assert "step/s" not in said.out
    assert call(monkeypatch, "watch", job(served)) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "succeeded, step 1 of 1" in said.err


def test_a_job_that_fails_exits_with_1(
    at_home: Path, served: Served, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = job(served, "bad.gir")
    for words in (
        ["run", "bad.gir", "--feed", "w=w.npy", "--feed", "at=at.npy"],
        ["watch", failed],
        ["watch", failed, "--json"],
        ["result", failed],
        ["result", failed, "--json"],
    ):
        assert call(monkeypatch, *words) == 1, words
        assert "JobFailed" in capsys.readouterr().err
    assert call(monkeypatch, "status", failed) == 0  # which was asked, and answered


@pytest.mark.parametrize("path", PATHS)
def test_bad_usage_and_bad_input_exit_with_2(
    path: str, at_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *path.split()[1:], "--no-such-option") == 2
    assert "--no-such-option" in capsys.readouterr().err
    parameters = dict(reference.commands_of(cli))[path].params
    argument = next((each for each in parameters if isinstance(each, click.Argument)), None)
    if argument is not None and path != "gradfleet token create":
        (at_home / "wrong.gir").write_text("no graph")
        needed = ["-o", str(at_home / "o.gir")] if path == "gradfleet grad" else []
        wrong = at_home / "wrong.gir" if isinstance(argument.type, click.Path) else "nothing"
        assert call(monkeypatch, *path.split()[1:], wrong, *needed) == 2
        assert capsys.readouterr().err.strip()


def completions(*words: str) -> list[str]:
    shell = ShellComplete(cli, {}, "gradfleet", "_GRADFLEET_COMPLETE")
    return [item.value for item in shell.get_completions([*words[:-1]], words[-1])]


def test_commands_options_and_choices_are_completed() -> None:
    assert completions("to") == ["token"]
    assert {*completions("token", "")} == {"create", "list", "revoke"}
    assert "--feed" in completions("run", "graph.gir", "--f")
    assert completions("token", "create", "ann", "--scope", "m") == ["metrics"]
    assert [item.type for item in _files("run", "")] == ["file"]


def _files(*words: str) -> list[Any]:
    return ShellComplete(cli, {}, "gradfleet", "_GRADFLEET_COMPLETE").get_completions([*words[:-1]], words[-1])


def test_bash_completes_as_documented(tmp_path: Path) -> None:
    command = tmp_path / "gradfleet"
    command.write_text(f"#!{sys.executable}\nfrom scheduler.cli import main\nmain()\n")
    command.chmod(0o755)
    script = f"""
        set -eu
        PATH={tmp_path}:$PATH
        source <(_GRADFLEET_COMPLETE=bash_source gradfleet)
        COMP_WORDS=(gradfleet sim) COMP_CWORD=1
        _gradfleet_completion gradfleet
        echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script], env=ENVIRONMENT, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["simulate"], done.stderr
