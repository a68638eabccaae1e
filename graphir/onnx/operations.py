"""What every op can do, from the registry: `python -m graphir.onnx.operations` writes docs/operations.md.

For each op: its sentence, the function that users call, what it is written as in ONNX, its derivative and the axes
along which it is cut. The examples of the op's declaration are asked, so the document says what the code does.
"""

import argparse
import ast
import importlib
import inspect
import pkgutil
from collections import defaultdict
from pathlib import Path
from types import ModuleType

import graphir
from graphir import control, ops
from graphir.axes import AxisRule
from graphir.errors import GraphError
from graphir.graph import Graph
from graphir.node import REGISTRY, Node, Op
from graphir.onnx import exporter, families
from graphir.onnx.call import RULES
from graphir.ops.sources import input_

DOCUMENT = Path("docs/operations.md")
SHOWN = 6
"""The most ONNX operators that are named for one op."""

BESIDE = {"Constant", "Identity", "Cast", "CastLike", "Shape", "Gather", "Concat", "Unsqueeze", "Squeeze", "Reshape"}
"""Operators that an op needs for shapes and dtypes; named only where an op is made of nothing else."""

CALLED = {
    "permute": ("permute_dims", "moveaxis", "matrix_transpose"), "broadcast": ("broadcast_to",), "cast": ("astype",),
    "iota": ("arange",), "eigh": ("linalg.eigh", "linalg.eigvalsh"), "svd": ("linalg.svd", "linalg.svdvals"),
    "qr_complete": ("linalg.qr",), "svd_complete": ("linalg.svd",), "triangular_solve": ("linalg.solve_triangular",),
    "logabsdet": ("linalg.slogdet",), "sign_of_det": ("linalg.slogdet",), "take_at": ("take",),
    "random_bits": ("random.bits",), "random_key": ("random.fold_in", "random.split"), "call": ("checkpoint",),
    "einsum": ("einsum", "tensordot", "vecdot"), "erf": ("nn.gelu",), "slice": ("Expr.__getitem__",),
    "conv_input": ("nn.conv_transpose",), "windows": ("nn.avg_pool", "nn.lp_pool"),
    "window_max": ("nn.max_pool",),
}  # fmt: skip
"""Public functions of ops whose names differ from theirs."""

UNWRITTEN = {
    "input": "an input of the model",
    "nextafter": "ONNX has no operator on the spacing of floats",
    "bitcast": "BitCast is newer than the operator set that is written",
    "custom_vjp": "its derivative is a function of the user's program",
} | dict.fromkeys(
    ("cholesky", "solve", "triangular_solve", "cofactor", "logabsdet", "sign_of_det", "pinv", "qr", "qr_complete",
     "eigh", "svd", "svd_complete"),
    "ONNX has no operator for it: of linear algebra it has MatMul, Gemm, Einsum and Det",
)  # fmt: skip
"""Why an op has no rule for ONNX."""

LEFT_OUT = {
    **dict.fromkeys(
        ("nonzero", "unique_all", "unique_counts", "unique_inverse", "unique_values"),
        "the shape of the result depends on the values, and every node has a type before evaluation",
    ),
    **dict.fromkeys(("complex64", "complex128"), "there are no complex dtypes"),
    "fft": "its functions have complex results; the op `fourier` transforms pairs of real and imaginary parts",
    "from_dlpack": "an expression has no memory to share; give the array to `gi.constant` or feed it",
    "__array_namespace_info__": "an expression is on no device; dtypes are those that `gi` names",
}
"""Names of the Array API standard 2024.12 that `gi` has not, and why."""

ARGUMENTS_LEFT_OUT = {"device": "an expression is on no device", "copy": "an expression never changes"}
"""Arguments of the standard's functions that those of `gi` have not, and why."""


def declared() -> dict[ModuleType, list[Op]]:
    """The ops by the module that declares them, in the registry's order."""
    found: dict[Op, ModuleType] = {}
    for package in (ops, control):
        for info in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            module = importlib.import_module(info.name)
            imported = _imported(module)
            for name, value in vars(module).items():
                if isinstance(value, Op) and name not in imported:
                    found.setdefault(value, module)
    groups: dict[ModuleType, list[Op]] = defaultdict(list)
    for op in REGISTRY.values():
        if op in found:
            groups[found[op]].append(op)
    return groups


def _imported(module: ModuleType) -> set[str]:
    tree = ast.parse(inspect.getsource(module))
    return {
        name.asname or name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names
    }


def applied(op: Op) -> list[tuple[tuple[Node, ...], Node]]:
    """The op's examples: inputs and node."""
    found = []
    for example in op.examples:
        leaves = tuple(input_(name=f"x{k}", dtype=s.dtype, shape=s.shape) for k, s in enumerate(example.inputs))
        found.append((leaves, op(*leaves, **example.attrs)))
    return found


def called(op: Op) -> tuple[str, ...]:
    """The public functions that make the op."""
    if op.name in CALLED:
        return CALLED[op.name]
    paths = (op.name, f"linalg.{op.name}", f"nn.{op.name}")
    return tuple(path for path in paths if callable(public(path)))[:1]


