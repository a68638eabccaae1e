"""Operators beyond plain networks: values against onnxruntime with a named batch, derivatives against differences."""

import numpy as np
import onnx
import pytest
from onnx import parser

import graphir as gi
from graphir.partition.data import partition
from scheduler.check import check_plan
from scheduler.driver.local import run_plan
from tests.onnx_runtime import RNG, agree, expected, floats, model, slopes_agree

# ---- quantised values ----


def test_quantised_values_round_to_even_and_saturate() -> None:
    body = """g (float[n,3] x, float[3] s, int8[3] z) => (int8[n,3] q, float[n,3] y) {
        q = QuantizeLinear (x, s, z)
        y = DequantizeLinear (q, s, z)
    }"""
    x = np.concatenate([np.arange(-8, 9)[:, None] / np.array([2, 4, 8]), np.full((2, 3), [[300], [-400]])])
    feeds = {"x": x.astype(np.float32), "s": np.array([1, 0.5, 0.25], np.float32), "z": np.array([0, 3, -7], np.int8)}
    agree(body, feeds)


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_quantised_products_and_convolutions(kind: str) -> None:
    info = np.iinfo(kind)
    a, b = (RNG.integers(info.min, info.max, shape).astype(kind) for shape in ((5, 4), (4, 3)))
    scales = "float sa = {0.02}, float sb = {0.05}, float sy = {0.7}"
    zeros = f"{kind} za = {{3}}, {kind} zb = {{5}}, {kind} zy = {{9}}"
    agree(
        f"""g ({kind}[n,4] a, {kind}[4,3] b) => (int32[n,3] i, {kind}[n,3] q) <{scales}, {zeros}> {{
            i = MatMulInteger (a, b, za, zb)
            q = QLinearMatMul (a, sa, za, b, sb, zb, sy, zy)
        }}""",
        {"a": a, "b": b},
        atol=0,
    )


def test_quantised_convolutions_with_a_scale_for_each_filter() -> None:
    x, w = RNG.integers(0, 255, (2, 2, 6, 5)).astype(np.uint8), RNG.integers(-90, 90, (4, 2, 3, 3)).astype(np.int8)
    agree(
        """g (uint8[n,2,6,5] x, int8[4,2,3,3] w, int32[4] b, float[4] sw) => (uint8[n,4,6,5] y)
        <float sx = {0.02}, uint8 zx = {120}, int8[4] zw = {0, 0, 0, 0}, float sy = {0.3}, uint8 zy = {128}> {
            y = QLinearConv <pads = [1, 1, 1, 1]> (x, sx, zx, w, sw, zw, sy, zy, b)
        }""",
        {"x": x, "w": w, "b": np.arange(4, dtype=np.int32) * 50, "sw": np.linspace(0.01, 0.05, 4, dtype=np.float32)},
        atol=0,
    )


# ---- signals ----


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("parts", "attributes"), [(1, "onesided = 1"), (1, ""), (2, ""), (2, "inverse = 1")])
def test_fourier_transforms(parts: int, attributes: str, size: int) -> None:
    body = f"""g (float[n,{size},{parts}] x) => (float[n,k,2] y) {{ y = DFT <{attributes or "onesided = 0"}> (x) }}"""
    feeds = {"x": floats(3, size, parts)}
    agree(body, feeds)
    slopes_agree(body, feeds, ["x"])


@pytest.mark.parametrize("size", [7, 8, 3, 12])
def test_real_inverse_transforms(size: int) -> None:
    body = f"""g (float[n,5,2] x) => (float[n,k,1] y) <int64 size = {{{size}}}, int64 axis = {{1}}> {{
        y = DFT <inverse = 1, onesided = 1> (x, size, axis)
    }}"""
    x = floats(3, 5, 2)
    found = gi.evaluate(gi.from_onnx(model(body, 20)), {"x": x})["y"]
    np.testing.assert_allclose(found[..., 0], np.fft.irfft(x[..., 0] + 1j * x[..., 1], size), rtol=1e-4, atol=1e-6)
    slopes_agree(body, {"x": x}, ["x"], 20)


def test_transforms_of_frames() -> None:
    body = """g (float[n,32,1] x, float[8] w) => (float[n,f,k,2] y) <int64 step = {3}> {
        y = STFT (x, step, w)
    }"""
    feeds = {"x": floats(2, 32, 1), "w": np.hanning(8).astype(np.float32)}
    agree(body, feeds)
    slopes_agree(body, feeds, ["x", "w"])


