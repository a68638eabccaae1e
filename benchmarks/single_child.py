"""One peer and one workload in a process of its own: `python -m benchmarks.single_child PEER WORKLOAD FOLDER DESCRIPTOR`.

Prepares, calls, writes what came out to the folder, and then takes samples when it is told to. It speaks JSON, a line each, over a
descriptor of its own, so that what a library prints does not disturb.
"""

import json
import math
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.single_peers import PEERS, Call, Oracle, Peer, Unsupported
from benchmarks.workloads import WORKLOADS

SAMPLE_SECONDS, WARM_SECONDS = 0.03, 0.3


def memory(field: str) -> float:
    """Megabytes by the kernel's account: VmRSS now, VmHWM at most so far."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in status if line.startswith(field))


def forget_peak() -> None:
    """Let the peak begin anew, where the kernel allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def prepared(maker: Peer, peer: str, workload: str, folder: Path) -> tuple[dict[str, Any], Call, int]:
    """What to tell of the first calls, the call, and how often it is called for a sample."""
    w = WORKLOADS[workload]
    maker.load()
    arrays = w.arrays()
    forget_peak()
    before, begun = memory("VmRSS"), time.perf_counter()
    call = maker.prepare(w, arrays)
    first_out = [np.array(value) for value in call()]
    first = time.perf_counter() - begun
    second = [np.array(value) for value in call()]
    np.savez(folder / f"{peer}.npz", *[np.asarray(value, np.float64) for value in second])
    same = all(np.allclose(a, b, 1e-5, 1e-7) for a, b in zip(first_out, second, strict=True))
    del first_out, second
    begun, calls = time.perf_counter(), 0
    while calls < 3 or (time.perf_counter() - begun < WARM_SECONDS and calls < 10_000):
        call()
        calls += 1
    often = max(1, math.ceil(SAMPLE_SECONDS * calls / (time.perf_counter() - begun)))
    return {"first": first, "memory": max(0.0, memory("VmHWM") - before), "same": same}, call, often


def main(peer: str, workload: str, folder: str, descriptor: str) -> None:
    """Serve one parent."""
    with os.fdopen(int(descriptor), "w") as out:

        def reply(**message: Any) -> None:
            print(json.dumps(message), file=out, flush=True)

        maker = PEERS.get(peer, Oracle)()
        try:
            told, call, often = prepared(maker, peer, workload, Path(folder))
        except Unsupported as reason:
            reply(why=str(reason))
            return
        except Exception as error:  # noqa: BLE001  # a peer that fails is named in the page
            reply(why=f"{type(error).__name__}: {error}".strip().partition("\n")[0][:200])
            return
        reply(**told)
        for line in sys.stdin:
            if line.strip():  # else a sample is asked for
                reply(profile=maker.profile())
                continue
            call()
            begun = time.perf_counter()
            for _ in range(often):
                call()
            reply(seconds=(time.perf_counter() - begun) / often)


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # without a library's exit handlers
