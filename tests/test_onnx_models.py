"""Models from PyTorch's exporter: read, differentiated, written, and the gradient run in onnxruntime against autograd."""

import io
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphir as gi
from graphir.onnx import exporter

Tensor = torch.Tensor


class ResNetBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.Conv2d(8, 8, 3, 1, 1, bias=False)
        self.norms, self.short = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8)]), nn.Conv2d(4, 8, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.norms[1](self.second(torch.relu(self.norms[0](self.first(x)))))
        return torch.relu(inner + self.short(x))


class BertBlock(nn.Module):
    def __init__(self, width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def attention(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = torch.softmax(self.masked(q @ k.transpose(-1, -2) / math.sqrt(width // self.heads)), -1)
        return self.out((scores @ v).transpose(1, 2).reshape(batch, length, width))

    def masked(self, scores: Tensor) -> Tensor:
        return scores

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](x + self.attention(x))
        return self.norms[1](x + self.mlp(x))


class CausalBlock(BertBlock):
    def masked(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(torch.triu(torch.ones(scores.shape[-2:], dtype=torch.bool), 1), -1e9)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.inner = kind(5, 6, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class GraphConvolution(nn.Module):
    """Means of neighbours by an adjacency matrix, and sums along edges by index_add."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(5, 7), nn.Linear(5, 7)
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3, 3, 1], [1, 2, 3, 0, 1, 4]]))

    def forward(self, x: Tensor) -> Tensor:
        sent = self.other(x).index_select(0, self.edges[0])
        received = torch.zeros_like(self.own(x)).scatter_add(0, self.edges[1][:, None].expand(-1, 7), sent)
        return F.leaky_relu(self.own(x) + received)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.Conv2d(10, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = torch.relu(self.down(x))
        coarse = torch.relu(self.middle(F.max_pool2d(fine, 2)))
        return self.up(torch.cat([fine, F.interpolate(coarse, scale_factor=2.0, mode="nearest")], 1))


class Classifier(nn.Module):
    """Means of embedded words, as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(20, 6), nn.Linear(6, 4)

    def forward(self, words: Tensor) -> Tensor:
        return torch.log_softmax(self.out(self.table(words).mean(1)), -1)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3), nn.Softplus()), (5, 6)),
    "ResNet block": (ResNetBlock, (2, 4, 8, 8)),
    "BERT block": (BertBlock, (2, 5, 12)),
    "causal attention": (CausalBlock, (2, 5, 12)),
    "LSTM": (lambda: Recurrent(nn.LSTM, num_layers=2), (4, 3, 5)),
    "bidirectional GRU": (lambda: Recurrent(nn.GRU, bidirectional=True), (4, 3, 5)),
    "graph convolution": (GraphConvolution, (5, 5)),
    "autoencoder": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ELU(), nn.ConvTranspose2d(4, 1, 3, 2, output_padding=1)), (2, 1, 8, 8)
    ),
    "depthwise separable": (
        lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, dilation=2), nn.ReLU6(), nn.Conv2d(4, 6, 1)), (2, 4, 9, 9)
    ),
    "group norm and SiLU": (lambda: nn.Sequential(nn.Conv1d(4, 6, 3), nn.GroupNorm(3, 6), nn.SiLU(), nn.AvgPool1d(2)), (2, 4, 9)),
    "U-Net": (UNet, (1, 2, 8, 8)),
    "text classifier": (Classifier, (3, 7)),
}  # fmt: skip


def exported(model: nn.Module, x: Tensor) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is on its way out, but needs no further package
        torch.onnx.export(
            model, (x,), buffer, dynamo=False, input_names=["x"], output_names=["y"], do_constant_folding=False,
            opset_version=18, training=torch.onnx.TrainingMode.EVAL,
        )  # fmt: skip
    return buffer.getvalue()


def gradient(data: bytes, weights: np.ndarray) -> tuple[bytes, list[str]]:
    """The ONNX model that gives the gradient of sum(y * weights) by the model's floats, and their names."""
    graph = gi.from_onnx(data, parameters=True)
    loss = gi.sum(gi.Expr(graph.outputs["y"]) * weights)
    wrt = {name: gi.Expr(node) for name, node in graph.inputs.items() if node.type.dtype.kind == "f"}
    slopes = gi.grad(loss, list(wrt.values()), disconnected="zero")
    both = graph.append({f"d_{name}": g for name, g in zip(wrt, slopes, strict=True)})
    written = exporter.to_bytes(both.select([f"d_{name}" for name in wrt]))
    onnx.checker.check_model(onnx.ModelProto.FromString(written), full_check=True)
    return written, list(wrt)


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_in_onnxruntime_is_that_of_autograd(name: str) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(1)
    model = make().eval()
    for value in (*model.parameters(), *model.buffers()):
        if value.dtype.is_floating_point:  # no equal ones, which the exporter would make one
            value.data += torch.rand_like(value)
    x = torch.randint(0, 20, shape) if name == "text classifier" else torch.randn(shape, requires_grad=True)
    y = model(x)
    weights = np.random.default_rng(0).normal(size=tuple(y.shape)).astype("float32")
    data = exported(model, x.detach())
    written, names = gradient(data, weights)
    session = onnxruntime.InferenceSession(written, providers=["CPUExecutionProvider"])
    feeds = {"x": x.detach().numpy(), **gi.onnx.parameters(data)}
    taken = {info.name for info in session.get_inputs()}
    outputs = [info.name for info in session.get_outputs()]
    found = dict(zip(outputs, session.run(None, {k: v for k, v in feeds.items() if k in taken}), strict=True))

    leaves = dict(model.named_parameters())
    if x.dtype.is_floating_point:
        leaves["x"] = x
    assert leaves.keys() <= set(names)
    expected = torch.autograd.grad((y * torch.tensor(weights)).sum(), list(leaves.values()))
    for leaf, want in zip(leaves, expected, strict=True):
        scale = max(1.0, float(want.abs().max()))
        np.testing.assert_allclose(found[f"d_{leaf}"] / scale, want.numpy() / scale, atol=1e-4, err_msg=leaf)


def test_parameters_that_decide_shapes_stay_constants_and_unknown_ones_are_named() -> None:
    data = exported(UNet().eval(), torch.randn(1, 2, 8, 8))
    graph = gi.from_onnx(data, parameters=True)
    assert {"x", "down.weight", "down.bias", "up.weight"} <= set(graph.inputs)
    assert set(graph.inputs) - {"x"} <= set(gi.onnx.parameters(data))
    assert list(gi.from_onnx(data, parameters=["up.bias"]).inputs) == ["x", "up.bias"]
    with pytest.raises(gi.FormatError, match=r"parameters names 'up\.wait'"):
        gi.from_onnx(data, parameters=["up.wait"])
