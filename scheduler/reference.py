"""The reference, from docstrings, click's commands and OpenAPI: `python -m scheduler.reference` writes docs/reference.md,
docs/commands.md and docs/http.md. A test compares them with what this would write.
"""

import argparse
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import click

import graphir as gi
from graphir.client import Client, Job, Results
from graphir.partition.plan import Plan
from scheduler.api.app import create_app
from scheduler.api.desk import Desk
from scheduler.api.rules import Rules
from scheduler.cli import cli
from scheduler.local import EmbeddedService
from workers.executor import Executor

FOLDER = Path("docs")
WRITTEN = "Written by `python -m scheduler.reference`; not by hand."
SPACES: Mapping[str, ModuleType] = {
    "gi.nn": gi.nn,
    "gi.linalg": gi.linalg,
    "gi.random": gi.random,
    "gi.optim": gi.optim,
}
CLASSES: Mapping[str, type] = {
    "gi.Graph": gi.Graph, "gi.Expr": gi.Expr, "gi.Client": Client, "gi.Job": Job, "gi.client.Results": Results,
    "gi.partition.plan.Plan": Plan, "workers.executor.Executor": Executor,
}  # fmt: skip


def documents() -> dict[str, str]:
    """Each document by its file."""
    return {"reference.md": python(), "commands.md": commands(), "http.md": http(openapi())}


def python() -> str:
    """Functions and classes of `graphir`, by their docstrings."""
    lines = [
        "# Reference: Python",
        "",
        WRITTEN,
        "",
        "`import graphir as gi`; a name in `gi.` is public, others are not.",
    ]
    public = {name: getattr(gi, name) for name in gi.__all__}
    functions = {f"gi.{name}": found for name, found in public.items() if inspect.isfunction(found)}
    lines += ["", "## Functions", "", *_entries(functions)]
    for prefix, space in SPACES.items():
        found = {f"{prefix}.{name}": getattr(space, name) for name in _names(space)}
        lines += ["", f"## {prefix}", "", _told(space), "", *_entries(found)]
    for name, kind in CLASSES.items():
        methods = {f".{k}": getattr(kind, k) for k in _methods(kind)}
        lines += ["", f"## {name}", "", _told(kind), "", *_entries(methods)]
    errors = {f"gi.{name}": found for name, found in public.items() if _is_error(found)}
    lines += ["", "## Errors", "", *(f"- `{name}`: {_told(found)}" for name, found in errors.items())]
    rest = [n for n, v in public.items() if not inspect.isfunction(v) and not _is_error(v) and f"gi.{n}" not in CLASSES]
    return "\n".join([*lines, "", "## Dtypes and constants", "", ", ".join(f"`gi.{name}`" for name in rest), ""])


def commands() -> str:
    """The command line."""
    lines = [
        "# Reference: command line",
        "",
        WRITTEN,
        "",
        "Exit codes: 0 done, 1 the job failed, 2 bad usage or bad input.",
    ]
    lines += ["Results go to stdout or `-o`, progress and problems to stderr."]
    for path, command in commands_of(cli):
        arguments = " ".join(
            p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)
        )
        options = [p for p in command.params if isinstance(p, click.Option)]
        lines += [
            "",
            f"## {path}",
            "",
            f"`{path}{' ' + arguments if arguments else ''}`",
            "",
            inspect.cleandoc(command.help or ""),
        ]
        if options:
            lines += ["", "| option | default | |", "|---|---|---|", *map(_option, options)]
    return "\n".join([*lines, ""])


def http(described: Mapping[str, Any]) -> str:
    """Routes, and the fields of what they take and give."""
    lines = [
        "# Reference: HTTP",
        "",
        WRITTEN,
        "",
        described["info"]["description"],
        "",
        "`/openapi.json` has all of it for machines.",
    ]
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            lines += ["", f"## {method.upper()} {path}", "", f"{route['summary']}."]
            lines += [f"- `{p['name']}` ({p['in']}): {_type(p['schema'])}" for p in route.get("parameters", ())]
            for kind, body in route.get("requestBody", {}).get("content", {}).items():
                lines += [f"- body, `{kind}`", *(f"  {line}" for line in _fields(body["schema"]))]
            lines += [f"- answers {', '.join(_answers(route))}"]
    lines += ["", "## What comes back"]
    for name, schema in sorted(described["components"]["schemas"].items()):
        lines += ["", f"### {name}", "", *_fields(schema)]
    return "\n".join([*lines, ""])


