"""What ONNX operators mean, one file a family; importing the package fills the table of rules."""

from graphir.onnx.families import (
    activation,
    control,
    convolution,
    elementwise,
    indexing,
    layout,
    normalisation,
    ordering,
    pooling,
    products,
    quantised,
    recurrent,
    reduction,
    shapes,
    slicing,
    training,
)

__all__ = [
    "activation",
    "control",
    "convolution",
    "elementwise",
    "indexing",
    "layout",
    "normalisation",
    "ordering",
    "pooling",
    "products",
    "quantised",
    "recurrent",
    "reduction",
    "shapes",
    "slicing",
    "training",
]
