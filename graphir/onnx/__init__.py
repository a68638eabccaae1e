"""ONNX in and out: `from_onnx` reads a model into a Graph, `to_onnx` writes a Graph with standard operators only.

The `onnx` library is an extra and is imported only when one of the functions is called.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from graphir.errors import MissingExtraError
from graphir.graph import FACES, Graph
from graphir.origin import located

if TYPE_CHECKING:
    from graphir.node import Array
    from graphir.onnx.model_file import Limits


@located
def from_onnx(
    source: bytes | str | os.PathLike[str],
    *,
    bind: Mapping[str, Any] | None = None,
    parameters: bool | Sequence[str] = False,
    limits: "Limits | None" = None,
) -> Graph:
    """The graph of an ONNX model: a file or its bytes. Inputs and outputs keep the model's names and order.

    bind: {name: array} fixes inputs, such as one that decides a shape; a fixed input is a constant of the graph.
    Initialisers are constants, also where an input of the same name could replace them.
    parameters: names of initialisers that become inputs, after the model's own, so that gradients with respect to
    them can be taken; True: all floats but those whose values decide shapes. `gi.onnx.parameters` gives their values.
    """
    try:
        from graphir.onnx import importer
    except ImportError as error:
        raise _missing(error) from None
    return importer.read(source, bind or {}, limits, parameters)


def parameters(source: bytes | str | os.PathLike[str], *, limits: "Limits | None" = None) -> dict[str, "Array"]:
    """The float initialisers of an ONNX model by name: what to feed after `from_onnx(source, parameters=True)`."""
    try:
        from graphir.onnx import importer
    except ImportError as error:
        raise _missing(error) from None
    return importer.values(source, limits)


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

__all__ = ["from_onnx", "parameters", "to_onnx"]
