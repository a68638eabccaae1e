"""`import graphir` stays light: nothing optional or slow comes along."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["ray", "pydantic", "sqlalchemy", "click", "jax"])
def test_import_graphir_leaves_out(module: str) -> None:
    code = f"import sys, graphir; raise SystemExit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
