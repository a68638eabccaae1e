"""Minibatches of a job: which feeds have the batched dimension, how many rows there are, and how many steps an epoch has.

The last rows of an epoch that do not fill a batch are left out of it: a batch of another size would be another program,
with other sums. The shuffle lets other rows wait in each epoch.
"""

from collections.abc import Collection, Mapping
from typing import Any

from graphir import dims
from graphir.errors import ShapeError
from graphir.graph import Graph
from graphir.partition.minibatch import Minibatch
from scheduler.job.spec import IN_ORDER, MAX_SEED, SpecError


def minibatch(
    graph: Graph, sizes: Mapping[str, int], options: Mapping[str, Any], carried: Collection[str]
) -> Minibatch | None:
    """The minibatch of a job whose feeds have these sizes, if it has any; SpecError or ShapeError if it cannot be had.

    options: batch, shuffle and parts, as in a spec.
    """
    batch, shuffle, parts = options.get("batch"), options.get("shuffle", 0), options.get("parts", 1)
    if batch is None:
        return None
    if len(batch) != 1:
        raise SpecError(f"batch names {len(batch)} dimensions; give the rows of one, such as batch={{'n': 256}}")
    ((dim, size),) = batch.items()
    if dim not in graph.sizes:
        raise SpecError(f"batch names {dim!r}; the named dimensions of the inputs are {list(graph.sizes)}")
    if size > sizes[dim]:
        raise SpecError(f"a batch of {size} rows of {dim!r} is more than the {sizes[dim]} that are fed; give fewer")
    if size % parts or sizes[dim] // parts < size // parts:
        raise SpecError(f"a batch of {size} rows cannot have as many from each of {parts} parts; let parts divide it")
    axes = {name: found for name in graph.inputs if (found := _axes(graph, name, dim, carried))}
    if not axes:
        raise SpecError(f"every input with {dim!r} is carried, so there are no rows to take a batch of")
    return Minibatch(dim, size, sizes[dim], None if shuffle == IN_ORDER else int(shuffle), axes, parts)


def resolved(graph: Graph, sizes: Mapping[str, int], options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are given, with the batch's dimension by name, the shuffle as a spec has it, and epochs in steps."""
    given = {name: value for name, value in options.items() if value is not None and name != "epochs"}
    epochs, batch = options.get("epochs"), given.get("batch")
    if "shuffle" in given:
        given["shuffle"] = _seed(given["shuffle"])
    if batch is None:
        if epochs is not None or given.get("parts", 1) != 1:
            raise SpecError("epochs and parts are about batches; give batch= as well (or steps= instead of epochs=)")
        return given
    if not _is_count(given.get("parts", 1)):
        raise SpecError(f"parts={given['parts']!r:.40} should be a whole number of at least 1")
    if not isinstance(batch, Mapping):
        given["batch"] = batch = {_only(graph): batch}
    if not all(_is_count(size) for size in batch.values()):
        raise SpecError(f"batch={dict(batch)!r:.80}: the rows of a batch are a whole number of at least 1")
    made = minibatch(graph, sizes, given, given.get("carry", {}))
    if epochs is None or made is None:
        return given
    if not _is_count(epochs):
        raise SpecError(f"epochs={epochs!r:.40} should be a whole number of at least 1")
    if given.get("steps", 1) != 1:
        raise SpecError("steps and epochs are both given; give one of them")
    return {**given, "steps": epochs * made.steps}


def _axes(graph: Graph, name: str, dim: str, carried: Collection[str]) -> tuple[int, ...]:
    shape = graph.inputs[name].type.shape
    axes = tuple(axis for axis, size in enumerate(shape) if dim in dims.names(size))
    if not axes:
        return ()
    if name in carried:
        raise SpecError(
            f"input {name!r} is carried and has the batched dimension {dim!r}; each iteration has other rows, so carry "
            "values without it"
        )
    mixed = [shape[axis] for axis in axes if shape[axis] != dim]
    if mixed:
        raise ShapeError(
            f"input {name!r} has the axis '{mixed[0]}', from which no rows of {dim!r} can be taken; give it an axis "
            f"of its own, and reshape it in the graph"
        )
    return axes


def _only(graph: Graph) -> str:
    if len(graph.sizes) != 1:
        raise SpecError(
            f"batch needs the name of a dimension, such as batch={{'n': 256}}; there are {list(graph.sizes)}"
        )
    return next(iter(graph.sizes))


def _seed(shuffle: object) -> int | str:
    """As a spec has it: a seed, or IN_ORDER."""
    if shuffle is True or shuffle is False:
        return 0 if shuffle else IN_ORDER
    if shuffle == IN_ORDER or (isinstance(shuffle, int) and 0 <= shuffle <= MAX_SEED):
        return shuffle
    raise SpecError(f"shuffle={shuffle!r:.40} should be a seed from 0 to {MAX_SEED}, True, or False for rows in order")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
