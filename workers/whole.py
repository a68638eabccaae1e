"""A graph that a back-end runs as one program, with the face of a bound program: one call that makes every value."""

from collections.abc import Callable, Mapping, Sequence

from graphir.graph import Graph
from graphir.node import Array, Node
from workers.bound import Call, Look

Run = Callable[[Mapping[str, Array]], list[Array]]


class Whole:
    """run: from arrays by name to the outputs' values."""

    def __init__(self, graph: Graph, run: Run) -> None:
        self._run, self._inputs = run, tuple(graph.inputs)
        first = len(self._inputs)
        function = _Function(tuple(graph.nodes), run)
        self._call = Call(graph.nodes[-1], function, tuple(range(first)), first, ())

    def run(self, arrays: Mapping[str, Array], look: Look | None = None) -> list[Array]:
        """The outputs; `look` is told of the one call."""
        made = self._run(arrays)
        if look is not None:
            look(self._call, [*(arrays[name] for name in self._inputs), made])
        return made


class _Function:
    """What a call makes, for who asks."""

    def __init__(self, nodes: Sequence[Node], run: Run) -> None:
        self.nodes, self._run = nodes, run

    def __call__(self, arrays: Mapping[str, Array]) -> list[Array]:
        return self._run(arrays)
