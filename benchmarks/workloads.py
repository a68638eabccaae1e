"""The workloads of one machine: models written once over a few functions that each library provides in its best form.

`Workload.arrays` are the same in every process. A model takes a library (`Reference` lists what it must have) and the arrays by
name, and gives the loss; what is differentiated is named by the family. NumPy only, so that any Python can import it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]


class Reference:
    """The functions of the models in plain NumPy: their definition, and the oracle for values."""

    def __getattr__(self, name: str) -> Any:  # exp, log1p, tanh, mean, sum
        return getattr(np, name)

    def affine(self, x: Any, w: Any, b: Any) -> Any:
        return x @ w + b

    def product(self, x: Any, w: Any) -> Any:
        return x @ w

    def relu(self, x: Any) -> Any:
        return np.maximum(x, 0)

    def cross_entropy(self, logits: Any, y: Any) -> Any:
        """The mean over rows, with integer labels."""
        most = logits.max(1, keepdims=True)
        sums = np.log(np.exp(logits - most).sum(1)) + most[:, 0]
        return np.mean(sums - logits[np.arange(len(y)), y])

    def conv(self, x: Any, k: Any, c: Any) -> Any:
        """NCHW, valid."""
        windows = np.lib.stride_tricks.sliding_window_view(x, k.shape[2:], (2, 3))
        return np.einsum("nchwij,ocij->nohw", windows, k) + c[:, None, None]

    def pool(self, x: Any) -> Any:
        """The largest of 2 x 2."""
        n, c, h, w = x.shape
        return x.reshape(n, c, h // 2, 2, w // 2, 2).max((3, 5))

    def flat(self, x: Any) -> Any:
        """All but the first axis made one."""
        return x.reshape(len(x), -1)

    def norm(self, x: Any, g: Any, e: Any) -> Any:
        """Over the last axis."""
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * g + e

    def attention(self, qkv: Any, heads: int) -> Any:
        """[batch, length, 3 * width] to [batch, length, width]."""
        b, s, d = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        q, k, v = qkv.reshape(b, s, 3, heads, d // heads).transpose(2, 0, 3, 1, 4)
        scores = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(d // heads))
        return (scores / scores.sum(-1, keepdims=True) @ v).swapaxes(1, 2).reshape(b, s, d)

    def gelu(self, x: Any) -> Any:
        """By tanh."""
        return 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))

    def recurrent(self, u: Any, w: Any) -> Any:
        """h = tanh(u[t] + h @ w) from zero, stacked."""
        state, states = np.zeros_like(u[0]), []
        for given in u:
            state = np.tanh(given + state @ w)
            states.append(state)
        return np.stack(states)


# ---- models ----


def softmax(lib: Any, a: Arrays) -> Any:
    return lib.cross_entropy(lib.product(a["X"], a["W"]), a["y"])


def network(lib: Any, a: Arrays) -> Any:
    hidden = lib.relu(lib.affine(a["X"], a["W1"], a["b1"]))
    hidden = lib.relu(lib.affine(hidden, a["W2"], a["b2"]))
    return lib.cross_entropy(lib.affine(hidden, a["W3"], a["b3"]), a["y"])


def chain(lib: Any, a: Arrays) -> Any:
    x = a["w"]
    for _ in range(3):
        x = lib.tanh(x) * x + lib.exp(-x * x)
    return lib.sum(x)


def logistic(lib: Any, a: Arrays) -> Any:
    return lib.mean(lib.log1p(lib.exp(-a["y"] * lib.product(a["X"], a["w"]))))


def poisson(lib: Any, a: Arrays) -> Any:
    rate = lib.product(a["X"], a["w"])
    return lib.mean(lib.exp(rate) - a["y"] * rate)


def swish(lib: Any, a: Arrays) -> Any:
    shifted = a["X"] + a["b"]
    return lib.mean(shifted / (1 + lib.exp(-shifted)) * a["X"])


def convolutional(lib: Any, a: Arrays) -> Any:
    hidden = lib.pool(lib.relu(lib.conv(a["X"], a["K1"], a["c1"])))
    hidden = lib.pool(lib.relu(lib.conv(hidden, a["K2"], a["c2"])))
    return lib.cross_entropy(lib.affine(lib.flat(hidden), a["D"], a["d"]), a["y"])


def transformer(lib: Any, a: Arrays) -> Any:
    heads = int(a["X"].shape[-1]) // 32
    mixed = lib.attention(lib.affine(lib.norm(a["X"], a["g1"], a["e1"]), a["Wqkv"], a["bqkv"]), heads)
    hidden = a["X"] + lib.affine(mixed, a["Wo"], a["bo"])
    inner = lib.gelu(lib.affine(lib.norm(hidden, a["g2"], a["e2"]), a["F1"], a["f1"]))
    return lib.mean((hidden + lib.affine(inner, a["F2"], a["f2"]) - a["T"]) ** 2)


def recurrent(lib: Any, a: Arrays) -> Any:
    return lib.mean(lib.recurrent(lib.affine(a["X"], a["Wx"], a["b"]), a["Wh"]) ** 2)


def rosenbrock(lib: Any, a: Arrays) -> Any:
    x = a["x"]
    return lib.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


# ---- their arrays ----


def _on_grid(x: Any, bits: int) -> Any:
    """Multiples of 2**-bits: with biases on odd half-steps a relu takes the same branch whatever the order of sums."""
    return np.round(x * 2.0**bits) / 2.0**bits


def _rows(r: np.random.Generator, n: int, d: int, classes: int) -> dict[str, Any]:
    return {"X": r.standard_normal((n, d)), "y": r.integers(0, classes, n)}


def _softmax(r: np.random.Generator, n: int, d: int, classes: int) -> dict[str, Any]:
    return {**_rows(r, n, d, classes), "W": 0.05 * r.standard_normal((d, classes))}


def _network(r: np.random.Generator, n: int, d: int, width: int, classes: int) -> dict[str, Any]:
    def odd(bits: int) -> Any:
        return (2 * r.integers(-8, 8, width) + 1) * 2.0**-bits

    rows = _rows(r, n, d, classes)
    return {
        "X": _on_grid(rows["X"], 3), "y": rows["y"],
        "W1": _on_grid(r.standard_normal((d, width)) / 28, 7), "b1": odd(11),
        "W2": _on_grid(r.standard_normal((width, width)) / 16, 7), "b2": odd(19),
        "W3": r.standard_normal((width, classes)) / 16, "b3": np.zeros(classes),
    }  # fmt: skip


def _labelled(r: np.random.Generator, n: int, d: int) -> dict[str, Any]:
    return {"X": r.standard_normal((n, d)), "y": 2.0 * r.integers(0, 2, n) - 1, "w": 0.1 * r.standard_normal(d)}


def _counts(r: np.random.Generator, n: int, d: int) -> dict[str, Any]:
    return {"X": r.standard_normal((n, d)), "y": r.poisson(1.0, n) * 1.0, "w": 0.1 * r.standard_normal(d)}


def _images(r: np.random.Generator, n: int, side: int, first: int, second: int) -> dict[str, Any]:
    left = ((side - 4) // 2 - 4) // 2
    return {
        "X": r.standard_normal((n, 1, side, side)), "y": r.integers(0, 10, n),
        "K1": 0.2 * r.standard_normal((first, 1, 5, 5)), "c1": 0.1 * r.standard_normal(first),
        "K2": 0.07 * r.standard_normal((second, first, 5, 5)), "c2": 0.1 * r.standard_normal(second),
        "D": 0.06 * r.standard_normal((second * left * left, 10)), "d": 0.1 * r.standard_normal(10),
    }  # fmt: skip


def _block(r: np.random.Generator, batch: int, length: int, width: int) -> dict[str, Any]:
    def normal(*shape: int, scale: float) -> Any:
        return scale * r.standard_normal(shape)

    d, s = width, width**-0.5
    return {
        "X": normal(batch, length, d, scale=1), "T": normal(batch, length, d, scale=1),
        "g1": 1 + normal(d, scale=0.1), "e1": normal(d, scale=0.1),
        "Wqkv": normal(d, 3 * d, scale=s), "bqkv": normal(3 * d, scale=0.1),
        "Wo": normal(d, d, scale=s), "bo": normal(d, scale=0.1),
        "g2": 1 + normal(d, scale=0.1), "e2": normal(d, scale=0.1),
        "F1": normal(d, 4 * d, scale=s), "f1": normal(4 * d, scale=0.1),
        "F2": normal(4 * d, d, scale=s / 2), "f2": normal(d, scale=0.1),
    }  # fmt: skip


def _steps(r: np.random.Generator, steps: int, batch: int, width: int) -> dict[str, Any]:
    return {
        "X": r.standard_normal((steps, batch, width)), "Wx": 0.06 * r.standard_normal((width, width)),
        "Wh": 0.08 * r.standard_normal((width, width)), "b": 0.1 * r.standard_normal(width),
    }  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A model, what makes its arrays from a generator and sizes, and what it is differentiated by."""

    model: Callable[[Any, Arrays], Any]
    arrays: Callable[..., dict[str, Any]]
    wrt: tuple[str, ...]


