"""A reader of the documents: runs their blocks in order, in a folder of the document's own.

Python blocks of one document share their names. Embedded clients are shared by all documents: one on Ray workers, one without;
a service at any URL is the one that the tests run. Lines of `sh` blocks that only call `gradfleet` are run in this process,
so that nothing is loaded anew for each; a block with anything else is one script of bash.
"""

import contextlib
import io
import os
import re
import shlex
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import graphir.client
from graphir.client import Client
from scheduler.cli import cli
from tests.served import ENVIRONMENT, ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "deploy").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$(?:\n+prints\n+```text\n(.*?)^```$)?", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """Code or text of a document, where it begins, and what it says that it prints."""

    language: str
    code: str
    printed: str | None
    line: int


def blocks_of(document: Path) -> list[Block]:
    """The fenced blocks, but for those that are what others print."""
    text = document.read_text()
    return [Block(m[1], m[2], m[3], text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)]


class Reader:
    """Runs blocks. connect: what `gi.connect` is meanwhile."""

    def __init__(self, folder: Path, connect: Callable[..., Client]) -> None:
        self._folder, self._connect = folder, connect
        self._names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, document: Path, block: Block) -> str:
        """What the block prints."""
        out = io.StringIO()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_replaced(graphir.client, "connect", self._connect))
            stack.enter_context(contextlib.chdir(self._folder))
            stack.enter_context(contextlib.redirect_stdout(out))
            if block.language == "python":
                code = "\n" * block.line + block.code  # so that errors and origins have the document's lines
                exec(compile(code, document.name, "exec"), self._names)
            elif all(line.startswith("gradfleet ") for line in lines_of(block.code)):
                for line in lines_of(block.code):
                    cli.main(shlex.split(line)[1:], prog_name="gradfleet", standalone_mode=False)
            else:
                out.write(in_bash(block.code, self._folder).stdout)
        return out.getvalue()


def lines_of(code: str) -> list[str]:
    """Lines of shell code, those that end with a backslash joined to the next."""
    return [line for line in code.replace("\\\n", " ").splitlines() if line.strip()]


def in_bash(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script with `gradfleet` on its path; any step that fails ends it. Services that it starts have a port of their own."""
    command = folder / ".bin" / "gradfleet"
    if not command.exists():
        command.parent.mkdir()
        command.write_text(f"#!{sys.executable}\nfrom scheduler.cli import main\nmain()\n")
        command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    with socket.socket() as held:  # the port stays ours while nobody listens on it
        if "gradfleet serve" in script:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
            workers = environment.pop("WORKERS", "0")
            script = script.replace("gradfleet serve", f"gradfleet serve --port {port} --workers {workers}")
            environment = {"GRADFLEET_URL": f"http://127.0.0.1:{port}", **environment}
        done = subprocess.run(
            ["bash", "-c", "set -eu\n" + script], cwd=folder, env={**os.environ, **ENVIRONMENT, **environment, "PATH": path},
            capture_output=True, text=True, timeout=150, check=False,
        )  # fmt: skip
    assert done.returncode == 0, f"{textwrap.indent(script, '  ')}\n{done.stderr}"
    return done


@contextlib.contextmanager
def _replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
