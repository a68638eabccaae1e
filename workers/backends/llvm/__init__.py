"""Compiled code for fused groups, convolutions, narrow products and small graphs, by LLVM; numpy's kernels for the rest. The extra `llvm`.

`code` writes instructions, `vector` the functions that processors lack, `scalar` what an op does to one element; `build`
makes machine code and keeps it (`cache`). `loops` runs fused groups; `whole` small graphs, of which `stored` says what is
written and `nests` makes the loops; `correlate` convolves; `narrow` has products of narrow matrices, of which `panels` has the
code. But for sums, whose terms are split among the lanes of vectors, products and convolutions nothing is contracted or put into
another order: sums of two, elementwise products and comparisons have numpy's bits.
"""

from collections.abc import Callable

from graphir.node import Array, Op
from workers.backends import numpy
from workers.backends.llvm import correlate, pooling
from workers.backends.llvm.loops import loop
from workers.backends.llvm.narrow import matmul
from workers.backends.llvm.stream import stream
from workers.backends.llvm.whole import whole

_OWN: dict[str, Callable[..., Array]] = {
    "conv": correlate.conv, "conv_input": correlate.conv_input, "conv_kernel": correlate.conv_kernel, "matmul": matmul,
    "window_max": pooling.window_max, "window_max_share": pooling.window_max_share,
}  # fmt: skip


def kernel(op: Op) -> Callable[..., Array]:
    """The compiled kernel of a convolution, of pooling or of a product, NumPy's of any other op."""
    return _OWN.get(op.name) or numpy.kernel(op)


__all__ = ["kernel", "loop", "stream", "whole"]
