"""What a run spends its time on: seconds, bytes, operations and achieved bandwidth of each call, beside what the machine can do.

A call makes the value of a node or of a group of nodes. A function that makes those of several says so by an attribute `nodes`. Bytes
are those of operands and results, each read or written once: a lower bound, as is the time that the roofline allows.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from operator import itemgetter
from statistics import median
from typing import Any

import numpy as np

from graphir.cost import nodes_operations
from graphir.node import Array, Node
from workers.bound import Call

PROBE_BYTES, PROBE_SIDE, PROBES = 1 << 26, 768, 5


@dataclass(frozen=True, slots=True)
class Roofline:
    """What the machine does at most: bytes a second read from memory, and operations a second of matrix products by dtype."""

    read: float
    products: dict[str, float]

    def seconds(self, read: int, operations: int, dtype: str) -> float:
        """The least time for so many bytes and operations."""
        return max(read / self.read, operations / self.products.get(dtype, self.products["float64"]))


@dataclass(frozen=True, slots=True)
class Entry:
    """A call. name: the op, or how many nodes; where: who made its last node; start: seconds after the run's begin."""

    name: str
    where: str
    nodes: int
    start: float
    seconds: float
    bytes: int
    operations: int
    least: float

    @property
    def bandwidth(self) -> float:
        """Bytes a second."""
        return self.bytes / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Profile:
    """The calls of a run in order; seconds: of a run that is not looked at; roofline: of the machine."""

    entries: tuple[Entry, ...]
    seconds: float
    roofline: Roofline

    @property
    def profiled(self) -> float:
        """Seconds of all calls, looked at."""
        return sum(entry.seconds for entry in self.entries)

    def to_text(self, most: int = 40) -> str:
        """A table, the longest first; calls for the same nodes, of several tiles, in one line."""
        rates = ", ".join(f"{rate / 1e9:.0f} GFLOP/s {dtype}" for dtype, rate in self.roofline.products.items())
        lines = [
            f"{self.seconds * 1e3:.3f} ms a run, {self.profiled * 1e3:.3f} ms looked at call by call; "
            f"this machine: {self.roofline.read / 1e9:.1f} GB/s read, products of matrices {rates}",
            f"{'ms':>10} {'part':>6} {'calls':>6} {'MB':>10} {'GB/s':>8} {'Mop':>10} {'GFLOP/s':>8} {'of limit':>8}  what",
        ]
        alike: dict[tuple[str, str], list[Entry]] = {}  # tiles make the same calls again and again
        for entry in self.entries:
            alike.setdefault((entry.name, entry.where), []).append(entry)
        whole = self.profiled or 1.0
        groups = sorted(alike.items(), key=lambda item: -sum(entry.seconds for entry in item[1]))
        for (name, where), calls in groups[:most]:
            took = sum(entry.seconds for entry in calls) or 1e-9
            moved, work = sum(entry.bytes for entry in calls), sum(entry.operations for entry in calls)
            lines.append(
                f"{took * 1e3:10.3f} {took / whole:6.1%} {len(calls):6} {moved / 1e6:10.3f} {moved / took / 1e9:8.2f} "
                f"{work / 1e6:10.3f} {work / took / 1e9:8.2f} {sum(e.least for e in calls) / took:8.0%}  {name}  {where}"
            )
        if len(groups) > most:
            rest = [entry for _, calls in groups[most:] for entry in calls]
            lines.append(
                f"{sum(e.seconds for e in rest) * 1e3:10.3f} {'':6} {len(rest):6} {'':48}  in {len(groups) - most} more lines"
            )
        return "\n".join(lines)

    def to_chrome(self) -> str:
        """The run as JSON in Chrome's trace format, which Perfetto shows."""
        calls = [
            {
                "name": entry.name, "cat": "call", "ph": "X", "pid": 1, "tid": 1,
                "ts": entry.start * 1e6, "dur": entry.seconds * 1e6,
                "args": {
                    "bytes": entry.bytes, "operations": entry.operations, "GB/s": round(entry.bandwidth / 1e9, 3),
                    "nodes": entry.nodes, "where": entry.where, "part of the limit": round(entry.least / (entry.seconds or 1e-9), 4),
                },
            }
            for entry in self.entries
        ]  # fmt: skip
        named: list[dict[str, Any]] = [{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "gradfleet"}}]
        about = {"read, GB/s": self.roofline.read / 1e9, "seconds a run": self.seconds}
        return json.dumps({"traceEvents": named + calls, "displayTimeUnit": "ms", "otherData": about})


