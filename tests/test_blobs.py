"""Blobs: named by content, whole or absent, and never handed out when damaged."""

import hashlib
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphir.errors import FormatError, LimitError
from scheduler.job.blobs import BlobCorrupt, BlobMismatch, BlobMissing, Blobs, BlobWriteFailed

ROOT = Path(__file__).parents[1]


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def left_behind(blobs: Blobs) -> list[Path]:
    return list((blobs.root / "incoming").iterdir())


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_put_and_get(blobs: Blobs, tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(3 << 20)
    source = tmp_path / "source"
    source.write_bytes(data)
    assert blobs.put(data) == sha256(data)
    assert blobs.put(memoryview(data)) == blobs.put(source) == sha256(data)
    assert blobs.get(sha256(data)) == data
    assert blobs.path(sha256(data)).read_bytes() == data
    assert blobs.size(sha256(data)) == len(data)
    assert blobs.has(sha256(data))
    assert left_behind(blobs) == []


@given(chunks=st.lists(st.binary(max_size=50), max_size=6))
@settings(max_examples=30, deadline=None)
def test_streams_of_any_cut(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    blobs = Blobs(tmp_path_factory.mktemp("blobs"))
    digest = blobs.put_stream(iter(chunks))
    assert digest == sha256(b"".join(chunks))
    assert blobs.get(digest) == bytes(blobs.view(digest)) == b"".join(chunks)


def test_arrays_go_in_and_come_out_as_a_read_only_view(blobs: Blobs) -> None:
    array = np.arange(1000.0).reshape(10, 100)
    view = blobs.view(blobs.put(array.data))
    back = np.frombuffer(view, array.dtype).reshape(array.shape)
    np.testing.assert_array_equal(back, array)
    assert view.readonly
    assert not back.flags.writeable


def test_what_is_not_there(blobs: Blobs) -> None:
    digest = sha256(b"never stored")
    assert not blobs.has(digest)
    for read in (blobs.get, blobs.path, blobs.view, blobs.size):
        with pytest.raises(BlobMissing, match=digest):
            read(digest)


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63, "a" * 64 + "\n", "/" + "a" * 63])
def test_only_digests_name_blobs(blobs: Blobs, name: str) -> None:
    for use in (blobs.get, blobs.path, blobs.view, blobs.size, blobs.has):
        with pytest.raises(FormatError, match="64 lower-case hex digits"):
            use(name)
    with pytest.raises(FormatError):
        blobs.put_stream([b"x"], expect=name)


def test_damage_is_found_named_and_repaired(tmp_path: Path) -> None:
    data = b"x" * 100_000
    path = Blobs(tmp_path).path(Blobs(tmp_path).put(data))
    damage(path)
    blobs = Blobs(tmp_path)
    for read in (blobs.get, blobs.path, blobs.view):
        with pytest.raises(BlobCorrupt) as caught:
            read(sha256(data))
        assert sha256(data) in str(caught.value)
        assert str(path) in str(caught.value)
    assert blobs.put(data) == sha256(data)
    assert blobs.get(sha256(data)) == bytes(blobs.view(sha256(data))) == data


def test_damage_after_a_first_good_read_is_found(blobs: Blobs) -> None:
    digest = blobs.put(b"y" * 100_000)
    damage(blobs.path(digest))
    with pytest.raises(BlobCorrupt):
        blobs.view(digest)


def test_a_shortened_blob_is_found(blobs: Blobs) -> None:
    digest = blobs.put(b"z" * 100)
    path = blobs.path(digest)
    path.chmod(0o644)
    os.truncate(path, 0)
    with pytest.raises(BlobCorrupt):
        blobs.view(digest)


def test_refused_streams_leave_nothing(blobs: Blobs) -> None:
    with pytest.raises(BlobMismatch, match=sha256(b"other")):
        blobs.put_stream([b"some", b"thing"], expect=sha256(b"other"))
    with pytest.raises(LimitError, match="more than 8 bytes"):
        blobs.put_stream([b"some", b"thing"], limit=8)

    def broken() -> Iterator[bytes]:
        yield b"some"
        raise ConnectionResetError("peer went away")

    with pytest.raises(ConnectionResetError):
        blobs.put_stream(broken())
    assert left_behind(blobs) == []
    assert not blobs.has(sha256(b"something"))
    assert blobs.put_stream([b"some", b"thing"], expect=sha256(b"something"), limit=9) == sha256(b"something")


def test_many_writers_of_one_blob(blobs: Blobs) -> None:
    data = np.random.default_rng(1).bytes(1 << 20)
    barrier = threading.Barrier(8)

    def write(_: int) -> str:
        barrier.wait()
        return blobs.put_stream([data[:1000], data[1000:]])

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(write, range(8))) == {sha256(data)}
    assert blobs.get(sha256(data)) == data
    assert left_behind(blobs) == []


def test_a_killed_writer_leaves_no_blob_and_its_rest_is_swept(blobs: Blobs) -> None:
    program = (
        "import sys\n"
        "from scheduler.job.blobs import Blobs\n"
        "def chunks():\n"
        "    yield b'half'\n"
        "    print('written', flush=True)\n"
        "    sys.stdin.read()\n"
        "Blobs(sys.argv[1]).put_stream(chunks())\n"
    )
    command = [sys.executable, "-c", program, str(blobs.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"written\n"
        writer.send_signal(signal.SIGKILL)
    assert not blobs.has(sha256(b"half"))
    (rest,) = left_behind(blobs)
    assert rest.read_bytes() == b"half"
    written = rest.stat().st_mtime
    assert blobs.sweep(before=written) == 0
    assert blobs.sweep(before=written + 1) == 1
    assert left_behind(blobs) == []


def test_a_full_disk_is_a_typed_error_and_leaves_nothing(blobs: Blobs) -> None:
    program = (
        "import resource, signal, sys\n"
        "from scheduler.job.blobs import Blobs, BlobWriteFailed\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "blobs = Blobs(sys.argv[1])\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))\n"
        "try:\n"
        "    blobs.put(b'x' * 5000)\n"
        "except BlobWriteFailed as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", program, str(blobs.root)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert f"cannot write a blob under {blobs.root}" in done.stdout
    assert left_behind(blobs) == []


def test_a_root_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BlobWriteFailed, match="check space and permissions"):
        Blobs(tmp_path / "file" / "blobs")
