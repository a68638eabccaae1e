"""Control flow: ops whose attributes are graphs. `graphir.flow` is how users write them."""

from graphir.control import branch, loop, scan

__all__ = ["branch", "loop", "scan"]
