"""The peers of the distributed figures: bare processes, Dask, Ray tasks, Ray actors, PyTorch DDP; two workers of one thread.

All live at the same time and sleep while another is measured. One that is not installed is named in the tables as missing.
"""

from benchmarks.clusters import Dask, RayActors, RayTasks
from benchmarks.peer import Peer
from benchmarks.processes import Bare, Ddp

PEERS: tuple[type[Peer], ...] = (Bare, Dask, RayTasks, RayActors, Ddp)


def present() -> tuple[list[Peer], list[str]]:
    """The peers that are installed, and the names of the others."""
    found, missing = [], []
    for peer in PEERS:
        try:
            found.append(peer())
        except ImportError as error:
            missing.append(f"{peer.name} ({error})")
    return found, missing
