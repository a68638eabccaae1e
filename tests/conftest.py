"""One Ray for all tests that need it."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shared-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared-machine")


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
