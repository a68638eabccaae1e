"""A back-end for the ONNX package's own test runner: models are read by `from_onnx` and evaluated by the reference.

Inputs whose values decide shapes are fixed with `bind` when they are fed, which is what a user does with them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import ModelProto
from onnx.backend.base import Backend, BackendRep

from graphir.errors import BindError
from graphir.graph import Graph
from graphir.interpret import evaluate
from graphir.node import Array
from graphir.onnx import from_onnx


class PreparedModel(BackendRep):
    """A model that is read when it is run, for what its inputs decide is known only then."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def run(self, inputs: Sequence[Any], **kwargs: Any) -> tuple[Array, ...]:
        """The outputs for the inputs in the model's order."""
        names = [info.name for info in ModelProto.FromString(self.data).graph.input]
        feeds = dict(zip(names, (v if isinstance(v, list) else np.asarray(v) for v in inputs), strict=False))
        graph, bound = read_for(self.data, feeds)
        values = evaluate(graph, {name: value for name, value in feeds.items() if name not in bound})
        return tuple(values.values())


def read_for(data: bytes, feeds: dict[str, Any]) -> tuple[Graph, dict[str, Any]]:
    """The graph of a model and the inputs that had to be fixed to read it."""
    bound: dict[str, Any] = {}
    while True:
        try:
            return from_onnx(data, bind=bound), bound
        except BindError as error:
            missing = {name: feeds[name] for name in error.inputs if name in feeds and name not in bound}
            if not missing:
                raise
            bound.update(missing)


class GraphirBackend(Backend):
    """The interface that `onnx.backend.test` asks for."""

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Every model is tried; what is not supported fails and is listed."""
        return True

    @classmethod
    def prepare(cls, model: ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        """The model, ready to run."""
        return PreparedModel(model.SerializeToString())

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Evaluation is by numpy."""
        return device == "CPU"
