"""What a client submits: the graph by digest, its feeds, and how to run it.

A `JobSpec` is plain immutable data that came from outside, so everything in it is bounded and unknown
fields are refused. The bytes of the graph and of array feeds are not here: they are blobs, named by
their SHA-256. `parse_spec` is the only door for JSON; it raises `SpecError` or `LimitError`, each with
one sentence that names the field. Whether the graph exists and has these inputs is checked later, by
those who hold the graph.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from graphir.dataset import Dataset
from graphir.errors import GraphError, LimitError

MAX_SPEC_BYTES = 8 * 2**20
MAX_FEEDS = 4096
MAX_NAMES = 4096
MAX_DIMS = 64
MAX_RANK = 32
MAX_FILES = 10_000
MAX_STEPS = 10**9
MAX_RETRIES = 1000
MAX_SIZE = 2**48
MAX_FEED_BYTES = 2**40
MAX_DEADLINE = 366 * 24 * 3600.0
MAX_SEED = 2**64 - 1
MAX_PRIORITY = 10
IN_ORDER = "in order"
"""The shuffle that is none."""

ITEM_BYTES: Mapping[str, int] = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "int32": 4, "uint32": 4,
    "float32": 4, "int64": 8, "uint64": 8, "float64": 8,
}  # fmt: skip
_LIMIT_ERRORS = frozenset({"too_long", "string_too_long", "less_than_equal"})


class SpecError(GraphError):
    """A submitted job is not described correctly."""


class _OverLimit(ValueError):
    """Becomes a LimitError."""


def _known_dtype(name: str) -> str:
    if name not in ITEM_BYTES:
        raise ValueError(f"the dtype should be one of {', '.join(ITEM_BYTES)}")
    return name


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        name, _ = Counter(names).most_common(1)[0]
        raise ValueError(f"{name!r} is listed more than once")
    return names


_TEXT = r"^[^\x00-\x1f\x7f]+$"
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=_TEXT)]
Url = Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=_TEXT)]
DTypeName = Annotated[str, StringConstraints(max_length=16), AfterValidator(_known_dtype)]
Count = Annotated[int, Field(strict=True, ge=1, le=MAX_SIZE)]
Size = Annotated[int, Field(strict=True, ge=0, le=MAX_SIZE)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=MAX_DEADLINE, allow_inf_nan=False)]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ArrayFeed(_Model):
    """An array that was uploaded as a blob: its elements in C order, little-endian."""

    kind: Literal["array"] = "array"
    blob: Digest
    dtype: DTypeName
    shape: Annotated[tuple[Size, ...], Field(max_length=MAX_RANK)] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the blob, as dtype and shape say."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.nbytes > MAX_FEED_BYTES:
            raise _OverLimit(f"the array has {self.nbytes} bytes, the limit is {MAX_FEED_BYTES}")
        return self


class FileFacts(_Model):
    """One file of a dataset as it was found at submission."""

    url: Url
    size: Size
    tag: Annotated[str, StringConstraints(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")]
    rows: Size


class SnapshotFacts(_Model):
    """What a dataset was found to hold at submission."""

    dtype: DTypeName
    shape: Annotated[tuple[Size, ...], Field(max_length=MAX_RANK)]
    files: Annotated[tuple[FileFacts, ...], Field(min_length=1, max_length=MAX_FILES)]


class DatasetFeed(_Model):
    """Data that the workers read themselves: files by URL, and a column or member, or columns, where they have several."""

    kind: Literal["dataset"] = "dataset"
    url: Url
    column: Name | Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_NAMES)] | None = None
    snapshot: SnapshotFacts | None = None

    def dataset(self) -> Dataset:
        """The dataset that this describes."""
        return Dataset.from_json(self.model_dump(mode="json", exclude={"kind"}))


Feed = Annotated[ArrayFeed | DatasetFeed, Field(discriminator="kind")]
NameList = Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_NAMES), AfterValidator(_distinct)]
DimList = Annotated[tuple[Name, ...], Field(max_length=MAX_DIMS), AfterValidator(_distinct)]

BatchRows = Annotated[dict[Name, Count], Field(min_length=1, max_length=1)]
Seed = Annotated[int, Field(strict=True, ge=0, le=MAX_SEED)]
M = TypeVar("M", bound=BaseModel)


class PlanFields(_Model):
    """What the plan of a graph depends on. `None` means that the service decides, from the graph and the data alone.

    `cut=()` forbids cutting. `carry` feeds an output (value) back as an input (name) in the next step.
    """

    graph: Digest
    cut: DimList | None = None
    chunk: Annotated[dict[Name, Count], Field(max_length=MAX_DIMS)] | None = None
    carry: Annotated[dict[Name, Name], Field(max_length=MAX_FEEDS)] = {}
    parts: Count = 1

    @model_validator(mode="after")
    def _chunks_are_cut(self) -> Self:
        for name in self.chunk or {}:
            if self.cut is not None and name not in self.cut:
                raise ValueError(f"chunk gives a size for {name!r}, which cut does not list; add it to cut")
        return self


class JobFields(PlanFields):
    """What a job is asked to be. `deadline` counts seconds from submission. `key` makes submission idempotent.

    fresh: it runs even where the result of the same work is known.
    """

    feeds: Annotated[dict[Name, Feed], Field(max_length=MAX_FEEDS)] = {}
    fetch: NameList | None = None
    steps: Annotated[int, Field(strict=True, ge=1, le=MAX_STEPS)] = 1
    checkpoint_every: Annotated[int, Field(strict=True, ge=1, le=MAX_STEPS)] | None = None
    backend: Annotated[str, StringConstraints(max_length=64, pattern=r"^[a-z][a-z0-9_.-]*$")] = "numpy"
    reproducible: Annotated[bool, Field(strict=True)] = True
    check_finite: Annotated[bool, Field(strict=True)] = False
    deadline: Seconds | None = None
    retries: Annotated[int, Field(strict=True, ge=0, le=MAX_RETRIES)] = 3
    priority: Annotated[int, Field(strict=True, ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    fresh: Annotated[bool, Field(strict=True)] = False
    name: Name | None = None
    key: Name | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.carry:
            if name not in self.feeds:
                raise ValueError(f"carry names input {name!r}, which has no feed for the first step; add one")
        return self


class JobSpec(JobFields):
    """One job. `batch`: rows of one dimension in each step, chosen by the seed `shuffle`, or in order, equally many from
    each of `parts` of the data.
    """

    batch: BatchRows | None = None
    shuffle: Seed | Literal["in order"] = 0

    def to_json(self) -> dict[str, Any]:
        """The spec as JSON data; `parse_spec` reads it back."""
        return self.model_dump(mode="json")


def parse_spec(source: str | bytes | Mapping[str, Any]) -> JobSpec:
    """The spec in JSON text or JSON-like data, or a typed error that names the wrong field."""
    return parse(source, JobSpec)


def parse(source: str | bytes | Mapping[str, Any], model: type[M]) -> M:
    """A description in JSON text or JSON-like data, or a typed error that names the wrong field."""
    try:
        text = source if isinstance(source, str | bytes) else json.dumps(dict(source), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError(f"the job's description is not JSON data: {error}; use plain values only") from None
    if len(text) > MAX_SPEC_BYTES:
        raise LimitError(
            f"the job's description has {len(text)} bytes, the limit is {MAX_SPEC_BYTES}; "
            "put data into blobs, not into the description"
        )
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise _typed(error.errors(include_url=False), error.error_count()) from None


def _typed(details: Sequence[Mapping[str, Any]], count: int) -> GraphError:
    first = details[0]
    where = ".".join(str(part) for part in first["loc"])
    place = f" in {where[:300]}" if where else ""
    value = f" (got {_short(first['input'])})" if where and first["type"] != "missing" else ""
    more = f"; {count - 1} more like it" if count > 1 else ""
    message = f"the job's description is wrong{place}: {_sentence(first)}{value}{more}"
    over = first["type"] in _LIMIT_ERRORS or isinstance(first.get("ctx", {}).get("error"), _OverLimit)
    return LimitError(message) if over else SpecError(message)


def _sentence(detail: Mapping[str, Any]) -> str:
    message = str(detail["msg"])
    match detail["type"]:
        case "missing":
            return "this field is required"
        case "extra_forbidden":
            return "there is no such field"
        case "union_tag_invalid" | "union_tag_not_found":
            return "a feed needs kind 'array' or 'dataset'"
        case "string_pattern_mismatch" if "[0-9a-f]{64}" in message:
            return "a blob is named by its SHA-256 in 64 lower-case hexadecimal digits"
        case "value_error":
            return str(detail["ctx"]["error"])
        case _:
            return message[:1].lower() + message[1:]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
