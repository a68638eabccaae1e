"""What op declarations share: type inference and axis rules of the common kinds, and example samples."""

from typing import Any

from graphir.axes import AxisRule
from graphir.errors import DTypeError, ShapeError
from graphir.example import Example, Sample
from graphir.types import BOOL, DType, TensorType

FLOATS, INTEGERS, NUMBERS, ALL = "f", "iu", "iuf", "biuf"


def need_kind(type_: TensorType, kinds: str, hint: str = "cast the value first") -> None:
    """DTypeError unless the dtype's kind (numpy's letter) is among `kinds`."""
    if type_.dtype.kind not in kinds:
        wanted = {"f": "a float", "iu": "an integer", "b": "bool", "iuf": "a number", "biu": "bool or an integer"}
        raise DTypeError(f"needs {wanted.get(kinds, kinds)} dtype, not {type_.dtype.name}; {hint}")


def need_same(types: tuple[TensorType, ...]) -> None:
    """Typed errors unless all types are equal."""
    first = types[0]
    for other in types[1:]:
        if other is not first and other != first:
            if other.shape != first.shape:
                raise ShapeError(f"shapes differ: {first} and {other}; broadcast explicitly")
            raise DTypeError(f"dtypes differ: {first} and {other}; cast explicitly")


def need_axis(type_: TensorType, axis: int) -> None:
    """ShapeError unless 0 <= axis < rank."""
    if not 0 <= axis < type_.rank:
        raise ShapeError(f"axis {axis} is out of range for {type_}, which has {type_.rank} axes")


def pointwise(kinds: str) -> Any:
    """Inference of an elementwise op whose inputs and output have one type."""

    def infer(*types: TensorType) -> TensorType:
        need_kind(types[0], kinds)
        need_same(types)
        return types[0]

    return infer


def predicate(kinds: str) -> Any:
    """Inference of an elementwise op on equal types that answers with bool."""

    def infer(*types: TensorType) -> TensorType:
        need_kind(types[0], kinds)
        need_same(types)
        return types[0].with_dtype(BOOL)

    return infer


def elementwise_axes(types: tuple[TensorType, ...], attrs: dict[str, Any]) -> AxisRule:
    """All inputs and the output share every axis."""
    return _elementwise(len(types), types[0].rank)


def _elementwise(arity: int, rank: int) -> AxisRule:
    axes = tuple(f"a{axis}" for axis in range(rank))
    return AxisRule((axes,) * arity, axes)


def letters(rank: int, prefix: str = "a") -> tuple[str, ...]:
    """Factor names for the axes of one value."""
    return tuple(f"{prefix}{axis}" for axis in range(rank))


def floats(*domains: tuple[float, float], shape: tuple[int, ...] = (3, 4)) -> tuple[Example, ...]:
    """One float64 example with a sample for each domain, and one float32 0-d example."""
    return (
        Example(tuple(Sample(shape, "float64", low, high) for low, high in domains)),
        Example(tuple(Sample((), "float32", low, high) for low, high in domains)),
    )


def samples(dtype: str, arity: int, low: int = 0, high: int = 7, shape: tuple[int, ...] = (3, 4)) -> Example:
    """One example whose inputs are alike."""
    return Example((Sample(shape, dtype, low, high),) * arity)


def result_dtype(a: DType, b: DType) -> bool:
    """Whether both are the same dtype."""
    return a == b
