"""A plan in words, fit for a bug report: versions, the graph, what is cut, each step, and what is not cut and why."""

import os
import platform
import re
from importlib import metadata
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from graphir.units import in_bytes

if TYPE_CHECKING:
    from graphir.partition.plan import Plan, Step

MOST, INPUTS = 100, 20
"""How many steps and inputs are told one by one."""


def explain(plan: "Plan") -> str:
    """A text fit for a bug report: cut, chunks, stages, bytes between steps, and what is not cut and why."""
    lines = [
        *_what(plan),
        *_batch(plan),
        heading(plan),
        f"{len(plan.graph)} nodes in {len(plan.steps)} steps, {plan.stages} map stage(s):",
    ]
    reasons = {step.stage: _reason(plan, step) for step in plan.steps if step.kind == "map"}
    for step in plan.steps[:MOST]:
        lines.append(f"  {_step(plan, step)}")
        if step.kind == "map" and step.stage > 0:
            lines.append(f"      a new stage because {reasons[step.stage]}")
    if len(plan.steps) > MOST:
        lines.append(f"  and {len(plan.steps) - MOST} more steps")
    lines += [f"  {note.splitlines()[0]}" for note in plan.notes]
    return "\n".join([*lines, *plan.outlook])


def _what(plan: "Plan") -> list[str]:
    """Versions, the graph, and what is fed; values of constants and folders are left out but for those in notes."""
    try:
        version = metadata.version("gradfleet")
    except metadata.PackageNotFoundError:  # run from its sources
        version = "not installed"
    sizes = ", ".join(f"{name} = {size}" for name, size in plan.sizes.items()) or "none"
    lines = [
        f"gradfleet {version}, numpy {np.__version__}, Python {platform.python_version()}",
        f"graph {plan.graph.digest}, sizes: {sizes}",
    ]
    for name, node in list(plan.graph.inputs.items())[:INPUTS]:
        value = plan.values.get(name)
        axes = {} if value is None else value.axes
        how = ", ".join(f"in slices of axis {axis} along {dim!r}" for dim, axis in axes.items())
        fed = prod(node.type.bind(plan.sizes)) * node.type.dtype.itemsize
        lines.append(f"  input {name!r}: {node.type}, {in_bytes(fed)}, {how or ('whole' if value else 'not used')}")
    if len(plan.graph.inputs) > INPUTS:
        lines.append(f"  and {len(plan.graph.inputs) - INPUTS} more inputs")
    return lines


def _batch(plan: "Plan") -> list[str]:
    if plan.batch is None:
        return []
    batch = plan.batch
    order = "in order" if batch.seed is None else f"shuffled anew in each epoch, with seed {batch.seed}"
    left = batch.total - batch.steps * batch.size
    rest = f", {left} left out" if left else ""
    if batch.parts > 1:
        order = f"as many from each of {batch.parts} parts, {order}"
    return [
        f"an iteration takes {batch.size} of {batch.total} rows of {batch.dim!r}, {order}; {batch.steps} iteration(s) an epoch{rest}",
        f"every worker holds {'its parts' if batch.parts > 1 else 'all'} of {', '.join(map(repr, batch.axes))}, or maps its file",
    ]


def heading(plan: "Plan") -> str:
    """What is cut, in a line."""
    if not plan.borders:
        named = [name for name in plan.graph.sizes if name in plan.sizes]
        why = f"cutting {', '.join(map(repr, named))} is forbidden" if named else "no dimension is named"
        return f"not cut: {why}"
    each = [f"{dim!r} = {b[-1]} into {len(b) - 1} chunk(s) of {b[1]} row(s)" for dim, b in plan.borders.items()]
    grid = f": {plan.chunks} cells in all" if len(each) > 1 else ""
    return f"cut along {' and '.join(each)}{grid}"


def without_folders(text: str) -> str:
    """The text with files by their names only."""
    return re.sub(r"(?:[^\s:]*/)+([^\s/:]+:\d+)", lambda found: os.path.basename(found[0]), text)


def _step(plan: "Plan", step: "Step") -> str:
    moved = sum(plan.block_bytes(name) for name in step.writes)
    grid = f" over {' x '.join(step.over)}" if len(plan.cuts) > 1 and step.over else ""
    times = f"{plan.cells(step.over)} x " if step.over else ""
    if step.kind == "combine":
        operators = {along.dim: along.combine for along in plan.values[step.reads[0].value].blocks}
        parts = f"{times}{operators[step.along or '']} of {plan.cells([step.along or ''])} parts"
        return f"combine {step.stage}{grid}: {parts} -> {_names(plan, step)}, {moved} bytes"
    each = " a chunk or row block" if step.kind == "map" else ""
    return (
        f"{step.kind} {step.stage}{grid}: {times}{len(step.program)} nodes -> {_names(plan, step)}, {moved} bytes{each}"
    )


def _names(plan: "Plan", step: "Step") -> str:
    shown = [str(plan.values[name].type) for name in step.writes[:4]]
    return ", ".join(shown) + (f" and {len(step.writes) - 4} more" if len(step.writes) > 4 else "")


def _reason(plan: "Plan", step: "Step") -> str:
    needs = [plan.values[read.value] for read in step.reads if read.value not in plan.graph.inputs]
    whole = next((value for value in needs if set(value.dims) < set(step.over)), None)
    return "it reads values of the stage before" if whole is None else f"it needs {whole.type}, complete only then"
