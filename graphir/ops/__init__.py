"""The op families, one a file; importing the package fills the registry.

Families import one another in one direction: sources, layout, select, arithmetic, transcendental, scans,
reduction, then contraction, indexing, gather, ordering, special, random, fourier, bits, matrices, linalg and
factorisations.
"""

from graphir.ops import (
    arithmetic,
    bits,
    contraction,
    factorisations,
    fourier,
    gather,
    indexing,
    layout,
    linalg,
    matrices,
    ordering,
    random,
    reduction,
    scans,
    select,
    sources,
    special,
    transcendental,
)

__all__ = [
    "arithmetic",
    "bits",
    "contraction",
    "factorisations",
    "fourier",
    "gather",
    "indexing",
    "layout",
    "linalg",
    "matrices",
    "ordering",
    "random",
    "reduction",
    "scans",
    "select",
    "sources",
    "special",
    "transcendental",
]
