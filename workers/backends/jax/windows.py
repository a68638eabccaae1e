"""Windows and convolutions by lax. XLA convolves floats; of integers, products are added element by element of the kernel."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from graphir.ops.correlate import Windows

Ints = tuple[int, ...]
HIGHEST = lax.Precision.HIGHEST


def _places(g: Windows, tap: Ints) -> tuple[Any, ...]:
    parts = zip(tap, g.dilations, g.outputs, g.strides, strict=True)
    return (..., *[slice(t * d, t * d + (o - 1) * s + 1, s) for t, d, o, s in parts])


def windows(x: Any, *, kernel: Ints, outputs: Ints, strides: Ints, dilations: Ints) -> Any:
    """The elements of the kernel one after the other."""
    g = Windows(kernel, strides, dilations, (0,) * len(kernel), outputs)
    found = jnp.stack([x[_places(g, tap)] for tap in np.ndindex(kernel)], -1)
    return found.reshape(*found.shape[:-1], *kernel)


def unwindows(x: Any, *, sizes: Ints, strides: Ints, dilations: Ints) -> Any:
    """The adjoint."""
    rank = len(sizes)
    lead = x.ndim - 2 * rank
    g = Windows(x.shape[lead + rank :], strides, dilations, (0,) * rank, x.shape[lead : lead + rank])
    return _added(x, g, sizes)


def _added(x: Any, g: Windows, sizes: Ints) -> Any:
    lead = x.ndim - 2 * len(sizes)
    out = jnp.zeros((*x.shape[:lead], *sizes), x.dtype)
    for tap in np.ndindex(g.kernel):
        out = out.at[_places(g, tap)].add(x[(..., *tap)])
    return out


def window_max(x: Any, **attrs: Any) -> Any:
    found = windows(x, **attrs)
    return found.max(tuple(range(x.ndim, found.ndim)))


def window_max_share(ct: Any, x: Any, **attrs: Any) -> Any:
    wide = windows(x, **attrs)
    axes = tuple(range(x.ndim, wide.ndim))
    tied = (wide == jnp.expand_dims(wide.max(axes), axes)).astype(x.dtype)
    parts = jnp.expand_dims(ct / tied.sum(axes, dtype=x.dtype), axes) * tied
    sizes = x.shape[x.ndim - len(attrs["kernel"]) :]
    return unwindows(parts, sizes=sizes, strides=attrs["strides"], dilations=attrs["dilations"])


def _pads(g: Windows, sizes: Ints) -> list[tuple[int, int]]:
    return [(b, r - b - s) for b, r, s in zip(g.before, g.reach, sizes, strict=True)]


def _convolved(x: Any, w: Any, g: Windows, groups: int) -> Any:
    """A function of both that is linear in each."""
    if x.dtype.kind == "f":
        return lax.conv_general_dilated(
            x,
            w,
            g.strides,
            _pads(g, x.shape[2:]),
            rhs_dilation=g.dilations,
            feature_group_count=groups,
            precision=HIGHEST,
        )
    kernels = w.reshape(groups, len(w) // groups, w.shape[1], g.taps)
    found = jnp.einsum("ngcok,gfck->ngfo", _columns(x, g, groups), kernels)
    return found.reshape(len(x), len(w), *g.outputs)


def _columns(x: Any, g: Windows, groups: int) -> Any:
    """(batch, groups, channels, outputs, kernel)"""
    zero = jnp.zeros((), x.dtype)
    reached = lax.pad(x, zero, [(0, 0, 0), (0, 0, 0), *[(b, a, 0) for b, a in _pads(g, x.shape[2:])]])
    found = jnp.stack([reached[_places(g, tap)] for tap in np.ndindex(g.kernel)], -1)
    return found.reshape(len(x), groups, x.shape[1] // groups, -1, g.taps)


def conv(x: Any, w: Any, *, strides: Ints, dilations: Ints, before: Ints, outputs: Ints, groups: int) -> Any:
    return _convolved(x, w, Windows(w.shape[2:], strides, dilations, before, outputs), groups)


def conv_input(y: Any, w: Any, *, strides: Ints, dilations: Ints, before: Ints, sizes: Ints, groups: int) -> Any:
    """By the adjoint that JAX makes; of integers, by products added at their places."""
    g = Windows(w.shape[2:], strides, dilations, before, y.shape[2:])
    shape = (len(y), w.shape[1] * groups, *sizes)
    if y.dtype.kind == "f":
        return _adjoint(lambda x: _convolved(x, w, g, groups), shape, y)
    kernels = w.reshape(groups, len(w) // groups, w.shape[1], g.taps)
    given = y.reshape(len(y), groups, len(w) // groups, -1)
    made = jnp.einsum("ngfo,gfck->ngcok", given, kernels).reshape(*shape[:2], *g.outputs, *g.kernel)
    pads = [(0, 0, 0), (0, 0, 0), *[(-b, -a, 0) for b, a in _pads(g, sizes)]]
    return lax.pad(_added(made, g, g.reach), jnp.zeros((), y.dtype), pads)


def conv_kernel(x: Any, y: Any, *, strides: Ints, dilations: Ints, before: Ints, kernel: Ints, groups: int) -> Any:
    g = Windows(kernel, strides, dilations, before, y.shape[2:])
    shape = (y.shape[1], x.shape[1] // groups, *kernel)
    if x.dtype.kind == "f":
        return _adjoint(lambda w: _convolved(x, w, g, groups), shape, y)
    given = y.reshape(len(y), groups, y.shape[1] // groups, -1)
    return jnp.einsum("ngfo,ngcok->gfck", given, _columns(x, g, groups)).reshape(shape)


def _adjoint(linear: Callable[[Any], Any], shape: Ints, y: Any) -> Any:
    (found,) = jax.linear_transpose(linear, jax.ShapeDtypeStruct(shape, y.dtype))(y)
    return found
