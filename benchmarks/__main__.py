"""Run measurements: `python -m benchmarks [SECTION ...]` prints the tables, `--write` puts them into docs/performance.md.

`--kept FILE` takes the section `single` from a file that `python -m benchmarks.single --keep FILE` has written, in pieces.
"""

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TypeAlias

import numpy as np
from threadpoolctl import threadpool_info

from benchmarks import distributed, forecast, forward, growth, ladder, service, single, sweep, tiles

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"

HEAD = """# Performance

Written by `make bench`, on {machine}. Medians of interleaved rounds; compare ratios, not absolute times.
"""

SINGLE = """## One machine

Value and all derivatives, milliseconds a call, ours beside the peers on the same cores. Each peer is a process of its own; all of a
workload's peers live at once and are timed in turn, so that a slow moment hits all alike. Values and derivatives are compared with
float64 (PyTorch's, and the definition in NumPy) before anything is timed. The first call counts derivation, planning and compilation with
empty caches, not imports. Memory is the peak resident set above what there was with library and inputs loaded. W9 gets its vector anew in
each call. The rows without a W are the same families in other shapes. Peers that are not installed here run with the Python that
GRADFLEET_BENCH_PYTHON names (`pip install numpy tensorflow-cpu pytensor casadi` there). Workloads may be measured in several runs, so only
what is in one row is to be compared; a peer without a figure in a row was not asked there, or is named below with the reason. The best
back-end is the fastest of ours, `jax` included. The longer a round, the longer the memory of
those who wait lies unused, which costs workloads of large arrays most: measure those without the slowest peers."""

TILES = """## Tiles

Graphs with large values are evaluated in tiles of rows (`workers/tiling.py`), chosen by estimates from graph and sizes: each operand is
read once for value and derivatives, and what is between them stays in cache. Value and all derivatives with tiles and without."""

LADDER = """## Building graphs

The ladder z' = sin(z) * w + z_before, three operations a rung, and its gradient with respect to every w;
microseconds an operation node of the value. Peers take part where they are installed (`pip install casadi pytensor`).
The gradient column of JAX traces the value again. "gradfleet, random" is one run of a wide random graph."""

FORWARD = """## Tangents by reverse mode twice

`gi.jvp` is reverse mode twice: a vjp is linear in its cotangent, and the vjp of that map is the jvp. The table sets
it beside forward mode with own rules, in the simplified graph of value and tangent with n = 256. The first row sums
the first differentiable example of every op. Rules of their own would have to give graphs smaller by a fifth to be
worth a second table beside the derivatives that each op declares."""


DISTRIBUTED = """## Two workers

Milliseconds beside the peers on one machine, in interleaved rounds of one run, two workers of one thread each. An iteration is one of
gradient descent in 16 chunks; all but PyTorch run the same kernels on the same chunks, NumPy's or LLVM's. The bare processes are what is left
when nothing is scheduled, kept or repaired: a pipe to each. Our workers exchange their sums with one another. The random
graph is new in each round and its construction counts. Of the large gradients ours are computed in each iteration, the others' are
there. The tiny job is a graph and shapes that were seen before, with other values. Tasks that do nothing are one
`client.map` for us. All participants live at once and sleep in turn, which costs the small jobs of those with several threads:
`python -m benchmarks.distributed --alone tiny random` takes ours without them."""


GROWTH = """## How cost grows

With next to no work in a chunk or a node. The exponent is the slope in log-log; more workers than cores show what another
worker costs."""


SWEEP = """## A thousand tiny points

`client.map` of a loss and its gradient on 20 rows at 1,000 weights: a job for each point, and one batched job."""


SERVICE = """## The service under load

A thousand small jobs submitted by 32 clients at once over HTTP, each client one job after the other; then all results are awaited.
Clients, service and workers share the cores, and what was accepted runs meanwhile."""


