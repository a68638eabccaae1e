"""A real `gradfleet serve` process on a loopback port of its own, which stays the same when it is started anew."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
ENDS = 60.0
COMMAND = [sys.executable, "-c", "from scheduler.cli import main; main()"]


class Served:
    """The process, its URL and what it says. The port is held by a socket that does not listen, so nobody else gets it."""

    def __init__(self, directory: Path, *options: object) -> None:
        self.directory, self._options = directory, options
        self._held = socket.socket()
        self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held.bind(("127.0.0.1", 0))
        self.port = self._held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.said: list[str] = []
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        arguments = ["serve", "--directory", self.directory, "--port", self.port, *self._options]
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], env=ENVIRONMENT, cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stderr is not None
        for line in self.process.stderr:  # until it listens
            self.said.append(line)
            if line.startswith("listening on"):
                break
        else:
            raise AssertionError(f"it does not serve: {self.said}")
        self._listening = threading.Thread(target=self.said.extend, args=(self.process.stderr,), daemon=True)
        self._listening.start()

    def said_to_the_end(self) -> list[str]:
        """All that a service which has ended said."""
        self._listening.join(ENDS)
        return self.said

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(ENDS)

    def pause(self) -> None:
        """SIGSTOP: it lives, and does nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(ENDS)

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            self.go_on()
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        self._held.close()


@contextmanager
def serving(directory: Path, *options: object) -> Iterator[Served]:
    """A service that ends with the block."""
    served = Served(directory, *options)
    try:
        yield served
    finally:
        served.close()


def gradfleet(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line, as another process."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        env=ENVIRONMENT,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def family(pid: int) -> set[int]:
    """A process, those that it has started, and theirs."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:  # it has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found, left = set(), [pid]
    while left:
        found.add(at := left.pop())
        left += children.get(at, [])
    return found
