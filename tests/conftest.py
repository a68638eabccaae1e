"""One Ray, one PostgreSQL and one browser for all tests that need them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.postgres import Postgres, running

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SLOW_MACHINES = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("exploring", SLOW_MACHINES)
settings.register_profile("repeatable", SLOW_MACHINES, derandomize=True)
settings.load_profile("repeatable")  # one commit has one result; `make test-all` looks elsewhere each time


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A small local Ray; pools of the tests join it."""
    import ray

    ray.init(
        address="local",
        num_cpus=6,
        object_store_memory=200 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="error",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; each test makes databases of its own."""
    with running() as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """One Chromium for a file's tests: as long as it is open, this thread counts as one that runs an event loop."""
    from tests.browser import started

    with started() as found:
        yield found


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/state/jobs.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """A database that is not there yet, or empty: the same tests for both kinds."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite"))
    return request.getfixturevalue("postgres").fresh()


def _shares_ray(item: pytest.Item) -> bool:
    return "local_ray" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share one Ray go to one process, and begin first; of the others, those of a file go to one process."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group("local_ray" if _shares_ray(item) else item.path.stem))
    items.sort(key=_shares_ray, reverse=True)
