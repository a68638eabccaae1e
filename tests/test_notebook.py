"""What notebooks show of jobs, plans and graphs: the page's own pictures, whatever a name says, the same over HTTP."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import graphir as gi
from graphir.client import connect
from graphir.plot import STYLE
from tests.served import serving
from tests.test_service import STEPS, WAIT, logistic, train

HOSTILE = "<script>alert(1)</script>"


def parsed(html: str) -> ET.Element:
    return ET.fromstring(f"<body>{html}</body>")


def curves(html: str) -> list[str]:
    """The pictures of scalars, without what their elements are drawn with."""
    return re.findall(r'<svg [^>]*class="gf-curve".*?</svg>', html, re.DOTALL)


def test_a_job_is_shown_alike_embedded_over_http_and_on_the_page(tmp_path: Path) -> None:
    with connect(workers=0) as client:
        job = train(client)
        job.result(WAIT)
        embedded = job._repr_html_()
    with serving(tmp_path, "--workers", 0) as served, connect(served.url) as client:
        job = train(client)
        job.result(WAIT)
        remote = job._repr_html_()
        page = client.service._call("GET", f"jobs/{job.id}").text
    assert f"{STEPS} of {STEPS} steps" in embedded
    assert "succeeded" in embedded
    found = curves(embedded)
    assert len(found) == 2  # the loss, and the bias
    assert found == curves(remote) == curves(page)
    assert parsed(embedded).findall(".//{http://www.w3.org/2000/svg}polyline")


def test_an_error_is_shown_as_text() -> None:
    graph = gi.Graph({"y": gi.sum(gi.log(gi.input(HOSTILE, ("n",))))})
    with connect(workers=0) as client:
        job = client.submit(graph, {HOSTILE: -np.ones(3)}, check_finite=True)
        with pytest.raises(gi.JobFailed):
            job.result(WAIT)
        shown = job._repr_html_()
        plan = job.plan()._repr_html_()
    assert "gives nan" in "".join(parsed(shown).itertext())
    for html in (shown, plan, graph._repr_html_()):
        assert "<script" not in html
        assert parsed(html) is not None


def test_plans_are_shown_with_picture_and_words(tmp_path: Path) -> None:
    feeds = {"x": np.zeros((10, 8)), "t": np.zeros(10), "w": np.zeros(8), "b": np.zeros(())}
    with connect(workers=0) as client:
        embedded = client.plan(logistic(), feeds)
    with serving(tmp_path, "--workers", 0) as served, connect(served.url) as client:
        remote = client.plan(logistic(), feeds)
    for plan in (embedded, remote):
        html = plan._repr_html_()
        assert html.startswith(plan.to_svg())
        assert plan.to_text().splitlines()[1] in "".join(parsed(html).itertext())


def test_a_graph_that_is_too_large_for_a_picture_is_told_of() -> None:
    x = gi.input("x", ("n",))
    y = x
    for k in range(500):
        y = y + float(k)
    small, large = gi.Graph({"y": x + 1.0}), gi.Graph({"y": y})
    assert small._repr_html_() == small.to_svg()
    assert f"{len(large)} nodes" in large._repr_html_()
    assert STYLE not in large._repr_html_()
