"""The mesh: workers send arrays to one another directly, without the driver or Ray in between.

One thread, no locks: `send` queues, `flush` writes what the sockets take, `receive` works on all sockets until the array it
waits for is there. On one machine peers talk over a Unix socket and large arrays lie in shared memory; otherwise TCP.
A message is a JSON header and raw bytes. A connection begins with a proof (HMAC, RFC 2104) that its maker knows the key
that the receiver gave to the driver; nothing is encrypted, so the network between machines must be one's own, as Ray's.
"""

import hashlib
import hmac
import json
import os
import secrets
import selectors
import socket
import struct
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from graphir import tensors
from graphir.node import Array
from workers.shared import Buffers, mapped

SHARED_BYTES = 1 << 16
"""Arrays from this size on go through shared memory where peers have one."""
MAX_HEADER = 1 << 20
CONNECT_SECONDS = 10.0
POLL_SECONDS = 0.05
"""How often a waiting worker looks whether its job was stopped."""
_HEAD = struct.Struct("<IQ")
Tag = tuple[Any, ...]


class PeerLost(Exception):
    """Another worker of the job cannot be reached any more; it is not this one's fault."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a worker listens. host: equal for processes that can share memory."""

    name: str
    host: str
    unix: str
    ip: str
    port: int
    key: bytes = field(repr=False)


@dataclass(eq=False)
class _Link:
    """One connection: what is to be written, and the message that is being read."""

    socket: socket.socket
    peer: str
    shares: bool
    trusted: bool
    out: deque[tuple[memoryview, list[int]]] = field(default_factory=deque)
    descriptors: deque[int] = field(default_factory=deque)
    maps: dict[int, Any] = field(default_factory=dict)
    done: list[int] = field(default_factory=list)
    lent: dict[int, int] = field(default_factory=dict)
    target: memoryview = field(default_factory=lambda: memoryview(bytearray(_HEAD.size)))
    filled: int = 0
    header: dict[str, Any] | None = None
    sizes: tuple[int, int] | None = None


