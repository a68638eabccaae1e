"""What travels over HTTP as JSON. Requests are bounded and strict; answers are described for OpenAPI."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from scheduler.job.spec import (
    MAX_DIMS,
    MAX_FEEDS,
    MAX_NAMES,
    MAX_RANK,
    BatchRows,
    Count,
    DatasetFeed,
    Digest,
    DimList,
    DTypeName,
    JobFields,
    Name,
    Seed,
    Size,
    Url,
)

MAX_WORKERS = 100_000


class _Request(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Submission(JobFields):
    """A job as it is asked for: rows of a batch by name, or a number; a seed, or whether to shuffle; passes, or steps."""

    batch: Count | BatchRows | None = None
    shuffle: Seed | Annotated[bool, Field(strict=True)] | Literal["in order"] = 0
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


class PlanRequest(_Request):
    """A plan that is asked for without running anything."""

    graph: Digest
    feeds: Annotated[
        dict[Name, Annotated[ShapeFeed | FileFeed, Field(discriminator="kind")]], Field(max_length=MAX_FEEDS)
    ] = {}
    cut: DimList | None = None
    chunk: Annotated[dict[Name, Count], Field(max_length=MAX_DIMS)] | None = None
    carry: Annotated[dict[Name, Name], Field(max_length=MAX_FEEDS)] = {}
    batch: Count | BatchRows | None = None
    shuffle: Seed | Annotated[bool, Field(strict=True)] | Literal["in order"] = 0
    parts: Count = 1
    workers: Annotated[int, Field(strict=True, ge=1, le=MAX_WORKERS)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.chunk or {}:
            if self.cut is not None and name not in self.cut:
                raise ValueError(f"chunk gives a size for {name!r}, which cut does not list; add it to cut")
        return self


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
