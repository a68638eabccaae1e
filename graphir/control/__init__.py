"""Control flow: ops whose attributes are graphs. `graphir.flow` is how users write them."""

from graphir.control import scan

__all__ = ["scan"]
