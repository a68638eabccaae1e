"""What a client may rely on, over the embedded service and over HTTP to a real process: the same tests for both.

The tests themselves are those of `test_service`, which has them run on Ray.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from graphir.client import Client, connect
from tests.served import serving
from tests.test_service import (  # noqa: F401  collected here too
    WAIT,
    bits,
    test_a_deadline_ends_a_job,
    test_cancel_ends_a_long_job,
    test_columns_of_different_length_are_refused,
    test_datasets_are_read_by_the_workers,
    test_each_step_publishes_its_numbers,
    test_fetch_selects_outputs_and_keeps_the_carried,
    test_map_gives_one_result_for_each_feed,
    test_progress_and_timeline,
    test_result_gives_up_after_its_timeout,
    test_the_job_is_cut,
    test_training_agrees_with_numpy,
    test_unreadable_datasets_are_refused,
    test_wrong_feeds_are_refused_at_submission,
    test_wrong_options_are_refused_at_submission,
    train,
)


@pytest.fixture(scope="module", params=["embedded", "http"])
def client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with ExitStack() as stack:
        if request.param == "embedded":
            yield stack.enter_context(connect(workers=0))
        else:
            base = tmp_path_factory.getbasetemp()
            served = stack.enter_context(serving(base / "served", "--workers", 0, "--allow-data", base))
            yield stack.enter_context(connect(served.url))


@pytest.fixture(scope="module")
def reference() -> dict[str, bytes]:
    with connect(workers=0) as inline:
        return bits(train(inline).result(WAIT))


def test_a_key_gives_the_same_job_again(client: Client) -> None:
    first, again = (train(client, key="once") for _ in range(2))
    assert first.id == again.id
    first.result(WAIT)
    with pytest.raises(Exception, match="once"):
        train(client, key="once", steps=3)


def test_jobs_are_found_again(client: Client, tmp_path: Path) -> None:
    job = train(client, steps=2, name="found")
    job.result(WAIT)
    assert client.jobs()[0].id == job.id
    assert client.job(job.id).status == "succeeded"
    assert job.plan().to_text() == client.job(job.id).plan().to_text()
    assert job.feeds().keys() == {"x", "t", "w", "b"}
    with pytest.raises(Exception, match="no job"):
        client.job("nothing")
