"""NonMaxSuppression of known numbers: how many boxes it keeps decides a shape, as with NonZero and Unique."""

import numpy as np

from graphir import array
from graphir.errors import ShapeError
from graphir.expr import Expr
from graphir.node import Array
from graphir.onnx.call import Call, reads
from graphir.types import INT64


@reads("NonMaxSuppression")
def _non_max_suppression(call: Call) -> Expr:
    """Rows of (image, class, box), for each image and class in the order of falling scores."""
    boxes, scores = call.numbers(0), call.numbers(1)
    if boxes.ndim != 3 or boxes.shape[2] != 4 or scores.ndim != 3 or scores.shape[::2] != boxes.shape[:2]:
        raise ShapeError(f"boxes {boxes.shape} and scores {scores.shape} do not fit; export the model again")
    most, overlap = (call.numbers(k).reshape(-1)[0] if call.has(k) else 0 for k in (2, 3))
    least = call.numbers(4).reshape(-1)[0] if call.has(4) else -np.inf
    corners = _corners(boxes, bool(call.attr("center_point_box", 0)))
    rows = [
        (image, kind, box)
        for image in range(scores.shape[0])
        for kind in range(scores.shape[1])
        for box in _kept(corners[image], scores[image, kind], int(most), float(overlap), float(least))
    ]
    return array.constant(np.array(rows, INT64).reshape(-1, 3), INT64)


def _corners(boxes: Array, centred: bool) -> Array:
    """The least and the largest coordinates of each box: (..., 2, axis)."""
    first, second = boxes[..., :2].astype(np.float64), boxes[..., 2:].astype(np.float64)
    if centred:
        first, second = first - second / 2, first + second / 2
    return np.stack([np.minimum(first, second), np.maximum(first, second)], -2)


def _kept(corners: Array, scores: Array, most: int, overlap: float, least: float) -> list[int]:
    """Greedy: the best box that overlaps none of the kept ones by more than the threshold."""
    kept: list[int] = []
    for box in np.argsort(-scores, kind="stable"):
        if len(kept) >= most or not scores[box] >= least:
            break
        if not kept or _overlaps(corners[box], corners[kept]).max() <= overlap:
            kept.append(int(box))
    return kept


def _overlaps(one: Array, others: Array) -> Array:
    """Intersection over union of a box with others; 0 where both are empty."""
    sides = np.minimum(one[1], others[:, 1]) - np.maximum(one[0], others[:, 0])
    shared = np.prod(np.maximum(sides, 0), -1)
    union = np.prod(one[1] - one[0]) + np.prod(others[:, 1] - others[:, 0], -1) - shared
    return np.asarray(np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0))
