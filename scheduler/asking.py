"""The commands that ask a service at a URL: submit, status, watch, result, cancel, jobs."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

import graphir as gi
from graphir import tensors
from graphir.client import Client
from scheduler.options import (
    Pair,
    Pairs,
    batch_option,
    chunk_option,
    feed_option,
    feeds_of,
    graph_argument,
    json_option,
    load_graph,
    rows_of,
)

id_argument = click.argument("id")
output_option = click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="a .safetensors file"
)


def service_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--url and --token, also from the environment, where a token is not seen by others."""
    url = click.option(
        "--url", envvar="GRADFLEET_URL", default="http://127.0.0.1:8000", show_default=True, help="or GRADFLEET_URL"
    )
    return url(click.option("--token", envvar="GRADFLEET_TOKEN", help="better by GRADFLEET_TOKEN")(command))


@click.command()
@graph_argument
@feed_option
@chunk_option
@batch_option
@click.option("--steps", default=1, show_default=True, type=click.IntRange(1))
@click.option("--epochs", type=click.IntRange(1), help="passes over the rows in batches, instead of --steps")
@click.option("--carry", type=Pair(), multiple=True, help="INPUT=OUTPUT that is fed back at each step")
@click.option("--key", help="submitting again with the same key gives the same job")
@click.option("--name", help="by default the file's")
@service_options
@json_option
def submit(
    graph: Path,
    feeds: Pairs,
    chunk: Pairs,
    batch: Pairs,
    steps: int,
    epochs: int | None,
    carry: Pairs,
    key: str | None,
    name: str | None,
    url: str,
    token: str | None,
    as_json: bool,
) -> None:
    """Send a job and print its id. Files that are here are sent; a URL is read by the service, if it may."""
    loaded = load_graph(graph)
    with gi.connect(url, token=token) as client:
        job = client.submit(
            loaded, feeds_of(loaded, feeds, sent=True), carry=dict(carry), steps=steps, epochs=epochs,
            batch=rows_of(batch), chunk=rows_of(chunk), key=key, name=name or graph.stem,
        )  # fmt: skip
        click.echo(json.dumps({"id": job.id}) if as_json else job.id)


@click.command()
@id_argument
@service_options
@json_option
def status(id: str, url: str, token: str | None, as_json: bool) -> None:
    """Say where a job is."""
    with gi.connect(url, token=token) as client:
        found = client.service.status(id)
    click.echo(json.dumps(found) if as_json else _line(found))
    if not as_json and found["error"]:
        click.echo(found["error"]["message"])


@click.command()
@id_argument
@service_options
@json_option
def watch(id: str, url: str, token: str | None, as_json: bool) -> None:
    """Show a bar until a job ends, or its events as lines of JSON. Exit code 1 if it fails."""
    with _job(url, token, id) as (client, job):
        if as_json:
            for event in job.events():
                click.echo(json.dumps(event))
        else:
            job.progress()
            click.echo(_line(client.service.status(id)), err=True)
        if job.status != "succeeded":
            job.result()  # which raises why not


@click.command()
@id_argument
@output_option
@service_options
@json_option
def result(id: str, output: Path | None, url: str, token: str | None, as_json: bool) -> None:
    """Wait for a job and print its outputs, or write them to a file."""
    with _job(url, token, id) as (_, job):
        show_result(job.result(), output, as_json=as_json)


@click.command()
@id_argument
@service_options
@json_option
def cancel(id: str, url: str, token: str | None, as_json: bool) -> None:
    """Stop a job; one that has ended stays as it is."""
    with _job(url, token, id) as (client, job):
        job.cancel()
        found = client.service.status(id)
    click.echo(json.dumps(found) if as_json else _line(found))


@click.command()
@service_options
@json_option
def jobs(url: str, token: str | None, as_json: bool) -> None:
    """List your latest jobs, the latest first."""
    with gi.connect(url, token=token) as client:
        found = [{"id": id, **client.service.status(id)} for id in client.service.jobs()]
    if as_json:
        click.echo(json.dumps(found))
        return
    for each in found:
        click.echo(f"{each['id']}  {_line(each)}")


def show_result(found: dict[str, Any], output: Path | None, *, as_json: bool) -> None:
    """Outputs to a file, as JSON, or in words."""
    if output is not None:
        tensors.write_file(output, found, {})
    if as_json:
        click.echo(json.dumps({name: value.tolist() for name, value in found.items()}))
    elif output is None:
        for name, value in found.items():
            click.echo(f"{name}: {value.dtype.name}{list(value.shape)}\n{value}")


@contextmanager
def _job(url: str, token: str | None, id: str) -> Iterator[tuple[Client, gi.Job]]:
    with gi.connect(url, token=token) as client:
        yield client, client.job(id)


def _line(found: dict[str, Any]) -> str:
    return f"{found['status']}, step {found['step']} of {found['steps']}"


commands = (submit, status, watch, result, cancel, jobs)
