"""A Ray of our own is closed to everybody else: a token of its own, and no port but on loopback.

Whoever can speak to Ray can run code as us. Ray would keep its token in a file of the user's that others may be able to
read, and listens on every address of the machine. The token is in the environment of the processes that Ray starts, which
is for the same user only. Ray has no argument for either, so this reaches into what is private of it.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from ray._private import ray_constants
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # made by Cython

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
_CLUSTER = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR
"""Where this is 0, Ray takes the loopback address for that of the machine."""


class Closed:
    """The environment of a Ray that is ours alone; `open` puts back what was there before."""

    def __init__(self) -> None:
        self._before = {name: os.environ.get(name) for name in (MODE, TOKEN)}
        os.environ[MODE] = "token"
        if not (os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH)):
            os.environ[TOKEN] = secrets.token_hex(32)
        _read_again()

    def open(self) -> None:
        """This Ray has ended."""
        _put_back(self._before)
        _read_again()


@contextmanager
def on_loopback() -> Iterator[None]:
    """A Ray that is started meanwhile, and all its processes, listen on loopback only."""
    before = {_CLUSTER: os.environ.get(_CLUSTER)}
    enabled, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    os.environ[_CLUSTER] = "0"
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = enabled
        _put_back(before)


def _read_again() -> None:
    """What Ray has read of the environment before."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _put_back(before: dict[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