FORECAST = """## Forecasts

The workers of this machine are measured and rehearse each plan's programs on made-up values (`client.calibrate(plan)`), then the jobs
run on 1, 2 and 4 of them, and the median of an iteration is set beside what the simulation says. The last columns are forecasts
without a rehearsal, by measured speeds of ops, and without any measurement."""

SCALING = """## Imagined clusters

Logistic regression on 10,000,000,000 rows in 100,000 chunks by assumed rates, and what the scheduler itself takes."""

PLANNING = """## Planning

Seconds of `compile` for large graphs of elementwise operations."""


def machine() -> str:
    """The processor, its cores, what the kernels are, and how fast memory is."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    blas = {
        f"{found['internal_api']} {found['version']} {found.get('architecture', '')}" for found in threadpool_info()
    }
    versions = f"Python {platform.python_version()}, NumPy {np.__version__}, Ray {version('ray')}"
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores of {model}, {versions}, {', '.join(sorted(blas))}, {bandwidth():.0f} GB/s copied by one thread"
    )


def bandwidth() -> float:
    """Gigabytes a second, read and written, of copying a quarter of a gigabyte."""
    source = np.ones(1 << 25)
    target = source.copy()
    times = []
    for _ in range(7):
        begun = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - begun)
    return 2 * source.nbytes / sorted(times)[3] / 1e9


Made: TypeAlias = str | tuple[str, dict[str, str]]
"""Tables, and pictures beside the page by their names."""
SECTIONS: dict[str, tuple[str, Callable[[], Made]]] = {
    "single": (SINGLE, lambda: single.section(single.measure())),
    "tiles": (TILES, lambda: tiles.table(tiles.measure())),
    "ladder": (LADDER, lambda: ladder.table(ladder.measure())),
    "forward": (FORWARD, lambda: forward.table(forward.measure())),
    "distributed": (DISTRIBUTED, lambda: distributed.table(*distributed.measure())),
    "growth": (GROWTH, lambda: growth.table(growth.measure())),
    "sweep": (SWEEP, lambda: sweep.table(sweep.measure())),
    "service": (SERVICE, lambda: service.table(service.measure())),
    "forecast": (FORECAST, lambda: forecast.table(forecast.measure())),
    "scaling": (SCALING, lambda: forecast.scaling_table(forecast.scaling())),
    "planning": (PLANNING, lambda: forecast.planning_table(forecast.planning())),
}
"""By the name under which each is asked for: its title and words, and what makes its tables. In the page's order."""


def written(before: str, names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The page with these sections measured now, and their pictures; the others stay as they are in the page before."""
    kept = {part.partition("\n")[0]: f"## {part.rstrip()}\n" for part in before.split("\n## ")[1:]}
    parts, pictures = [], {}
    for name, (words, tables) in SECTIONS.items():
        title = words.removeprefix("## ").partition("\n")[0]
        if name in names:
            made = tables()
            found, beside = (made, {}) if isinstance(made, str) else made
            text = f"{words}\n\n`python -m benchmarks {name}`:\n\n{found}\n"
            pictures |= beside
            print(text, flush=True)
            parts.append(text)
        elif title in kept:
            parts.append(kept[title])
    return "\n".join([HEAD.format(machine=machine()), *parts]), pictures


def main(arguments: Sequence[str]) -> None:
    """Measure the sections that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("sections", nargs="*", metavar="SECTION")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--kept", type=Path)
    given = parser.parse_args(arguments)
    unknown = [name for name in given.sections if name not in SECTIONS]
    if unknown:
        sys.exit(f"there is no section {unknown[0]!r}; the sections are {', '.join(SECTIONS)}")
    if given.kept is not None:
        SECTIONS["single"] = SINGLE, lambda: single.section(single.kept(given.kept))
    page, pictures = written(PAGE.read_text() if PAGE.exists() else "", given.sections or list(SECTIONS))
    if given.write:
        PAGE.write_text(page)
        for name, picture in pictures.items():
            (PAGE.parent / name).write_text(picture)


if __name__ == "__main__":
    main(sys.argv[1:])
