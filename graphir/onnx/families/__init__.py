"""What ONNX operators mean, one file a family; importing the package fills the table of rules."""

from graphir.onnx.families import (
    activation,
    elementwise,
    indexing,
    layout,
    normalisation,
    products,
    reduction,
    shapes,
    slicing,
)

__all__ = [
    "activation",
    "elementwise",
    "indexing",
    "layout",
    "normalisation",
    "products",
    "reduction",
    "shapes",
    "slicing",
]
