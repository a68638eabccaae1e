"""What travels over HTTP as JSON. Requests are bounded and strict; answers are described for OpenAPI."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from scheduler.job.spec import (
    MAX_FEEDS,
    MAX_NAMES,
    MAX_RANK,
    BatchRows,
    Count,
    DatasetFeed,
    Digest,
    DTypeName,
    JobFields,
    Name,
    PlanFields,
    Seed,
    Size,
    Url,
)
from scheduler.job.store import SMALL_BYTES

MAX_WORKERS = 100_000
MAX_VALUE = 4 * (SMALL_BYTES + 2) // 3
"""Characters of a small value in base 64."""


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


Batch: TypeAlias = Count | BatchRows | None
"""Rows of a batch by name, or a number."""
Shuffle: TypeAlias = Seed | Annotated[bool, Field(strict=True)] | Literal["in order"]
"""A seed, or whether to shuffle."""


class Submission(JobFields):
    """A job as it is asked for; passes, or steps. `values`: graph and arrays of little size by digest, which need no blobs then."""

    values: dict[Digest, Annotated[str, StringConstraints(max_length=MAX_VALUE)]] = Field(
        default_factory=dict, max_length=MAX_FEEDS
    )
    batch: Batch = None
    shuffle: Shuffle = 0
    epochs: Count | None = None


class ShapeFeed(_Request):
    """An array of which only the shape is told."""

    kind: Literal["shape"]
    dtype: DTypeName
    shape: Annotated[tuple[Size, ...], Field(max_length=MAX_RANK)] = ()


class FileFeed(_Request):
    """Data that the workers read."""

    kind: Literal["dataset"]
    url: Url
    column: Name | Annotated[tuple[Name, ...], Field(min_length=1, max_length=MAX_NAMES)] | None = None

    def dataset(self) -> DatasetFeed:
        """The same as a job has it."""
        return DatasetFeed(url=self.url, column=self.column)


class PlanRequest(PlanFields):
    """A plan that is asked for without running anything."""

    feeds: dict[Name, Annotated[ShapeFeed | FileFeed, Field(discriminator="kind")]] = Field(
        default_factory=dict, max_length=MAX_FEEDS
    )
    batch: Batch = None
    shuffle: Shuffle = 0
    workers: Annotated[int, Field(strict=True, ge=1, le=MAX_WORKERS)] | None = None


class Accepted(BaseModel):
    """A job was accepted."""

    id: str


class JobView(BaseModel):
    """Where a job is."""

    id: str
    name: str | None
    status: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    step: int
    steps: int
    workers: int
    asked: int
    fingerprint: str | None
    created: float
    updated: float
    error: dict[str, Any] | None


class JobList(BaseModel):
    """Jobs, the latest first; `next` is the `before` of the page that follows."""

    jobs: list[JobView]
    next: str | None


class EventList(BaseModel):
    """Events with their numbers, `seq`."""

    events: list[dict[str, Any]]


class PlanView(BaseModel):
    """How a job is cut, explained."""

    text: str
    svg: str
    stages: int
    chunks: int
    borders: dict[str, list[int]]
    sizes: dict[str, int]
    notes: list[str]
    outlook: list[str]


class Health(BaseModel):
    """Whether the service works."""

    status: Literal["ok"]


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    kinds: list[str]
