"""Files behind a web server and an S3-compatible one: only the bytes of the rows wanted, and errors that say what to do."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy as reference
from moto.server import ThreadedMotoServer

import graphir as gi
from graphir.dataset import Dataset
from graphir.errors import DatasetError, DatasetUnavailable
from tests.range_server import RangeServer, serving
from workers.data import open_source, remote, take

Array = np.ndarray[Any, Any]
X = np.arange(1 << 15, dtype="f8").reshape(-1, 8)
WIDTH = 8 * 8


def npy(array: Array) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(array: Array, *, packed: bool) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, other=np.zeros(9000), x=array)
    return buffer.getvalue()


def parquet(array: Array) -> bytes:
    buffer = io.BytesIO()
    columns = {f"c{k}": array[:, k] for k in range(8)}
    pq.write_table(pa.table(columns), buffer, row_group_size=512, compression="none", use_dictionary=False)
    return buffer.getvalue()


COLUMNS = {"a.parquet": tuple(f"c{k}" for k in range(8)), "a.npy": None}
CONTENTS = {
    "a.npy": npy(X),
    "a.npz": npz(X, packed=False),
    "packed.npz": npz(X, packed=True),
    "a.safetensors": reference.save({"other": np.zeros(9000), "x": X}),
    "a.parquet": parquet(X),
}


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with serving() as running:
        running.files |= CONTENTS
        yield running


def known(server: RangeServer, name: str) -> Dataset:
    return Dataset(server.url(name), COLUMNS.get(name, "x"))


@pytest.mark.parametrize("name", CONTENTS)
def test_rows_over_the_web(server: RangeServer, name: str) -> None:
    source = open_source(take(known(server, name)))
    for start, stop in ((0, 10), (700, 1400), (4000, 4096), (9, 9)):
        assert source.read(start, stop).tobytes() == X[start:stop].tobytes()
    assert source.whole().tobytes() == X.tobytes()


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.safetensors"])
def test_only_the_bytes_of_the_rows_are_fetched(server: RangeServer, name: str) -> None:
    taken = take(known(server, name))
    assert sum(end - begin for _, begin, end in server.served) < 40_000  # headers and directories
    source = open_source(taken)
    source.read(0, 1)
    server.served.clear()
    source.read(1000, 1500)
    ((_, begin, end),) = server.served
    assert end - begin == 500 * WIDTH
    assert server.files[name][begin:end] == X[1000:1500].tobytes()


def test_only_the_row_groups_and_columns_of_the_rows_are_fetched(server: RangeServer) -> None:
    taken = take(Dataset(server.url("a.parquet"), "c3"))
    assert sum(end - begin for _, begin, end in server.served) <= 1 << 16  # the footer, and nothing twice
    source = open_source(taken)
    source.read(0, 1)
    server.served.clear()
    assert source.read(1024, 2048).tobytes() == X[1024:2048, 3].tobytes()
    fetched = sum(end - begin for _, begin, end in server.served)
    assert 1024 * 8 <= fetched < 1024 * 8 * 2


def test_a_large_range_comes_in_parts(server: RangeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PART", 10_000)
    source = open_source(known(server, "a.npy"))
    source.read(0, 1)
    server.served.clear()
    assert source.read(5, 4000).tobytes() == X[5:4000].tobytes()
    assert len(server.served) == -(-3995 * WIDTH // 10_000)
    assert sum(end - begin for _, begin, end in server.served) == 3995 * WIDTH


def test_fortran_order_is_fetched_once_as_a_whole(server: RangeServer) -> None:
    server.files["f.npy"] = npy(np.asfortranarray(X))
    source = open_source(Dataset(server.url("f.npy")))
    assert source.read(0, 0).shape == (0, 8)
    source._file(0)
    server.served.clear()
    for start in range(0, 4096, 512):
        rows = source.read(start, start + 512)
        assert rows.tobytes() == X[start : start + 512].tobytes()
        assert rows.flags.c_contiguous
    assert sum(end - begin for _, begin, end in server.served) == X.nbytes


def test_the_etag_is_the_identity(server: RangeServer) -> None:
    taken = take(known(server, "a.npy"))
    assert taken.snapshot is not None
    (found,) = taken.snapshot.files
    assert found.tag.startswith('ETag "')
    assert found.size == len(CONTENTS["a.npy"])
    source = open_source(taken)
    source.read(0, 3)
    server.files["a.npy"] = npy(X + 1)
    for attempt in (lambda: source.read(5, 9), lambda: open_source(taken).read(0, 1)):
        with pytest.raises(DatasetError, match=r'has changed .*: expected \d+ bytes, ETag ".*found \d+ bytes, ETag "'):
            attempt()
    del server.files["a.npy"]
    with pytest.raises(DatasetError, match="no such file"):
        open_source(taken).read(0, 1)


def test_without_an_etag_the_size_must_do(server: RangeServer) -> None:
    server.etags = False
    taken = take(known(server, "a.npy"))
    assert taken.snapshot is not None
    assert taken.snapshot.files[0].tag == ""
    server.files["a.npy"] = npy(X[:-1])
    with pytest.raises(DatasetError, match="expected 262272 bytes, no tag, found 262208 bytes, no tag"):
        open_source(taken).read(0, 1)


def test_what_servers_refuse(server: RangeServer) -> None:
    source = open_source(known(server, "a.npy"))
    source.read(0, 1)
    server.fail = 1
    with pytest.raises(DatasetUnavailable, match="its storage does not answer .*503"):
        source.read(500, 900)
    server.fail = 2
    with pytest.raises(DatasetUnavailable, match="its storage does not answer"):
        open_source(known(server, "a.npy"))
    with pytest.raises(DatasetError, match="no such file") as caught:
        open_source(Dataset(server.url("none.npy")))
    assert not isinstance(caught.value, DatasetUnavailable)
    server.ranges = False
    with pytest.raises(DatasetError, match="its server does not answer range requests"):
        source.read(500, 900)
    with pytest.raises(DatasetUnavailable, match="check address, network"):
        open_source(Dataset("http://127.0.0.1:9/a.npy"))


def test_a_web_address_may_have_a_query(server: RangeServer) -> None:
    source = open_source(Dataset(server.url("a.npy") + "?version=3"))
    assert source.read(4, 8).tobytes() == X[4:8].tobytes()


# ---------------------------------------------------------------------------------------------- S3


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """A server that answers like S3, with parts of X; what is set for those who read from it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "something",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        yield given
    finally:
        server.stop()


