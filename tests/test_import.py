"""`import graphir` stays light: nothing optional or slow comes along."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["ray", "pydantic", "sqlalchemy", "click", "jax", "httpx", "fastapi", "uvicorn"])
def test_import_graphir_leaves_out(module: str) -> None:
    code = f"import sys, graphir; raise SystemExit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_client_over_http_needs_no_server_libraries() -> None:
    needless = ["ray", "sqlalchemy", "fastapi", "starlette", "uvicorn", "scheduler", "workers"]
    code = (
        "import sys, graphir; client = graphir.connect('http://127.0.0.1:9', token='t'); client.close(); "
        f"raise SystemExit(any(name in sys.modules for name in {needless}))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
