"""The page in a real Chromium against a real server: what it shows, live, and to whom."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from graphir.client import connect
from tests.browser import watched
from tests.served import Served, gradfleet, serving
from tests.test_service import LONG, WAIT, train

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("paged"), "--workers", 0) as found:
        yield found


def test_jobs_appear_and_come_to_their_end_without_a_reload(browser: "Browser", served: Served) -> None:
    with watched(browser, served.url) as shown, connect(served.url) as client:
        page = shown.page
        page.goto("/")
        page.evaluate("window.untouched = true")
        job = train(client, steps=LONG, name="descent")
        row = page.get_by_role("row").filter(has_text=job.id)
        row.get_by_text("running").wait_for()
        assert row.get_by_role("progressbar").get_attribute("aria-label") == "Progress of descent"
        job.result(WAIT)
        row.get_by_text("succeeded").wait_for()
        assert row.get_by_role("progressbar").get_attribute("value") == "100"
        page.get_by_role("status").filter(has_text="succeeded").wait_for()
        assert page.evaluate("window.untouched")


def test_the_list_is_narrowed_by_state_and_keeps_the_focus(browser: "Browser", served: Served) -> None:
    with watched(browser, served.url) as shown, connect(served.url) as client:
        page = shown.page
        done = train(client, steps=1)
        done.result(WAIT)
        page.goto("/")
        page.get_by_role("link", name="Failed 0").press("Enter")
        page.get_by_text("No job is failed.").wait_for()
        assert page.get_by_role("link", name="Failed 0").get_attribute("aria-current") == "page"
        page.get_by_role("link", name="Succeeded").click()
        link = page.get_by_role("link", name=done.id)
        link.focus()
        held = link.element_handle()
        assert held is not None
        train(client, steps=1).result(WAIT)  # the list is written anew
        page.wait_for_function("link => !link.isConnected", arg=held)
        assert page.evaluate("document.activeElement.id") == f"job-{done.id}"


def test_hostile_names_stay_text(browser: "Browser", served: Served) -> None:
    with watched(browser, served.url) as shown, connect(served.url) as client:
        train(client, steps=1, name=HOSTILE).result(WAIT)
        shown.page.goto("/")
        shown.page.get_by_role("link", name=HOSTILE).wait_for()
        assert shown.page.title() == "Jobs · Gradfleet"
        assert shown.page.locator("td img, th img").count() == 0


def test_two_users_see_their_own_after_they_have_signed_in(
    browser: "Browser", tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("guarded")
    tokens = {name: gradfleet("token", "create", name, "--directory", folder).stdout.strip() for name in ("ann", "bob")}
    with serving(folder, "--workers", 0) as guarded:
        for name, token in tokens.items():
            with connect(guarded.url, token=token) as client:
                train(client, steps=1, name=f"of {name}").result(WAIT)
        with watched(browser, guarded.url) as shown:
            page = shown.page
            page.goto("/?state=succeeded")
            page.get_by_label("Token").fill("gf_nothing")
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("alert").wait_for()
            assert "the token is not known" in page.get_by_role("alert").inner_text()
            shown.wrong.clear()  # Chromium notes the 401
            page.get_by_label("Token").fill(tokens["ann"])
            page.get_by_label("Token").press("Enter")
            page.get_by_role("link", name="of ann").wait_for()
            assert page.url == f"{guarded.url}/?state=succeeded"
            assert page.get_by_text("of bob").count() == 0
            (cookie,) = shown.context.cookies()
            assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
            page.get_by_role("button", name="Sign out").click()
            page.get_by_label("Token").wait_for()
            assert shown.context.cookies() == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "none"},
    ],
)
def test_forms_of_other_sites_change_nothing(served: Served, headers: dict[str, str]) -> None:
    for path in ("/login", "/logout"):
        answer = httpx.post(served.url + path, headers=headers, data={"token": "x"}, trust_env=False, timeout=WAIT)
        assert answer.status_code == 403
        assert "set-cookie" not in answer.headers
        assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("target", ["//evil.example/", "https://evil.example", "/\\evil.example", "/a\nb", "jobs"])
def test_nobody_is_led_to_another_site(served: Served, target: str) -> None:
    given = {"token": "x", "next": target}
    answer = httpx.post(
        f"{served.url}/login", headers={"Origin": served.url}, data=given, trust_env=False, timeout=WAIT
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/?state=lost", 400),
        ("/?before=..", 404),
        ("/static/0/page.css", 404),
        ("/static/0/..%2frender.py", 404),
        ("/jobs?seen=" + "x" * 100, 422),
    ],
)
def test_what_is_wrong_is_told_on_a_page(served: Served, path: str, status: int) -> None:
    answer = httpx.get(served.url + path, trust_env=False, timeout=WAIT)
    assert answer.status_code == status


def test_the_policy_allows_nothing_from_elsewhere(served: Served) -> None:
    answer = httpx.get(served.url, trust_env=False, timeout=WAIT)
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == policy["form-action"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
