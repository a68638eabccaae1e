"""Run every measurement: `python -m benchmarks` prints the tables, `--write` puts them into docs/performance.md."""

import os
import platform
import sys
from pathlib import Path

from benchmarks import distributed, forecast, forward, ladder, sweep

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"

FORWARD = """## Tangents by reverse mode twice

`gi.jvp` is reverse mode twice: a vjp is linear in its cotangent, and the vjp of that map is the jvp. The table sets
it beside forward mode with own rules, in the simplified graph of value and tangent with n = 256. The first row sums
the first differentiable example of every op. Rules of their own would have to give graphs smaller by a fifth to be
worth a second table beside the derivatives that each op declares."""


DISTRIBUTED = """## Iterations on two workers

An iteration of gradient descent on two Ray workers, beside two bare processes that run the same kernels on the same
chunks and exchange sums through pipes. A ratio below one comes from exchanging sums between the workers instead of
through a parent; above one lie the scheduler, the journal and the checks."""


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
    """The processor and the number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return f"{len(os.sched_getaffinity(0))} cores of {model}, Python {platform.python_version()}"


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

{distributed.table(distributed.measure())}

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
