"""Who calls: bearer tokens, or anybody on this machine while there never was a token."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from graphir.errors import Unauthorized
from scheduler.api.problems import Forbidden, RequestRefused
from scheduler.job.access import SCOPES, Access

_BEARER = HTTPBearer(auto_error=False, description="A token made by `gradfleet token create NAME`.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what he may do."""

    owner: str
    scopes: tuple[str, ...]
    token: str | None = None
    """The id of his token."""


class Door:
    """Lets callers in."""

    def __init__(self, access: Access) -> None:
        self._access, self._closed = access, False

    def needs(self, scope: str) -> Callable[[Request, HTTPAuthorizationCredentials | None], Caller]:
        """A dependency of routes: who calls, if he has this scope."""

        def caller(request: Request, credentials: Credentials) -> Caller:
            return self.admit(scope, request, None if credentials is None else credentials.credentials)

        return caller

    def admit(self, scope: str, request: Request, text: str | None) -> Caller:
        """Who calls with this token, if he has this scope."""
        found = request.state.caller = self._who(request, text)
        if scope not in found.scopes:
            raise Forbidden(f"this needs a token with scope {scope!r}; yours has {', '.join(found.scopes)}")
        return found

    def _who(self, request: Request, text: str | None) -> Caller:
        if not self._closed:
            self._closed = not self._access.is_open()
        if self._closed:
            if text is None:
                raise Unauthorized("this service needs a token; send it as `Authorization: Bearer ...`")
            token = self._access.check(text, time.time())
            return Caller(token.owner, token.scopes, token.id)
        # A page that a browser shows may point a name of its own at this machine.
        if not is_loopback(request.url.hostname or ""):
            raise RequestRefused("without tokens this service answers to localhost only; create a token", 421)
        return Caller("", SCOPES)


def is_loopback(host: str) -> bool:
    """Whether a name or address stays on this machine."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
