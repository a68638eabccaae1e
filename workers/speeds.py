"""Speeds of a worker as they were measured (`workers.calibrate`): plain data, kept as JSON.

They serve predictions only. What is cut, where chunks begin, and who does what do not depend on them, so that the bits of
a result do not depend on the machine.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import exp, log, prod
from statistics import fmean
from typing import Any, TypeAlias

from graphir import dims
from graphir.graph import Graph
from graphir.node import Node

Table: TypeAlias = tuple[tuple[float, float], ...]
"""Pairs with a growing first number; between them one goes along straight lines in logarithms."""
MOST_PROGRAMS = 1000
"""Rehearsals that are kept."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Of one worker.

    node: seconds of an operation beside its work; view: of a view; task: of a run of a program beside its nodes. outer, inner: by
    dtype, seconds of a multiply-add of matrix products by the smaller side of the result, and by the length that is summed.
    operation: seconds an operation in cache, by `key` and `length`; other: of what has no entry. copied: seconds an element that is
    copied across the order in memory, by the bytes of an element. read: seconds a byte by the bytes that went by since it was touched
    last; fetched: the same for operands of matrix products; written: seconds a byte by the size of what is made. programs: seconds of
    a run of a rehearsed program, by `program_key`, and by the number of runs in an iteration.
    """

    node: float
    view: float
    task: float
    outer: Mapping[str, Table]
    inner: Mapping[str, Table]
    operation: Mapping[str, Table]
    other: float
    copied: Table
    read: Table
    fetched: Table
    written: Table
    programs: Mapping[str, Table] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measured:
    """Speeds of a worker that is alone, and of each of `workers` that work at once on a machine with so many cores.

    message: seconds until a small array has arrived at another worker; network: bytes a second between them. when: the time of
    the measurement, in words.
    """

    fingerprint: str
    when: str
    workers: int
    cores: int
    alone: Speeds
    together: Speeds
    message: float
    network: float

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Measured":
        """What `to_json` gave; KeyError, TypeError or ValueError otherwise."""
        return cls(**{**data, "alone": _speeds(data["alone"]), "together": _speeds(data["together"])})

    def rehearsed(self, alone: Mapping[str, Table], together: Mapping[str, Table]) -> "Measured":
        """With rehearsals of programs, those that both have; of older ones the latest stay."""
        both = [name for name in alone if name in together]
        speeds = []
        for speed, new in ((self.alone, alone), (self.together, together)):
            programs = {name: table for name, table in speed.programs.items() if name not in both}
            programs |= {name: new[name] for name in both}
            speeds.append(replace(speed, programs=dict(list(programs.items())[-MOST_PROGRAMS:])))
        return replace(self, alone=speeds[0], together=speeds[1])


def _speeds(data: Mapping[str, Any]) -> Speeds:
    tables = {name: _table(data[name]) for name in ("read", "fetched", "written", "copied")}
    profiles = {
        name: {kind: _table(t) for kind, t in data[name].items()}
        for name in ("outer", "inner", "operation", "programs")
    }
    return Speeds(**{**data, **tables, **profiles})


def _table(pairs: Iterable[Sequence[float]]) -> Table:
    found = tuple((float(x), float(y)) for x, y in pairs)
    if not found or any(x <= 0 or y <= 0 for x, y in found):
        raise ValueError(f"not a table of positive numbers: {found}")
    return found


def program_key(program: Graph, sizes: Mapping[str, int]) -> str:
    """A program at some sizes."""
    return " ".join([program.digest, *(f"{name}={size}" for name, size in sorted(sizes.items()))])


def key(node: Node) -> str:
    """The kind of work that a node is: its op, the widest dtype of its operands, and whether it combines side by side in memory."""
    dtype = max((i.type.dtype for i in node.inputs), key=lambda dtype: dtype.itemsize, default=node.type.dtype)
    return f"{node.op.name}/{dtype.name}{'/last' if _combined(node) else ''}"


def length(node: Node, sizes: Mapping[str, int]) -> int:
    """How many elements that lie side by side are treated alike: combined into one, or kept while what is combined lies across.

    1 where nothing is combined.
    """
    shape = node.inputs[0].type.shape if node.inputs else ()
    across = _combined(node)
    if not across:
        rule = node.op.axis_rule(tuple([i.type for i in node.inputs]), node.attrs)
        if rule is None or not rule.inputs or set(rule.inputs[0]) <= set(rule.output) - rule.whole:
            return 1
        for axis in reversed(range(len(shape))):
            if rule.inputs[0][axis] not in rule.output or rule.inputs[0][axis] in rule.whole:
                break
            across.append(axis)
    return prod(dims.evaluate(shape[axis], sizes) for axis in across)


def _combined(node: Node) -> list[int]:
    """The last axes of the first input that are combined, or needed whole."""
    rule = node.op.axis_rule(tuple([i.type for i in node.inputs]), node.attrs)
    found: list[int] = []
    if rule is not None and rule.inputs:
        for axis in reversed(range(len(rule.inputs[0]))):
            factor = rule.inputs[0][axis]
            if factor in rule.output and factor not in rule.whole:
                break
            found.append(axis)
    return found


def at(table: Table, x: float) -> float:
    """The table's value: constant beyond its ends, straight in logarithms between its entries."""
    place = bisect_left(table, (x, 0.0))
    if place == 0:
        return table[0][1]
    if place == len(table):
        return table[-1][1]
    (x0, y0), (x1, y1) = table[place - 1], table[place]
    share = log(x / x0) / log(x1 / x0)
    return exp(log(y0) + share * (log(y1) - log(y0)))


def mean(several: Sequence[Speeds]) -> Speeds:
    """The mean of what workers measured, entry by entry."""
    return Speeds(
        fmean([s.node for s in several]),
        fmean([s.view for s in several]),
        fmean([s.task for s in several]),
        mean_profile([s.outer for s in several]),
        mean_profile([s.inner for s in several]),
        mean_profile([s.operation for s in several]),
        fmean([s.other for s in several]),
        _mean_table([s.copied for s in several]),
        _mean_table([s.read for s in several]),
        _mean_table([s.fetched for s in several]),
        _mean_table([s.written for s in several]),
        mean_profile([s.programs for s in several]),
    )


def mean_profile(several: Sequence[Mapping[str, Table]]) -> dict[str, Table]:
    """The mean of tables by name, of those that all have."""
    names = [name for name in several[0] if all(name in each for each in several)]
    return {name: _mean_table([each[name] for each in several]) for name in names}


def _mean_table(several: Sequence[Table]) -> Table:
    return tuple((entries[0][0], fmean([y for _, y in entries])) for entries in zip(*several, strict=True))