def test_the_mel_scale() -> None:
    body = """g (float[n] x) => (float[a,b] y)
    <int64 bins = {9}, int64 size = {64}, int64 rate = {8000}, float low = {20.0}, float high = {3900.0}> {
        y = MelWeightMatrix (bins, size, rate, low, high)
    }"""
    agree(body, {"x": floats(1)})


# ---- writing blocks ----


def test_blocks_are_added_back() -> None:
    body = """g (float[n,12,6] x) => (float[n,2,5,6] y) <int64[2] image = {5, 6}, int64[2] block = {3, 2}> {
        y = Col2Im <strides = [2, 2], pads = [1, 0, 0, 0]> (x, image, block)
    }"""
    feeds = {"x": floats(3, 12, 6)}
    agree(body, feeds)
    slopes_agree(body, feeds, ["x"])


# ---- trees ----


@pytest.mark.parametrize("aggregate", [0, 1, 2, 3])
def test_trees(aggregate: int) -> None:
    count, features = 7, 4  # a full tree of three levels, twice
    splits, leaves = RNG.normal(size=2 * count), RNG.normal(size=16)
    inner = [2 * k + 1 for k in range(3)], [2 * k + 2 for k in range(3)]
    sides = []
    for side in range(2):
        numbers = [j + t * count for t in range(2) for j in inner[side] + [0] * 4]
        for t in range(2):
            for k in range(4):
                numbers[t * count + 3 + k] = t * 8 + 2 * k + side
        sides.append(numbers)
    leaf = [int(k >= 3) for _ in range(2) for k in range(count)]
    node = onnx.helper.make_node(
        "TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml", n_targets=3, aggregate_function=aggregate, post_transform=0,
        tree_roots=[0, count],
        nodes_splits=onnx.numpy_helper.from_array(splits.astype(np.float32)),
        nodes_modes=onnx.numpy_helper.from_array(np.zeros(2 * count, np.uint8)),
        nodes_featureids=[int(k) for k in RNG.integers(0, features, 2 * count)],
        nodes_truenodeids=sides[0], nodes_falsenodeids=sides[1], nodes_trueleafs=leaf, nodes_falseleafs=leaf,
        leaf_targetids=[k % 3 for k in range(16)],
        leaf_weights=onnx.numpy_helper.from_array(leaves.astype(np.float32)),
    )  # fmt: skip
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([node], "g", [info("x", 1, ["n", features])], [info("y", 1, ["n", 3])])
    opsets = [onnx.helper.make_opsetid("", 19), onnx.helper.make_opsetid("ai.onnx.ml", 5)]
    data = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    feeds = {"x": floats(9, features)}
    np.testing.assert_allclose(gi.evaluate(gi.from_onnx(data), feeds)["y"], expected(data, feeds)[0], 1e-5, 1e-6)


# ---- bits ----


def test_bits_are_read_as_another_type() -> None:
    x = floats(5, 2)
    data = model("g (float[n,2] x) => (int32[n,2] y) { y = BitCast <to = 6> (x) }", 26)
    np.testing.assert_array_equal(gi.evaluate(gi.from_onnx(data), {"x": x})["y"], x.view(np.int32))
    proto = onnx.ModelProto.FromString(data)
    proto.graph.node[0].attribute[0].i = onnx.TensorProto.INT64
    with pytest.raises(gi.DTypeError, match="widths must be equal"):
        gi.from_onnx(proto.SerializeToString())


# ---- operator sets ----


@pytest.mark.parametrize("opset", range(6, onnx.defs.onnx_opset_version() + 1))
def test_every_operator_set_that_the_package_knows_is_read(opset: int) -> None:
    proto = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {opset}]> g (float[n,2] x) => (float[n,2] y) {{ t = Tanh (x) y = Add (t, x) }}'
    )
    x = floats(3, 2)
    np.testing.assert_allclose(
        gi.evaluate(gi.from_onnx(proto.SerializeToString()), {"x": x})["y"], np.tanh(x) + x, 1e-6
    )


def test_a_newer_operator_set_says_what_to_update() -> None:
    newest = onnx.defs.onnx_opset_version()
    assert newest >= 24
    proto = parser.parse_model(
        f'<ir_version: 10, opset_import: ["" : {newest + 1}]> g (float[n] x) => (float[n] y) {{ y = Tanh (x) }}'
    )
    with pytest.raises(gi.FormatError, match=f"reads up to {newest}: update onnx"):
        gi.from_onnx(proto.SerializeToString())