def public(path: str) -> object:
    """What `gi` has under a dotted name; None where it has nothing."""
    value: object = graphir
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def written(op: Op) -> str:
    """The ONNX operators that the op's examples become, or why there are none."""
    if op.name in UNWRITTEN:
        return f"no: {UNWRITTEN[op.name]}"
    found: set[str] = set()
    refused = ""
    for leaves, node in applied(op):
        try:
            model = exporter.to_model(Graph({"y": node}, inputs=leaves))
        except GraphError as error:
            refused = str(error).split("\n")[0].split(";")[0]
        else:
            found |= {proto.op_type for proto in model.graph.node}
    if refused and not found:
        return f"not its examples: {refused}"
    names = sorted(found - BESIDE) or sorted(found - {"Identity"}) or ["no operator"]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more + (f"; not all: {refused}" if refused else "")


def derivative(op: Op) -> str:
    """Which inputs have a derivative, or why none has."""
    if isinstance(op.vjp, str):
        return f"no: {op.vjp}"
    if not isinstance(op.vjp, tuple) or all(op.vjp):
        return "yes"
    with_rule = [str(k) for k, rule in enumerate(op.vjp) if rule is not None]
    return f"yes, for input {' and '.join(with_rule)} of {len(op.vjp)}"


def cuts(op: Op) -> str:
    """The axes along which the op is cut, by the example that is cut along most."""
    if isinstance(op.axes, str):
        return f"no: {op.axes}"
    rules = [node.op.axis_rule(tuple(x.type for x in leaves), node.attrs) for leaves, node in applied(op)]
    rule = max((r for r in rules if r is not None), key=lambda r: (sum(map(r.can_cut, r.factors)), len(r.factors)))
    joined = [f for f in rule.factors if rule.can_cut(f) and f in rule.output]
    combined = [f for f in rule.factors if rule.can_cut(f) and f not in rule.output]
    whole = [f for f in rule.factors if not rule.can_cut(f)]
    if not combined and not whole:
        return "all axes"
    parts = [", ".join(joined) or "no axis joined"]
    parts += [f"{', '.join(combined)} by {rule.combine}"] if combined else []
    parts += [f"whole: {', '.join(whole)}"] if whole else []
    return f"{'; '.join(parts)} (`{notation(rule)}`)"


def notation(rule: AxisRule) -> str:
    """The rule as `graphir.axes.parse` reads it."""
    return f"{', '.join(' '.join(axes) for axes in rule.inputs)} -> {' '.join(rule.output)}".strip()


def row(op: Op) -> str:
    """The op's line of the table."""
    functions = ", ".join("`x[...]`" if path == "Expr.__getitem__" else f"`gi.{path}`" for path in called(op))
    cells = (f"`{op.name}`", op.doc, functions, written(op), derivative(op), cuts(op))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def render() -> str:
    """The document."""
    lines = [
        "# Operations",
        "",
        f"The {sum(map(len, declared().values()))} ops by family. Generated by `python -m graphir.onnx.operations`; the tests",
        "of this project hold it to be exact. Functions that are not here are compositions of these.",
        "",
        "- *ONNX*: what the op's examples are written as, without operators that only fit shapes and dtypes.",
        "- *cut*: axes along which the op is computed in parts. Parts along an axis of the result are joined; others are",
        "  combined by the operator named. *whole*: an axis along which each result needs every element. Letters are",
        "  those of the axis rule of the example that is cut along most, written as in einsum; a scalar has none.",
        "- *derivative*: inputs are counted from 0.",
    ]
    for module, members in declared().items():
        title = module.__name__.removeprefix("graphir.")
        lines += ["", f"## {title}", "", (module.__doc__ or "").split("\n\n")[0].replace("\n", " ").strip(), ""]
        lines += ["| op | what it does | function | ONNX | derivative | cut |", "|---|---|---|---|---|---|"]
        lines += [row(op) for op in members]
    return "\n".join([*lines, *_operators_read(), *_standard()]) + "\n"


def _operators_read() -> list[str]:
    groups: dict[str, set[str]] = defaultdict(set)
    for (domain, name), rule in RULES.items():
        if rule.__module__.startswith(families.__name__):
            groups[rule.__module__.rsplit(".", 1)[-1]].add(f"{domain}.{name}" if domain else name)
    count = sum(map(len, groups.values()))
    lines = [
        "",
        "## ONNX operators that are read",
        "",
        f"{count} by rules, others by the function ONNX defines for them.",
        "",
    ]
    return lines + [f"- {family}: {', '.join(sorted(groups[family]))}" for family in sorted(groups)]


def _standard() -> list[str]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for name, reason in LEFT_OUT.items():
        reasons[reason].append(f"`{name}`")
    head = "`gi` and `gi.linalg` have every name of the standard, version 2024.12, but for these:"
    names = [f"- {', '.join(n)}: {why}." for why, n in reasons.items()]
    tail = "Functions take the standard's arguments under its names, but for these:"
    arguments = [f"- `{name}`: {why}." for name, why in ARGUMENTS_LEFT_OUT.items()]
    return ["", "## Array API standard", "", head, "", *names, "", tail, "", *arguments]


def main() -> None:
    """Write the document."""
    parser = argparse.ArgumentParser(description="Write what every op can do.")
    parser.add_argument("-o", "--output", type=Path, default=DOCUMENT)
    parser.parse_args().output.write_text(render())


if __name__ == "__main__":
    main()