def options() -> list[click.Option]:
    """Those of all commands."""
    return [each for _, command in commands_of(cli) for each in command.params if isinstance(each, click.Option)]


def openapi() -> dict[str, Any]:
    """The description that the service gives, of a service that is ended at once."""
    service = EmbeddedService(workers=0)
    try:
        return create_app(Desk(service, Rules(), lambda: 0.0), close=service.close).openapi()
    finally:
        service.close()


def _entries(found: Mapping[str, Any]) -> Iterator[str]:
    return (f"- `{name}{_signature(value)}`: {_told(value)}" for name, value in found.items())


def _signature(value: Any) -> str:
    if isinstance(value, property) or not callable(value):
        return ""
    parameters = list(inspect.signature(value).parameters.values())
    bare = [p.replace(annotation=p.empty) for p in parameters if p.name != "self"]
    return str(inspect.Signature(bare))


def _told(value: Any) -> str:
    """A docstring in a line."""
    return " ".join((inspect.getdoc(value) or "").split())


def _names(space: ModuleType) -> list[str]:
    """Public functions and classes that are meant for users: listed, or defined there."""
    own = [n for n, v in vars(space).items() if callable(v) and getattr(v, "__module__", "") == space.__name__]
    return sorted(getattr(space, "__all__", [name for name in own if not name.startswith("_")]))


def _methods(kind: type) -> list[str]:
    found = {n for base in kind.__mro__ if base.__module__.split(".")[0] in ("graphir", "workers") for n in vars(base)}
    return sorted(n for n in found if not n.startswith("_") and (getattr(kind, n).__doc__ or "").strip())


def _is_error(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, Exception)


def commands_of(group: click.Group, path: str = "gradfleet") -> Iterator[tuple[str, click.Command]]:
    """Each command that does something, by what is typed."""
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            yield from commands_of(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def _option(option: click.Option) -> str:
    flags = ", ".join(f"`{name}`" for name in option.opts)
    default: Any = option.default if option.show_default else ""
    if isinstance(default, Path):
        default = f"$XDG_DATA_HOME/{default.name}"  # not that of who writes this
    if isinstance(default, (list, tuple)):
        default = ", ".join(map(str, default))
    variable = "" if option.envvar is None else f"; or {option.envvar}"
    return f"| {flags} | {default} | {option.help or ''}{variable if str(option.envvar) not in (option.help or '') else ''} |"


def _fields(schema: Mapping[str, Any]) -> list[str]:
    needed = schema.get("required", ())
    return [
        f"- `{name}`: {_type(field)}{'' if name in needed else ', may be left out'}"
        for name, field in schema.get("properties", {}).items()
    ]


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"].rsplit("/", 1)[1])
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(dict.fromkeys(map(_type, schema.get("anyOf") or schema["oneOf"])))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}" if "items" in schema else "list"
    if schema.get("type") == "object" and "properties" in schema:
        return "{" + ", ".join(f"{name}: {_type(field)}" for name, field in schema["properties"].items()) + "}"
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema]
    return " ".join([str(schema.get("type", "anything")), *bounds])


_BOUNDS = {"minimum": "from", "maximum": "to", "minLength": "of at least", "maxLength": "of at most"}


def _answers(route: Mapping[str, Any]) -> Iterable[str]:
    for status, answer in route["responses"].items():
        kinds = [f"`{kind}`" for kind in answer.get("content", {}) if status not in ("4XX", "5XX")]
        yield " ".join([status, *kinds]) if kinds else status


def main(arguments: list[str] | None = None, tell: Callable[[str], object] = sys.stdout.write) -> None:
    """Write the documents, or with --check say which are not current."""
    parser = argparse.ArgumentParser(description="Write the reference.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if something is out of date")
    check = parser.parse_args(arguments).check
    current = documents()
    stale = [name for name, text in current.items() if not _is_same(FOLDER / name, text)]
    for name in stale:
        if not check:
            (FOLDER / name).write_text(current[name])
        tell(f"{FOLDER / name} {'is out of date' if check else 'written'}\n")
    if check and stale:
        sys.exit(1)


def _is_same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    main()
