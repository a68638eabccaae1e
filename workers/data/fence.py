"""Where datasets may be read when others than the operator name them: below URLs and paths that he has allowed.

A service says so in its environment, which its workers inherit; without the variable anything may be read. A name is
judged after its escapes are taken away, a file of this machine by where its links lead, a web address by every
redirection and by the address that its host really has: one that the operator has named may be anywhere, others must not
be inside his network.
"""

import json
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import unquote, urlsplit

from graphir.errors import DatasetError

VARIABLE = "GRADFLEET_DATA_PREFIXES"
_STEP_UP = re.compile(r"(^|[/\\])\.\.?([/\\?#]|$)")
_LOCAL = re.compile(r"(file|local)://(?:localhost)?(?=/)", re.IGNORECASE)
_TRANSLATED = IPv6Network("64:ff9b::/96")
_ESCAPED_TWICE = 4
_NEEDS_NO_HOST = ("http", "https", "s3", "s3a", "gs", "gcs", "file", "local")


class Fence:
    """What is below some prefixes."""

    def __init__(self, prefixes: Sequence[str]) -> None:
        for prefix in prefixes:
            _check(prefix)
        self.prefixes = tuple(prefixes)
        self._roots = [os.path.realpath(path) for path in map(_path, self.prefixes) if path is not None]
        self._hosts = {urlsplit(prefix).hostname for prefix in self.prefixes if "://" in prefix} - {None, ""}

    @staticmethod
    def here() -> "Fence | None":
        """The fence of this process, or None if it has none."""
        told = os.environ.get(VARIABLE)
        return None if told is None else _fence(told)

    def raise_up(self) -> None:
        """Put it around this process and those that it starts."""
        os.environ[VARIABLE] = json.dumps(self.prefixes)

    def check(self, url: str) -> None:
        """DatasetError for what is outside."""
        if not self.allows(url):
            known = ", ".join(self.prefixes) or "none"
            raise DatasetError(
                f"dataset {url[:300]!r} may not be read by this service (allowed prefixes: {known}); ask its operator for "
                "`gradfleet serve --allow-data`, or send the array"
            )

    def allows(self, url: str) -> bool:
        """Whether a name is below a prefix, by its words and, for a file of this machine, by its links."""
        plain = _unescaped(url)
        if plain is None or "::" in url or _STEP_UP.search(plain) or any(ord(sign) < 32 for sign in plain):
            return False
        path = _path(url)
        if path is not None:
            return path.startswith("/") and self._holds(os.path.realpath(path))
        return any(url == prefix or url.startswith(prefix.rstrip("/") + "/") for prefix in self.prefixes)

    def allows_address(self, host: str, address: str) -> bool:
        """Whether a web host may be reached at an address."""
        return host.lower() in self._hosts or is_public(address)

    def _holds(self, path: str) -> bool:
        return any(path == root or path.startswith(root.rstrip("/") + "/") for root in self._roots)


def is_public(address: str) -> bool:
    """Whether an address is on the open network, also one that another family of addresses wraps up."""
    try:
        found: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if found in _TRANSLATED:
            inner = IPv4Address(int(found) & 0xFFFFFFFF)
        if inner is not None:
            found = inner
    return found.is_global and not found.is_multicast


@lru_cache(maxsize=8)
def _fence(told: str) -> Fence:
    return Fence(tuple(json.loads(told)))


def _check(prefix: str) -> None:
    """A prefix that would let in what nobody means is refused when the service is started."""
    scheme, mark, rest = prefix.partition("://")
    known = scheme.lower() in _NEEDS_NO_HOST or rest.strip("/")
    if "::" in prefix or (mark and not known) or (not mark and not prefix.startswith("/")):
        raise DatasetError(
            f"{prefix!r} cannot be allowed as a place of datasets; give an absolute path, or a URL with a host, of one file "
            "system"
        )


def _path(url: str) -> str | None:
    """The path of a file of this machine."""
    if "://" not in url:
        return url
    found = _LOCAL.match(url)
    if found is None:
        return None
    path = url[found.end() :]
    return unquote(path) if found[1].lower() == "file" else path


def _unescaped(url: str) -> str | None:
    """The name without its escapes; None if there is no end of them."""
    for _ in range(_ESCAPED_TWICE):
        plain = unquote(url)
        if plain == url:
            return plain
        url = plain
    return None
