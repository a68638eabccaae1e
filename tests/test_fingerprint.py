"""Fingerprints: alike in every process of one machine, other where kernels or versions are other."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from workers.fingerprint import Fingerprint, fingerprint

ROOT = Path(__file__).resolve().parent.parent
PRINT = "import {first}; from workers.fingerprint import fingerprint as f; print(f().digest, f().probe)"


def elsewhere(first: str = "sys", **environment: str) -> list[str]:
    """Digest and probe in a process of its own, which imports something else first."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    said = subprocess.run([sys.executable, "-c", PRINT.format(first=first)], env=env, capture_output=True, check=True)
    return said.stdout.decode().split()


def test_it_is_alike_in_other_processes() -> None:
    assert elsewhere() == [fingerprint().digest, fingerprint().probe]
    assert elsewhere("scipy.linalg") == [fingerprint().digest, fingerprint().probe]  # brings a BLAS of its own


def test_it_names_what_is_installed() -> None:
    found = fingerprint()
    assert found.numpy == np.__version__
    assert found.blas
    assert np.__version__ in str(found)


@pytest.mark.skipif("openblas" not in str(fingerprint().blas), reason="needs OpenBLAS, which can be told its core")
def test_another_core_type_of_the_blas_is_another_fingerprint() -> None:
    digest, probe = elsewhere(OPENBLAS_CORETYPE="Nehalem")
    assert digest != fingerprint().digest
    assert probe != fingerprint().probe


@pytest.mark.skipif("X86_V3" not in fingerprint().features, reason="needs AVX2, which can be switched off")
def test_numpy_without_some_instructions_is_another_fingerprint() -> None:
    assert elsewhere(NPY_DISABLE_CPU_FEATURES="X86_V3 X86_V4 AVX512_ICL AVX512_SPR")[0] != fingerprint().digest


def test_differences_are_told() -> None:
    mine = fingerprint()
    other = replace(mine, numpy="1.0", blas=("mkl 2024 Haswell",))
    assert mine.differences(other) == f"numpy: {mine.numpy} and 1.0; blas: {', '.join(mine.blas)} and mkl 2024 Haswell"
    assert mine.differences(mine) == "nothing"
    assert isinstance(other, Fingerprint)
    assert other.digest != mine.digest
