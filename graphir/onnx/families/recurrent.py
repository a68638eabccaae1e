"""RNN, GRU and LSTM over sequences of known length, unrolled."""

from collections.abc import Callable
from dataclasses import dataclass

from graphir import array, manipulate
from graphir.errors import FormatError, LimitError, ShapeError
from graphir.expr import Expr
from graphir.nn.activation import sigmoid, softplus
from graphir.onnx.call import Call, F, reads, scalar
from graphir.onnx.families.control import MAX_STEPS

Activation = Callable[[Expr], Expr]
Step = Callable[[Expr, tuple[Expr, ...]], tuple[Expr, ...]]


def _leaky(alpha: float) -> Activation:
    return lambda x: array.where(x > 0, x, alpha * x)


_ACTIVATIONS: dict[str, Callable[[float, float], Activation]] = {
    "Relu": lambda a, b: lambda x: array.where(x <= 0, scalar(0, x), x),
    "Tanh": lambda a, b: F["tanh"],
    "Sigmoid": lambda a, b: sigmoid,
    "Affine": lambda a, b: lambda x: a * x + b,
    "LeakyRelu": lambda a, b: _leaky(a),
    "ThresholdedRelu": lambda a, b: lambda x: array.where(x > a, x, scalar(0, x)),
    "ScaledTanh": lambda a, b: lambda x: a * F["tanh"](b * x),
    "HardSigmoid": lambda a, b: lambda x: array.clip(a * x + b, 0.0, 1.0),
    "Elu": lambda a, b: lambda x: array.where(x > 0, x, a * F["expm1"](array.where(x > 0, scalar(0, x), x))),
    "Softsign": lambda a, b: lambda x: x / (F["abs"](x) + 1),
    "Softplus": lambda a, b: softplus,
}
_DEFAULTS = {"LeakyRelu": (0.01, 0.0), "ThresholdedRelu": (1.0, 0.0), "HardSigmoid": (0.2, 0.5), "Elu": (1.0, 0.0)}
_GATES = {"RNN": (1, ["Tanh"]), "GRU": (3, ["Sigmoid", "Tanh"]), "LSTM": (4, ["Sigmoid", "Tanh", "Tanh"])}


@dataclass(frozen=True, slots=True)
class _Direction:
    """The weights of one direction: (gates * hidden, inputs), (gates * hidden, hidden), biases and activations."""

    call: Call
    number: int
    w: Expr
    r: Expr
    wb: Expr
    rb: Expr
    functions: list[Activation]
    hidden: int

    def clipped(self, x: Expr) -> Expr:
        """The input of an activation, limited if the model says so."""
        limit = self.call.attr("clip")
        return x if limit is None else array.clip(x, -limit, limit)

    def gate(self, x: Expr, k: int) -> Expr:
        """The k-th gate's part of the last axis."""
        return x[..., k * self.hidden : (k + 1) * self.hidden]


@reads("RNN", "GRU", "LSTM")
def _recurrent(call: Call) -> list[Expr | None]:
    """Outputs: every hidden state, the last hidden state and for LSTM the last cell state."""
    x = call[0]
    batchwise = bool(call.attr("layout", 0))
    if batchwise:
        x = manipulate.moveaxis(x, 1, 0)
    if not isinstance(x.shape[0], int) or x.shape[0] > MAX_STEPS:
        raise LimitError(f"a sequence needs a known length up to {MAX_STEPS}, not {x.shape[0]}; fix it in the model")
    way = call.attr("direction", "forward")
    if way not in ("forward", "reverse", "bidirectional"):
        raise FormatError(f"direction {way!r} is none; use forward, reverse or bidirectional")
    backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[way]
    runs = [_run(call, x, number, back, batchwise) for number, back in enumerate(backwards)]
    every = manipulate.stack([hidden for hidden, _ in runs], 1)
    last = [manipulate.stack([states[k] for _, states in runs], 0) for k in range(len(runs[0][1]))]
    if batchwise:
        every = manipulate.permute_dims(every, (2, 0, 1, 3))
        last = [manipulate.moveaxis(state, 1, 0) for state in last]
    return [every, *last]


