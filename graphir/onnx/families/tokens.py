"""Counts of n-grams in integer tokens: TfIdfVectorizer.

Every n-gram of the pool is compared with every window of the row, so the work is their product; the row's length must
be known. An n-gram may skip up to max_skip_count tokens between two of its own, the same number each time.
"""

import numpy as np

from graphir import array, manipulate
from graphir.errors import AttributeValueError, FormatError, ShapeError
from graphir.expr import Expr
from graphir.nn.windows import cut
from graphir.node import Array
from graphir.onnx.call import Call, F, reads
from graphir.onnx.families.indexing import add_at
from graphir.types import INT64


def _pool(call: Call) -> list[tuple[int, Array]]:
    """The pool as pairs of a length n and the n-grams (count, n), in the order of their numbers."""
    if "pool_int64s" not in call.attributes:
        raise AttributeValueError("TfIdfVectorizer counts integers, not strings; replace the strings by their numbers")
    tokens, starts = np.array(call.need("pool_int64s"), np.int64), [int(k) for k in call.need("ngram_counts")]
    ends = [*starts[1:], len(tokens)]
    if any(not 0 <= a <= b <= len(tokens) or (b - a) % n for n, (a, b) in enumerate(zip(starts, ends, strict=True), 1)):
        raise FormatError(f"ngram_counts {starts} do not fit a pool of {len(tokens)} tokens; export the model again")
    return [(n, tokens[a:b].reshape(-1, n)) for n, (a, b) in enumerate(zip(starts, ends, strict=True), 1)]


def _counts(rows: Expr, grams: Array, skips: int) -> Expr:
    """How often each n-gram is in each row: (row, n-gram)."""
    length, size = int(rows.shape[1]), grams.shape[1]
    total = array.zeros((rows.shape[0], len(grams)), INT64)
    for step in range(1, (skips if size > 1 else 0) + 2):
        windows = length - step * (size - 1)
        if windows < 1:
            break
        found: Expr | None = None
        for k in range(size):
            tokens = manipulate.expand_dims(cut(rows, 1, k * step, k * step + windows), -1)
            same = tokens == array.constant(grams[:, k], INT64)
            found = same if found is None else found & same
        if found is not None:
            total = total + array.sum(found, 1)
    return total


@reads("TfIdfVectorizer")
def _tf_idf(call: Call) -> Expr:
    """Counts (TF), weights of the n-grams that occur (IDF), or counts times weights (TFIDF)."""
    x, places, mode = call[0], np.array(call.need("ngram_indexes"), np.int64), call.need("mode")
    rows = (x if x.ndim == 2 else manipulate.reshape(x, (1, -1))).astype(INT64)
    pool = _pool(call)
    if rows.ndim != 2 or not isinstance(rows.shape[1], int):
        raise ShapeError(f"rows of tokens need a known length, not {x.node.type}; fix the size in the model")
    if sum(len(grams) for _, grams in pool) != len(places) or places.min(initial=0) < 0 or not len(places):
        raise FormatError(f"{len(places)} ngram_indexes do not fit the pool; export the model again")
    shortest, longest = int(call.need("min_gram_length")), int(call.need("max_gram_length"))
    skips = int(call.need("max_skip_count"))
    parts = [
        _counts(rows, grams, skips) if shortest <= n <= longest else array.zeros((rows.shape[0], len(grams)), INT64)
        for n, grams in pool
    ]
    size = int(places.max()) + 1
    counts = add_at(manipulate.concat(parts, 1), array.constant(places, INT64), 1, size)
    weights = np.ones(size, np.float32)
    weights[places] = call.attr("weights") or 1
    result = _weighted(counts, weights, mode)
    return result if x.ndim == 2 else manipulate.reshape(result, (size,))


def _weighted(counts: Expr, weights: Array, mode: str) -> Expr:
    if mode not in ("TF", "IDF", "TFIDF"):
        raise AttributeValueError(f"TfIdfVectorizer has the modes TF, IDF and TFIDF, not {mode!r}")
    numbers: Expr = F["minimum"](counts, 1) if mode == "IDF" else counts
    floats = numbers.astype("float32")
    return floats if mode == "TF" else floats * array.constant(weights)
