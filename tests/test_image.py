"""The image, as far as a machine without Docker can tell: what is copied and run is there, and all that is installed is pinned."""

import json
import re
import tomllib
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.version import Version

from scheduler import reference
from tests.served import ROOT
from tests.test_deploy import DEPLOY, OURS, PORT, check_words


def instructions() -> Iterator[tuple[str, str]]:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, _, rest = line.partition(" ")
            yield name, rest.strip()


def test_the_image_is_pinned_and_runs_as_nobody() -> None:
    found = list(instructions())
    bases = {rest.split()[0] for name, rest in found if name == "FROM"}
    assert len(bases) == 1
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", base) for base in bases)
    for name, rest in found:
        words = rest.split()
        if name == "COPY" and not words[0].startswith("--from"):
            assert all((ROOT / source).exists() for source in words[:-1]), rest
        if name in ("RUN", "CMD", "VOLUME") and name != "HEALTHCHECK":
            assert isinstance(json.loads(rest), list), rest  # no shell in between
    last = max(n for n, (name, _) in enumerate(found) if name == "FROM")
    assert ("USER", "10001:10001") in found[last:]
    check_words(json.loads(dict(found)["CMD"]))
    health = dict(found)["HEALTHCHECK"]
    check_words(json.loads(health[health.index("CMD") + 3 :]))
    path = re.findall(rf"127\.0\.0\.1:{PORT}(/\w+)", health)
    assert {*path} <= reference.openapi()["paths"].keys()
    variables = set(re.findall(r"(\w+)=", dict(found)["ENV"]))
    assert variables <= OURS | {"PATH", "PYTHONUNBUFFERED", "RAY_USAGE_STATS_ENABLED"}


def test_every_library_of_the_image_is_pinned_as_the_project_allows() -> None:
    lines = [line for line in (DEPLOY / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {name.lower(): Version(version) for name, version in (line.split("==") for line in lines)}
    (install,) = [json.loads(rest) for name, rest in instructions() if name == "RUN" and "--constraint" in rest]
    extras = re.findall(r"\.\[(.+)\]", install[-2])[0].split(",")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = project["optional-dependencies"]
    wanted = [
        Requirement(text) for text in [*project["dependencies"], *(text for extra in extras for text in offered[extra])]
    ]
    assert len(wanted) > 12
    for each in wanted:
        assert pins[each.name.lower()] in each.specifier, each
    assert str(pins["ray"]) == metadata.version("ray")
