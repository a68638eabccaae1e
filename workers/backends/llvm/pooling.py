"""The largest element of each window of a plane, and its adjoint, as one function each: made for a kernel, strides and dilations.

Windows of one or two axes, in float32 and float64; of the adjoint those that share no element. Everything else is NumPy's.
"""

import ctypes
from collections.abc import Callable, Iterator
from functools import cache
from math import prod

import numpy as np

from graphir.node import Array
from graphir.ops import pooling as plain
from graphir.ops.correlate import Ints
from workers.backends.llvm import build
from workers.backends.llvm.code import TYPES, Code
from workers.backends.llvm.vectors import BYTES

LEAST = 1 << 12
"""Windows below which a call of compiled code does not gain."""
MOST_TAPS = 64
"""Elements of a window above which code would be long."""
_RUN = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 3, *[ctypes.c_int64] * 5)


def window_max(x: Array, *, kernel: Ints, outputs: Ints, strides: Ints, dilations: Ints) -> Array:
    if not _worth(x, kernel, outputs):
        return plain.max_kernel(x, kernel=kernel, outputs=outputs, strides=strides, dilations=dilations)
    out = np.empty((*x.shape[: x.ndim - len(kernel)], *outputs), x.dtype)
    _run("max", x, out, x, kernel, outputs, strides, dilations)
    return out


def window_max_share(ct: Array, x: Array, *, kernel: Ints, outputs: Ints, strides: Ints, dilations: Ints) -> Array:
    apart = all(s > (k - 1) * d for s, k, d in zip(strides, kernel, dilations, strict=True))
    if not apart or not _worth(x, kernel, outputs):
        return plain.share_kernel(ct, x, kernel=kernel, outputs=outputs, strides=strides, dilations=dilations)
    covered = prod(kernel) * prod(outputs) == prod(x.shape[x.ndim - len(kernel) :])
    out = (np.empty if covered else np.zeros)(x.shape, x.dtype)
    _run("share", x, np.ascontiguousarray(ct), out, kernel, outputs, strides, dilations)
    return out


def _worth(x: Array, kernel: Ints, outputs: Ints) -> bool:
    windows = prod(x.shape[: x.ndim - len(kernel)]) * prod(outputs)
    small = len(kernel) in (1, 2) and prod(kernel) <= MOST_TAPS
    return small and x.dtype.name in BYTES and windows >= LEAST


def _run(
    name: str, x: Array, pooled: Array, out: Array, kernel: Ints, outputs: Ints, strides: Ints, dilations: Ints
) -> None:
    """One axis is a plane of one row."""
    x, rank = np.ascontiguousarray(x), len(kernel)
    planes, width = prod(x.shape[: x.ndim - rank]), x.shape[-1]
    high, rows = (strides[0], outputs[0]) if rank == 2 else (1, 1)
    taps = tuple(
        [(a * dilations[0], b * dilations[-1]) for a in range(kernel[0] if rank == 2 else 1) for b in range(kernel[-1])]
    )
    _function(name, x.dtype.name, taps, high, strides[-1])(
        x.ctypes.data, pooled.ctypes.data, out.ctypes.data,
        planes, rows, outputs[-1], x.size // max(planes, 1), width,
    )  # fmt: skip


# ---- the text ----


@cache
def _function(name: str, dtype: str, taps: tuple[tuple[int, int], ...], high: int, wide: int) -> Callable[..., None]:
    """taps: rows and columns of a window's elements; high, wide: from one window to the next."""
    made: Callable[..., None] = _RUN(build.address("\n".join(_text(name, dtype, taps, high, wide))))
    return made


def _text(name: str, dtype: str, taps: tuple[tuple[int, int], ...], high: int, wide: int) -> Iterator[str]:
    """Rows of the plane are pointers of their own, so that it is known that none is written through another."""
    c, type_ = Code(), TYPES[dtype]
    lines = sorted({a for a, _ in taps})
    at = c.two("mul", "i64", "%i", str(wide))
    places = [c.two("add", "i64", at, str(b)) for _, b in taps]
    values = [c.load(c.element(f"%x{a}", dtype, place), dtype) for (a, _), place in zip(taps, places, strict=True)]
    largest = values[0]
    for value in values[1:]:
        largest = c.call("maximum", type_, largest, value)
    if name == "max":
        c.store(c.element("%pooled", dtype, "%i"), dtype, largest)
    else:
        tied = [c.make(f"uitofp i1 {c.compare('oeq', type_, value, largest)} to {type_}") for value in values]
        count = tied[0]
        for one in tied[1:]:
            count = c.two("fadd", type_, count, one)
        part = c.two("fdiv", type_, c.load(c.element("%pooled", dtype, "%i"), dtype), count)
        for (a, _), place, one in zip(taps, places, tied, strict=True):
            c.store(c.element(f"%out{a}", dtype, place), dtype, c.two("fmul", type_, part, one))
    yield from sorted(c.declared)
    pointers = ["%pooled", *[f"%x{a}" for a in lines], *[f"%out{a}" for a in lines]]
    yield from (
        f"define internal void @row(i64 %columns, {', '.join([f'ptr noalias {name}' for name in pointers])}) noinline nounwind {{",
        "entry:", "  br label %loop",
        "loop:", "  %i = phi i64 [0, %entry], [%next, %loop]", *c.lines,
        "  %next = add nuw nsw i64 %i, 1", "  %more = icmp ult i64 %next, %columns", "  br i1 %more, label %loop, label %done",
        "done:", "  ret void", "}",
    )  # fmt: skip
    yield from _planes(type_, lines, pointers, high)


def _planes(type_: str, lines: list[int], pointers: list[str], high: int) -> Iterator[str]:
    """All rows of all planes."""
    yield from (
        "define void @RUN(ptr %x, ptr %windows, ptr %out, i64 %planes, i64 %rows, i64 %columns, i64 %plane, i64 %width) nounwind {",
        "entry:", f"  %step = mul i64 %width, {high}", "  br label %each",
        "each:", "  %p = phi i64 [0, %entry], [%p.next, %each.end]", "  %begin = mul i64 %p, %plane",
        "  %first = mul i64 %p, %rows", "  br label %line",
        "line:", "  %r = phi i64 [0, %each], [%r.next, %line]", "  %down = mul i64 %r, %step",
        "  %from = add i64 %begin, %down", "  %number = add i64 %first, %r", "  %to = mul i64 %number, %columns",
        f"  %pooled = getelementptr {type_}, ptr %windows, i64 %to",
    )  # fmt: skip
    for a in lines:
        yield from (
            f"  %by{a} = mul i64 %width, {a}", f"  %from{a} = add i64 %from, %by{a}",
            f"  %x{a} = getelementptr {type_}, ptr %x, i64 %from{a}", f"  %out{a} = getelementptr {type_}, ptr %out, i64 %from{a}",
        )  # fmt: skip
    yield from (
        f"  call void @row(i64 %columns, {', '.join([f'ptr {name}' for name in pointers])})",
        "  %r.next = add nuw nsw i64 %r, 1", "  %r.more = icmp ult i64 %r.next, %rows",
        "  br i1 %r.more, label %line, label %each.end",
        "each.end:", "  %p.next = add nuw nsw i64 %p, 1", "  %p.more = icmp ult i64 %p.next, %planes",
        "  br i1 %p.more, label %each, label %done", "done:", "  ret void", "}",
    )  # fmt: skip
