"""First-order optimisers, with the update rules of torch.optim.

Each takes the loss, a float scalar, and the parameters, float inputs. `rate` is a number or a schedule;
`weight_decay` adds that multiple of the parameters to the gradients; `clip` bounds the gradients' global norm first.
Errors: ShapeError for a loss that is no scalar and for states of unknown size; InvariantError for parameters that are
no inputs and for names used twice; AttributeValueError for numbers out of range; DisconnectedError from `grad`.
"""

from collections.abc import Sequence

from graphir import elementwise
from graphir.errors import AttributeValueError
from graphir.expr import Expr, cast
from graphir.optim.updates import Builder, Rate, Updates, check_number, times
from graphir.origin import located
from graphir.types import FLOAT64


@located
def sgd(
    loss: Expr,
    parameters: Sequence[Expr],
    *,
    rate: Rate,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip: float | None = None,
    prefix: str = "",
) -> Updates:
    """Gradient descent: v = momentum v + g, w - rate v; Nesterov's form steps along g + momentum v.

    State: `w_velocity`, if there is momentum. Source: Sutskever et al. (2013), as torch.optim.SGD.
    """
    check_number("momentum", momentum)
    if nesterov and not momentum:
        raise AttributeValueError("nesterov=True needs a momentum above 0")
    build = Builder(loss, parameters, prefix)
    speed = build.rate(rate)
    for name, w, g in zip(build.names, build.parameters, build.gradients(weight_decay, clip), strict=True):
        along = g
        if momentum:
            last = build.state(f"{name}_velocity", w.shape, w.dtype)
            velocity = momentum * last + g
            build.carried(last, velocity)
            along = g + momentum * velocity if nesterov else velocity
        build.carried(w, w - times(speed, along))
    return build.done()


@located
def adam(
    loss: Expr,
    parameters: Sequence[Expr],
    *,
    rate: Rate = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    amsgrad: bool = False,
    weight_decay: float = 0.0,
    clip: float | None = None,
    prefix: str = "",
) -> Updates:
    """Adam: w - rate m / (sqrt(v) + eps), m and v being unbiased running means of the gradients and their squares.

    States: `w_mean`, `w_square`, with amsgrad `w_most`; `step`. Source: Kingma, Ba (2015), algorithm 1; amsgrad: Reddi,
    Kale, Kumar (2018), as torch.optim.Adam.
    """
    build = Builder(loss, parameters, prefix)
    return _adam(build, build.gradients(weight_decay, clip), rate, (beta1, beta2, eps), amsgrad, 0.0)


@located
def adamw(
    loss: Expr,
    parameters: Sequence[Expr],
    *,
    rate: Rate = 1e-3,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    amsgrad: bool = False,
    weight_decay: float = 1e-2,
    clip: float | None = None,
    prefix: str = "",
) -> Updates:
    """Adam with decoupled weight decay: the parameters are first multiplied by 1 - rate weight_decay.

    States as `adam`. Source: Loshchilov, Hutter (2019), algorithm 2, as torch.optim.AdamW.
    """
    check_number("weight_decay", weight_decay)
    build = Builder(loss, parameters, prefix)
    return _adam(build, build.gradients(clip=clip), rate, (beta1, beta2, eps), amsgrad, weight_decay)


def _adam(
    build: Builder, gradients: list[Expr], rate: Rate, constants: tuple[float, float, float], most: bool, decay: float
) -> Updates:
    beta1, beta2, eps = constants
    check_number("beta1", beta1, below=1.0)
    check_number("beta2", beta2, below=1.0)
    check_number("eps", eps)
    speed = build.rate(rate)
    count = cast(build.step + 1, FLOAT64)
    scale = speed / (1 - beta1**count)
    unbias = 1 / elementwise.sqrt(1 - beta2**count)
    for name, w, g in zip(build.names, build.parameters, gradients, strict=True):
        mean = build.state(f"{name}_mean", w.shape, w.dtype)
        square = build.state(f"{name}_square", w.shape, w.dtype)
        mean_next = beta1 * mean + (1 - beta1) * g
        square_next = beta2 * square + (1 - beta2) * elementwise.square(g)
        build.carried(mean, mean_next)
        build.carried(square, square_next)
        if most:
            largest = build.state(f"{name}_most", w.shape, w.dtype)
            square_next = elementwise.maximum(largest, square_next)
            build.carried(largest, square_next)
        kept = times(1 - speed * decay, w) if decay else w
        build.carried(w, kept - times(scale, mean_next) / (times(unbias, elementwise.sqrt(square_next)) + eps))
    return build.done()


@located
def rmsprop(
    loss: Expr,
    parameters: Sequence[Expr],
    *,
    rate: Rate = 1e-2,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    centered: bool = False,
    weight_decay: float = 0.0,
    clip: float | None = None,
    prefix: str = "",
) -> Updates:
    """Steps along g / (sqrt(v) + eps), v being the running mean of squares; centered takes the variance instead.

    States: `w_square`, with centered `w_mean`, with momentum `w_velocity`. Source: Graves (2013), section 4, as
    torch.optim.RMSprop.
    """
    check_number("alpha", alpha, below=1.0)
    check_number("eps", eps)
    check_number("momentum", momentum)
    build = Builder(loss, parameters, prefix)
    speed = build.rate(rate)
    for name, w, g in zip(build.names, build.parameters, build.gradients(weight_decay, clip), strict=True):
        square = build.state(f"{name}_square", w.shape, w.dtype)
        spread = alpha * square + (1 - alpha) * elementwise.square(g)
        build.carried(square, spread)
        if centered:
            mean = build.state(f"{name}_mean", w.shape, w.dtype)
            mean_next = alpha * mean + (1 - alpha) * g
            build.carried(mean, mean_next)
            spread = spread - elementwise.square(mean_next)
        along = g / (elementwise.sqrt(spread) + eps)
        if momentum:
            last = build.state(f"{name}_velocity", w.shape, w.dtype)
            along = momentum * last + along
            build.carried(last, along)
        build.carried(w, w - times(speed, along))
    return build.done()


@located
def adagrad(
    loss: Expr,
    parameters: Sequence[Expr],
    *,
    rate: Rate = 1e-2,
    eps: float = 1e-10,
    initial: float = 0.0,
    weight_decay: float = 0.0,
    clip: float | None = None,
    prefix: str = "",
) -> Updates:
    """Steps along g / (sqrt(s) + eps), s being the sum of all squares, which starts with `initial`.

    State: `w_squares`. Source: Duchi, Hazan, Singer (2011), as torch.optim.Adagrad.
    """
    check_number("eps", eps)
    check_number("initial", initial)
    build = Builder(loss, parameters, prefix)
    speed = build.rate(rate)
    for name, w, g in zip(build.names, build.parameters, build.gradients(weight_decay, clip), strict=True):
        squares = build.state(f"{name}_squares", w.shape, w.dtype, initial)
        total = squares + elementwise.square(g)
        build.carried(squares, total)
        build.carried(w, w - times(speed, g / (elementwise.sqrt(total) + eps)))
    return build.done()
