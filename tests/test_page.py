"""The page in a real Chromium against a real server: what it shows, live, and to whom."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import numpy as np
import pytest

import graphir as gi
from graphir import tensors
from graphir.client import connect
from scheduler.api.pages.visit import COOKIE
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


def test_a_job_is_followed_to_its_end_and_a_curve_has_a_point_an_iteration(browser: "Browser", served: Served) -> None:
    with watched(browser, served.url) as shown, connect(served.url) as client:
        page = shown.page
        job = train(client, steps=LONG // 5, name="followed")
        page.goto(f"/jobs/{job.id}")
        page.evaluate("window.untouched = true")
        job.result(WAIT)
        page.locator("#live .state").get_by_text("succeeded").wait_for()
        page.get_by_role("status").filter(has_text="succeeded").wait_for()
        reported = {name for event in job.events() if event["type"] == "step_done" for name, _ in event["scalars"]}
        for name in reported:
            line = page.get_by_role("img", name=f"{name} over {LONG // 5} iterations").locator("polyline")
            assert len((line.get_attribute("points") or "").split()) == LONG // 5
        assert page.evaluate("window.untouched")
        assert page.locator("#live").get_attribute("hx-get") is None  # nobody asks any more
        with page.expect_download() as download:
            page.get_by_role("link", name="Timeline").click()
        assert json.loads(Path(download.value.path()).read_text())["traceEvents"]
        with page.expect_download() as download:
            page.get_by_role("link", name="Result").click()
        assert tensors.read(Path(download.value.path()).read_bytes(), source="it").keys() == job.result().keys()


def test_a_job_is_cancelled_by_keyboard(browser: "Browser", served: Served) -> None:
    with watched(browser, served.url) as shown, connect(served.url) as client:
        page = shown.page
        job = train(client, steps=1_000_000)
        page.goto(f"/jobs/{job.id}")
        page.get_by_role("button", name="Cancel job").wait_for()
        page.on("dialog", lambda dialog: dialog.accept())
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "cancel":
                break
        page.keyboard.press("Enter")
        page.locator("#live .state").get_by_text("cancelled").wait_for()
        assert job.status == "cancelled"
        assert page.get_by_role("button", name="Cancel job").count() == 0


def test_the_graph_tells_derivatives_and_parts_apart_and_folds(browser: "Browser", served: Served) -> None:
    with connect(served.url) as client:
        job = train(client, steps=1)
        job.result(WAIT)
    for scheme in ("light", "dark"):
        with watched(browser, served.url, color_scheme=scheme) as shown:
            page = shown.page
            page.goto(f"/jobs/{job.id}")
            colour = "node => getComputedStyle(node).stroke"
            boxes = page.locator("#picture g > rect.box.map")
            derived = page.locator("#picture g > rect.box.map.vjp")
            plain = page.locator("#picture g > rect.box.map:not(.vjp)")
            assert 0 < derived.count() < boxes.count()
            assert derived.first.evaluate(colour) != plain.first.evaluate(colour)
            kinds = {page.locator(f"#picture rect.panel.{kind}").first.evaluate(colour) for kind in ("map", "combine")}
            assert len(kinds) == 2
            nodes = page.locator("#picture g > title").count()
            page.get_by_role("link", name="Fold step 1, map 0").press("Enter")
            page.get_by_role("link", name="Open step 1, map 0").wait_for()
            assert page.locator("#picture g > title").count() < nodes
            page.get_by_role("link", name="Open step 1, map 0").press("Enter")
            page.get_by_role("link", name="Fold step 1, map 0").wait_for()
            assert page.locator("#picture g > title").count() == nodes


def test_of_a_large_graph_little_is_drawn(browser: "Browser", served: Served) -> None:
    x = gi.input("x", ("n",))
    y = x
    for k in range(3000):
        y = y * (1.0 + 1e-9 * k) + 1e-9 * k
    with watched(browser, served.url) as shown, connect(served.url) as client:
        job = client.submit(gi.Graph({"y": gi.sum(y)}), {"x": np.arange(10.0)})
        job.result(WAIT)
        shown.page.goto(f"/jobs/{job.id}?open=0,1,2,999999")
        shown.page.locator("#picture rect.panel").first.wait_for()
        assert shown.page.locator("#picture rect").count() < 200


def test_what_went_wrong_is_told_with_node_and_line(browser: "Browser", served: Served) -> None:
    graph = gi.Graph({"y": gi.sum(gi.log(gi.input("x", ("n",))))})
    with watched(browser, served.url) as shown, connect(served.url) as client:
        job = client.submit(graph, {"x": -np.ones(3)}, check_finite=True, name=HOSTILE)
        with pytest.raises(gi.JobFailed):
            job.result(WAIT)
        shown.page.goto(f"/jobs/{job.id}")
        told = shown.page.get_by_role("region", name="NonFiniteError")
        assert "log(float64[n.local])" in told.inner_text()
        assert "test_page.py:" in told.inner_text()
        assert shown.page.get_by_role("heading", level=1).inner_text() == HOSTILE
        assert shown.page.title() == f"{HOSTILE} · Gradfleet"


@pytest.mark.parametrize("which", ["list", "job", "login"])
def test_a_reader_who_listens_is_told_of_everything(browser: "Browser", served: Served, which: str) -> None:
    with watched(browser, served.url) as shown, connect(served.url) as client:
        job = train(client, steps=5)
        job.result(WAIT)
        shown.page.goto({"list": "/", "job": f"/jobs/{job.id}", "login": "/login"}[which])
        shown.page.get_by_role("heading", level=1).wait_for()
        nodes = shown.tree()
        controls = ("link", "button", "textbox", "progressbar", "img", "image", "table", "region", "navigation")
        assert [node for node in nodes if node["role"] in controls and not node["name"].strip()] == []
        roles = [node["role"] for node in nodes]
        assert roles.count("main") == roles.count("banner") == 1
        levels = [int(h.evaluate("h => h.tagName[1]")) for h in shown.page.locator("h1, h2, h3").element_handles()]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert shown.page.locator("html").get_attribute("lang") == "en"
        shown.page.evaluate("document.body.focus(); document.activeElement.blur()")
        shown.page.keyboard.press("Tab")
        if which != "login":  # whose field has the focus at once
            assert shown.page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert shown.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"


def test_another_one_s_job_is_not_there(served: Served, tmp_path: Path) -> None:
    tokens = {
        name: gradfleet("token", "create", name, "--directory", tmp_path).stdout.strip() for name in ("ann", "bob")
    }
    with serving(tmp_path, "--workers", 0) as guarded:
        with connect(guarded.url, token=tokens["ann"]) as client:
            job = train(client, steps=1)
            job.result(WAIT)
        headers = {"Cookie": f"{COOKIE}={tokens['bob']}", "Origin": guarded.url}
        with httpx.Client(base_url=guarded.url, headers=headers, trust_env=False, timeout=WAIT) as bob:
            for part in ("", "/live", "/graph", "/timeline", "/result"):
                assert bob.get(f"/jobs/{job.id}{part}").status_code == 404
            assert bob.post(f"/jobs/{job.id}/cancel").status_code == 404
            assert job.id not in bob.get("/").text
        for part in ("", "/live", "/graph", "/timeline", "/result"):
            answer = httpx.get(f"{guarded.url}/jobs/{job.id}{part}", trust_env=False, timeout=WAIT)
            assert (answer.status_code, answer.headers["location"][:7]) == (303, "/login?")


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
