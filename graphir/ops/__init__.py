"""The op families, one a file; importing the package fills the registry.

Families import one another in one direction: sources, layout, select, arithmetic, transcendental, scans,
reduction, then contraction, indexing, gather, ordering and special.
"""

from graphir.ops import (
    arithmetic,
    contraction,
    gather,
    indexing,
    layout,
    ordering,
    reduction,
    scans,
    select,
    sources,
    special,
    transcendental,
)

__all__ = [
    "arithmetic",
    "contraction",
    "gather",
    "indexing",
    "layout",
    "ordering",
    "reduction",
    "scans",
    "select",
    "sources",
    "special",
    "transcendental",
]
