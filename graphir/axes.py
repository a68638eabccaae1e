"""Axis rules: how the axes of an operation's inputs and output correspond.

A rule names index axes (*factors*) as einsum does: "i k, k j -> i j". A factor of the output can be cut by
concatenation. A factor absent from the output is combined by the named operator, if one is given. A factor
in `whole` cannot be cut. Batching, sharding, tiling and work estimates are derived from this one rule.

A factor may stand for axes of different size (reshape merges "n 8" into "n*8"); a cut then scales with the size.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

COMBINES = ("sum", "prod", "max", "min", "logaddexp", "all", "any")
"""Operators that may join partial results: associative and commutative up to rounding."""


@dataclass(frozen=True, slots=True)
class AxisRule:
    """The factors of each axis of each input and of the output; visited: whole ones of one operand that multiply the work."""

    inputs: tuple[tuple[str, ...], ...]
    output: tuple[str, ...]
    combine: str | None = None
    whole: frozenset[str] = frozenset()
    visited: frozenset[str] = frozenset()

    @property
    def factors(self) -> tuple[str, ...]:
        """Every factor once, output's first."""
        return tuple(dict.fromkeys([*self.output, *(f for axes in self.inputs for f in axes)]))

    def can_cut(self, factor: str) -> bool:
        """Whether evaluating slices along `factor` and joining them gives the whole."""
        if factor in self.whole or any(axes.count(factor) > 1 for axes in (*self.inputs, self.output)):
            return False
        return factor in self.output or self.combine is not None

    def axis_in(self, factor: str, position: int) -> int | None:
        """The axis of input `position` that the factor indexes, or None."""
        axes = self.inputs[position]
        return axes.index(factor) if factor in axes else None

    def axis_out(self, factor: str) -> int | None:
        """The output axis that the factor indexes, or None where it is combined away."""
        return self.output.index(factor) if factor in self.output else None

    def work(self, input_shapes: Sequence[tuple[int, ...]], output_shape: tuple[int, ...]) -> int:
        """The number of index points that the operation visits: the product of its factors' sizes.

        A whole factor of one operand alone indexes elements that are moved (concat, take), unless it is `visited`, so it
        does not multiply the others; then the largest operand counts if it has more elements.
        """
        operands = (*self.inputs, self.output)
        sizes: dict[str, int] = {}
        for axes, shape in zip(operands, (*input_shapes, output_shape), strict=True):
            for factor, size in zip(axes, shape, strict=True):
                sizes[factor] = max(sizes.get(factor, 0), size)
        moved = {f for f in self.whole - self.visited if sum(f in axes for axes in operands) == 1}
        looped = prod(size for factor, size in sizes.items() if factor not in moved)
        return max(looped, *(prod(sizes[f] for f in axes) for axes in operands)) if moved else looped


@functools.lru_cache(maxsize=4096)
def parse(text: str, combine: str | None = None, whole: str = "") -> AxisRule:
    """Read "i k, k j -> i j"; factors are words, axes are separated by spaces, inputs by commas."""
    left, arrow, right = text.partition("->")
    if not arrow or (combine is not None and combine not in COMBINES):
        raise ValueError(f"not an axis rule: {text!r} with combine={combine!r}")
    inputs = tuple(tuple(part.split()) for part in left.split(",")) if left.strip() or "," in left else ((),)
    return AxisRule(inputs, tuple(right.split()), combine, frozenset(whole.split()))