@pytest.fixture
def s3(bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    import s3fs

    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    fs.makedirs("bucket", exist_ok=True)
    for number in range(12):
        fs.pipe_file(f"bucket/x/part-{number}.npy", npy(X[number * 300 : (number + 1) * 300]))
    for name, content in CONTENTS.items():
        fs.pipe_file(f"bucket/{name}", content)
    return fs


def test_patterns_on_s3(s3: Any) -> None:
    taken = take(Dataset("s3://bucket/x/part-*.npy"))
    assert taken.snapshot is not None
    assert [file.url for file in taken.snapshot.files] == [f"s3://bucket/x/part-{k}.npy" for k in range(12)]
    assert all(file.tag.startswith("ETag ") for file in taken.snapshot.files)
    source = open_source(taken)
    assert source.read(250, 950).tobytes() == X[250:950].tobytes()
    s3.pipe_file("bucket/x/part-4.npy", npy(X[:300]))
    assert source.read(0, 1200).tobytes() == X[:1200].tobytes()
    with pytest.raises(DatasetError, match="file 's3://bucket/x/part-4.npy' has changed"):
        source.read(1199, 1201)


@pytest.mark.parametrize("name", CONTENTS)
def test_formats_on_s3(s3: Any, name: str) -> None:
    source = open_source(take(Dataset(f"s3://bucket/{name}", COLUMNS.get(name, "x"))))
    assert source.read(1000, 1700).tobytes() == X[1000:1700].tobytes()


def test_what_s3_refuses(s3: Any) -> None:
    for url, what in (("s3://bucket/none.npy", "no such file"), ("s3://nobody/none.npy", "NoSuchBucket")):
        with pytest.raises(DatasetError, match=what):
            open_source(Dataset(url))
    with pytest.raises(DatasetError, match="no file matches"):
        open_source(Dataset("s3://bucket/y/*.npy"))


@pytest.mark.slow
def test_workers_read_from_s3_for_the_command_line(s3: Any, bucket: dict[str, str], tmp_path: Path) -> None:
    x, y = gi.input("x", ("n", 8)), gi.input("y", ("n",))
    gi.Graph({"product": x.T @ y}).save(tmp_path / "g.gir")
    s3.pipe_file("bucket/all.parquet", parquet(X[:3600]))
    command = [
        sys.executable,
        "-c",
        "from scheduler.cli import main; main()",
        "run",
        "g.gir",
        "--workers",
        "2",
        "--json",
    ]
    feeds = ["--feed", "x=s3://bucket/x/*.npy", "--feed", "y=s3://bucket/all.parquet:c5"]
    done = subprocess.run(
        command + feeds, capture_output=True, text=True, cwd=tmp_path, env=os.environ | bucket, timeout=170, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout)["product"], X[:3600].T @ X[:3600, 5], rtol=1e-13)
