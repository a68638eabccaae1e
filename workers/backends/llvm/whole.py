"""A small program as one compiled function, called with the arrays themselves: what it needs of them it reads from their headers.

A call costs about as much as making the arrays of its results. It declines (None) whatever is not as it was compiled for: another shape or
dtype, not in C order, or arguments that numpy's kernels must do.
"""

import ctypes
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np

from graphir.graph import Graph
from graphir.interpret import bound_attributes
from graphir.node import Array, Node
from workers.backends.llvm import build
from workers.backends.llvm.code import MEMORY
from workers.backends.llvm.nests import Nests
from workers.backends.llvm.stored import covers, stored

STACK_BYTES = 1 << 19
"""Memory that values between inputs and outputs take at most."""
_DATA, _RANK, _SHAPE, _FLAGS = 16, 24, 32, 64
"""Where NumPy's array header (PyArrayObject_fields, a stable ABI) has these."""
Whole = Callable[[Mapping[str, Any]], "dict[str, Array] | None"]


def whole(graph: Graph, sizes: Mapping[str, int], offsets: Mapping[str, int]) -> Whole | None:
    """The function from feeds to outputs, or None if the graph is too large or has what is not compiled."""
    shapes = {node: node.type.bind(sizes) for node in graph.nodes}
    outputs = list(dict.fromkeys(graph.outputs.values()))
    if any(node.op.name == "input" for node in outputs) or not covers(graph, shapes) or not _headers_are_known():
        return None
    writes = stored(graph, shapes)
    if writes is None:
        return None
    values = [*graph.inputs.values(), *outputs]
    nests = Nests(shapes, {node: bound_attributes(node, sizes, offsets) for node in graph.nodes})
    nests.places |= {node: f"%d{k}" for k, node in enumerate(values)}
    for node in writes:
        if node not in nests.places:
            nests.places[node] = nests.room(MEMORY[node.type.dtype.name], prod(shapes[node]))
            nests.stack_bytes += prod(shapes[node]) * node.type.dtype.itemsize
        if nests.stack_bytes > STACK_BYTES:
            return None
        nests.write(node)
    address = build.address(_text(nests, [shapes[node] for node in values], len(graph.inputs)))
    return _function(graph, outputs, shapes, address)


def _text(nests: Nests, shapes: Sequence[tuple[int, ...]], inputs: int) -> str:
    """A built-in function of Python: it gives 0 if all went well, 1 if an array is not as expected, 2 if some argument is out of range."""
    names = range(len(shapes))
    data = [line for k in names for line in (
        f"  %h{k} = getelementptr i8, ptr %a{k}, i64 {_DATA}", f"  %d{k} = load ptr, ptr %h{k}"
    )]  # fmt: skip
    arrays = [line for k in names for line in (
        f"  %e{k} = getelementptr ptr, ptr %given, i64 {k}", f"  %a{k} = load ptr, ptr %e{k}"
    )]  # fmt: skip
    checks = [line for k in range(inputs) for line in _check(k, shapes[k])]
    good = "true"
    for k in range(inputs):
        checks.append(f"  %all{k} = and i1 {good}, %good{k}")
        good = f"%all{k}"
    return "\n".join([
        *nests.constants, *sorted(nests.code.declared),
        f"define internal i64 @work({', '.join([f'ptr noalias %d{k}' for k in names])}) noinline nounwind {{",
        "entry:", "  %suspect = alloca i64", "  store i64 0, ptr %suspect", *nests.entry,
        *nests.code.lines, "  %seen = load i64, ptr %suspect", "  %result = shl i64 %seen, 1", "  ret i64 %result", "}",
        "declare ptr @PyLong_FromSsize_t(i64)", "define ptr @RUN(ptr %self, ptr %given, i64 %count) nounwind {",
        "entry:", *arrays, *checks, f"  br i1 {good}, label %run, label %other",
        "run:", *data, f"  %result = call i64 @work({', '.join([f'ptr %d{k}' for k in names])})", "  br label %end",
        "other:", "  br label %end",
        "end:", "  %code = phi i64 [%result, %run], [1, %other]",
        "  %told = call ptr @PyLong_FromSsize_t(i64 %code)", "  ret ptr %told", "}",
    ])  # fmt: skip


def _check(k: int, shape: tuple[int, ...]) -> list[str]:
    """Whether an array has the shape and is in C order; aligned it need not be. The rank is known to be right."""
    lines = [
        f"  %fp{k} = getelementptr i8, ptr %a{k}, i64 {_FLAGS}", f"  %f{k} = load i32, ptr %fp{k}",
        f"  %fc{k} = and i32 %f{k}, 1", f"  %good{k}.0 = icmp eq i32 %fc{k}, 1",
        f"  %sp{k} = getelementptr i8, ptr %a{k}, i64 {_SHAPE}", f"  %s{k} = load ptr, ptr %sp{k}",
    ]  # fmt: skip
    for axis, size in enumerate(shape):
        lines += [
            f"  %np{k}.{axis} = getelementptr i64, ptr %s{k}, i64 {axis}", f"  %n{k}.{axis} = load i64, ptr %np{k}.{axis}",
            f"  %is{k}.{axis} = icmp eq i64 %n{k}.{axis}, {size}",
            f"  %good{k}.{axis + 1} = and i1 %good{k}.{axis}, %is{k}.{axis}",
        ]  # fmt: skip
    return [*lines, f"  %good{k} = and i1 %good{k}.{len(shape)}, true"]


def _function(graph: Graph, outputs: Sequence[Node], shapes: Mapping[Node, tuple[int, ...]], address: int) -> Whole:
    """As Python code, since a call is to cost no more than it must."""
    count = len(graph.inputs) + len(outputs)
    names: dict[str, Any] = {"call": build.builtin(address), "ndarray": np.ndarray, "empty": np.empty}
    lines = ["def run(feeds):", f" if len(feeds) != {len(graph.inputs)}: return None"]
    for k, (name, node) in enumerate(graph.inputs.items()):
        names[f"t{k}"] = np.dtype(node.type.dtype.name)
        lines += [
            f" a{k} = feeds.get({name!r})",
            f" if type(a{k}) is not ndarray or a{k}.dtype is not t{k} or a{k}.ndim != {len(shapes[node])}: return None",
        ]
    for k, node in enumerate(outputs, len(graph.inputs)):
        names[f"s{k}"], names[f"t{k}"] = shapes[node], np.dtype(node.type.dtype.name)
        lines.append(f" a{k} = empty(s{k}, t{k})")
    lines.append(f" if call({', '.join([f'a{k}' for k in range(count)])}): return None")
    place = {node: k for k, node in enumerate(outputs, len(graph.inputs))}
    made = ", ".join([f"{name!r}: a{place[node]}" for name, node in graph.outputs.items()])
    lines.append(f" return {{{made}}}")
    exec("\n".join(lines), names)
    function: Whole = names["run"]
    return function


@cache
def _headers_are_known() -> bool:
    """Whether arrays have the headers that compiled code reads: it looks at one."""
    if sys.implementation.name != "cpython" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    array = np.zeros((3, 5), np.float64)
    at = id(array)
    shape = ctypes.c_void_p.from_address(at + _SHAPE).value
    return (
        ctypes.c_void_p.from_address(at + _DATA).value == array.ctypes.data
        and ctypes.c_int.from_address(at + _RANK).value == array.ndim
        and shape is not None
        and (ctypes.c_int64 * 2).from_address(shape)[:] == [3, 5]
        and ctypes.c_int.from_address(at + _FLAGS).value & 1 == 1
    )
