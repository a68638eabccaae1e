"""The op families, one a file; importing the package fills the registry.

Families import one another in one direction: sources, layout, select, arithmetic, transcendental, reduction,
then contraction, indexing, gather, scans and ordering.
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
    "transcendental",
]
