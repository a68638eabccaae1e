"""Compiled loops: every op x dtype against numpy's kernels, vector functions against mpmath, layouts, threads, the cache."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest

import graphir as gi
from graphir.errors import GraphError
from graphir.node import REGISTRY, Node, Op
from graphir.ops.rules import elementwise_axes
from graphir.ops.sources import input_
from workers.backends.llvm import cache, scalar
from workers.backends.llvm.code import TYPES
from workers.backends.llvm.loops import loop
from workers.backends.llvm.vector import FAR, FUNCTIONS
from workers.executor import Executor
from workers.fuse import Group

ELEMENTWISE = [op for op in REGISTRY.values() if op.axes is elementwise_axes and not op.cheap]
SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.5, 1e-310, -1e-310, 5e-324, 2.0**-1022, 1e-40, 1e-20, 1e-9, 1e-3,
           0.46875, 0.999, 1.001, 4.0, 5.9, 20.0, 40.0, 88.8, 709.7, 709.79, 710.5, 1e5, 1e38, 1e300, np.inf, -np.inf,
           np.nan, -20.0, -40.0, -87.4, -104.0, -708.5, -745.2, -746.0, -1e5, -1e300]  # fmt: skip
ULPS = {
    "exp": 1.0,
    "expm1": 2.0,
    "tanh": 2.0,
    "log": 1.0,
    "log1p": 1.0,
    "log2": 1.0,
    "sin": 1.0,
    "cos": 1.0,
    "erf": 4.0,
}
"""What docs/kernels.md says of float64."""
SINGLE_ULPS = {"exp": 1.0, "expm1": 2.0, "tanh": 2.0, "log": 1.0, "log1p": 1.0}
"""And of float32; what is not here is rounded from float64 and stays within 0.6."""


def compiled(node: Node, arrays: list[np.ndarray]) -> np.ndarray:
    made = loop(Group((node,), (node,)))
    assert made is not None
    started = made.start(arrays)
    started.run(0, started.count)
    assert not started.suspect
    return started.outputs[0]


def applications() -> list[tuple[Op, str, dict[str, str]]]:
    """Each op with each dtype, and casts and bitcasts to each."""
    found: list[tuple[Op, str, dict[str, str]]] = []
    for op, dtype in itertools.product(ELEMENTWISE, TYPES):
        for target in TYPES if op.attrs else [""]:
            found.append((op, dtype, {"dtype": target} if target else {}))
    return found


def operands(op: Op, dtype: str, shape: str = "n") -> list[Node]:
    kinds = ["bool", dtype, dtype] if op.name == "where" else [dtype] * (op.arity or 0)
    return [input_(name=f"i{k}", dtype=kind, shape=(shape,)) for k, kind in enumerate(kinds)]


def grid(dtype: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(1681) < 0.5
    if dtype.startswith("float"):
        with np.errstate(over="ignore"):
            special = np.array(SPECIAL).astype(dtype)
        return np.repeat(special, 41) if seed % 2 else np.tile(special, 41)
    limits = np.iinfo(dtype)
    edge = np.array([0, 1, 2, 3, 7, limits.max, limits.min, limits.max - 1], dtype)
    return np.concatenate([edge, rng.integers(limits.min, limits.max, 1673, dtype, endpoint=True)])


def test_every_op_and_dtype_has_the_bits_of_the_reference_or_a_bound() -> None:
    seen = set()
    for op, dtype, attrs in applications():
        try:
            node = op(*operands(op, dtype), **attrs)
        except GraphError:
            continue
        if not scalar.covers(node):
            continue
        arrays = [grid(source.type.dtype.name, k) for k, source in enumerate(node.inputs)]
        if op.name in ("sin", "cos"):
            arrays = [np.where(np.abs(a) > FAR, a.dtype.type(3), a) for a in arrays]
        with np.errstate(all="ignore"):
            wanted = op.kernel(*arrays, **attrs)
            found = compiled(node, arrays)
        assert found.dtype == wanted.dtype
        if op.name in FUNCTIONS:
            np.testing.assert_array_equal(np.signbit(found[wanted == 0]), np.signbit(wanted[wanted == 0]), op.name)
            if op.name != "erf":  # whose own kernel is looser
                np.testing.assert_allclose(found, wanted, rtol=1e-15 if dtype == "float64" else 4e-7, atol=1e-320)
        else:
            np.testing.assert_array_equal(found, wanted, f"{op.name} {dtype} {attrs}")
        seen.add(op.name)
    assert set(FUNCTIONS) < seen
    assert len(seen) > 45


EXACT = {
    "exp": mpmath.exp, "expm1": mpmath.expm1, "tanh": mpmath.tanh, "log": mpmath.log, "log1p": mpmath.log1p,
    "log2": lambda x: mpmath.log(x, 2), "sin": mpmath.sin, "cos": mpmath.cos, "erf": mpmath.erf,
}  # fmt: skip


def points(name: str, dtype: str, count: int) -> np.ndarray:
    """All sizes, both signs, about 1, and near the multiples of pi/2."""
    rng = np.random.default_rng(5)
    signs = rng.choice([-1, 1], count)
    parts = [
        rng.uniform(-30, 30, count), rng.uniform(-1.2, 1.2, count), rng.uniform(-740, 709.7, count),
        signs * np.exp(rng.uniform(-740, 709, count)), 1 + rng.uniform(-1e-3, 1e-3, count),
        rng.integers(1, 600_000, count) * (np.pi / 2), rng.uniform(-FAR, FAR, count),
    ]  # fmt: skip
    with np.errstate(over="ignore"):
        x = np.concatenate(parts).astype(dtype)
    low = {"log": 0, "log2": 0, "log1p": -1}.get(name, -np.inf)
    x = x[(x > low) & np.isfinite(x)]
    return x[np.abs(x) <= FAR] if name in ("sin", "cos") else x


def errors(name: str, dtype: str, count: int) -> float:
    """The largest error in units of the last place of the result."""
    x = points(name, dtype, count)
    found = compiled(REGISTRY[name](input_(name="x", dtype=dtype, shape=("n",))), [x])
    worst = 0.0
    with mpmath.workprec(200), np.errstate(all="ignore"):
        for at, value in zip(x.tolist(), found, strict=True):
            exact = EXACT[name](mpmath.mpf(at))
            rounded = np.array(float(exact)).astype(dtype)[()]
            if np.isfinite(rounded):
                worst = max(worst, float(abs(mpmath.mpf(float(value)) - exact) / float(np.spacing(np.abs(rounded)))))
            else:
                assert value == rounded
    return worst


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_errors_of_vector_functions_are_bounded(name: str, dtype: str) -> None:
    assert errors(name, dtype, 150) <= (ULPS[name] if dtype == "float64" else SINGLE_ULPS.get(name, 0.6))


def chain(x: gi.Expr, row: gi.Expr, column: gi.Expr) -> gi.Expr:
    return gi.tanh(x * row) + gi.exp(-x * column) / (1 + gi.square(x))


def layouts() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    whole = rng.standard_normal((300, 260))
    unaligned = np.empty(300 * 260 * 8 + 1, np.uint8)[1:].view(np.float64).reshape(300, 260)
    unaligned[:] = whole
    read_only = whole.copy()
    read_only.flags.writeable = False
    return {
        "C": whole, "F": np.asfortranarray(whole), "sliced": rng.standard_normal((600, 520))[::2, ::2],
        "reversed": whole[::-1, ::-1], "swapped": whole.astype(">f8"), "unaligned": unaligned, "read-only": read_only,
        "one": np.broadcast_to(np.float64(0.3), (300, 260)), "row": np.broadcast_to(whole[0], (300, 260)),
    }  # fmt: skip


@pytest.mark.parametrize("name", layouts())
def test_operands_may_lie_in_any_way(name: str) -> None:
    x, row, column = gi.input("x", ("n", "m")), gi.input("row", ("m",)), gi.input("column", ("n", 1))
    graph = gi.Graph({"value": chain(x, row, column), "sign": x > row})
    feeds = {"x": layouts()[name], "row": np.linspace(-1, 1, 260), "column": np.linspace(0, 2, 300)[:, None]}
    wanted = gi.evaluate(graph, feeds)
    found = Executor(graph, "llvm", threads=2)(feeds)
    np.testing.assert_allclose(found["value"], wanted["value"], rtol=1e-14, atol=1e-14)
    np.testing.assert_array_equal(found["sign"], wanted["sign"])


def test_threads_and_places_do_not_change_bits() -> None:
    x, row, column = gi.input("x", ("n", "m")), gi.input("row", ("m",)), gi.input("column", ("n", 1))
    graph = gi.Graph({"value": chain(x, row, column), "slope": gi.grad(gi.sum(chain(x, row, column)), [x])[0]})
    rng = np.random.default_rng(3)
    feeds = {"x": rng.standard_normal((501, 403)), "row": rng.standard_normal(403), "column": rng.random((501, 1))}
    one = Executor(graph, "llvm", threads=1)(feeds)
    for threads in (2, 3):
        other = Executor(graph, "llvm", threads=threads)(feeds)
        assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    part = Executor(graph, "llvm")({**feeds, "x": feeds["x"][100:467], "column": feeds["column"][100:467]})
    assert part["value"].tobytes() == one["value"][100:467].tobytes()


def test_sines_of_huge_arguments_are_numpys() -> None:
    x = gi.input("x", ("n",))
    graph = gi.Graph({"value": gi.sin(x) * gi.cos(x), "both": gi.sin(x) + x})
    values = np.linspace(-3, 3, 100_000)
    values[77_777] = 1e22
    wanted, found = gi.evaluate(graph, {"x": values}), Executor(graph, "llvm", threads=2)({"x": values})
    assert all(found[name].tobytes() == wanted[name].tobytes() for name in wanted)
    values[77_777] = np.inf
    np.testing.assert_allclose(
        Executor(graph, "llvm")({"x": values})["value"], gi.evaluate(graph, {"x": values})["value"], rtol=1e-13
    )


def test_what_is_not_compiled_is_left_to_numpy() -> None:
    x = gi.input("x", ("n",))
    graph = gi.Graph({"value": gi.atan(x) * gi.exp(x)})
    values = np.linspace(-3, 3, 50_000)
    assert (
        Executor(graph, "llvm")({"x": values})["value"].tobytes()
        == gi.evaluate(graph, {"x": values})["value"].tobytes()
    )


PROGRAM = """
import numpy as np, graphir as gi
from workers.executor import Executor
from workers.backends.llvm import build
made = []
compiled = build._Machine.compiled
build._Machine.compiled = lambda self, text: made.append(1) or compiled(self, text)
x = gi.input("x", ("n",))
out = Executor(gi.Graph({"y": gi.exp(x) * x}), "llvm")({"x": np.linspace(0, 1, 50_000)})
assert np.allclose(out["y"], np.exp(np.linspace(0, 1, 50_000)) * np.linspace(0, 1, 50_000))
print(len(made))
"""


def compilations(folder: Path) -> int:
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder)}
    run = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_a_second_process_finds_the_code_and_makes_damaged_code_anew(tmp_path: Path) -> None:
    assert compilations(tmp_path) == 1
    assert compilations(tmp_path) == 0
    (kept,) = (tmp_path / "gradfleet" / "code").iterdir()
    whole = kept.read_bytes()
    for damaged in (
        b"",
        whole[:-1],
        whole[:100] + bytes([whole[100] ^ 1]) + whole[101:],
        whole.replace(b"code 1", b"code 0", 1),
    ):
        kept.write_bytes(damaged)
        assert compilations(tmp_path) == 1
        assert kept.read_bytes()[:17] == whole[:17]


def test_code_of_others_or_without_a_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache.write("key", b"code")
    assert cache.read("key") == b"code"
    (cache.folder() / "key").chmod(0o666)
    assert cache.read("key") is None
    (cache.folder() / "other").write_bytes((cache.folder() / "key").read_bytes())
    assert cache.read("other") is None
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache.write("key", b"code")
    assert cache.read("key") is None