def _run(call: Call, x: Expr, number: int, back: bool, batchwise: bool) -> tuple[Expr, tuple[Expr, ...]]:
    """One direction: every hidden state (time, batch, hidden) and the last states."""
    kind = call.node.op_type
    direction = _direction(call, number)
    batch = x.shape[1]
    states = [_initial(call, 5, number, direction, batch, batchwise)]
    if kind == "LSTM":
        states.append(_initial(call, 6, number, direction, batch, batchwise))
    step = {"RNN": _rnn_step, "GRU": _gru_step, "LSTM": _lstm_step}[kind](direction)
    lengths, steps = call.get(4), int(x.shape[0])
    current = tuple(states)
    hidden: list[Expr] = [current[0]] * steps
    for time in reversed(range(steps)) if back else range(steps):
        new = step(x[time], current)
        if lengths is not None:
            live = manipulate.reshape(lengths > time, (-1, 1))
            hidden[time] = array.where(live, new[0], scalar(0, new[0]))
            new = tuple(array.where(live, a, b) for a, b in zip(new, current, strict=True))
        else:
            hidden[time] = new[0]
        current = new
    return manipulate.stack(hidden, 0), current


def _initial(call: Call, position: int, number: int, d: _Direction, batch: object, batchwise: bool) -> Expr:
    given = call.get(position)
    if given is None:
        return array.zeros((batch, d.hidden), d.w.dtype)
    return given[:, number] if batchwise else given[number]


def _direction(call: Call, number: int) -> _Direction:
    gates, names = _GATES[call.node.op_type]
    w, r = call[1][number], call[2][number]
    hidden = r.shape[1]
    if not isinstance(hidden, int) or w.shape[0] != gates * hidden:
        raise ShapeError(f"weights {w.node.type} and {r.node.type} do not have {gates} gates of one known size")
    bias = call.get(3)
    width = gates * hidden
    zero = array.zeros((width,), w.dtype)
    wb, rb = (zero, zero) if bias is None else (bias[number, :width], bias[number, width:])
    chosen = call.attr("activations") or names * 2
    alphas, betas = list(call.attr("activation_alpha") or []), list(call.attr("activation_beta") or [])
    functions: list[Activation] = []
    for position, name in enumerate(chosen):
        make = {key.lower(): f for key, f in _ACTIVATIONS.items()}.get(name.lower())
        if make is None:
            raise FormatError(f"activation {name!r} is not one of {', '.join(_ACTIVATIONS)}")
        a, b = _DEFAULTS.get(name, (1.0, 1.0))
        made = make(alphas[position] if position < len(alphas) else a, betas[position] if position < len(betas) else b)
        functions.append(made)
    own = functions[number * len(names) : (number + 1) * len(names)]
    return _Direction(call, number, w, r, wb, rb, own, hidden)


def _rnn_step(d: _Direction) -> Step:
    def step(x: Expr, states: tuple[Expr, ...]) -> tuple[Expr, ...]:
        return (d.functions[0](d.clipped(x @ d.w.T + states[0] @ d.r.T + d.wb + d.rb)),)

    return step


def _gru_step(d: _Direction) -> Step:
    late = bool(d.call.attr("linear_before_reset", 0))

    def step(x: Expr, states: tuple[Expr, ...]) -> tuple[Expr, ...]:
        h = states[0]
        given, own = x @ d.w.T + d.wb, h @ d.r.T + d.rb
        z, r = (d.functions[0](d.clipped(d.gate(given, k) + d.gate(own, k))) for k in (0, 1))
        candidate = (r * h) @ d.r[2 * d.hidden :].T + d.gate(d.rb, 2) if not late else r * d.gate(own, 2)
        new = d.functions[1](d.clipped(d.gate(given, 2) + candidate))
        return ((1 - z) * new + z * h,)

    return step


def _lstm_step(d: _Direction) -> Step:
    """Gates in the order input, output, forget, cell; peepholes in the order input, output, forget."""
    peep = d.call.get(7)
    coupled = bool(d.call.attr("input_forget", 0))
    f, g, h_of = d.functions

    def look(c: Expr, k: int) -> Expr | float:
        return 0.0 if peep is None else d.gate(peep[d.number], k) * c

    def step(x: Expr, states: tuple[Expr, ...]) -> tuple[Expr, ...]:
        h, c = states
        total = x @ d.w.T + h @ d.r.T + d.wb + d.rb
        i = f(d.clipped(d.gate(total, 0) + look(c, 0)))
        forget = 1 - i if coupled else f(d.clipped(d.gate(total, 2) + look(c, 2)))
        cell = forget * c + i * g(d.clipped(d.gate(total, 3)))
        o = f(d.clipped(d.gate(total, 1) + look(cell, 1)))
        return o * h_of(cell), cell

    return step
