"""The commands that run a service: `gradfleet serve`, `gradfleet token` and `gradfleet sweep`."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from scheduler.api.audit import FILE, Audit
from scheduler.api.rules import Rules
from scheduler.job.access import SCOPES, Access
from scheduler.job.objects import open_blobs
from scheduler.job.retention import DAY, Keep, Retention
from scheduler.job.store import Store
from scheduler.job.values import Values
from scheduler.local import local_database
from scheduler.options import json_option
from scheduler.running import LEASE_SECONDS
from scheduler.telemetry import LEVELS

_DEFAULT = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "gradfleet"

directory_option = click.option(
    "--directory", envvar="GRADFLEET_DIRECTORY", default=_DEFAULT, show_default=True,
    type=click.Path(file_okay=False, path_type=Path), help="where jobs, tokens and data are kept",
)  # fmt: skip

database_option = click.option(
    "--database", envvar="GRADFLEET_DATABASE", help="postgresql://USER@HOST/NAME, by default SQLite in the directory"
)


storage_option = click.option(
    "--storage", envvar="GRADFLEET_STORAGE",
    help="a folder or URL for large values, such as s3://bucket/blobs; by default in the directory",
)  # fmt: skip
results_option = click.option(
    "--keep-results",
    type=click.FloatRange(0),
    help="days for which ended jobs and their results are kept; by default for ever",
)
uploads_option = click.option(
    "--keep-uploads", default=1.0, show_default=True, type=click.FloatRange(0),
    help="days for which data is kept that no job names",
)  # fmt: skip


@click.command()
@directory_option
@database_option
@click.option(
    "--role",
    type=click.Choice(["all", "api", "runner"]),
    default="all",
    show_default=True,
    help="api: accept jobs and tell of them, without Ray; runner: run what others accepted",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="another one needs tokens")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="by default 8000, of a runner, for its health, and with 0 a free one"
)
@click.option("--ray-address", help="of a Ray that is there, HOST:PORT or auto; by default one is started here")
@click.option("--memory", type=click.IntRange(1), help="bytes that a worker has for a step, by default of this machine")
@click.option(
    "--lease",
    default=LEASE_SECONDS,
    show_default=True,
    type=click.FloatRange(0.5, 3600),
    help="seconds after which a runner that is not heard of loses its jobs to others",
)
@click.option("--workers", type=click.IntRange(0), help="Ray workers, by default one a core; 0: none, in this process")
@click.option("--allow-data", "data", multiple=True, help="a path or URL under which clients' datasets may be read")
@click.option("--quota-jobs", default=Rules().jobs, show_default=True, type=click.IntRange(1), help="of one user")
@click.option("--quota-bytes", default=Rules().bytes, show_default=True, type=click.IntRange(1), help="of one user")
@click.option("--log-level", default="info", show_default=True, type=click.Choice(LEVELS), help="of the log, on stderr")
@click.option(
    "--quota-nodes", default=Rules().graph_nodes, show_default=True, type=click.IntRange(1), help="of one graph"
)
@storage_option
@results_option
@uploads_option
@click.option(
    "--sweep-seconds", default=900.0, show_default=True, type=click.FloatRange(0, min_open=True), help="between sweeps"
)
@click.option("--tls-certificate", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def serve(
    directory: Path,
    database: str | None,
    role: str,
    host: str,
    port: int | None,
    ray_address: str | None,
    memory: int | None,
    lease: float,
    workers: int | None,
    data: tuple[str, ...],
    quota_jobs: int,
    quota_bytes: int,
    log_level: str,
    quota_nodes: int,
    storage: str | None,
    keep_results: float | None,
    keep_uploads: float,
    sweep_seconds: float,
    tls_certificate: Path | None,
    tls_key: Path | None,
) -> None:
    """Run the service: jobs by HTTP, kept over restarts. SIGTERM ends it; the next one goes on."""
    from scheduler.api import logs, tracing  # what serves HTTP is loaded only to do so
    from scheduler.api.server import Settings
    from scheduler.api.server import serve as run_server

    rules = Rules(jobs=quota_jobs, bytes=quota_bytes, graph_nodes=quota_nodes, data=data)
    keep = _keep(keep_results, keep_uploads)
    settings = Settings(
        directory, host, port, workers, rules, tls_certificate, tls_key, database, ray_address, role, memory, lease,
        storage, keep, sweep_seconds,
    )  # fmt: skip
    logs.configure(level=log_level)
    end_tracing = tracing.start(os.environ)
    try:
        run_server(settings, lambda url: click.echo(f"listening on {url}", err=True))
    finally:
        end_tracing()


@click.command()
@directory_option
@database_option
@storage_option
@results_option
@uploads_option
@json_option
def sweep(
    directory: Path,
    database: str | None,
    storage: str | None,
    keep_results: float | None,
    keep_uploads: float,
    as_json: bool,
) -> None:
    """Remove once what no job needs any more; a service that runs does so by itself, and is not disturbed."""
    with _store(directory, database) as store:
        values = Values(store, open_blobs(storage, directory.absolute(), durable=True))
        swept = Retention(store, values, _keep(keep_results, keep_uploads)).collect(time.time())
    facts = {name: getattr(swept, name) for name in swept.__slots__}
    click.echo(json.dumps(facts) if as_json else ", ".join(f"{name} {count}" for name, count in facts.items()))


@click.group()
def token() -> None:
    """Say who may use a service. Changes take effect at once, also in one that is running."""


@token.command()
@click.argument("name")
@directory_option
@database_option
@click.option(
    "--scope", "scopes", multiple=True, type=click.Choice(SCOPES), default=["read", "submit"], show_default=True
)
@click.option("--days", type=click.FloatRange(0, min_open=True), help="how long it is valid, by default until revoked")
@json_option
def create(
    name: str, directory: Path, database: str | None, scopes: tuple[str, ...], days: float | None, as_json: bool
) -> None:
    """Make a token for user NAME. It is printed this once and kept nowhere."""
    with _access(directory, database) as access:
        made = access.create(name, scopes, time.time(), None if days is None else days * DAY, os.urandom)
    _note(directory, "token create", id=made.split("_")[1], owner=name, scopes=list(scopes), days=days)
    click.echo(json.dumps({"token": made, "owner": name, "scopes": list(scopes)}) if as_json else made)


@token.command()
@click.argument("which")
@directory_option
@database_option
@json_option
def revoke(which: str, directory: Path, database: str | None, as_json: bool) -> None:
    """End the token with an id, or all tokens of a user."""
    with _access(directory, database) as access:
        count = access.revoke(which, time.time())
    _note(directory, "token revoke", which=which[:200], count=count)
    if not count:
        raise click.UsageError(
            f"no valid token has the id, or belongs to the user, {which!r}; see `gradfleet token list`"
        )
    click.echo(json.dumps({"revoked": count}) if as_json else f"{count} token(s) revoked")


@token.command("list")
@directory_option
@database_option
@json_option
def list_tokens(directory: Path, database: str | None, as_json: bool) -> None:
    """List tokens by id, without their secrets."""
    now = time.time()
    with _access(directory, database) as access:
        found = access.tokens()
    if as_json:
        facts = [{name: getattr(each, name) for name in each.__slots__} for each in found]
        click.echo(json.dumps([{**fact, "valid": each.is_valid(now)} for fact, each in zip(facts, found, strict=True)]))
        return
    for each in found:
        ends = "" if each.expires is None else f", until {datetime.fromtimestamp(each.expires, UTC):%Y-%m-%d %H:%M} UTC"
        state = "valid" if each.is_valid(now) else "revoked" if each.revoked is not None else "expired"
        click.echo(f"{each.id}  {each.owner}  {','.join(each.scopes)}  {state}{ends}")


def _keep(results: float | None, uploads: float) -> Keep:
    return Keep(None if results is None else results * DAY, uploads * DAY)


def _note(directory: Path, what: str, **facts: Any) -> None:
    """Write down what whoever runs the service did."""
    Audit(directory / FILE).write(what, who=f"uid {os.getuid()}", where="here", **facts)


def _store(directory: Path, database: str | None) -> Store:
    return Store(database or local_database(directory))


@contextmanager
def _access(directory: Path, database: str | None) -> Iterator[Access]:
    with _store(directory, database) as store:
        yield Access(store)
