"""Jobs on real workers whose rows come from files: what is read, how often, and what happens when files change."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy as reference

import graphir as gi
from graphir.client import Client, Job, connect
from graphir.errors import DatasetError, JobCancelled, JobFailed, PlanError
from scheduler.driver import patience
from scheduler.driver.ray import RayPool
from scheduler.local import EmbeddedService
from tests.jobs import WAIT, bits, until
from tests.range_server import RangeServer, serving
from workers.data import open_source, web

pytestmark = pytest.mark.usefixtures("local_ray")
ROWS, WIDTH = 1200, 8
CHUNK = 100
LONG = 2_000


def graph() -> gi.Graph:
    """One step of least squares."""
    x, y, w = gi.input("x", ("n", WIDTH)), gi.input("y", ("n",)), gi.input("w", (WIDTH,))
    loss = gi.mean((x @ w - y) ** 2)
    (dw,) = gi.grad(loss, [w])
    return gi.Graph({"loss": loss, "w2": w - 0.01 * dw})


RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(ROWS, WIDTH)), RNG.normal(size=ROWS)
GRAPH = graph()


def submit(client: Client, x: Any, y: Any = Y, steps: int = 5, **options: Any) -> Job:
    feeds = {"x": x, "y": y, "w": np.zeros(WIDTH)}
    return client.submit(GRAPH, feeds, carry={"w": "w2"}, steps=steps, chunk={"n": CHUNK}, **options)


def step(client: Client, job: Job) -> int:
    return int(client.service.status(job.id)["step"])


def pids(client: Client) -> list[int]:
    assert isinstance(client.service, EmbeddedService)
    assert isinstance(client.service.pool, RayPool)
    return client.service.pool.pids()


@pytest.fixture(scope="module")
def client(local_ray: None) -> Iterator[Client]:
    with connect(workers=2) as connected:
        yield connected


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with serving() as running:
        yield running


def npy_bytes(path: Path, array: Any) -> bytes:
    np.save(path, array)
    return path.read_bytes()


def every_form(folder: Path, server: RangeServer) -> dict[str, gi.Dataset]:
    """The same rows in every format, whole and in pieces, here, through fsspec, and behind a web server."""
    names = [f"c{k}" for k in range(WIDTH)]
    columns = {name: X[:, k] for k, name in enumerate(names)}
    lists = pa.FixedSizeListArray.from_arrays(pa.array(X.reshape(-1)), WIDTH)
    np.save(folder / "a.npy", X)
    np.save(folder / "f.npy", np.asfortranarray(X).astype(">f8", order="F"))
    np.savez(folder / "a.npz", odd=X)
    np.savez_compressed(folder / "packed.npz", x=X)
    reference.save_file({"b": np.zeros(3, "u1"), "x": X}, folder / "a.safetensors")
    pq.write_table(pa.table({**columns, "v": lists}), folder / "a.parquet", row_group_size=170)
    for number, (begin, end) in enumerate([(0, 7), (7, 7), (7, 650), (650, 1130), (1130, ROWS)]):
        np.save(folder / f"part-{number + 8}.npy", X[begin:end])
        part = pa.table({name: column[begin:end] for name, column in columns.items()})
        pq.write_table(part, folder / f"part-{number + 8}.parquet", row_group_size=64)
    server.files["a.npy"] = (folder / "a.npy").read_bytes()
    server.files["a.parquet"] = (folder / "a.parquet").read_bytes()
    return {
        "npy": gi.dataset(folder / "a.npy"),
        "Fortran order, big-endian": gi.dataset(folder / "f.npy"),
        "npz": gi.dataset(folder / "a.npz", column="odd"),
        "compressed": gi.dataset(folder / "packed.npz", column="x"),
        "safetensors": gi.dataset(folder / "a.safetensors", column="x"),
        "parquet": gi.dataset(folder / "a.parquet", column=names),
        "parquet of lists": gi.dataset(folder / "a.parquet", column="v"),
        "pieces": gi.dataset(folder / "part-*.npy"),
        "pieces of parquet": gi.dataset(folder / "part-*.parquet", column=names),
        "fsspec": gi.dataset(f"local://{folder}/a.npy"),
        "fsspec, Fortran": gi.dataset(f"local://{folder}/f.npy"),
        "fsspec, compressed": gi.dataset(f"local://{folder}/packed.npz", column="x"),
        "web": gi.dataset(server.url("a.npy")),
        "web, parquet": gi.dataset(server.url("a.parquet"), column=names),
        "file URL": gi.dataset((folder / "a.npy").as_uri()),
    }


def test_bits_do_not_depend_on_where_rows_come_from(client: Client, tmp_path: Path, server: RangeServer) -> None:
    expected = bits(submit(client, X))
    jobs = {form: submit(client, known) for form, known in every_form(tmp_path, server).items()}
    assert {form: bits(job) == expected for form, job in jobs.items()} == dict.fromkeys(jobs, True)


def test_columns_that_are_cut_are_read_by_those_who_own_them(
    client: Client, tmp_path: Path, server: RangeServer
) -> None:
    """A dimension that products contract is cut, and it is the columns of a table: each goes out once."""
    names = [f"c{k}" for k in range(64)]
    wide = RNG.normal(size=(6000, 64))
    columns = {name: wide[:, k] for k, name in enumerate(names)}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet", use_dictionary=False, compression="none")
    server.files["a.parquet"] = (tmp_path / "a.parquet").read_bytes()
    a, b = gi.input("a", ("n", "m")), gi.input("b", ("m", 3))
    product, right = gi.Graph({"p": a @ b}), RNG.normal(size=(64, 3))
    job = client.submit(product, {"a": gi.dataset(server.url("a.parquet"), column=names), "b": right}, cut=["m"])
    np.testing.assert_allclose(job.result(WAIT)["p"], wide @ right, rtol=1e-9, atol=1e-12)
    assert wide.nbytes <= sum(end - begin for _, begin, end in server.served) < 1.5 * len(server.files["a.parquet"])


def test_a_job_tells_what_it_read(client: Client, tmp_path: Path, server: RangeServer) -> None:
    np.save(tmp_path / "y.npy", Y)
    server.files["a.npy"] = npy_bytes(tmp_path / "a.npy", X)
    job = submit(client, gi.dataset(server.url("a.npy")), gi.dataset(tmp_path / "y.npy"), steps=1)
    found = job.feeds()
    assert found["w"]["kind"] == "array"
    snapshot = found["x"]["snapshot"]
    assert (snapshot["dtype"], snapshot["shape"]) == ("float64", [ROWS, WIDTH])
    (file,) = snapshot["files"]
    assert (file["url"], file["size"], file["rows"]) == (server.url("a.npy"), len(server.files["a.npy"]), ROWS)
    assert file["tag"].startswith("ETag ")
    assert found["y"]["snapshot"]["files"][0]["url"] == str(tmp_path / "y.npy")
    job.result(WAIT)


def test_chunks_are_read_once_and_again_only_by_a_new_worker(
    client: Client, tmp_path: Path, server: RangeServer
) -> None:
    """Of x, 76,800 bytes in 12 chunks, the server sees each byte go out once, whatever the number of iterations."""
    content = server.files["a.npy"] = npy_bytes(tmp_path / "a.npy", X)
    begin = len(content) - X.nbytes

    def chunks() -> list[int]:
        """The numbers of the chunks that went out; what else went out are headers."""
        size = CHUNK * WIDTH * 8
        data = [(first, last) for _, first, last in server.served if last - first == size]
        assert all((first - begin) % size == 0 for first, _ in data)
        return sorted((first - begin) // size for first, _ in data)

    job = submit(client, gi.dataset(server.url("a.npy")), steps=LONG)
    until(lambda: step(client, job) > 20)
    assert chunks() == list(range(12))
    server.served.clear()
    before = pids(client)
    os.kill(before[1], signal.SIGKILL)
    expected = bits(submit(client, X, steps=LONG))
    assert bits(job) == expected
    assert chunks() == list(range(6, 12))
    assert pids(client) != before


@pytest.mark.parametrize("refused", [2, 4])
def test_storage_that_does_not_answer_for_a_while(
    client: Client, tmp_path: Path, server: RangeServer, refused: int
) -> None:
    """Each refusal is an attempt; after the last one that the job may make, it fails with what the storage said."""
    server.files["a.npy"] = npy_bytes(tmp_path / "a.npy", X)
    server.fail_large = refused
    with connect(workers=0) as inline:
        job = submit(inline, gi.dataset(server.url("a.npy")), steps=3, retries=3)
        if refused > 3:
            message = failure(job)
            assert "failed 4 times in a row; the last time: DatasetUnavailable: dataset" in message
            assert "503" in message
        else:
            assert bits(job) == bits(submit(client, X, steps=3))
        failed = [event for event in inline.service.events(job.id) if event["type"] == "task_failed"]
    assert [event["error"] for event in failed] == ["DatasetUnavailable"] * refused


def test_storage_that_falls_silent_is_given_up_and_asked_again(
    client: Client, tmp_path: Path, server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the first read of a job on one worker, whose duration nobody can know."""
    monkeypatch.setattr(web, "SILENT_SECONDS", 1.0)
    server.files["a.npy"] = npy_bytes(tmp_path / "a.npy", X)
    server.stall_large = 1
    with connect(workers=0) as inline:
        job = submit(inline, gi.dataset(server.url("a.npy")), steps=3, retries=20)
        assert bits(job) == bits(submit(client, X, steps=3))
        failed = [event for event in inline.service.events(job.id) if event["type"] == "task_failed"]
    assert server.stall_large == 0
    assert {event["error"] for event in failed} == {"DatasetUnavailable"}


