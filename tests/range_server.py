"""A web server on loopback that answers byte ranges and tells an etag, and remembers what it was asked for."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PIECES = 32
"""How many a long answer comes in when it trickles."""


class RangeServer(ThreadingHTTPServer):
    """Files in memory by name. `served`: name, begin and end of all bytes that went out.

    moved: names that are elsewhere by now, and where. fail: so many answers are 503; fail_large: so many answers to requests for
    more than a header are; stall_large: so many of these stop halfway and say no more. trickle: seconds before each piece of one.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.served: list[tuple[str, int, int]] = []
        self.ranges, self.etags, self.fail, self.fail_large = True, True, 0, 0
        self.stall_large, self.trickle, self.closing = 0, 0.0, threading.Event()

    def url(self, name: str) -> str:
        """Where a file is."""
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        name = self.path.lstrip("/").partition("?")[0]
        content = self.server.files.get(name)
        if self.server.fail > 0:
            self.server.fail -= 1
            return self._plain(503)
        if name in self.server.moved:
            return self._plain(302, self.server.moved[name])
        if content is None:
            return self._plain(404)
        begin, end, wanted = 0, len(content), self.headers.get("Range")
        if wanted is not None and self.server.ranges:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last) + 1, len(content))
        if body and end - begin > 4096 and self.server.fail_large > 0:
            self.server.fail_large -= 1
            return self._plain(503)
        self.send_response(206 if end - begin < len(content) else 200)
        self.send_header("Content-Length", str(end - begin))
        if self.server.etags:
            self.send_header("ETag", f'"{sha256(content).hexdigest()[:16]}"')
        self.end_headers()
        if body:
            self.server.served.append((name, begin, end))
            self._send(content[begin:end])

    def _send(self, content: bytes) -> None:
        if len(content) > 4096 and self.server.stall_large > 0:
            self.server.stall_large -= 1
            self.wfile.write(content[: len(content) // 2])
            self.server.closing.wait()
            self.close_connection = True
            return
        size = len(content) // PIECES + 1 if len(content) > 4096 and self.server.trickle else len(content)
        for at in range(0, len(content), size or 1):
            self.server.closing.wait(self.server.trickle)
            self.wfile.write(content[at : at + size])

    def _plain(self, status: int, place: str | None = None) -> None:
        self.send_response(status)
        if place is not None:
            self.send_header("Location", place)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[RangeServer]:
    """A server that runs."""
    server = RangeServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
