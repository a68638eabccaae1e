"""Of the domain ai.onnx.ml: ensembles of decision trees, Binarizer and ArrayFeatureExtractor.

All trees are walked at once, one level at a time: an integer for each sample and tree says at which node it is, and
leaves lead to themselves. The result is piecewise constant, so no derivative passes.
"""

from dataclasses import dataclass

import numpy as np

from graphir import array, manipulate
from graphir.errors import AttributeValueError, FormatError, ShapeError
from graphir.expr import Expr
from graphir.node import Array
from graphir.onnx.call import Call, F, reads, scalar
from graphir.types import INT64

DOMAIN = "ai.onnx.ml"
MEMBER = 6
_COMPARE = ("less_equal", "less", "greater_equal", "greater", "equal", "not_equal")
"""The comparisons by their number in nodes_modes."""


@dataclass(frozen=True, slots=True)
class Forest:
    """Tables by node, interior nodes first and then the leaves; `members` has a row of values for each node."""

    features: Array
    splits: Array
    modes: Array
    when_true: Array
    when_false: Array
    missing_true: Array
    members: Array
    roots: Array
    depth: int


def _forest(call: Call) -> Forest:
    modes, splits = (call.reader.tensor(call.need(name)) for name in ("nodes_modes", "nodes_splits"))
    count, leaves = len(modes), len(call.need("leaf_targetids"))
    features = np.array(call.need("nodes_featureids"), np.int64)
    missing = np.array(call.attr("nodes_missing_value_tracks_true") or [0] * count, np.bool_)
    sides = []
    for side in ("true", "false"):
        number, leaf = (np.array(call.need(f"nodes_{side}{kind}s"), np.int64) for kind in ("nodeid", "leaf"))
        if len(number) != count or len(leaf) != count:
            raise FormatError(f"the {side} branches do not fit {count} nodes; export the model again")
        sides.append(np.concatenate([np.where(leaf != 0, number + count, number), count + np.arange(leaves)]))
    roots = np.array(call.need("tree_roots"), np.int64)
    if {len(features), len(splits), len(missing)} != {count} or not len(roots):
        raise FormatError(f"the attributes of {count} nodes differ in length; export the model again")
    for numbers, most in ((sides[0], count + leaves), (sides[1], count + leaves), (roots, count), (modes, MEMBER + 1)):
        if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= most:
            raise FormatError(f"a number of a node is not between 0 and {most - 1}; export the model again")
    rest = np.zeros(leaves, np.int64)
    return Forest(
        np.concatenate([features, rest]),
        np.concatenate([splits, rest.astype(splits.dtype)]),
        np.concatenate([modes.astype(np.int64), rest]),
        sides[0],
        sides[1],
        np.concatenate([missing, rest != 0]),
        _members(call, modes, leaves, splits.dtype),
        roots,
        _depth(roots, sides, count),
    )


def _members(call: Call, modes: Array, leaves: int, dtype: np.dtype[np.generic]) -> Array:
    """The sets of values, in the order of their nodes; NaN, which equals nothing, fills the rows."""
    chosen = np.flatnonzero(modes == MEMBER)
    sets: list[list[float]] = [[]]
    if len(chosen):
        for value in call.reader.tensor(call.need("membership_values")):
            if np.isnan(value):
                sets.append([])
            else:
                sets[-1].append(float(value))
        if len(sets) - 1 != len(chosen):
            raise FormatError(f"there are {len(sets) - 1} sets of members for {len(chosen)} nodes; export again")
    table = np.full((len(modes) + leaves, max(len(values) for values in sets)), np.nan, dtype)
    for node, values in zip(chosen, sets, strict=False):
        table[node, : len(values)] = values
    return table


def _depth(roots: Array, sides: list[Array], count: int) -> int:
    """The number of levels above the lowest leaf."""
    level, depth = set(roots.tolist()), 0
    while level := {node for node in level if node < count}:
        level = {int(side[node]) for node in level for side in sides}
        depth += 1
        if depth > count:
            raise FormatError("the nodes of a tree form a cycle; export the model again")
    return depth


