"""What one user may have of a service."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """jobs that have not ended, bytes of blobs, and of one, nodes of a graph. data: where datasets may be read."""

    jobs: int = 10_000
    bytes: int = 1 << 38
    blob_bytes: int = 1 << 36
    graph_nodes: int = 2_000_000
    data: tuple[str, ...] = ()
