"""ONNX in and out: `from_onnx` reads a model into a Graph, `to_onnx` writes a Graph with standard operators only.

The `onnx` library is an extra and is imported only when one of the functions is called.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphir.errors import MissingExtraError
from graphir.graph import FACES, Graph
from graphir.origin import located

if TYPE_CHECKING:
    from graphir.onnx.model_file import Limits


@located
def from_onnx(
    source: bytes | str | os.PathLike[str],
    *,
    bind: Mapping[str, Any] | None = None,
    limits: "Limits | None" = None,
) -> Graph:
    """The graph of an ONNX model: a file or its bytes. Inputs and outputs keep the model's names and order.

    bind: {name: array} fixes inputs, such as one that decides a shape; a fixed input is a constant of the graph.
    Initialisers are constants, also where an input of the same name could replace them.
    """
    try:
        from graphir.onnx import importer
    except ImportError as error:
        raise _missing(error) from None
    return importer.read(source, bind or {}, limits)


@located
def to_onnx(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write the graph as an ONNX model of standard operators; named sizes become its dim_params."""
    try:
        from graphir.onnx import exporter
    except ImportError as error:
        raise _missing(error) from None
    exporter.write(graph, path)


def _missing(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"ONNX needs a library that is not installed ({error.name}); run: pip install 'gradfleet[onnx]'"
    )


FACES["onnx"] = to_onnx

__all__ = ["from_onnx", "to_onnx"]