FAMILIES = {
    "softmax": Family(softmax, _softmax, ("W",)),
    "network": Family(network, _network, ("W1", "b1", "W2", "b2", "W3", "b3")),
    "chain": Family(chain, lambda r, n: {"w": r.standard_normal(n)}, ("w",)),
    "logistic": Family(logistic, _labelled, ("w",)),
    "poisson": Family(poisson, _counts, ("w",)),
    "swish": Family(
        swish, lambda r, n, d: {"X": r.standard_normal((n, d)), "b": 0.1 * r.standard_normal(d)}, ("X", "b")
    ),
    "convolutional": Family(convolutional, _images, ("K1", "c1", "K2", "c2", "D", "d")),
    "transformer": Family(
        transformer, _block, ("g1", "e1", "Wqkv", "bqkv", "Wo", "bo", "g2", "e2", "F1", "f1", "F2", "f2")
    ),
    "recurrent": Family(recurrent, _steps, ("Wx", "Wh", "b")),
    "rosenbrock": Family(rosenbrock, lambda r, n: {"x": 0.3 * r.standard_normal(n) + 0.5}, ("x",)),
}


@dataclass(frozen=True)
class Workload:
    """A family at some sizes. kind: "gradient", "hvp" or "hessian", what is wanted beside the value."""

    name: str
    title: str
    family: str
    dtype: str
    sizes: Sequence[int]
    kind: str = "gradient"

    @property
    def wrt(self) -> tuple[str, ...]:
        """The names of the arrays that it is differentiated by."""
        return FAMILIES[self.family].wrt

    @property
    def tolerance(self) -> float:
        """How far an output may be from the oracle's, as a part of the largest element."""
        return 2e-4 if self.dtype == "float32" else 1e-9

    @property
    def fresh(self) -> bool:
        """Whether a call is given its vector anew, as an optimiser would; else inputs stay in the peer's own form."""
        return self.family == "rosenbrock" and self.kind == "gradient"

    def loss(self, lib: Any, arrays: Arrays) -> Any:
        """The model with a library's functions."""
        return FAMILIES[self.family].model(lib, arrays)

    def arrays(self) -> dict[str, Any]:
        """The inputs; for a product with the Hessian also vectors, named v and what they belong to."""
        r = np.random.default_rng(sum(self.sizes))
        made = FAMILIES[self.family].arrays(r, *self.sizes)
        if self.kind == "hvp":
            made |= {f"v{name}": r.standard_normal(made[name].shape) for name in self.wrt}
        return {name: array.astype(self.dtype) if array.dtype.kind == "f" else array for name, array in made.items()}


