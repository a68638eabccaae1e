"""Templates become answers. Everything that goes into one is escaped; the policy lets a browser load and run only what is here.

Pictures bring their style sheets along, as they do in notebooks and files: the policy knows each by its digest.
"""

import base64
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.responses import Response

STATIC = Path(__file__).parent / "static"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{styles}; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


class Pages:
    """The templates. styles: those that pictures bring along."""

    def __init__(self, styles: Iterable[str] = ()) -> None:
        self._environment = Environment(
            loader=PackageLoader("scheduler.api.pages"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._environment.filters |= {"moment": moment, "lasted": lasted, "count": count, "number": number}
        self._environment.globals["asset"] = asset
        known = "".join(f" '{_digest(style)}'" for style in styles)
        self._headers = {
            **HEADERS, "Content-Security-Policy": POLICY.format(styles=known), "Cache-Control": "no-store",
        }  # fmt: skip

    def text(self, template: str, **given: Any) -> str:
        """A template filled in."""
        return self._environment.get_template(template).render(**given)

    def answer(self, template: str, *, status: int = 200, **given: Any) -> Response:
        """A template filled in, as an answer."""
        return self.html(self.text(template, **given), status)

    def news(self, template: str, seen: str, **given: Any) -> Response:
        """A part of a page to be put in the place of the former one; nothing if the browser has `seen` it like this."""
        tag = hashlib.sha256(self.text(template, seen="", **given).encode()).hexdigest()[:16]
        if tag == seen:
            return Response(status_code=204, headers=self._headers)
        return self.answer(template, seen=tag, **given)

    def html(self, text: str, status: int = 200) -> Response:
        """An answer to a browser."""
        return Response(text, status, self._headers, "text/html")


def _digest(style: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()


@cache
def asset(name: str) -> str:
    """Where a file of the page is; by its content, so that browsers may keep it."""
    return f"/static/{hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}/{name}"


def moment(seconds: float, now: float) -> Markup:
    """A time of day, with the date unless it is today's."""
    at, today = datetime.fromtimestamp(seconds, UTC), datetime.fromtimestamp(now, UTC).date()
    shown = f"{at:%H:%M:%S}" if at.date() == today else f"{at:%Y-%m-%d %H:%M}"
    return Markup('<time datetime="{}">{}</time>').format(f"{at:%Y-%m-%dT%H:%M:%SZ}", shown)


def lasted(seconds: float) -> str:
    """A length of time in two units at most."""
    if seconds < 1:
        return f"{max(0.0, seconds) * 1000:.0f} ms"
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for most, unit, name, part, below in (
        (_HOUR, _MINUTE, "min", 1, "s"),
        (_DAY, _HOUR, "h", _MINUTE, "min"),
        (None, _DAY, "d", _HOUR, "h"),
    ):
        if most is None or whole < most:
            return f"{whole // unit} {name} {whole % unit // part:02d} {below}"
    raise AssertionError


def count(value: int) -> str:
    """A whole number, its digits in groups."""
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def number(value: float) -> str:
    """A number in few digits."""
    return f"{value:.5g}".replace("-", "\N{MINUS SIGN}")
