"""Training (domain ai.onnx.preview.training): Gradient, and one step of Adagrad, Adam and Momentum."""

from collections.abc import Sequence

from graphir import array
from graphir.errors import AttributeValueError, FormatError, ShapeError
from graphir.expr import Expr
from graphir.onnx.call import Call, F, reads
from graphir.onnx.variables import DOMAIN


@reads("Gradient", domain=DOMAIN)
def _gradient(call: Call) -> list[Expr | None]:
    """The sum of y differentiated by each of `xs`; the operator's inputs say where."""
    xs, zs = call.need("xs"), call.attr("zs", [])
    values = [call[k] for k in range(len(call.inputs))]
    if len(values) != len(xs) + len(zs):
        raise FormatError(f"Gradient has {len(values)} inputs for {len(xs) + len(zs)} names; export the model again")
    named = [call.reader.named(name) for name in (*xs, *zs)]
    for old, new in zip(named, values, strict=True):
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            raise ShapeError(f"Gradient gives {new.node.type} in place of {old.node.type}; the types must be equal")
    y = call.reader.named(call.need("y"))
    return [*call.reader.variables.gradients(y, named[: len(xs)], named[len(xs) :], values)]


def _tensors(call: Call, kinds: int) -> list[tuple[Expr, ...]]:
    """For each tensor that is optimised: its value, its gradient and what is accumulated for it."""
    count, rest = divmod(len(call.inputs) - 2, kinds)
    if rest or count < 1:
        raise FormatError(f"{call.node.op_type} needs {kinds} inputs a tensor; export the model again")
    return [tuple(call[2 + kind * count + k] for kind in range(kinds)) for k in range(count)]


def _outputs(steps: Sequence[tuple[Expr, ...]]) -> list[Expr | None]:
    """New values of all tensors, then what is newly accumulated, kind by kind."""
    return [value for kind in zip(*steps, strict=True) for value in kind]


def _regularised(call: Call, x: Expr, gradient: Expr) -> Expr:
    """The gradient with that of norm_coefficient / 2 times the sum of squares."""
    return gradient + x * float(call.attr("norm_coefficient", 0.0))


def _count(call: Call, like: Expr) -> Expr:
    """The number of steps so far, as a float."""
    return call[1].astype(like.dtype)


@reads("Adagrad", domain=DOMAIN)
def _adagrad(call: Call) -> list[Expr | None]:
    """Duchi, Hazan and Singer 2011, figure 1, with a rate that decays with the number of steps."""
    steps = []
    for x, gradient, squares in _tensors(call, 3):
        rate = call[0].astype(x.dtype) / (_count(call, x) * float(call.attr("decay_factor", 0.0)) + 1.0)
        slope = _regularised(call, x, gradient)
        total = squares + F["square"](slope)
        steps.append((x - rate * slope / (F["sqrt"](total) + float(call.attr("epsilon", 1e-6))), total))
    return _outputs(steps)


@reads("Adam", domain=DOMAIN)
def _adam(call: Call) -> list[Expr | None]:
    """Kingma and Ba 2015, section 2 with its last paragraph's form of the bias correction."""
    alpha, beta = float(call.attr("alpha", 0.9)), float(call.attr("beta", 0.999))
    steps = []
    for x, gradient, mean, squares in _tensors(call, 4):
        slope = _regularised(call, x, gradient)
        new_mean = mean * alpha + slope * (1 - alpha)
        new_squares = squares * beta + F["square"](slope) * (1 - beta)
        rate, count = call[0].astype(x.dtype), F["maximum"](_count(call, x), 1.0)
        corrected = rate * F["sqrt"](1.0 - F["pow"](beta, count)) / (1.0 - F["pow"](alpha, count))
        chosen = array.where(_count(call, x) > 0, corrected, rate)
        moved = x - chosen * new_mean / (F["sqrt"](new_squares) + float(call.attr("epsilon", 1e-6)))
        steps.append((moved * (1 - float(call.attr("norm_coefficient_post", 0.0))), new_mean, new_squares))
    return _outputs(steps)


@reads("Momentum", domain=DOMAIN)
def _momentum(call: Call) -> list[Expr | None]:
    """Accumulated gradients; with mode "nesterov" the step looks ahead."""
    mode, alpha = call.need("mode"), float(call.need("alpha"))
    if mode not in ("standard", "nesterov"):
        raise AttributeValueError(f"Momentum has the modes standard and nesterov, not {mode!r}")
    steps = []
    for x, gradient, velocity in _tensors(call, 3):
        slope = _regularised(call, x, gradient)
        weight = array.where(_count(call, x) > 0, float(call.need("beta")), array.constant(1.0, x.dtype))
        moved = velocity * alpha + weight * slope
        direction = slope + moved * alpha if mode == "nesterov" else moved
        steps.append((x - call[0].astype(x.dtype) * direction, moved))
    return _outputs(steps)