@pytest.mark.slow
def test_storage_that_is_slow_but_gets_on_is_waited_for(
    tmp_path: Path, server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "SILENT_SECONDS", 5.0)
    server.files["a.npy"] = npy_bytes(tmp_path / "a.npy", X)
    server.trickle = 0.3
    assert np.array_equal(open_source(gi.dataset(server.url("a.npy"))).read(0, len(X)), X)


def test_what_fails_again_waits_before_the_next_attempt_and_may_be_cancelled_meanwhile(
    tmp_path: Path, server: RangeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "AGAIN_SECONDS", 3600.0)
    monkeypatch.setattr(patience, "AGAIN_MOST", 3600.0)
    server.files["a.npy"] = npy_bytes(tmp_path / "a.npy", X)
    server.fail_large = 10**6
    with connect(workers=0) as inline:
        job = submit(inline, gi.dataset(server.url("a.npy")), steps=3, retries=3)
        until(lambda: inline.service.record(job.id).job.failures == 2)
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result(WAIT)
        assert [event["type"] for event in inline.service.events(job.id)].count("task_failed") == 2


def failure(job: Job) -> str:
    with pytest.raises(JobFailed) as caught:
        job.result(WAIT)
    return str(caught.value)


# ------------------------------------------------------------------------------------- files that change


