"""L-BFGS: the two-loop recursion over a history of m pairs, which are carried arrays of shape [m, elements]."""

from collections.abc import Sequence
from math import prod

from graphir import array, elementwise, manipulate, walk
from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.expr import Expr, cast
from graphir.optim.updates import Builder, Rate, Updates, check_number, times
from graphir.origin import located
from graphir.types import DType

CURVATURE = 1e-10
"""Pairs whose product s.y is not above this are not kept, as in torch.optim.LBFGS."""


@located
def lbfgs(
    loss: Expr,
    parameters: Sequence[Expr],
    *,
    rate: Rate = 1.0,
    history: int = 10,
    trials: int = 0,
    decrease: float = 1e-4,
    prefix: str = "",
) -> Updates:
    """A step along -H g, H being the inverse Hessian that `history` pairs of steps and gradient differences give.

    trials=0: the step is `rate` long, as torch.optim.LBFGS without line search. With trials, the loss is computed at
    the steps rate, rate / 2, rate / 4, ... at once, and the first that lowers it by `decrease` times what the slope
    promises is taken (Armijo); if none does, the parameters stay and the history is forgotten. The first direction
    is scaled by min(1, 1 / |g|_1). All parameters have one float dtype and sizes that are numbers.
    States: `pairs_s`, `pairs_y` [history, elements]; `last_gradient`, `last_step` [elements].
    Source: Nocedal, Wright (2006), algorithms 7.4 and 3.1.
    """
    for name, value, least in (("history", history, 1), ("trials", trials, 0)):
        if type(value) is not int or value < least:
            raise AttributeValueError(f"{name} is an integer from {least} on, not {value!r:.60}")
    check_number("decrease", decrease, above=0.0, below=1.0)
    build = Builder(loss, parameters, prefix)
    dtype, count = _one_dtype(build.parameters), sum(_elements(p) for p in build.parameters)
    gradient = _flat(build.gradients())
    pairs_s = build.state("pairs_s", (history, count), dtype)
    pairs_y = build.state("pairs_y", (history, count), dtype)
    last_gradient = build.state("last_gradient", (count,), dtype)
    last_step = build.state("last_step", (count,), dtype)
    change = gradient - last_gradient
    fits = _dot(last_step, change) > CURVATURE
    s = array.where(fits, _pushed(pairs_s, last_step), pairs_s)
    y = array.where(fits, _pushed(pairs_y, change), pairs_y)
    direction = -_two_loops(s, y, gradient, history)
    whole = times(build.rate(rate), direction)
    share: Expr | None = None
    if trials:
        share = _backtracked(build, whole, _dot(gradient, whole), trials, decrease)
        s, y = (array.where(share > 0, pairs, array.zeros_like(pairs)) for pairs in (s, y))
    step = whole if share is None else whole * share
    for state, following in ((pairs_s, s), (pairs_y, y), (last_gradient, gradient), (last_step, step)):
        build.carried(state, following)
    for parameter, moved in zip(build.parameters, _moved(build.parameters, step), strict=True):
        build.carried(parameter, moved)
    return build.done()


def _one_dtype(parameters: list[Expr]) -> DType:
    dtypes = {p.dtype for p in parameters}
    if len(dtypes) > 1:
        raise DTypeError(f"lbfgs needs parameters of one dtype, not {sorted(d.name for d in dtypes)}")
    return dtypes.pop()


def _elements(parameter: Expr) -> int:
    sizes = [d for d in parameter.shape if isinstance(d, int)]
    if len(sizes) < parameter.ndim:
        raise ShapeError(f"lbfgs needs sizes that are numbers; parameter {parameter!r} has named ones")
    return prod(sizes)


def _flat(values: Sequence[Expr]) -> Expr:
    rows = [manipulate.reshape(v, (-1,)) for v in values]
    return rows[0] if len(rows) == 1 else manipulate.concat(rows)


def _dot(a: Expr, b: Expr) -> Expr:
    return array.sum(a * b)


def _pushed(pairs: Expr, row: Expr) -> Expr:
    return manipulate.concat([pairs[1:], row[None]])


def _two_loops(s: Expr, y: Expr, gradient: Expr, history: int) -> Expr:
    """H times the gradient; the newest pair is the last row, and rows that are still zero change nothing."""
    products = array.sum(s * y, axis=1)
    kept = products > 0
    inverse = array.where(kept, 1 / array.where(kept, products, 1.0), 0.0)
    q, alphas = gradient, {}
    for k in reversed(range(history)):
        alphas[k] = inverse[k] * _dot(s[k], q)
        q = q - alphas[k] * y[k]
    newest = y[history - 1]
    squares = array.where(kept[history - 1], _dot(newest, newest), 1.0)
    size = array.sum(elementwise.abs(gradient))
    first = 1 / elementwise.maximum(size, 1.0)
    q = q * array.where(kept[history - 1], products[history - 1] / squares, first)
    for k in range(history):
        q = q + (alphas[k] - inverse[k] * _dot(y[k], q)) * s[k]
    return q


def _moved(parameters: Sequence[Expr], step: Expr) -> list[Expr]:
    moved, start = [], 0
    for p in parameters:
        count = _elements(p)
        moved.append(p + manipulate.reshape(step[start : start + count], p.shape))
        start += count
    return moved


def _backtracked(build: Builder, whole: Expr, slope: Expr, trials: int, decrease: float) -> Expr:
    """The largest of 1, 1/2, 1/4, ... that lowers the loss enough; 0 if none does."""
    nodes = walk.ancestors([build.loss.node])
    share = array.full_like(slope, 0.0)
    for k in reversed(range(trials)):
        size = 0.5**k
        points = _moved(build.parameters, whole * size)
        replaced = {p.node: moved.node for p, moved in zip(build.parameters, points, strict=True)}
        reached = Expr(walk.substitute(nodes, replaced)[build.loss.node])
        enough = reached <= build.loss + cast(decrease * size * slope, build.loss.dtype)
        share = array.where(enough, size, share)
    return array.where(slope < 0, share, 0.0)