# ---- tokens ----


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skips", [0, 1, 4])
def test_counts_of_tokens(mode: str, skips: int) -> None:
    body = f"""g (int64[n,9] x) => (float[n,6] y) {{
        y = TfIdfVectorizer <mode = "{mode}", min_gram_length = 1, max_gram_length = 2, max_skip_count = {skips},
            pool_int64s = [2, 3, 0, 1, 1, 0, 2, 2, 3, 1], ngram_counts = [0, 2], ngram_indexes = [0, 1, 2, 3, 4, 5],
            weights = [0.5, 2.0, 1.5, 3.0, 0.25, 1.0]> (x)
    }}"""
    agree(body, {"x": RNG.integers(0, 4, (5, 9))})


# ---- cut jobs ----

CUT = {
    "resized": ("""(float[n,2,5,6] x) => (float[n,2,7,4] y) <int64[2] s = {7, 4}> {
        y = Resize <axes = [2, 3], mode = "cubic"> (x, , , s)
    }""", {"x": (7, 2, 5, 6)}),
    "sampled": ("""(float[n,2,5,6] x, float[n,4,3,2] grid) => (float[n,2,4,3] y) {
        y = GridSample <padding_mode = "reflection"> (x, grid)
    }""", {"x": (7, 2, 5, 6), "grid": (7, 4, 3, 2)}),
    "deformed": ("""(float[n,4,6,7] x, float[6,4,3,2] w, float[n,24,4,6] d) => (float[n,6,4,6] y) {
        y = DeformConv <offset_group = 2> (x, w, d)
    }""", {"x": (7, 4, 6, 7), "w": (6, 4, 3, 2), "d": (7, 24, 4, 6)}),
    "frames": ("""(float[n,32,1] x, float[8] w) => (float[n,9,k,2] y) <int64 step = {3}> {
        y = STFT (x, step, w)
    }""", {"x": (7, 32, 1), "w": (8,)}),
    "folded": ("""(float[n,12,6] x) => (float[n,2,5,6] y) <int64[2] image = {5, 6}, int64[2] block = {3, 2}> {
        y = Col2Im <strides = [2, 2], pads = [1, 0, 0, 0]> (x, image, block)
    }""", {"x": (7, 12, 6)}),
}  # fmt: skip


@pytest.mark.parametrize("name", CUT)
def test_models_with_their_gradients_are_cut_along_the_batch(name: str) -> None:
    body, shapes = CUT[name]
    graph = gi.from_onnx(model("g " + body.replace("float[", "double[")))
    loss = gi.sum(gi.sin(gi.Expr(graph.outputs["y"])))
    gradients = gi.grad(loss, [gi.Expr(node) for node in graph.inputs.values()])
    whole = gi.Graph({"loss": loss, **{f"d{k}": v for k, v in zip(graph.inputs, gradients, strict=True)}})
    feeds = {k: np.random.default_rng(3).normal(size=shape) for k, shape in shapes.items()}
    plan = check_plan(partition(whole, {"n": 7}, "n", 3))
    assert plan.stages == 1, plan.notes
    expected, found = gi.evaluate(whole, feeds), run_plan(plan, feeds)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-9, atol=1e-12)


# ---- detection ----


@pytest.mark.parametrize("centred", [0, 1])
def test_boxes_that_are_known_are_suppressed(centred: int) -> None:
    data = model(
        f"""g (float[2,30,4] boxes, float[2,3,30] scores) => (int64[k,3] y)
        <int64[1] most = {{6}}, float[1] overlap = {{0.3}}, float[1] least = {{0.2}}> {{
            y = NonMaxSuppression <center_point_box = {centred}> (boxes, scores, most, overlap, least)
        }}"""
    )
    corner = RNG.uniform(0, 1, (2, 30, 2))
    sides = RNG.uniform(0.1, 0.6, (2, 30, 2))
    boxes = np.concatenate([corner, sides if centred else corner + sides], -1).astype(np.float32)
    feeds = {"boxes": boxes, "scores": RNG.uniform(size=(2, 3, 30)).astype(np.float32)}
    with pytest.raises(gi.BindError, match="boxes"):
        gi.from_onnx(data)
    np.testing.assert_array_equal(gi.evaluate(gi.from_onnx(data, bind=feeds), {})["y"], expected(data, feeds)[0])