class Recorder:
    """Looks at the calls of a run: to be given to `Bound.run`."""

    def __init__(self, sizes: dict[str, int], roofline: Roofline) -> None:
        self._sizes, self._roofline = sizes, roofline
        self._entries: list[Entry] = []
        self._begun = self._last = time.perf_counter()

    def begin(self) -> None:
        """A run starts now."""
        self._entries = []
        self._begun = self._last = time.perf_counter()

    def look(self, call: Call, slots: Sequence[Any]) -> None:
        """A call has ended; its operands are still there."""
        now = time.perf_counter()
        if not isinstance(call.function, itemgetter):  # picks one of what a call has made
            self._entries.append(self._entry(call, slots, self._last - self._begun, now - self._last))
        self._last = time.perf_counter()

    def entries(self) -> tuple[Entry, ...]:
        """Of the run since `begin`."""
        return tuple(self._entries)

    def _entry(self, call: Call, slots: Sequence[Any], start: float, seconds: float) -> Entry:
        nodes, made = made_by(call), slots[call.target]
        results = list(made) if isinstance(made, tuple | list) else [made]
        operands = [slots[source] for source in call.sources]
        fresh = [array for array in results if not any(np.may_share_memory(array, given) for given in operands)]
        moved = sum(map(footprint, [*operands, *fresh])) if fresh else 0  # a view moves nothing
        work = nodes_operations(nodes, self._sizes)
        least = self._roofline.seconds(moved, work, nodes[-1].type.dtype.name)
        return Entry(_name(nodes), str(nodes[-1].origin), len(nodes), start, seconds, moved, work, least)


def made_by(call: Call) -> tuple[Node, ...]:
    """The nodes whose values a call makes."""
    function = call.function.func if isinstance(call.function, partial) else call.function
    return tuple(getattr(function, "nodes", (call.node,)))


def _name(nodes: Sequence[Node]) -> str:
    ops = [node.op.name for node in nodes]
    if len(set(ops)) == 1:
        return (
            ops[0]
            if len(ops) == 1
            else f"{ops[0]} ({len(ops)} outputs)"
            if nodes[0].op.joint
            else f"{len(ops)} {ops[0]}"
        )
    shown = ", ".join(dict.fromkeys(ops))
    return f"{len(ops)} fused: {shown if len(shown) <= 60 else shown[:57] + '...'}"


def footprint(array: Any) -> int:
    """Bytes of memory in which an array's elements lie: what is broadcast counts once."""
    found = np.asarray(array)
    stepped = [size for size, stride in zip(found.shape, found.strides, strict=True) if stride]
    return int(np.prod(stepped, dtype=np.int64)) * found.itemsize if found.size else 0


def profiled(
    run: Callable[[Callable[[Call, Sequence[Any]], None] | None], Any], sizes: dict[str, int], runs: int
) -> Profile:
    """The profile of `run`, which takes what looks at its calls or None; of so many runs the median one."""
    roofline = measured_roofline()
    recorder = Recorder(sizes, roofline)
    plain, looked = [], []
    run(None)
    for _ in range(runs):
        begun = time.perf_counter()
        run(None)
        plain.append(time.perf_counter() - begun)
        recorder.begin()
        run(recorder.look)
        looked.append(recorder.entries())
    looked.sort(key=lambda entries: sum(entry.seconds for entry in entries))
    return Profile(looked[len(looked) // 2], median(plain), roofline)


@cache
def measured_roofline() -> Roofline:
    """Measured once a process, in about a tenth of a second, with as many threads as BLAS has."""
    source = np.ones(PROBE_BYTES // 8)
    read = PROBE_BYTES / _best(lambda: source.dot(source))
    return Roofline(read, {dtype: _product_rate(dtype) for dtype in ("float32", "float64")})


def _product_rate(dtype: str) -> float:
    square: Array = np.ones((PROBE_SIDE, PROBE_SIDE), dtype)
    return 2 * float(PROBE_SIDE) ** 3 / _best(lambda: square @ square)


def _best(work: Callable[[], Any]) -> float:
    times = []
    for _ in range(PROBES):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)
