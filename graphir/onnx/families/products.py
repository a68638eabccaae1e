"""Sums of products: MatMul, Gemm, Einsum."""

from graphir import array, manipulate
from graphir.expr import Expr
from graphir.onnx.call import Call, reads, scalar


@reads("MatMul")
def _matmul(call: Call) -> Expr:
    return array.matmul(call[0], call[1])


@reads("Gemm")
def _gemm(call: Call) -> Expr:
    a = manipulate.transpose(call[0]) if call.attr("transA", 0) else call[0]
    b = manipulate.transpose(call[1]) if call.attr("transB", 0) else call[1]
    result = _scaled(array.matmul(a, b), call.attr("alpha", 1.0))
    addend = call.get(2)
    return result if addend is None else result + _scaled(addend, call.attr("beta", 1.0))


def _scaled(x: Expr, factor: float) -> Expr:
    return x if factor == 1.0 else x * scalar(factor, x)


@reads("Einsum")
def _einsum(call: Call) -> Expr:
    operands = [call[k] for k in range(len(call.inputs))]
    text = _explicit(call.need("equation").replace(" ", ""), [x.ndim for x in operands])
    cleaned = [_diagonals(part, x) for part, x in zip(text.split("->")[0].split(","), operands, strict=True)]
    subscripts = ",".join(part for part, _ in cleaned)
    return array.einsum(f"{subscripts}->{text.split('->')[1]}", *[x for _, x in cleaned])


def _explicit(text: str, ranks: list[int]) -> str:
    """Ellipses replaced by letters, and the output written out."""
    left, arrow, output = text.partition("->")
    parts = left.split(",")
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in text]
    longest = max((r - len(p.replace("...", "")) for p, r in zip(parts, ranks, strict=True) if "..." in p), default=0)
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        output = ("..." if "..." in left else "") + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    filled = [
        p.replace("...", "".join(free[longest - (r - len(p.replace("...", ""))) : longest]))
        for p, r in zip(parts, ranks, strict=True)
    ]
    return f"{','.join(filled)}->{output.replace('...', ''.join(free[:longest]))}"


def _diagonals(part: str, x: Expr) -> tuple[str, Expr]:
    """An operand without repeated letters: their diagonals are taken."""
    while len(set(part)) < len(part):
        letter = next(c for c in part if part.count(c) > 1)
        first, second = [k for k, c in enumerate(part) if c == letter][:2]
        moved = manipulate.moveaxis(x, second, first + 1)
        size = moved.shape[first]
        shape = tuple(size if k == first else 1 for k in range(moved.ndim - 1))
        places = manipulate.reshape(array.arange(str(size)), (*shape[: first + 1], 1, *shape[first + 1 :]))
        picked = array.take_along_axis(moved, places, first + 1)
        x = manipulate.squeeze(picked, first + 1)
        part = part[:second] + part[second + 1 :]
    return part, x
