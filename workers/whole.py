"""A graph that a back-end runs as one program, with the face of a bound program: one call that makes every value."""

from collections.abc import Callable, Mapping

from graphir.graph import Graph
from graphir.node import Array
from workers.bound import Bound, Call, Look

Run = Callable[[Mapping[str, Array]], list[Array]]


class Whole:
    """run: from arrays by name to the outputs' values. nodes: those whose values it makes, for who looks at the call."""

    def __init__(self, graph: Graph, run: Run) -> None:
        self._run, self._inputs, self.nodes = run, tuple(graph.inputs), tuple(graph.nodes)
        first = len(self._inputs)
        self._call = Call(graph.nodes[-1], self, tuple(range(first)), first, ())

    def __call__(self, arrays: Mapping[str, Array]) -> list[Array]:
        """The outputs."""
        return self._run(arrays)

    def run(self, arrays: Mapping[str, Array], look: Look | None = None) -> list[Array]:
        """The outputs; `look` is told of the one call."""
        made = self(arrays)
        if look is not None:
            look(self._call, [*(arrays[name] for name in self._inputs), made])
        return made


class Streamed(Whole):
    """A tile that compiled code evaluates, unless it has an argument out of range: `otherwise` does that."""

    def __init__(
        self, graph: Graph, run: Callable[[Mapping[str, Array]], list[Array] | None], otherwise: Bound
    ) -> None:
        super().__init__(graph, lambda arrays: run(arrays) or otherwise.run(arrays))
