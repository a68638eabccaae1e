"""Who did what to which job, blob or token, when, and from where: one line of JSON each, appended to a file.

Written after the answer is known, in one piece, so that several processes may write to one file and whoever moves it away
loses nothing. What was refused for want of a token or of a right is in it too. Questions that change nothing and give out no
data (states, events, lists) are not: a client asks many a second. Tokens are named by their ids.
"""

import json
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LOG = logging.getLogger(__name__)
FILE = "audit.jsonl"
_READS = ("/v1/blobs/{digest}", "/v1/jobs/{id}/result")
_REFUSED = (401, 403, 421, 429)
_SHORT = 200


class Audit:
    """The log of one service."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def answered(self, scope: Mapping[str, Any], status: int) -> None:
        """A request was answered; it is written down if it is one of those that count."""
        route = getattr(scope.get("route"), "path", "none")
        changes = scope["method"] not in ("GET", "HEAD") and route != "none"
        if not changes and status not in _REFUSED and not (scope["method"] == "GET" and route in _READS):
            return
        state, client = scope.get("state", {}), scope.get("client")
        caller = state.get("caller")
        self.write(
            f"{scope['method']} {route}",
            who=getattr(caller, "owner", None),
            token=getattr(caller, "token", None),
            where=client[0] if client else None,
            status=status,
            **{name: str(value)[:_SHORT] for name, value in scope.get("path_params", {}).items()},
            **state.get("audit", {}),
        )

    def write(self, what: str, **facts: Any) -> None:
        """Append a line."""
        line: Mapping[str, Any] = {"time": round(time.time(), 3), "what": what, **facts}
        data = json.dumps(line).encode() + b"\n"
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, data)
            finally:
                os.close(handle)
        except OSError as error:
            _LOG.error("the audit log %s cannot be written (%s): %s", self._path, error.strerror, data.decode())
