"""The op families, one a file; importing the package fills the registry.

Families import one another in one direction: sources, layout, select, arithmetic, transcendental, scans,
reduction, then contraction, windows, convolution, pooling, indexing, gather, ordering, special, random, fourier, bits, matrices,
linalg and factorisations. `correlate`, `few` and `choose` have kernels.
"""

from graphir.ops import (
    arithmetic,
    bits,
    contraction,
    convolution,
    factorisations,
    fourier,
    gather,
    indexing,
    layout,
    linalg,
    matrices,
    ordering,
    pooling,
    random,
    reduction,
    scans,
    select,
    sources,
    special,
    transcendental,
    windows,
)

__all__ = [
    "arithmetic",
    "bits",
    "contraction",
    "convolution",
    "factorisations",
    "fourier",
    "gather",
    "indexing",
    "layout",
    "linalg",
    "matrices",
    "ordering",
    "pooling",
    "random",
    "reduction",
    "scans",
    "select",
    "sources",
    "special",
    "transcendental",
    "windows",
]
