"""Workloads on one machine, ours beside the peers: processes, rounds in turn, and what the page says of them.

`python -m benchmarks.single [WORKLOAD ...] [--peer NAME, ...]` prints some. `--keep FILE` adds them to what is in the file, for
`python -m benchmarks single --kept FILE --write`. Peers run with this Python where it has their library, else with that of
GRADFLEET_BENCH_PYTHON; a peer that neither has is named as missing.
"""

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import single_page
from benchmarks.single_peers import PEERS
from benchmarks.workloads import WORKLOADS, Workload

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 9
READY_SECONDS = 45
"""For how long a peer may compile."""
SLOW_TO_COMPILE = ("PyTorch compiled", "PyTensor")
"""Peers that take part in W1 to W10 only, for want of time."""


@dataclass
class Cell:
    """A peer's figures in one workload. why: what keeps it from having any."""

    why: str = ""
    first: float = 0.0
    memory: float = 0.0
    error: float = 0.0
    samples: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median of the samples."""
        return median(self.samples)


@dataclass
class Row:
    """A workload, its cells by peer, and the bandwidth of memory in each round, GB/s.

    profile: where the time of our fastest back-end goes, if a peer is faster.
    """

    workload: Workload
    cells: dict[str, Cell]
    bandwidth: list[float] = field(default_factory=list)
    profile: str = ""


class Child:
    """A peer's process."""

    def __init__(self, python: str, peer: str, workload: str, folder: Path) -> None:
        reading, writing = os.pipe()
        with (folder / f"{peer}.log").open("wb") as log:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.single_child", peer, workload, str(folder), str(writing)],
                env=_environment(folder / peer.replace(" ", "-")), cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log,
                pass_fds=[writing], start_new_session=True,
            )  # fmt: skip
        os.close(writing)
        self._answers = os.fdopen(reading)

    def answer(self, seconds: float) -> dict[str, Any]:
        """The next message; TimeoutError, EOFError."""
        if not select.select([self._answers], [], [], seconds)[0]:
            raise TimeoutError(f"not ready in {seconds:.0f} s")
        line = self._answers.readline()
        if not line:
            raise EOFError("its process ended")
        message: dict[str, Any] = json.loads(line)
        return message

    def sample(self) -> float:
        """Seconds a call."""
        return float(self._asked("")["seconds"])

    def profile(self) -> str:
        """Where they go."""
        return str(self._asked("profile")["profile"]).replace(f"{ROOT}{os.sep}", "")

    def _asked(self, line: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()
        return self.answer(READY_SECONDS)

    def end(self) -> None:
        """End the process and what it started, once or more often."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.communicate()
        self._answers.close()


def _environment(caches: Path) -> dict[str, str]:
    """Ours, with empty caches for what is compiled."""
    known = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    return known | {
        "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(caches), "NUMBA_CACHE_DIR": str(caches / "numba"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"), "PYTENSOR_FLAGS": f"base_compiledir={caches / 'pytensor'}",
        "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip


@cache
def python_with(module: str) -> str | None:
    """A Python that has the module."""
    known = {sys.executable: None, os.environ.get("GRADFLEET_BENCH_PYTHON", sys.executable): None}
    for python in known:
        question = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({module.split('.')[0]!r}) is None)"
        if subprocess.run([python, "-c", question], cwd=ROOT, check=False).returncode == 0:
            return python
    return None


def measured(w: Workload, peers: Sequence[str], rounds: int = ROUNDS) -> Row:
    """One workload: all peers made ready and compared with the oracle, one after the other, then timed in turn."""
    row = Row(w, {})
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        with _child(python_with("torch") or sys.executable, "oracle", w, folder) as oracle:
            found = oracle.answer(READY_SECONDS)
            if "why" in found:
                raise RuntimeError(f"the oracle of {w.name} failed: {found['why']}")
        wanted, live = _outputs(folder / "oracle.npz"), {}
        for peer in peers:
            cell = row.cells[peer] = Cell()
            needs = PEERS[peer]().needs
            python = python_with(needs)
            if python is None:
                cell.why = f"{needs} is not installed"
                continue
            child = stack.enter_context(_child(python, peer, w, folder))
            cell.why = _ready(child, cell, peer, w, folder, wanted)
            if cell.why:
                child.end()  # it may compile still, beside those that are timed
            else:
                live[peer] = child
            print(f"  {w.name} {peer}: {cell.why or f'ready, first call {cell.first:.2f} s'}", file=sys.stderr)
        _rounds(row, live, rounds)
        own = [peer for peer in live if peer.startswith(single_page.OURS)]
        if own and 0 < single_page.best_peer(row)[2] < 1:
            row.profile = live[min(own, key=lambda peer: row.cells[peer].seconds)].profile()
    return row


@contextmanager
def _child(python: str, peer: str, w: Workload, folder: Path) -> Iterator[Child]:
    child = Child(python, peer, w.name, folder)
    try:
        yield child
    finally:
        child.end()


def _ready(child: Child, cell: Cell, peer: str, w: Workload, folder: Path, wanted: list[Any]) -> str:
    """Why the peer does not take part, or nothing."""
    try:
        told = child.answer(READY_SECONDS)
    except (TimeoutError, EOFError) as error:
        return str(error)
    if "why" in told:
        return str(told["why"])
    cell.first, cell.memory = told["first"], told["memory"]
    cell.error = distance(_outputs(folder / f"{peer}.npz"), wanted)
    if not cell.error <= w.tolerance:  # a NaN is no agreement either
        return f"its results are {cell.error:.1e} from the oracle's"
    return "" if told["same"] else "its second call gave something else"


def _rounds(row: Row, live: dict[str, Child], rounds: int) -> None:
    source = np.ones(1 << 24)
    for _ in range(rounds):
        row.bandwidth.append(read_bandwidth(source))
        for peer, child in list(live.items()):
            time.sleep(0.02)  # until the threads of the peer before have fallen asleep
            try:
                row.cells[peer].samples.append(child.sample())
            except (TimeoutError, EOFError, BrokenPipeError) as error:
                row.cells[peer].why = str(error)
                del live[peer]


def read_bandwidth(source: Any) -> float:
    """Gigabytes a second of reading an array once by one thread."""
    begun = time.perf_counter()
    source.dot(source)
    return float(source.nbytes / (time.perf_counter() - begun) / 1e9)


def _outputs(path: Path) -> list[Any]:
    with np.load(path) as found:
        return [found[name] for name in found.files]


def distance(found: Sequence[Any], wanted: Sequence[Any]) -> float:
    """The largest difference of an output, as a part of its largest element; infinite where the forms differ."""
    if [a.shape for a in found] != [b.shape for b in wanted]:
        return float("inf")
    parts = [np.max(np.abs(a - b)) / max(np.max(np.abs(b)), 1e-300) for a, b in zip(found, wanted, strict=True)]
    return float(max(parts))


def measure(names: Sequence[str] = tuple(WORKLOADS), peers: Sequence[str] = tuple(PEERS)) -> list[Row]:
    """Rows for the workloads."""
    rows = []
    for name in names:
        own = [peer for peer in peers if name.startswith("W") or peer not in SLOW_TO_COMPILE]
        rows.append(measured(WORKLOADS[name], own))
    return rows


def section(rows: Sequence[Row]) -> tuple[str, dict[str, str]]:
    """The page's tables, and the pictures beside it by name."""
    return single_page.tables(rows), {"single.svg": single_page.picture(rows)}


# ---- measured in pieces ----


def keep(rows: Sequence[Row], path: Path) -> None:
    """Add rows to a file; a workload that is measured again replaces what was there, peer by peer."""
    known = json.loads(path.read_text()) if path.exists() else {}
    for row in rows:
        new = asdict(row) | {"workload": row.workload.name}
        old = known.get(row.workload.name, {"cells": {}})
        known[row.workload.name] = new | {"cells": old["cells"] | new["cells"]}
    path.write_text(json.dumps(known))


def kept(path: Path) -> list[Row]:
    """The rows of a file, in the order of the workloads and of the peers."""
    known = json.loads(path.read_text())
    rows = []
    for name in WORKLOADS:
        if name in known:
            found = known[name] | {"workload": WORKLOADS[name]}
            cells = {peer: Cell(**found["cells"][peer]) for peer in PEERS if peer in found["cells"]}
            rows.append(Row(**(found | {"cells": cells})))
    return rows


def main(arguments: Sequence[str]) -> None:
    """Print the tables of some workloads and peers."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.single", description="Measure some workloads and peers."
    )
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD")
    parser.add_argument("--peer", nargs="*", default=[], metavar="NAME,", help="names with commas between them")
    parser.add_argument("--keep", type=Path, help="add what is measured to this file")
    given = parser.parse_args(arguments)
    names, peers = given.workloads, [peer.strip() for peer in " ".join(given.peer).split(",") if peer.strip()]
    unknown = [name for name in names if name not in WORKLOADS] + [peer for peer in peers if peer not in PEERS]
    if unknown:
        sys.exit(f"there is no {unknown[0]!r}; workloads: {', '.join(WORKLOADS)}; peers: {', '.join(PEERS)}")
    rows = []
    for name in names or list(WORKLOADS):
        rows += measure([name], peers or list(PEERS))
        if given.keep is not None:
            keep(rows[-1:], given.keep)
    print(single_page.tables(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
