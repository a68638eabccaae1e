"""What ONNX operators mean, one file a family; importing the package fills the table of rules."""

from graphir.onnx.families import (
    activation,
    convolution,
    elementwise,
    indexing,
    layout,
    normalisation,
    pooling,
    products,
    reduction,
    shapes,
    slicing,
)

__all__ = [
    "activation",
    "convolution",
    "elementwise",
    "indexing",
    "layout",
    "normalisation",
    "pooling",
    "products",
    "reduction",
    "shapes",
    "slicing",
]