def test_a_file_replaced_while_a_job_runs_fails_it_clearly(client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", X)
    job = submit(client, gi.dataset(tmp_path / "a.npy"), steps=10**6)
    until(lambda: step(client, job) > 20)
    np.save(tmp_path / "new.npy", X + 1)
    os.replace(tmp_path / "new.npy", tmp_path / "a.npy")
    message = failure(job)
    assert f"dataset '{tmp_path}/a.npy': has changed since it was first looked at: expected" in message
    events = [event["type"] for event in client.service.events(job.id)]
    assert events.count("task_failed") == 1  # it was not tried again
    assert bits(submit(client, gi.dataset(tmp_path / "a.npy"))) == bits(submit(client, X + 1))


def test_a_file_cut_short_while_a_job_runs_fails_it_clearly(client: Client, tmp_path: Path) -> None:
    """Views of the mapping may then end a worker's process; the one in its place says what happened."""
    np.save(tmp_path / "a.npy", X)
    job = submit(client, gi.dataset(tmp_path / "a.npy"), steps=10**6)
    until(lambda: step(client, job) > 20)
    os.truncate(tmp_path / "a.npy", 4096)
    message = failure(job)
    assert "has changed since it was first looked at" in message
    assert "found 4096 bytes" in message
    assert len(bits(submit(client, X))) == 2  # the pool goes on


def test_an_etag_that_changes_before_a_retry_fails_the_job(client: Client, tmp_path: Path, server: RangeServer) -> None:
    server.files["a.npy"] = npy_bytes(tmp_path / "a.npy", X)
    job = submit(client, gi.dataset(server.url("a.npy")), steps=10**6)
    until(lambda: step(client, job) > 20)
    server.files["a.npy"] = npy_bytes(tmp_path / "a.npy", X + 1)
    at = step(client, job)
    until(lambda: step(client, job) > at + 100)  # what was read does not change any more
    os.kill(pids(client)[0], signal.SIGKILL)
    message = failure(job)
    assert f"dataset '{server.url('a.npy')}': has changed since it was first looked at: expected" in message
    assert message.count('ETag "') >= 2


def test_a_file_that_changes_while_no_service_runs(tmp_path: Path) -> None:
    """The job is taken up by another service on the same folder, which finds another file."""
    np.save(tmp_path / "a.npy", X)
    with connect(workers=0, directory=tmp_path / "jobs") as first:
        job = submit(first, gi.dataset(tmp_path / "a.npy"), steps=10**6)
        until(lambda: step(first, job) > 2)
    status = os.stat(tmp_path / "a.npy")
    np.save(tmp_path / "new.npy", X + 1)
    os.replace(tmp_path / "new.npy", tmp_path / "a.npy")
    os.utime(tmp_path / "a.npy", ns=(status.st_atime_ns, status.st_mtime_ns))
    with connect(workers=0, directory=tmp_path / "jobs") as second:
        message = failure(second.job(job.id))
    assert "has changed since it was first looked at" in message
    assert f"inode {status.st_ino}, found" in message


# ------------------------------------------------------------------------------------------- few rows


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_fewer_rows_than_chunks_or_workers(client: Client, tmp_path: Path, rows: int) -> None:
    np.save(tmp_path / "x.npy", X[:rows])
    feeds = {"x": gi.dataset(tmp_path / "x.npy"), "y": Y[:rows], "w": np.ones(WIDTH)}
    expected = np.mean((X[:rows] @ np.ones(WIDTH) - Y[:rows]) ** 2)
    for chunk in (None, {"n": 1}, {"n": rows + 7}):
        found = client.submit(GRAPH, feeds, chunk=chunk).result(WAIT)
        np.testing.assert_allclose(found["loss"], expected, rtol=1e-13)


def test_datasets_without_rows(client: Client, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X[:0])
    with pytest.raises(PlanError, match="has size 0: there is nothing to evaluate; feed at least one row"):
        client.submit(GRAPH, {"x": gi.dataset(tmp_path / "x.npy"), "y": Y[:0], "w": np.ones(WIDTH)})
    with pytest.raises(DatasetError, match="no file matches"):
        client.submit(GRAPH, {"x": gi.dataset(tmp_path / "none-*.npy"), "y": Y, "w": np.ones(WIDTH)})
    x = gi.input("x", ("n", WIDTH))
    total = client.submit(gi.Graph({"total": gi.sum(x)}), {"x": gi.dataset(tmp_path / "x.npy")}, cut=[]).result(WAIT)
    assert total["total"] == 0.0
