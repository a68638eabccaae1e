"""Web addresses: for how long a server may be silent, and inside a fence.

There each redirection is judged like the first address, and each host by where it really is. The address that was
judged is the one that is connected to, so a name that means another machine the next time gains nothing.
"""

from typing import Any

from workers.data.fence import Fence

SILENT_SECONDS = 60.0
"""For how long a server may send nothing, be it its first byte or one of many; the whole may take as long as it likes."""


class Outside(Exception):
    """A web address leads out of the fence."""


def limits() -> Any:
    """When a request is given up. Otherwise aiohttp gives each five minutes, however fast or slow it gets on."""
    import aiohttp  # here, because most jobs do not need it

    return aiohttp.ClientTimeout(total=None, sock_connect=SILENT_SECONDS, sock_read=SILENT_SECONDS)


async def guarded(fence: Fence, **given: Any) -> Any:
    """A session for fsspec that stays inside the fence."""
    import aiohttp  # here, because most jobs do not need it
    from aiohttp.resolver import ThreadedResolver
    from yarl import URL

    class Judge(ThreadedResolver):
        async def resolve(self, host: str, *args: Any, **more: Any) -> Any:
            found = await super().resolve(host, *args, **more)
            for each in found:
                _check_address(fence, host, each["host"])
            return found

    def judge(url: Any) -> None:
        if not fence.allows(str(url)):
            raise Outside(f"{str(url)[:300]!r} is not below {', '.join(fence.prefixes)}")
        if _is_address(url.host or ""):  # which is not resolved
            _check_address(fence, url.host, url.host)

    async def begun(session: Any, context: Any, params: Any) -> None:
        judge(params.url)

    async def redirected(session: Any, context: Any, params: Any) -> None:
        target = params.response.headers.get("Location") or params.response.headers.get("URI") or ""
        judge(params.url.join(URL(target)))

    trace = aiohttp.TraceConfig()
    trace.on_request_start.append(begun)
    trace.on_request_redirect.append(redirected)
    connector = aiohttp.TCPConnector(resolver=Judge())
    return aiohttp.ClientSession(connector=connector, trace_configs=[trace], **given)


def _check_address(fence: Fence, host: str, address: str) -> None:
    if not fence.allows_address(host, address):
        raise Outside(f"{host[:200]!r} is at {address}, which is not on the open network")


def _is_address(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()
