"""A real PostgreSQL server of the tests: a cluster of its own, reached by a Unix socket only, that may be killed and started anew.

`initdb` refuses root, so root's tests run the server as an unprivileged user. Root installs Debian's package where it is missing.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from sqlalchemy import create_engine, text

STARTS = 90.0
USER = "gradfleet"


def programs() -> Path:
    """The folder of PostgreSQL's programs."""
    found = _installed()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "postgresql"]
        for command in (["apt-get", "update", "-q"], install):
            subprocess.run(command, env=quiet, stdout=subprocess.DEVNULL, check=False)
        found = _installed()
    assert found is not None, "the tests need PostgreSQL's initdb and postgres: apt-get install postgresql"
    return found


def _installed() -> Path | None:
    on_path = shutil.which("initdb")
    places = [Path(on_path).resolve().parent] if on_path else []
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: float(place.parent.name))
    return next((place for place in [*places, *reversed(debian)] if (place / "initdb").exists()), None)


def _unprivileged() -> dict[str, Any]:
    """How to start a process as somebody who is not root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            found = pwd.getpwnam(name)
            return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": []}
    raise AssertionError("there is no user `postgres` or `nobody` to run PostgreSQL as")


class Postgres:
    """One server. `url` opens its first database; `fresh()` makes another one."""

    def __init__(self) -> None:
        self._programs, self._who = programs(), _unprivileged()
        self.directory = Path(tempfile.mkdtemp(prefix="gf-pg-", dir="/tmp"))  # a socket's path may be only 107 long
        self.directory.chmod(0o711)
        if self._who:
            os.chown(self.directory, self._who["user"], self._who["group"])
        self.data = self.directory / "data"
        done = self._run("initdb", "-D", self.data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        assert done.returncode == 0, done.stderr
        self.url = self._url("postgres")
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers; one that finds remains of a killed one is started again."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": self.directory,
            "fsync": "off",
            "shared_buffers": "32MB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._programs / "postgres"), "-D", str(self.data), *options]
        deadline = time.monotonic() + STARTS
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory, **self._who)
            while self._run("pg_isready", "-q", "-h", self.directory).returncode != 0:
                said = (self.directory / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, f"PostgreSQL does not start: {said}"
                if self.process.poll() is not None:
                    self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.directory, **self._who)
                time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to the server and to all of its processes."""
        children = _children(self.process.pid)
        for pid in (self.process.pid, *children):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def fresh(self) -> str:
        """The URL of a new database."""
        name = f"t{uuid4().hex}"
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return self._url(name)

    def close(self) -> None:
        """End it and remove all it has."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # which disconnects clients
            self.process.wait(STARTS)
        shutil.rmtree(self.directory)

    def _url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}@/{database}?host={self.directory}"

    def _run(self, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(self._programs / program), *map(str, arguments)]
        return subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=False, **self._who)


def _children(pid: int) -> list[int]:
    with suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


@contextmanager
def running() -> Iterator[Postgres]:
    """A server that ends with the block."""
    server = Postgres()
    try:
        yield server
    finally:
        server.close()
