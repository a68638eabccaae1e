"""Who looks at the page: by a cookie that the form for tokens has set, by a bearer token, or anybody while there are no tokens.

The cookie is the token itself, which no script can read and no other site's page can send (HttpOnly, SameSite=Strict).
What changes something must come from a page of this server besides, since without tokens there is no cookie to rely on.
"""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from starlette.responses import Response

from scheduler.api.auth import Caller, Door
from scheduler.api.problems import Forbidden

COOKIE = "gradfleet_token"


def visitor(door: Door, scope: str) -> Callable[[Request], Caller]:
    """A dependency of routes: who looks, if he has this scope."""

    def caller(request: Request) -> Caller:
        return door.admit(scope, request, token_of(request))

    return caller


def token_of(request: Request) -> str | None:
    """The token that came with a request."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token if kind.lower() == "bearer" else request.cookies.get(COOKIE)


def seen_by(request: Request, caller: Caller) -> dict[str, Any]:
    """Who looks, for the head of the page; without tokens it is anybody."""
    return {"owner": caller.owner, "entered": token_of(request) is not None and bool(caller.owner)}


def check_origin(request: Request) -> None:
    """Forbidden if another site's page made this request; browsers tell where each one comes from."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    ours = urlsplit(origin).netloc == request.headers.get("host") if origin is not None else site == "same-origin"
    if not ours or site not in (None, "same-origin"):
        raise Forbidden("this was not asked for on a page of this server; open the page there and ask again")


def remember(answer: Response, request: Request, token: str) -> None:
    """Let the browser send this token from now on, until it is closed."""
    answer.set_cookie(COOKIE, token, httponly=True, samesite="strict", secure=_is_private(request))


def forget(answer: Response, request: Request) -> None:
    """Let the browser send no token any more."""
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=_is_private(request))


def local(path: str) -> str:
    """A path of this server to go to; anything else becomes the first page."""
    plain = path.isascii() and path.isprintable() and "\\" not in path
    return path if plain and path.startswith("/") and not path.startswith("//") else "/"


def _is_private(request: Request) -> bool:
    """Whether the browser speaks TLS with us or with the proxy before us; who lies about that only loses his cookie."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
