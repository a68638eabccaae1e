"""What a client submits: read exactly, bounded, and refused with a sentence that names the field."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from graphir.dataset import Dataset, FileState, Snapshot
from graphir.errors import LimitError
from scheduler.job.spec import (
    ITEM_BYTES,
    MAX_FEEDS,
    MAX_NAMES,
    MAX_SPEC_BYTES,
    ArrayFeed,
    DatasetFeed,
    JobSpec,
    SpecError,
    parse_spec,
)

GRAPH = "a" * 64
ARRAY = {"kind": "array", "blob": "b" * 64, "dtype": "float32", "shape": [64, 10]}
FULL: dict[str, Any] = {
    "graph": GRAPH,
    "feeds": {"w": ARRAY, "x": {"kind": "dataset", "url": "data/digits.npz", "column": "x"}},
    "fetch": ["loss"],
    "cut": ["n"],
    "chunk": {"n": 65536},
    "carry": {"w": "w_next"},
    "steps": 200,
    "batch": {"n": 128},
    "shuffle": 7,
    "parts": 4,
    "checkpoint_every": 10,
    "backend": "numpy",
    "reproducible": False,
    "check_finite": True,
    "deadline": 3600,
    "retries": 5,
    "priority": -2,
    "name": "softmax",
    "key": "6f1c",
}


def with_feed(**feed: object) -> dict[str, Any]:
    return {"feeds": {"x": feed}}


def test_a_full_spec_is_read_and_written_back() -> None:
    spec = parse_spec(FULL)
    assert spec.feeds["w"] == ArrayFeed(blob="b" * 64, dtype="float32", shape=(64, 10))
    assert spec.feeds["x"] == DatasetFeed(url="data/digits.npz", column="x")
    assert spec.deadline == 3600.0
    assert parse_spec(json.dumps(spec.to_json())) == spec
    assert parse_spec(json.dumps(FULL).encode()) == spec


SNAPSHOT = {
    "dtype": "float64",
    "shape": [5, 2],
    "files": [{"url": "s3://bucket/a.npy", "size": 208, "tag": 'ETag "3f"', "rows": 5}],
}


def test_a_dataset_keeps_what_it_was_found_to_hold() -> None:
    fed = {"kind": "dataset", "url": "s3://bucket/*.npy", "column": ["a", "b"], "snapshot": SNAPSHOT}
    spec = parse_spec({"graph": GRAPH, **with_feed(**fed)})
    feed = spec.feeds["x"]
    assert isinstance(feed, DatasetFeed)
    file = FileState("s3://bucket/a.npy", 208, 'ETag "3f"', 5)
    assert feed.dataset() == Dataset("s3://bucket/*.npy", ("a", "b"), Snapshot("float64", (5, 2), (file,)))
    assert json.loads(json.dumps({"kind": "dataset", **feed.dataset().to_json()})) == fed
    assert parse_spec(json.dumps(spec.to_json())) == spec
    for broken in (
        {"files": []},
        {"dtype": "str"},
        {"shape": [-1]},
        {"files": [{**SNAPSHOT["files"][0], "tag": "a\n"}]},
    ):  # type: ignore[dict-item]
        with pytest.raises((SpecError, LimitError), match="snapshot"):
            parse_spec({"graph": GRAPH, **with_feed(**{**fed, "snapshot": {**SNAPSHOT, **broken}})})


def test_defaults() -> None:
    spec = parse_spec({"graph": GRAPH})
    assert spec == JobSpec(graph=GRAPH)
    assert (spec.steps, spec.retries, spec.backend, spec.reproducible) == (1, 3, "numpy", True)
    assert (spec.fetch, spec.cut, spec.chunk, spec.batch, spec.deadline) == (None,) * 5


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(parse_spec(FULL), "steps", 3)  # noqa: B010 - an assignment would not pass type checks


@pytest.mark.parametrize("dtype", ITEM_BYTES)
def test_bytes_of_an_array_agree_with_numpy(dtype: str) -> None:
    feed = parse_spec({"graph": GRAPH, **with_feed(**{**ARRAY, "dtype": dtype})}).feeds["x"]
    assert isinstance(feed, ArrayFeed)
    assert feed.nbytes == np.zeros((64, 10), dtype).nbytes


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"graph": None}, "in graph: input should be a valid string"),
        ({"graph": "A" * 64}, "in graph: a blob is named by its SHA-256 in 64 lower-case"),
        ({"colour": 1}, "in colour: there is no such field"),
        (with_feed(kind="pickle"), "in feeds.x: a feed needs kind 'array' or 'dataset'"),
        (with_feed(), "in feeds.x: a feed needs kind"),
        (with_feed(**{**ARRAY, "dtype": "object"}), "dtype: the dtype should be one of bool, int8"),
        (with_feed(**{**ARRAY, "shape": [-1]}), "shape.0: input should be greater than or equal to 0"),
        (with_feed(**{**ARRAY, "shape": [1.5]}), "shape.0: input should be a valid integer"),
        (with_feed(kind="dataset", url=""), "url: string should have at least 1 character"),
        (with_feed(kind="dataset"), "in feeds.x.dataset.url: this field is required"),
        ({"steps": 0}, "in steps: input should be greater than or equal to 1"),
        ({"steps": True}, "in steps: input should be a valid integer"),
        ({"steps": "7"}, "in steps: input should be a valid integer"),
        ({"retries": -1}, "in retries"),
        ({"deadline": 0}, "in deadline: input should be greater than 0"),
        ({"reproducible": 1}, "in reproducible: input should be a valid boolean"),
        ({"fetch": []}, "in fetch"),
        ({"cut": ["n", "m", "n"]}, "in cut: 'n' is listed more than once"),
        ({"cut": ["n"], "chunk": {"m": 3}}, "chunk gives a size for 'm', which cut does not list"),
        ({"chunk": {"n": 0}}, "in chunk.n"),
        ({"carry": {"w": "w2"}}, "carry names input 'w', which has no feed"),
        ({"name": "a\x00b"}, "in name"),
        ({"backend": "../numpy"}, "in backend"),
        ({"steps": 0, "retries": -1}, "; 1 more like it"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_spec({"graph": GRAPH, **fields})
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        with_feed(**{**ARRAY, "shape": [2**40, 2**40]}),
        with_feed(**{**ARRAY, "shape": [1] * 33}),
        with_feed(kind="dataset", url="u" * 5000),
        {"feeds": {f"x{i}": ARRAY for i in range(MAX_FEEDS + 1)}},
        {"fetch": [f"y{i}" for i in range(MAX_NAMES + 1)]},
        {"cut": [f"n{i}" for i in range(65)]},
        {"steps": 10**30},
        {"retries": 10**6},
        {"deadline": 1e300},
        {"name": "x" * 257},
        {"key": "x" * (MAX_SPEC_BYTES + 1)},
    ],
    ids=lambda fields: str(fields)[:40],
)
def test_everything_has_a_limit(fields: dict[str, Any]) -> None:
    with pytest.raises(LimitError):
        parse_spec({"graph": GRAPH, **fields})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"graph":' * 10_000,
        b'{"deadline":NaN}',
        "\ud800",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_text_that_is_no_spec(text: str | bytes) -> None:
    with pytest.raises(SpecError, match=r"the job's description is (wrong|not JSON)"):
        parse_spec(text)


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), b"x"])
def test_values_that_are_no_json(value: object) -> None:
    with pytest.raises(SpecError, match="is not JSON data"):
        parse_spec({"graph": GRAPH, "name": value})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(sorted(FULL)), json_values))
def test_any_json_is_a_spec_or_a_typed_error(fields: dict[str, Any]) -> None:
    try:
        spec = parse_spec({"graph": GRAPH, **fields})
    except (SpecError, LimitError):
        return
    assert parse_spec(spec.to_json()) == spec
