"""The op families, one a file; importing the package fills the registry.

Families import one another in one direction: sources, layout, select, arithmetic, transcendental, scans,
reduction, then contraction, indexing, gather, ordering, special, random, fourier and bits.
"""

from graphir.ops import (
    arithmetic,
    bits,
    contraction,
    fourier,
    gather,
    indexing,
    layout,
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
    "fourier",
    "gather",
    "indexing",
    "layout",
    "ordering",
    "random",
    "reduction",
    "scans",
    "select",
    "sources",
    "special",
    "transcendental",
]
