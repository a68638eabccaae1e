"""Fingerprint: which kernels a worker computes with, so that workers whose results may differ in a bit are told apart.

Names say what is installed: versions, the BLAS and the core it was tuned for, the vector instructions that NumPy and the
C library may use. A probe, the digest of what fixed inputs give, also sees what no name shows, such as a block size that
an environment variable sets. PROTOCOL numbers the calls and messages between driver and workers; it grows with them.
"""

import hashlib
import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy._core._multiarray_umath import __cpu_features__  # what numpy.show_runtime tells

from graphir.node import Array
from workers import blas

PROTOCOL = 3


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What decides the bits of a worker's results. version: of this distribution. compiler: of what back-ends compile with."""

    version: str
    protocol: int
    numpy: str
    blas: tuple[str, ...]
    features: tuple[str, ...]
    machine: str
    probe: str
    xla: str = ""
    compiler: str = ""

    @property
    def digest(self) -> str:
        """Equal for equal kernels; short enough to be a key."""
        return _digest(self)

    def differences(self, other: "Fingerprint") -> str:
        """What another one has otherwise, in words."""
        found = [
            f"{name}: {_text(mine)} and {_text(theirs)}"
            for name in (field.name for field in fields(self))
            if (mine := getattr(self, name)) != (theirs := getattr(other, name))
        ]
        return "; ".join(found) or "nothing"

    def __str__(self) -> str:
        return (
            f"gradfleet {self.version}, numpy {self.numpy}, {', '.join(self.blas) or 'no BLAS known'}, "
            f"{self.machine}, {self.compiler or 'no compiler'}, probe {self.probe}"
        )


@cache
def fingerprint() -> Fingerprint:
    """That of this process; some milliseconds at the first call."""
    return Fingerprint(
        _version(),
        PROTOCOL,
        np.__version__,
        tuple(sorted(blas.libraries())),
        tuple(sorted(name for name, there in __cpu_features__.items() if there)),
        " ".join([platform.system(), platform.machine(), *platform.libc_ver()]),
        _probe(),
        _version("jaxlib"),
        _compiler(),
    )


@lru_cache(maxsize=1024)  # asked for each worker of each job
def _digest(kernels: Fingerprint) -> str:
    return hashlib.sha256(json.dumps(asdict(kernels), sort_keys=True).encode()).hexdigest()[:16]


def _version(distribution: str = "gradfleet") -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # ours is run from its sources
        return "not installed"


def _compiler() -> str:
    """What compiled kernels' bits depend on: the compiler, which is not loaded for it, and the processor it compiles for."""
    try:
        return f"llvmlite {metadata.version('llvmlite')} {_processor()}"
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    """The processor's model, by which compilers choose among instructions."""
    wanted = (
        "vendor_id",
        "cpu family",
        "model",
        "stepping",
        "CPU implementer",
        "CPU architecture",
        "CPU part",
        "CPU variant",
    )
    known: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            known.setdefault(name.strip(), value.strip())
    except OSError:
        return platform.processor()
    return " ".join([known[name] for name in wanted if name in known]) or platform.processor()


def _text(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


def _probe() -> str:
    digest = hashlib.sha256()
    with blas.threads(1), np.errstate(all="ignore"):
        for result in (*_results(np.dtype(np.float32)), *_results(np.dtype(np.float64))):
            digest.update(np.ascontiguousarray(result).tobytes())
    return digest.hexdigest()[:16]


def _results(dtype: np.dtype[Any]) -> Iterator[Array]:
    """Long products, whose blocks show in the last bits; sums; functions of the C library; linear algebra."""
    long, wide = _numbers(48, 3000).astype(dtype), _numbers(300, 64).astype(dtype)
    yield long @ long.T
    yield long @ long[0]
    yield wide.T @ wide
    yield from (long.sum(axis=0), long.sum(axis=1), wide.mean(keepdims=True), wide.std(axis=0))
    yield from (np.exp(wide), np.log(np.abs(wide)), np.sin(wide), np.tanh(wide), np.power(np.abs(wide), wide))
    square = wide[:24, :24] + 8 * np.eye(24, dtype=dtype)
    yield from (np.linalg.inv(square), np.linalg.eigvalsh(square + square.T), np.linalg.qr(wide)[1])


def _numbers(rows: int, columns: int) -> Array:
    """Numbers about zero with many bits, made by whole-number arithmetic, which is alike everywhere."""
    counted = np.arange(1, rows * columns + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    scaled: Array = (counted >> np.uint64(11)).astype(np.float64) / 2.0**52 - 1.0
    return scaled.reshape(rows, columns)
