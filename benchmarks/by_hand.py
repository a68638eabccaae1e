"""Values and gradients derived and written by hand in NumPy: what a patient person gets out of it and BLAS."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.workloads import Arrays

Call = Callable[[], list[Any]]


def _cross_entropy(z: Any, y: Any) -> tuple[Any, Any]:
    """The value and what the logits' gradient is, in place."""
    rows = np.arange(len(y))
    z -= z.max(axis=1, keepdims=True)
    picked = z[rows, y].copy()
    np.exp(z, out=z)
    sums = z.sum(axis=1, keepdims=True)
    value = np.mean(np.log(sums[:, 0]) - picked)
    z /= sums
    z[rows, y] -= 1
    z *= z.dtype.type(1 / len(y))
    return value, z


def softmax(a: Arrays) -> Call:
    def call() -> list[Any]:
        value, d = _cross_entropy(a["X"] @ a["W"], a["y"])
        return [value, a["X"].T @ d]

    return call


def network(a: Arrays) -> Call:
    def call() -> list[Any]:
        first = a["X"] @ a["W1"]
        first += a["b1"]
        np.maximum(first, 0, out=first)
        second = first @ a["W2"]
        second += a["b2"]
        np.maximum(second, 0, out=second)
        value, d3 = _cross_entropy(second @ a["W3"] + a["b3"], a["y"])
        d2 = d3 @ a["W3"].T
        d2 *= second > 0
        d1 = d2 @ a["W2"].T
        d1 *= first > 0
        return [value, a["X"].T @ d1, d1.sum(0), first.T @ d2, d2.sum(0), second.T @ d3, d3.sum(0)]

    return call


def chain(a: Arrays) -> Call:
    def call() -> list[Any]:
        x, d = a["w"], None
        for _ in range(3):
            t, e = np.tanh(x), np.exp(-x * x)
            slope = x * (1 - t * t - 2 * e) + t
            d = slope if d is None else d * slope
            x = t * x + e
        return [x.sum(), d]

    return call


def logistic(a: Arrays) -> Call:
    x, y, w = a["X"], a["y"], a["w"]
    n = x.dtype.type(len(y))

    def call() -> list[Any]:
        e = x @ w
        e *= y
        np.negative(e, out=e)
        np.exp(e, out=e)
        value = np.log1p(e).sum()
        e /= e + x.dtype.type(1)
        e *= y
        return [value / n, -(x.T @ e) / n]

    return call


def poisson(a: Arrays) -> Call:
    x, y = a["X"], a["y"]

    def call() -> list[Any]:
        rate = x @ a["w"]
        counts = np.exp(rate)
        value = np.mean(counts - y * rate)
        counts -= y
        return [value, x.T @ counts / len(y)]

    return call


def recurrent(a: Arrays) -> Call:
    x, wx, wh, b = (a[name] for name in ("X", "Wx", "Wh", "b"))
    steps, batch, width = x.shape
    scale, flat = x.dtype.type(2.0 / x.size), x.reshape(-1, width)

    def call() -> list[Any]:
        h = (flat @ wx + b).reshape(steps, batch, width)
        np.tanh(h[0], out=h[0])
        for t in range(1, steps):
            h[t] += h[t - 1] @ wh
            np.tanh(h[t], out=h[t])
        d, slope = h * scale, 1 - h * h
        d[-1] *= slope[-1]
        back = np.ascontiguousarray(wh.T)
        for t in range(steps - 2, -1, -1):
            d[t] += d[t + 1] @ back
            d[t] *= slope[t]
        rows = d.reshape(-1, width)
        dwh = h[:-1].reshape(-1, width).T @ d[1:].reshape(-1, width)
        return [np.vdot(h, h) * scale / 2, flat.T @ rows, dwh, rows.sum(0)]

    return call


def rosenbrock(a: Arrays) -> Call:
    x = a["x"]

    def call() -> list[Any]:
        left, right = x[:-1], x[1:]
        r = right - left * left
        g = np.zeros_like(x)
        g[:-1] = -400 * left * r - 2 * (1 - left)
        g[1:] += 200 * r
        return [100 * (r @ r) + ((1 - left) ** 2).sum(), g]

    return call


def rosenbrock_hessian(a: Arrays) -> Call:
    x = a["x"]
    k = np.arange(len(x) - 1)

    def call() -> list[Any]:
        left, right = x[:-1], x[1:]
        h = np.zeros((len(x), len(x)))
        h[k, k] = 1200 * left * left - 400 * right + 2
        h[k + 1, k + 1] += 200
        h[k, k + 1] = h[k + 1, k] = -400 * left
        return [np.sum(100 * (right - left**2) ** 2 + (1 - left) ** 2), h]

    return call


FORMS: dict[tuple[str, str], Callable[[Arrays], Call]] = {
    ("softmax", "gradient"): softmax,
    ("network", "gradient"): network,
    ("chain", "gradient"): chain,
    ("logistic", "gradient"): logistic,
    ("poisson", "gradient"): poisson,
    ("recurrent", "gradient"): recurrent,
    ("rosenbrock", "gradient"): rosenbrock,
    ("rosenbrock", "hessian"): rosenbrock_hessian,
}