WORKLOADS = {
    w.name: w
    for w in (
        Workload("W1", "softmax regression, 8192 x 784 x 10", "softmax", "float32", (8192, 784, 10)),
        Workload("W2", "network 784-512-512-10, 1024 rows", "network", "float32", (1024, 784, 512, 10)),
        Workload("W3", "elementwise chain, 1,000,000", "chain", "float64", (1_000_000,)),
        Workload("W4", "logistic regression, 1,000,000 x 50", "logistic", "float32", (1_000_000, 50)),
        Workload("W5", "convolutional net, 64 images", "convolutional", "float32", (64, 28, 8, 16)),
        Workload("W6", "transformer block, 8 x 128 x 256", "transformer", "float32", (8, 128, 256)),
        Workload("W7", "recurrent net, 200 steps, 32 x 128", "recurrent", "float32", (200, 32, 128)),
        Workload(
            "W8", "Hessian times vector of W2's network, 256 rows", "network", "float32", (256, 784, 512, 10), "hvp"
        ),
        Workload("W9", "Rosenbrock, n = 10", "rosenbrock", "float64", (10,)),
        Workload("W10", "Rosenbrock's full Hessian, n = 200", "rosenbrock", "float64", (200,), "hessian"),
        Workload("softmax", "softmax regression, 3000 x 200 x 40", "softmax", "float64", (3000, 200, 40)),
        Workload("network", "network 100-300-300-7, 4000 rows", "network", "float32", (4000, 100, 300, 7)),
        Workload("poisson", "Poisson regression, 300,000 x 30", "poisson", "float64", (300_000, 30)),
        Workload("swish", "elementwise with a row vector, 3000 x 500", "swish", "float32", (3000, 500)),
        Workload("transformer", "transformer block, 3 x 200 x 96", "transformer", "float32", (3, 200, 96)),
        Workload("recurrent", "recurrent net, 60 steps, 100 x 40", "recurrent", "float64", (60, 100, 40)),
        Workload("rosenbrock", "Rosenbrock, n = 50", "rosenbrock", "float64", (50,)),
    )
}
