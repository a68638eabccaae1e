"""Operators that read between elements: resizing, sampling, regions, deformed convolutions."""

import itertools

import numpy as np
import pytest

import graphir as gi
from tests.onnx_runtime import RNG, agree, expected, floats, model, slopes_agree

# ---- Resize ----

COORDINATES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("sizes", ["7, 4", "3, 9"])
@pytest.mark.parametrize(("mode", "coordinates"), list(itertools.product(["nearest", "linear", "cubic"], COORDINATES)))
def test_resizing_to_sizes(mode: str, coordinates: str, sizes: str) -> None:
    body = f"""g (float[n,2,5,6] x) => (float[n,2,a,b] y) <int64[2] s = {{{sizes}}}> {{
        y = Resize <axes = [2, 3], mode = "{mode}", coordinate_transformation_mode = "{coordinates}"> (x, , , s)
    }}"""
    feeds = {"x": floats(3, 2, 5, 6)}
    agree(body, feeds)
    slopes_agree(body, feeds, ["x"])


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("scales", ["1.0, 1.0, 0.6, 0.5", "1.0, 1.0, 1.5, 0.3"])
def test_resizing_with_antialiasing(mode: str, scales: str) -> None:
    body = f"""g (float[n,3,10,12] x) => (float[n,3,a,b] y) <float[4] s = {{{scales}}}> {{
        y = Resize <antialias = 1, exclude_outside = 1, mode = "{mode}"> (x, , s)
    }}"""
    agree(body, {"x": floats(2, 3, 10, 12)})


@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resizing_to_the_nearest(rounding: str) -> None:
    body = f"""g (float[n,1,5,6] x) => (float[n,1,a,b] y) <float[4] s = {{1.0, 1.0, 2.0, 1.7}}> {{
        y = Resize <nearest_mode = "{rounding}", coordinate_transformation_mode = "asymmetric"> (x, , s)
    }}"""
    agree(body, {"x": floats(2, 1, 5, 6)})


def test_cropping_and_resizing() -> None:
    body = """g (float[n,1,5,6] x) => (float[n,1,a,b] y)
    <float[8] roi = {0.0, 0.0, 0.2, -0.3, 1.0, 1.0, 0.9, 0.8}, int64[4] s = {2, 1, 4, 5}> {
        y = Resize <mode = "linear", coordinate_transformation_mode = "tf_crop_and_resize", extrapolation_value = 7.0>
            (x, roi, , s)
    }"""
    data = model(body.replace("[n,", "[2,"))
    feeds = {"x": floats(2, 1, 5, 6)}
    np.testing.assert_allclose(gi.evaluate(gi.from_onnx(data), feeds)["y"], expected(data, feeds)[0], 1e-5)


def test_a_named_axis_is_not_resized() -> None:
    body = """g (float[n,1,5,h] x) => (float[n,1,a,b] y) <float[4] s = {1.0, 1.0, 2.0, 1.5}> {
        y = Resize <mode = "linear"> (x, , s)
    }"""
    with pytest.raises(gi.ShapeError, match="axis 3 of named size 'h' cannot be resized"):
        gi.from_onnx(model(body))


# ---- sampling ----


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_samples(mode: str, padding: str, corners: int) -> None:
    body = f"""g (float[n,2,5,6] x, float[n,4,3,2] grid) => (float[n,2,4,3] y) {{
        y = GridSample <mode = "{mode}", padding_mode = "{padding}", align_corners = {corners}> (x, grid)
    }}"""
    feeds = {"x": floats(3, 2, 5, 6), "grid": RNG.uniform(-1.6, 1.6, (3, 4, 3, 2)).astype(np.float32)}
    agree(body, feeds, rtol=1e-4, atol=1e-4)
    slopes_agree(body, feeds, ["x"] if mode == "nearest" else ["x", "grid"])


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("pixel", ["half_pixel", "output_half_pixel"])
def test_regions_are_aligned(mode: str, pixel: str) -> None:
    body = f"""g (float[m,2,9,8] x, float[r,4] rois, int64[r] images) => (float[r,2,3,2] y) {{
        y = RoiAlign <mode = "{mode}", coordinate_transformation_mode = "{pixel}", sampling_ratio = 2,
            output_height = 3, output_width = 2, spatial_scale = 0.5> (x, rois, images)
    }}"""
    corner = RNG.uniform(-2, 10, (5, 2))
    rois = np.concatenate([corner, corner + RNG.uniform(1, 12, (5, 2))], 1).astype(np.float32)
    feeds = {"x": np.abs(floats(2, 2, 9, 8)), "rois": rois, "images": np.array([0, 1, 1, 0, 1])}
    if mode == "avg":  # onnxruntime interpolates before it takes the maximum, unlike the standard's reference
        agree(body, feeds)
    slopes_agree(body, feeds, ["x", "rois"])


def test_regions_with_as_many_samples_as_they_need() -> None:
    body = """g (float[m,2,9,8] x, float[3,4] rois, int64[3] images) => (float[3,2,3,2] y) {
        y = RoiAlign <output_height = 3, output_width = 2> (x, rois, images)
    }"""
    rois = np.array([[0, 1, 5, 4], [2, 2, 3, 8], [1, 0, 7, 7]], np.float32)
    feeds = {"x": floats(2, 2, 9, 8), "rois": rois, "images": np.array([0, 1, 1])}
    data = model(body)
    with pytest.raises(gi.BindError, match="rois"):
        gi.from_onnx(data)
    graph = gi.from_onnx(data, bind={"rois": rois})
    found = gi.evaluate(graph, {"x": feeds["x"], "images": feeds["images"]})["y"]
    np.testing.assert_allclose(found, expected(data, feeds)[0], 1e-4, 1e-5)


@pytest.mark.parametrize(("groups", "parts"), [(1, 1), (2, 1), (1, 2), (2, 4)])
def test_deformed_convolutions(groups: int, parts: int) -> None:
    body = f"""g (float[n,4,6,7] x, float[6,{4 // groups},3,2] w, float[n,{12 * parts},5,6] d, float[6] b,
        float[n,{6 * parts},5,6] m) => (float[n,6,5,6] y) {{
        y = DeformConv <group = {groups}, offset_group = {parts}, pads = [1, 0, 0, 0]> (x, w, d, b, m)
    }}"""
    feeds = {
        "x": floats(2, 4, 6, 7),
        "w": floats(6, 4 // groups, 3, 2),
        "d": floats(2, 12 * parts, 5, 6),
        "b": floats(6),
        "m": floats(2, 6 * parts, 5, 6),
    }
    agree(body, feeds, rtol=1e-4, atol=1e-4)
    slopes_agree(body, feeds, list(feeds))
