"""A real browser for the tests of the page: Debian's Chromium, driven by playwright, closed to every network but loopback."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

WAIT = 60.0
FLAGS = [
    "--no-sandbox",  # which root has not
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


def chromium() -> str:
    """Where Chromium is; it is installed if it is missing and we may."""
    if shutil.which("chromium") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update"], check=False, capture_output=True)
        subprocess.run(
            ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"], check=False, capture_output=True
        )
    found = shutil.which("chromium")
    assert found, "these tests need Debian's package chromium; install it with `apt-get install chromium`"
    return found


@contextmanager
def started() -> Iterator[Browser]:
    """The browser."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser
        browser.close()


class Watched:
    """A page, all it asked for and all that went wrong in it."""

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self.url = url
        self.context = browser.new_context(base_url=url, **options)
        self.context.set_default_timeout(WAIT * 1000)
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.page: Page = self.context.new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on(
            "console", lambda said: self.wrong.append(said.text) if said.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))

    def check(self) -> None:
        """It asked only its own server, and nothing went wrong."""
        others = [url for url in self.asked if urlsplit(url).netloc != urlsplit(self.url).netloc]
        assert others == []
        assert self.wrong == []

    def tree(self) -> list[dict[str, Any]]:
        """What a screen reader is told: role, name and the like of everything that is not ignored."""
        session = self.context.new_cdp_session(self.page)
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        session.detach()
        return [
            {key: node.get(key, {}).get("value", "") for key in ("role", "name", "description")}
            for node in nodes
            if not node.get("ignored")
        ]


@contextmanager
def watched(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    """A page of its own, which is looked at for errors in the end."""
    found = Watched(browser, url, **options)
    try:
        yield found
        found.check()
    finally:
        found.context.close()
