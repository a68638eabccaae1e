"""A machine that only submits: the HTTP client without Ray, a database or anything else of the `cluster` extra."""

import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import ENVIRONMENT, ROOT, Served, serving

SUBMIT = """
import sys
for name in ("ray", "sqlalchemy", "alembic", "fastapi", "uvicorn", "starlette", "jinja2", "psycopg"):
    sys.modules[name] = None  # as where it is not installed
import numpy as np
import graphir as gi
x = gi.input("x", ("n", 4))
with gi.connect(sys.argv[1]) as client:
    job = client.submit(gi.Graph({"y": gi.sum(x * 2.0), "z": x}), {"x": np.ones((50_000, 4))})
    job.progress()
    print(job.result(60)["y"], client.plan(gi.Graph({"y": gi.sum(x)}), {"x": np.ones((3, 4))}).stages >= 1)
assert "scheduler" not in sys.modules and "workers" not in sys.modules
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served"), "--workers", 0) as found:
        yield found


def submitted(python: Path | str, served: Served, environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(
        [python, "-c", SUBMIT, served.url], env=environment, cwd=folder, capture_output=True, text=True, timeout=150, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_nothing_of_the_cluster_is_needed(served: Served, tmp_path: Path) -> None:
    assert submitted(sys.executable, served, ENVIRONMENT, tmp_path) == "400000.0 True"


@pytest.mark.slow
def test_a_fresh_environment_with_the_client_only(served: Served, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", str(ROOT)], check=True, timeout=170)
    listed = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout.lower()
    assert not {"ray", "sqlalchemy", "fastapi"} & {line.split()[0] for line in listed.splitlines()}
    plain = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    assert submitted(python, served, plain, tmp_path) == "400000.0 True"
