"""Compiled code for fused groups and for small graphs, by LLVM; numpy's kernels for the rest. The extra `llvm`.

`code` writes instructions, `vector` the functions that processors lack, `scalar` what an op does to one element; `build`
makes machine code and keeps it (`cache`). `loops` runs fused groups; `whole` small graphs, of which `stored` says what is
written and `nests` makes the loops. But for sums, whose terms are split among the lanes of vectors, nothing is contracted or put
into another order: sums of two, products and comparisons have numpy's bits.
"""

from workers.backends.llvm.loops import loop
from workers.backends.llvm.whole import whole
from workers.backends.numpy import kernel

__all__ = ["kernel", "loop", "whole"]
