"""Run every measurement: `python -m benchmarks` prints the tables, `--write` puts them into docs/performance.md."""

import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info

from benchmarks import distributed, forecast, forward, growth, ladder, sweep

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"

FORWARD = """## Tangents by reverse mode twice

`gi.jvp` is reverse mode twice: a vjp is linear in its cotangent, and the vjp of that map is the jvp. The table sets
it beside forward mode with own rules, in the simplified graph of value and tangent with n = 256. The first row sums
the first differentiable example of every op. Rules of their own would have to give graphs smaller by a fifth to be
worth a second table beside the derivatives that each op declares."""


DISTRIBUTED = """## Two workers

Milliseconds beside the peers on one machine, in interleaved rounds of one run, two workers of one thread each. An iteration is one of
gradient descent in 16 chunks; all but PyTorch run the same kernels on the same chunks. The bare processes are what is left
when nothing is scheduled, kept or repaired: a pipe to each. Our workers exchange their sums with one another. The random
graph is new in each round and its construction counts. Of the large gradients ours are computed in each iteration, the others' are
there. The tiny job is a graph and shapes that were seen before, with other values. Tasks that do nothing are one
`client.map` for us."""


GROWTH = """## How cost grows

With next to no work in a chunk or a node. The exponent is the slope in log-log; more workers than cores show what another
worker costs."""


SWEEP = """## A thousand tiny points

`client.map` of a loss and its gradient on 20 rows at 1,000 weights: a job for each point, and one batched job."""


FORECAST = """## Forecasts

The workers of this machine are measured (`gradfleet calibrate`), then jobs of several kinds run on 1, 2 and 4 of them, and the
median of an iteration is set beside what the simulation says. The last column is the forecast without a measurement."""

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


def page() -> str:
    """Everything measured, as Markdown."""
    return f"""# Performance

Written by `make bench`, on {machine()}. Medians of interleaved rounds; compare ratios, not absolute times.

## Building graphs

The ladder z' = sin(z) * w + z_before, three operations a rung, and its gradient with respect to every w;
microseconds an operation node of the value. Peers take part where they are installed (`pip install casadi pytensor`).
The gradient column of JAX traces the value again. "gradfleet, random" is one run of a wide random graph.

{ladder.table(ladder.measure())}

{FORWARD}

{forward.table(forward.measure())}

{DISTRIBUTED}

{distributed.table(*distributed.measure())}

{GROWTH}

{growth.table(growth.measure())}

{SWEEP}

{sweep.table(sweep.measure())}

{FORECAST}

{forecast.table(forecast.measure())}

{SCALING}

{forecast.scaling_table(forecast.scaling())}

{PLANNING}

{forecast.planning_table(forecast.planning())}
"""


if __name__ == "__main__":
    text = page()
    print(text)
    if "--write" in sys.argv:
        PAGE.write_text(text)
