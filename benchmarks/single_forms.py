"""What the models of `workloads` are made of, in each library's best form. A library is imported when its form is made."""

from typing import Any

import numpy as np


class Gradfleet:
    """Ours."""

    def __init__(self) -> None:
        import graphir as gi

        self.gi = gi
        self.exp, self.log1p, self.tanh, self.mean, self.sum = gi.exp, gi.log1p, gi.tanh, gi.mean, gi.sum
        self.relu, self.cross_entropy, self.conv = gi.nn.relu, gi.nn.cross_entropy, gi.nn.conv

    def affine(self, x: Any, w: Any, b: Any) -> Any:
        return x @ w + b

    def product(self, x: Any, w: Any) -> Any:
        return x @ w

    def pool(self, x: Any) -> Any:
        return self.gi.nn.max_pool(x, 2)

    def flat(self, x: Any) -> Any:
        return x.reshape((x.shape[0], -1))

    def norm(self, x: Any, g: Any, e: Any) -> Any:
        return self.gi.nn.layer_norm(x, 1, g, e)

    def attention(self, qkv: Any, heads: int) -> Any:
        b, s, d = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        q, k, v = (
            self.gi.permute_dims(qkv.reshape((b, s, 3, heads, d // heads)), (2, 0, 3, 1, 4))[i] for i in range(3)
        )
        mixed = self.gi.nn.scaled_dot_product_attention(q, k, v)
        return self.gi.permute_dims(mixed, (0, 2, 1, 3)).reshape((b, s, d))

    def gelu(self, x: Any) -> Any:
        return self.gi.nn.gelu(x, approximate="tanh")

    def recurrent(self, u: Any, w: Any) -> Any:
        def step(state: Any, given: Any) -> Any:
            state = self.gi.tanh(given + state @ w)
            return state, state

        return self.gi.scan(step, self.gi.zeros_like(u[0]), u)[1]


class JaxForm:
    def __init__(self) -> None:
        import jax
        import jax.numpy as jnp

        self.jax, self.jnp = jax, jnp
        self.exp, self.log1p, self.tanh, self.mean, self.sum = jnp.exp, jnp.log1p, jnp.tanh, jnp.mean, jnp.sum
        self.relu = jax.nn.relu

    def affine(self, x: Any, w: Any, b: Any) -> Any:
        return x @ w + b

    def product(self, x: Any, w: Any) -> Any:
        return x @ w

    def cross_entropy(self, logits: Any, y: Any) -> Any:
        picked = self.jnp.take_along_axis(logits, y[:, None], 1)[:, 0]
        return self.jnp.mean(self.jax.nn.logsumexp(logits, axis=1) - picked)

    def conv(self, x: Any, k: Any, c: Any) -> Any:
        axes = ("NCHW", "OIHW", "NCHW")
        return self.jax.lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=axes) + c[:, None, None]

    def pool(self, x: Any) -> Any:
        window = (1, 1, 2, 2)
        return self.jax.lax.reduce_window(x, -self.jnp.inf, self.jax.lax.max, window, window, "VALID")

    def flat(self, x: Any) -> Any:
        return x.reshape(x.shape[0], -1)

    def norm(self, x: Any, g: Any, e: Any) -> Any:
        centred = x - x.mean(-1, keepdims=True)
        return centred * self.jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * g + e

    def attention(self, qkv: Any, heads: int) -> Any:
        b, s, d = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        q, k, v = qkv.reshape(b, s, 3, heads, d // heads).transpose(2, 0, 3, 1, 4)
        scores = self.jax.nn.softmax(q @ k.swapaxes(2, 3) * (d // heads) ** -0.5, axis=-1)
        return (scores @ v).swapaxes(1, 2).reshape(b, s, d)

    def gelu(self, x: Any) -> Any:
        return self.jax.nn.gelu(x, approximate=True)

    def recurrent(self, u: Any, w: Any) -> Any:
        def step(state: Any, given: Any) -> Any:
            state = self.jnp.tanh(given + state @ w)
            return state, state

        return self.jax.lax.scan(step, self.jnp.zeros_like(u[0]), u)[1]


class TorchForm:
    def __init__(self) -> None:
        import torch

        self.torch, self.functional = torch, torch.nn.functional
        self.exp, self.log1p, self.tanh, self.mean, self.sum = (
            torch.exp, torch.log1p, torch.tanh, torch.mean, torch.sum,
        )  # fmt: skip
        self.relu, self.cross_entropy, self.conv = torch.relu, self.functional.cross_entropy, self.functional.conv2d

    def affine(self, x: Any, w: Any, b: Any) -> Any:
        return self.torch.addmm(b, x, w) if x.ndim == 2 else x @ w + b

    def product(self, x: Any, w: Any) -> Any:
        return x @ w

    def pool(self, x: Any) -> Any:
        return self.functional.max_pool2d(x, 2)

    def flat(self, x: Any) -> Any:
        return x.flatten(1)

    def norm(self, x: Any, g: Any, e: Any) -> Any:
        return self.functional.layer_norm(x, x.shape[-1:], g, e)

    def attention(self, qkv: Any, heads: int) -> Any:
        b, s, d = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        q, k, v = qkv.view(b, s, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        return self.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, s, d)

    def gelu(self, x: Any) -> Any:
        return self.functional.gelu(x, approximate="tanh")

    def recurrent(self, u: Any, w: Any) -> Any:
        state, states = self.torch.zeros_like(u[0]), []
        for given in u.unbind(0):
            state = self.torch.tanh(self.torch.addmm(given, state, w))
            states.append(state)
        return self.torch.stack(states)


class TensorFlowForm:
    def __init__(self) -> None:
        import tensorflow as tf

        self.tf = tf
        self.exp, self.log1p, self.tanh = tf.exp, tf.math.log1p, tf.tanh
        self.mean, self.sum, self.relu = tf.reduce_mean, tf.reduce_sum, tf.nn.relu

    def affine(self, x: Any, w: Any, b: Any) -> Any:
        flat = self.tf.reshape(x, (-1, x.shape[-1]))
        return self.tf.reshape(self.tf.nn.bias_add(flat @ w, b), (*x.shape[:-1], w.shape[1]))

    def product(self, x: Any, w: Any) -> Any:
        return x @ w if len(w.shape) == 2 else self.tf.linalg.matvec(x, w)

    def cross_entropy(self, logits: Any, y: Any) -> Any:
        losses = self.tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)
        return self.tf.reduce_mean(losses)

    def conv(self, x: Any, k: Any, c: Any) -> Any:  # its kernels on processors want the channels last
        found = self.tf.nn.conv2d(self.tf.transpose(x, (0, 2, 3, 1)), self.tf.transpose(k, (2, 3, 1, 0)), 1, "VALID")
        return self.tf.transpose(self.tf.nn.bias_add(found, c), (0, 3, 1, 2))

    def pool(self, x: Any) -> Any:
        found = self.tf.nn.max_pool2d(self.tf.transpose(x, (0, 2, 3, 1)), 2, 2, "VALID")
        return self.tf.transpose(found, (0, 3, 1, 2))

    def flat(self, x: Any) -> Any:
        return self.tf.reshape(x, (x.shape[0], -1))

    def norm(self, x: Any, g: Any, e: Any) -> Any:
        centred = x - self.tf.reduce_mean(x, -1, keepdims=True)
        return centred * self.tf.math.rsqrt(self.tf.reduce_mean(centred * centred, -1, keepdims=True) + 1e-5) * g + e

    def attention(self, qkv: Any, heads: int) -> Any:
        b, s, d = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        parts = self.tf.transpose(self.tf.reshape(qkv, (b, s, 3, heads, d // heads)), (2, 0, 3, 1, 4))
        q, k, v = self.tf.unstack(parts)
        scores = self.tf.nn.softmax(self.tf.matmul(q, k, transpose_b=True) * (d // heads) ** -0.5)
        return self.tf.reshape(self.tf.transpose(self.tf.matmul(scores, v), (0, 2, 1, 3)), (b, s, d))

    def gelu(self, x: Any) -> Any:
        return self.tf.nn.gelu(x, approximate=True)

    def recurrent(self, u: Any, w: Any) -> Any:  # unrolled, which is faster here than its loop
        state, states = self.tf.zeros(u.shape[1:], u.dtype), []
        for given in self.tf.unstack(u):
            state = self.tf.tanh(given + state @ w)
            states.append(state)
        return self.tf.stack(states)


class PyTensorForm:
    """It has neither batched convolutions nor pooling: windows as columns, and reshaping."""

    def __init__(self, dtype: str) -> None:
        import pytensor
        import pytensor.tensor as pt

        self.pytensor, self.pt, self.dtype = pytensor, pt, dtype
        self.exp, self.log1p, self.tanh, self.sum = pt.exp, pt.log1p, pt.tanh, pt.sum
        self.number: Any = np.dtype(dtype).type

    def mean(self, x: Any) -> Any:
        return self.pt.mean(x, dtype=self.dtype)

    def relu(self, x: Any) -> Any:
        return self.pt.maximum(x, self.number(0))

    def affine(self, x: Any, w: Any, b: Any) -> Any:
        return x @ w + b

    def product(self, x: Any, w: Any) -> Any:
        return x @ w

    def cross_entropy(self, logits: Any, y: Any) -> Any:
        return -self.mean(self.pt.special.log_softmax(logits, axis=1)[self.pt.arange(y.shape[0]), y])

    def conv(self, x: Any, k: Any, c: Any) -> Any:
        (n, channels, h, w), filters = x.type.shape, k.type.shape[0]
        tall, wide = h - 4, w - 4
        windows = [x[:, :, i : i + tall, j : j + wide] for i in range(5) for j in range(5)]
        columns = self.pt.stack(windows, axis=2).reshape((n, channels * 25, tall * wide)).transpose(1, 0, 2)
        found = k.reshape((filters, channels * 25)) @ columns.reshape((channels * 25, n * tall * wide))
        return found.reshape((filters, n, tall, wide)).transpose(1, 0, 2, 3) + c[:, None, None]

    def pool(self, x: Any) -> Any:
        n, c, h, w = x.type.shape
        return self.pt.specify_shape(x.reshape((n, c, h // 2, 2, w // 2, 2)).max(axis=(3, 5)), (n, c, h // 2, w // 2))

    def flat(self, x: Any) -> Any:
        return x.reshape((x.shape[0], -1))

    def norm(self, x: Any, g: Any, e: Any) -> Any:
        centred = x - self.pt.mean(x, -1, keepdims=True, dtype=self.dtype)
        spread = self.pt.mean(centred**2, -1, keepdims=True, dtype=self.dtype)
        return centred / self.pt.sqrt(spread + self.number(1e-5)) * g + e

    def attention(self, qkv: Any, heads: int) -> Any:
        b, s, triple = qkv.type.shape
        d = triple // 3
        split = qkv.reshape((b, s, 3, heads, d // heads))
        q, k, v = (split[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
        scores = self.pt.special.softmax(q @ k.transpose(0, 1, 3, 2) * self.number((d // heads) ** -0.5), axis=-1)
        return (scores @ v).transpose(0, 2, 1, 3).reshape((b, s, d))

    def gelu(self, x: Any) -> Any:
        f = self.number
        return f(0.5) * x * (1 + self.pt.tanh(f(0.7978845608028654) * (x + f(0.044715) * x * x * x)))

    def recurrent(self, u: Any, w: Any) -> Any:
        return self.pytensor.scan(
            lambda given, state, weights: self.pt.tanh(given + state @ weights),
            sequences=[u], outputs_info=[self.pt.zeros(u.type.shape[1:], dtype=self.dtype)], non_sequences=[w],
            return_updates=False,
        )  # fmt: skip