class Mesh:
    """This worker's end of all connections."""

    def __init__(self, ip: str = "127.0.0.1") -> None:
        self._selector = selectors.DefaultSelector()
        self._buffers = Buffers()
        self._box: dict[Tag, Array] = {}
        self._open_links: list[_Link] = []
        self._links: dict[str, _Link] = {}
        self._broken: set[str] = set()
        self._ticket = self.moved = 0
        name = secrets.token_hex(16)
        unix, tcp = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_INET)
        unix.bind(f"\0gradfleet-{name}")
        tcp.bind((ip, 0))
        self._listeners = [unix, tcp]
        for listener in self._listeners:
            listener.listen(1024)
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ, None)
        self.address = Address(name, host(), f"\0gradfleet-{name}", ip, tcp.getsockname()[1], secrets.token_bytes(32))

    def begin(self, ticket: int) -> None:
        """Forget arrays of calls before this one, and who could not be reached; tags begin with their call's ticket."""
        self._ticket = ticket
        self._broken.clear()  # a link that was cut may have healed
        for tag in [tag for tag in self._box if tag[0] < ticket]:
            del self._box[tag]

    def send(self, peer: Address, tag: Tag, array: Array) -> None:
        """Queue an array for a peer; `flush` or `receive` writes it."""
        link = self._link(peer)
        array = np.ascontiguousarray(array).reshape(array.shape)
        header = {"tag": tag, "dtype": array.dtype.str, "shape": array.shape}
        if not link.shares or array.nbytes < SHARED_BYTES:
            self._queue(link, header, array.reshape(-1).view(np.uint8).data if array.nbytes else memoryview(b""))
            return
        buffer = self._buffers.fill(array, readers=1)
        link.lent[buffer.number] = link.lent.get(buffer.number, 0) + 1
        new = link.peer not in buffer.known
        buffer.known.add(link.peer)
        self._queue(link, {**header, "buffer": buffer.number, "new": new}, descriptors=[buffer.descriptor] * new)

    def flush(self) -> None:
        """Write what the sockets take, read what is there."""
        self._progress(0.0)

    def drain(self, stopped: Callable[[], bool]) -> None:
        """Write all that is queued; Stopped is for the caller to raise when it returns early."""
        while self._push() and not stopped():
            self._progress(POLL_SECONDS)

    def receive(self, peer: Address, tag: Tag, stopped: Callable[[], bool]) -> Array | None:
        """Wait for an array from a peer; None if the job is stopped meanwhile; PeerLost if the peer is gone."""
        while tag not in self._box:
            if peer.name in self._broken:
                raise PeerLost(f"worker {peer.name[:8]} at {peer.ip} closed its connection")
            if stopped():
                return None
            self._progress(POLL_SECONDS)
        return self._box.pop(tag)

    def close(self) -> None:
        """Close every connection."""
        for link in list(self._open_links):
            self._drop(link)
        for listener in self._listeners:
            listener.close()
        self._buffers.close()
        self._selector.close()

    # ---- connections ----

    def _link(self, peer: Address) -> _Link:
        known = self._links.get(peer.name)
        if known is not None:
            return known
        if peer.name in self._broken:
            raise PeerLost(f"worker {peer.name[:8]} at {peer.ip} closed its connection")
        shares = peer.host == self.address.host
        try:
            if shares:
                connection = socket.socket(socket.AF_UNIX)
                connection.connect(peer.unix)
            else:
                connection = socket.create_connection((peer.ip, peer.port), CONNECT_SECONDS)
        except OSError as error:
            self._broken.add(peer.name)
            raise PeerLost(f"worker {peer.name[:8]} at {peer.ip} cannot be reached: {error}") from error
        link = self._open(connection, peer.name, shares, trusted=True)
        nonce = secrets.token_hex(16)
        self._queue(link, {"hello": self.address.name, "nonce": nonce, "proof": _proof(peer, self.address.name, nonce)})
        return link

    def _open(self, connection: socket.socket, peer: str, shares: bool, *, trusted: bool) -> _Link:
        connection.setblocking(False)
        if connection.family == socket.AF_INET:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(connection, peer, shares, trusted)
        self._open_links.append(link)
        if trusted:
            self._links[peer] = link
        self._selector.register(connection, selectors.EVENT_READ, link)
        return link

    def _accept(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError):
            connection, _ = listener.accept()
            self._open(connection, "", listener.family == socket.AF_UNIX, trusted=False)

    def _drop(self, link: _Link) -> None:
        self._open_links.remove(link)
        self._selector.unregister(link.socket)
        link.socket.close()
        for descriptor in link.descriptors:
            os.close(descriptor)
        for number, count in link.lent.items():
            for _ in range(count):
                self._buffers.release(number)
        if link.peer:
            self._broken.add(link.peer)
            if self._links.get(link.peer) is link:
                del self._links[link.peer]

    # ---- writing ----

    def _push(self) -> list[_Link]:
        """Write what the sockets take; the connections that have more to write."""
        for link in list(self._open_links):
            self._guarded(link, self._write)
        return [link for link in self._open_links if link.out]

    def _queue(
        self,
        link: _Link,
        header: dict[str, Any],
        payload: memoryview | None = None,
        descriptors: list[int] | None = None,
    ) -> None:
        text = json.dumps(header, separators=(",", ":")).encode()
        size = 0 if payload is None else payload.nbytes
        link.out.append((memoryview(_HEAD.pack(len(text), size) + text), descriptors or []))
        if size and payload is not None:
            link.out.append((payload, []))

    def _write(self, link: _Link) -> None:
        while link.done:
            self._queue(link, {"release": link.done.pop()})
        while link.out:
            data, descriptors = link.out[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))]
            try:
                sent = link.socket.sendmsg([data], ancillary if descriptors else [])
            except BlockingIOError:
                return
            self.moved += sent
            if sent == data.nbytes:
                link.out.popleft()
            else:
                link.out[0] = (data[sent:], [])

    # ---- reading ----

    def _progress(self, timeout: float) -> None:
        writing = self._push()
        for link in writing:
            self._selector.modify(link.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, link)
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                self._accept(key.fileobj)  # type: ignore[arg-type]  # listeners only
            else:
                self._guarded(key.data, self._read)
        for link in writing:
            if link in self._open_links:
                self._selector.modify(link.socket, selectors.EVENT_READ, link)

    def _guarded(self, link: _Link, work: Callable[[_Link], None]) -> None:
        try:
            work(link)
        except (OSError, EOFError, ValueError, KeyError, TypeError):  # gone, or not one of us
            self._drop(link)

    def _read(self, link: _Link) -> None:
        while True:
            try:
                count, ancillary, _, _ = link.socket.recvmsg_into([link.target[link.filled :]], socket.CMSG_SPACE(64))
            except BlockingIOError:
                return
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    link.descriptors.extend(struct.unpack(f"{len(data) // 4}i", data))
            if count == 0:
                raise EOFError
            link.filled += count
            self.moved += count
            if link.filled == link.target.nbytes:
                self._part(link)

    def _part(self, link: _Link) -> None:
        """A head, a header or a payload is complete."""
        if link.sizes is None:
            header, payload = _HEAD.unpack(link.target)
            if not 0 < header <= (MAX_HEADER if link.trusted else 1024) or (payload and not link.trusted):
                raise ValueError
            link.sizes = header, payload
            _expect(link, memoryview(bytearray(header)))
        elif link.header is None:
            link.header = json.loads(bytes(link.target))
            if link.sizes[1]:
                shape, dtype = _form(link.header)
                if prod(shape) * dtype.itemsize != link.sizes[1]:
                    raise ValueError
                _expect(link, np.empty(link.sizes[1], np.uint8).data)
            else:
                self._message(link, link.header, None)
        else:
            self._message(link, link.header, link.target)

    def _message(self, link: _Link, header: dict[str, Any], payload: memoryview | None) -> None:
        link.sizes = link.header = None
        _expect(link, memoryview(bytearray(_HEAD.size)))
        if not link.trusted:
            self._welcome(link, header)
        elif "release" in header:
            number = int(header["release"])
            link.lent[number] -= 1
            self._buffers.release(number)
        else:
            tag = tuple(header["tag"])
            array = self._shared(link, header) if "buffer" in header else _array(header, payload)
            if tag[0] >= self._ticket:
                self._box[tag] = array

    def _welcome(self, link: _Link, header: dict[str, Any]) -> None:
        peer, nonce = str(header["hello"]), str(header["nonce"])
        if not hmac.compare_digest(_proof(self.address, peer, nonce), str(header["proof"])):
            raise ValueError
        link.trusted, link.peer = True, peer
        self._links.setdefault(peer, link)  # two that connect to each other at once keep both connections

    def _shared(self, link: _Link, header: dict[str, Any]) -> Array:
        number = int(header["buffer"])
        if header["new"]:
            link.maps[number] = mapped(link.descriptors.popleft())
        shape, dtype = _form(header)
        base = np.frombuffer(link.maps[number], dtype, prod(shape))
        weakref.finalize(base, link.done.append, number)
        return base.reshape(shape)


def _expect(link: _Link, target: memoryview) -> None:
    link.target, link.filled = target, 0


def _form(header: dict[str, Any]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    dtype, shape = np.dtype(str(header["dtype"])), tuple(int(size) for size in header["shape"])
    if dtype not in tensors.DTYPES:
        raise ValueError
    return shape, dtype


def _array(header: dict[str, Any], payload: memoryview | None) -> Array:
    shape, dtype = _form(header)
    return np.frombuffer(payload if payload is not None else b"", dtype).reshape(shape)


def _proof(server: Address, client: str, nonce: str) -> str:
    return hmac.new(server.key, f"{server.name} {client} {nonce}".encode(), hashlib.sha256).hexdigest()


def host() -> str:
    """Equal for processes of one user in one network namespace of one running kernel."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}-{os.stat('/proc/self/ns/net').st_ino}-{os.getuid()}"
