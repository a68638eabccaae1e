"""The op families, one a file; importing the package fills the registry.

Families import one another in one direction: sources, layout, select, arithmetic, transcendental, reduction,
then contraction and indexing.
"""

from graphir.ops import arithmetic, contraction, indexing, layout, reduction, select, sources, transcendental

__all__ = ["arithmetic", "contraction", "indexing", "layout", "reduction", "select", "sources", "transcendental"]
