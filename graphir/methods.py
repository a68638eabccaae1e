"""The methods of an expression, as arrays have them, and the tables of functions that serve them.

The tables are filled by the modules above (`graphir.array` and its like): an expression must know its methods before
the functions on expressions can be written.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from graphir.expr import Expr, Operand

FUNCTIONS: dict[str, Callable[..., Any]] = {}
"""Functions on expressions by the Array API's name."""

NUMPY: dict[str, Callable[..., Any]] = {}
"""The functions of `graphir.numpy_api`, by their name below numpy: "vstack", "linalg.norm"."""


class Methods:
    """What `x.name(...)` does is what numpy's method of that name does."""

    __slots__ = ()

    def reshape(self, *shape: Any) -> "Expr":
        """The same elements under another shape; one entry may be -1."""
        return FUNCTIONS["reshape"](self, shape[0] if len(shape) == 1 else shape)  # type: ignore[no-any-return]

    def transpose(self, *axes: Any) -> "Expr":
        """The axes in another order, reversed if none is given."""
        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None
        return FUNCTIONS["transpose"](self, order)  # type: ignore[no-any-return]

    def astype(self, dtype: Any) -> "Expr":
        """The value in another dtype."""
        return FUNCTIONS["astype"](self, dtype)  # type: ignore[no-any-return]

    def sum(self, axis: Any = None, dtype: Any = None, *, keepdims: bool = False) -> "Expr":
        """The sum over axes."""
        return FUNCTIONS["sum"](self, axis, dtype=dtype, keepdims=keepdims)  # type: ignore[no-any-return]

    def prod(self, axis: Any = None, dtype: Any = None, *, keepdims: bool = False) -> "Expr":
        """The product over axes."""
        return FUNCTIONS["prod"](self, axis, dtype=dtype, keepdims=keepdims)  # type: ignore[no-any-return]

    def mean(self, axis: Any = None, *, keepdims: bool = False) -> "Expr":
        """The mean over axes."""
        return FUNCTIONS["mean"](self, axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def var(self, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> "Expr":
        """The variance over axes, divided by the number of elements less `ddof`."""
        return NUMPY["var"](self, axis, ddof=ddof, keepdims=keepdims)  # type: ignore[no-any-return]

    def std(self, axis: Any = None, *, ddof: float = 0, keepdims: bool = False) -> "Expr":
        """The standard deviation over axes, of the variance with `ddof`."""
        return NUMPY["std"](self, axis, ddof=ddof, keepdims=keepdims)  # type: ignore[no-any-return]

    def max(self, axis: Any = None, *, keepdims: bool = False) -> "Expr":
        """The largest element over axes."""
        return FUNCTIONS["max"](self, axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def min(self, axis: Any = None, *, keepdims: bool = False) -> "Expr":
        """The smallest element over axes."""
        return FUNCTIONS["min"](self, axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def all(self, axis: Any = None, *, keepdims: bool = False) -> "Expr":
        """Whether all elements are true."""
        return FUNCTIONS["all"](self, axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def any(self, axis: Any = None, *, keepdims: bool = False) -> "Expr":
        """Whether any element is true."""
        return FUNCTIONS["any"](self, axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def argmax(self, axis: int | None = None, *, keepdims: bool = False) -> "Expr":
        """The position of the first largest element."""
        return FUNCTIONS["argmax"](self, axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def argmin(self, axis: int | None = None, *, keepdims: bool = False) -> "Expr":
        """The position of the first smallest element."""
        return FUNCTIONS["argmin"](self, axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def cumsum(self, axis: int | None = None, dtype: Any = None) -> "Expr":
        """The running sum along an axis, or of the flattened value."""
        return NUMPY["cumsum"](self, axis, dtype)  # type: ignore[no-any-return]

    def cumprod(self, axis: int | None = None, dtype: Any = None) -> "Expr":
        """The running product along an axis, or of the flattened value."""
        return NUMPY["cumprod"](self, axis, dtype)  # type: ignore[no-any-return]

    def clip(self, min: Any = None, max: Any = None) -> "Expr":
        """The value limited to [min, max]."""
        return FUNCTIONS["clip"](self, min, max)  # type: ignore[no-any-return]

    def round(self, decimals: int = 0) -> "Expr":
        """The nearest number of so many decimals, halves to even."""
        return NUMPY["round"](self, decimals)  # type: ignore[no-any-return]

    def dot(self, b: "Operand") -> "Expr":
        """The product with a matrix or a vector."""
        return NUMPY["dot"](self, b)  # type: ignore[no-any-return]

    def ravel(self) -> "Expr":
        """The elements in one axis, the last axis fastest."""
        return NUMPY["ravel"](self)  # type: ignore[no-any-return]

    def flatten(self) -> "Expr":
        """The elements in one axis, the last axis fastest."""
        return NUMPY["ravel"](self)  # type: ignore[no-any-return]

    def squeeze(self, axis: Any = None) -> "Expr":
        """The value without axes of size 1."""
        return NUMPY["squeeze"](self, axis)  # type: ignore[no-any-return]

    def swapaxes(self, axis1: int, axis2: int) -> "Expr":
        """Two axes exchanged."""
        return NUMPY["swapaxes"](self, axis1, axis2)  # type: ignore[no-any-return]

    def take(self, indices: Any, axis: int | None = None) -> "Expr":
        """Slices at positions of an axis."""
        return FUNCTIONS["take"](self, indices, axis)  # type: ignore[no-any-return]

    def repeat(self, repeats: Any, axis: int | None = None) -> "Expr":
        """Each element several times."""
        return FUNCTIONS["repeat"](self, repeats, axis)  # type: ignore[no-any-return]

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> "Expr":
        """The diagonal in the planes of two axes."""
        return NUMPY["diagonal"](self, offset, axis1, axis2)  # type: ignore[no-any-return]

    def trace(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> "Expr":
        """The sum of the diagonal in the planes of two axes."""
        return NUMPY["trace"](self, offset, axis1, axis2)  # type: ignore[no-any-return]
