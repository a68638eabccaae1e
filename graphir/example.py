"""Example: one concrete use of an op, the seed of every registry-driven test.

Arrays are described, not held, so that importing the registry costs nothing; `arrays` makes them, the same
ones each time.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Sample:
    """An array with uniformly drawn values: floats in [low, high), integers in [low, high).

    diagonal: what is added to the diagonals of the matrices in the last two axes.
    """

    shape: tuple[int, ...] = ()
    dtype: str = "float64"
    low: float = -2.0
    high: float = 2.0
    diagonal: float = field(default=0.0, repr=False)  # not part of what an example is seeded with

    def draw(self, rng: np.random.Generator) -> npt.NDArray[Any]:
        """The array."""
        dtype = np.dtype(self.dtype)
        if dtype.kind == "b":
            return np.asarray(rng.random(self.shape) < 0.5)
        if dtype.kind in "iu":
            low = max(int(self.low), 0) if dtype.kind == "u" else int(self.low)
            return np.asarray(rng.integers(low, int(self.high), self.shape), dtype)
        values = rng.uniform(self.low, self.high, self.shape)
        return np.asarray(
            values + self.diagonal * np.eye(self.shape[-2], self.shape[-1]) if self.diagonal else values, dtype
        )


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs and attributes for one application of an op."""

    inputs: tuple[Sample, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)

    def arrays(self) -> tuple[npt.NDArray[Any], ...]:
        """The inputs, drawn by a generator seeded with the example's own text."""
        seed = int.from_bytes(hashlib.sha256(repr(self).encode()).digest()[:8])
        rng = np.random.default_rng(seed)
        return tuple(sample.draw(rng) for sample in self.inputs)