def _at(table: Array, place: Expr) -> Expr:
    return array.take(array.constant(table), place, 0)


def _next(forest: Forest, x: Expr, place: Expr) -> Expr:
    """Where each sample (first axis) is in each tree (second axis) one level further down."""
    value = array.take_along_axis(x, _at(forest.features, place), 1)
    split = _at(forest.splits, place).astype(x.dtype)
    mode = _at(forest.modes, place)
    passed: Expr | None = None
    for number in sorted({int(m) for m in forest.modes}):
        if number == MEMBER:
            members = _at(forest.members, place).astype(x.dtype)
            found = array.any(manipulate.expand_dims(value, -1) == members, -1)
        else:
            found = F[_COMPARE[number]](value, split)
        passed = found if passed is None else array.where(mode == number, found, passed)
    assert passed is not None
    if forest.missing_true.any():
        passed = passed | (F["isnan"](value) & _at(forest.missing_true, place))
    return array.where(passed, _at(forest.when_true, place), _at(forest.when_false, place))


@reads("TreeEnsemble", domain=DOMAIN)
def _tree_ensemble(call: Call) -> Expr:
    x, forest = call[0], _forest(call)
    if x.ndim != 2 or not isinstance(x.shape[1], int) or forest.features.max(initial=0) >= x.shape[1]:
        raise ShapeError(f"trees over {forest.features.max(initial=0) + 1} features do not fit {x.node.type}")
    place = manipulate.broadcast_to(array.constant(forest.roots, INT64), (x.shape[0], len(forest.roots)))
    for _ in range(forest.depth):
        place = _next(forest, x, place)
    leaf = place - len(call.need("nodes_featureids"))
    weight = array.take(array.constant(call.reader.tensor(call.need("leaf_weights"))), leaf, 0).astype(x.dtype)
    target = _at(np.array(call.need("leaf_targetids"), np.int64), leaf)
    mine = manipulate.expand_dims(target, -1) == array.arange(int(call.need("n_targets")))
    return _transformed(call, _aggregated(call, manipulate.expand_dims(weight, -1), mine, len(forest.roots)))


def _aggregated(call: Call, weight: Expr, mine: Expr, trees: int) -> Expr:
    """The weights of each target's leaves joined over the trees: (sample, target); 0 for a target without any."""
    number = call.attr("aggregate_function", 1)
    if number in (0, 1):
        total = array.where(mine, weight, scalar(0, weight)).sum(1)
        return total / trees if number == 0 else total
    if number not in (2, 3):
        raise AttributeValueError(f"trees are joined by the functions 0 to 3, not {number}; export the model again")
    bounds = np.finfo(weight.dtype)
    rest = scalar(bounds.max if number == 2 else bounds.min, weight)
    chosen = array.where(mine, weight, rest)
    extreme = chosen.min(1) if number == 2 else chosen.max(1)
    return array.where(array.any(mine, 1), extreme, scalar(0, weight))


def _transformed(call: Call, scores: Expr) -> Expr:
    match call.attr("post_transform", 0):
        case 0:
            return scores
        case 1:
            return array.softmax(scores, -1)
        case 2:
            return 1 / (1 + F["exp"](-scores))
    raise AttributeValueError("TreeEnsemble's post_transform must be none, softmax or logistic; export without it")


@reads("Binarizer", domain=DOMAIN)
def _binarizer(call: Call) -> Expr:
    return (call[0] > scalar(call.attr("threshold", 0.0), call[0])).astype(call[0].dtype)


@reads("ArrayFeatureExtractor", domain=DOMAIN)
def _array_feature_extractor(call: Call) -> Expr:
    """Elements of the last axis; a vector becomes a row."""
    x, places = call[0], manipulate.reshape(call[1], (-1,))
    rows = x if x.ndim > 1 else manipulate.expand_dims(x, 0)
    return array.take(rows, places, rows.ndim - 1)
