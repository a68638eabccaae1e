"""Every block of the documents runs as printed and prints what it says; every command, file and link in them exists."""

import doctest
import re
import shlex
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import click
import pytest

from graphir.client import Client, connect
from scheduler.cli import cli
from tests.documents import DOCUMENTS, ROOT, Block, Reader, blocks_of, in_bash, lines_of
from tests.served import Served, serving

NAMES = [str(document.relative_to(ROOT)) for document in DOCUMENTS]
ELSEWHERE = {("docs/service.md", "sh"): "test_newcomer"}
"""Blocks that another test runs."""
LANGUAGES = {"python", "sh", "text", "console"}
"""`console` is for what needs Docker, Kubernetes or other machines; its calls of ours are looked at."""
SAME = doctest.OutputChecker()


class Shared(Client):
    """A client that several documents use, each of which closes it."""

    def close(self) -> None:
        """It goes on."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), "--workers", 0) as service:
        yield service


@pytest.fixture(scope="module")
def connecting(local_ray: None, served: Served) -> Iterator[Any]:
    """What `gi.connect` is in documents: clients that are shared, unless one is asked for a folder of its own."""
    with ExitStack() as stack:
        kept: dict[int, Client] = {}

        def shared(
            url: str | None = None, *, workers: int | None = None, directory: Any = None, **options: Any
        ) -> Client:
            if url is not None:
                return connect(served.url)
            if directory is not None:
                return connect(workers=0, directory=directory)
            workers = 2 if workers is None else workers
            if workers not in kept:
                kept[workers] = stack.enter_context(connect(workers=workers))
            return Shared(kept[workers].service)

        yield shared


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_the_blocks_run_and_print_what_they_say(
    document: Path, tmp_path: Path, connecting: Any, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADFLEET_URL", served.url)
    reader, name = Reader(tmp_path, connecting), str(document.relative_to(ROOT))
    for block in blocks_of(document):
        if block.language in ("python", "sh") and (name, block.language) not in ELSEWHERE:
            printed = reader.run(document, block)
            if block.printed is not None or block.language == "python":
                want = block.printed or ""
                assert SAME.check_output(want, printed, doctest.ELLIPSIS), f"{name}:{block.line} prints\n{printed}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_no_block_hides_code(document: Path) -> None:
    for block in blocks_of(document):
        assert block.language in LANGUAGES, f"line {block.line}: say what language it is"
        if block.language == "text":
            assert not re.search(r"^(import|from|gradfleet|with|pip) ", block.code, re.MULTILINE), block.line


def commands_of(document: Path) -> list[str]:
    """Each call of the command line in a document, in blocks of shell or between backquotes."""
    text = document.read_text()
    shell = [block.code for block in blocks_of(document) if block.language in ("sh", "console")]
    written = [line for code in shell for line in lines_of(code)]
    inline = re.findall(r"`(gradfleet [^`]+)`", text) + re.findall(r"^    (gradfleet .+)", text, re.MULTILINE)
    return [
        found[0]
        for line in [*written, *inline]
        if (found := re.findall(r"(?<!namespace )gradfleet [a-z][^#;&|<)]*", line))
    ]


COMMANDS = [(name, line) for name, document in zip(NAMES, DOCUMENTS, strict=True) for line in commands_of(document)]


@pytest.mark.parametrize(("name", "line"), COMMANDS)
def test_commands_have_the_options_that_documents_give_them(name: str, line: str) -> None:
    check_command(shlex.split(line.replace("...", ""))[1:])


def check_command(words: list[str]) -> click.Command:
    """The command, if there is one with these options."""
    command: click.Command = cli
    while isinstance(command, click.Group):
        assert words, f"{command.name} needs a command"
        assert words[0] in command.commands, words[0]
        command = command.commands[words.pop(0)]
    known = {name for option in command.params if isinstance(option, click.Option) for name in option.opts}
    for word in words:
        assert not word.startswith("-") or word.split("=")[0] in known | {"--help", "-h"}, (
            f"{command.name} has no {word}"
        )
    return command


def test_the_check_of_commands_finds_what_is_wrong() -> None:
    assert check_command(["token", "create", "ann", "--days", "90"]).name == "create"
    for words in (["token", "make"], ["serve", "--prot", "80"], ["token"]):
        with pytest.raises(AssertionError):
            check_command(words)


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_lead_to_files_and_headings(document: Path) -> None:
    for target in re.findall(r"\]\((?!http)([^)]+)\)", document.read_text()):
        path, _, heading = target.partition("#")
        found = document.parent / path if path else document
        assert found.exists(), target
        if heading:
            heads = re.findall(r"^#+ (.+)", found.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}, target


def test_a_block_that_fails_or_prints_otherwise_is_noticed(tmp_path: Path) -> None:
    reader = Reader(tmp_path, connect)
    assert not SAME.check_output("2\n", reader.run(ROOT / "x.md", Block("python", "print(1)\n", "2\n", 1)), 0)
    with pytest.raises(AssertionError):
        in_bash("false\ntrue", tmp_path)
