"""Products on expressions: the Array API's matmul, tensordot and vecdot, numpy's outer and einsum."""

from collections.abc import Sequence
from itertools import chain
from string import ascii_letters
from typing import Any

from graphir.errors import AttributeValueError, DTypeError, ShapeError
from graphir.expr import FUNCTIONS, Expr, as_expr, broadcast_to, cast, match_dtypes
from graphir.node import Node
from graphir.ops import contraction, gather, layout
from graphir.ops.layout import element_count as element_count
from graphir.ops.sources import iota
from graphir.origin import located
from graphir.types import BOOL, Shape, broadcast_shapes, promote


@located
def matmul(x1: Any, x2: Any, /) -> Expr:
    """The matrix product with the standard's rules for vectors and broadcast leading axes."""
    left, right = match_dtypes(as_expr(x1), as_expr(x2), keep_bool=False)
    if left.ndim == 0 or right.ndim == 0:
        raise ShapeError(f"cannot multiply {left.node.type} and {right.node.type}: use * for scalars")
    contraction.need_contraction(left.node.type, right.node.type)
    if left.ndim == 1:
        return _drop(matmul(_insert(left, 0), right), -2 if right.ndim > 1 else 0)
    if right.ndim == 1:
        return _drop(matmul(left, _insert(right, 1)), -1)
    if left.ndim > 2 and right.ndim == 2:
        rows = Expr(layout.reshape(left.node, shape=(element_count(left.shape[:-1]), left.shape[-1])))
        product = contraction.matmul(rows.node, right.node)
        return Expr(layout.reshape(product, shape=(*left.shape[:-1], right.shape[-1])))
    batch = broadcast_shapes(left.shape[:-2], right.shape[:-2])
    grown = [broadcast_to(v, (*batch, *v.shape[-2:])).node for v in (left, right)]
    return Expr(contraction.matmul(*grown))


def _insert(x: Expr, axis: int) -> Expr:
    return Expr(layout.reshape(x.node, shape=(*x.shape[:axis], 1, *x.shape[axis:])))


def _drop(x: Expr, axis: int) -> Expr:
    at = axis % x.ndim
    return Expr(layout.reshape(x.node, shape=(*x.shape[:at], *x.shape[at + 1 :])))


@located
def tensordot(x1: Any, x2: Any, /, axes: Any = 2) -> Expr:
    """The sum of products over axes: the last k of x1 with the first k of x2, or two lists of axes."""
    left, right = as_expr(x1), as_expr(x2)
    if isinstance(axes, int):
        if not 0 <= axes <= min(left.ndim, right.ndim):
            raise ShapeError(f"tensordot cannot sum over {axes} axes of {left.node.type} and {right.node.type}")
        pairs = [(left.ndim - axes + k, k) for k in range(axes)]
    else:
        pairs = _axis_pairs(left, right, *[a if isinstance(a, Sequence) else (a,) for a in axes])
    first = list(ascii_letters[: left.ndim])
    second = list(ascii_letters[left.ndim : left.ndim + right.ndim])
    if len(second) < right.ndim:
        raise ShapeError(f"tensordot of {left.node.type} and {right.node.type} has over {len(ascii_letters)} axes")
    for i, j in pairs:
        second[j] = first[i]
    kept = [c for c in chain(first, second) if (c in first) != (c in second)]
    return einsum(f"{''.join(first)},{''.join(second)}->{''.join(kept)}", left, right)


def _axis_pairs(left: Expr, right: Expr, *axes: Sequence[int]) -> list[tuple[int, int]]:
    if len(axes) != 2 or len(axes[0]) != len(axes[1]):
        raise AttributeValueError(f"axes is a number, or two lists of equally many axes; got {axes}")
    for value, given in zip((left, right), axes, strict=True):
        if any(not -value.ndim <= a < value.ndim for a in given) or len({a % value.ndim for a in given}) != len(given):
            raise ShapeError(f"axes {tuple(given)} are not distinct axes of {value.node.type}")
    return [(i % left.ndim, j % right.ndim) for i, j in zip(*axes, strict=True)]


@located
def vecdot(x1: Any, x2: Any, /, *, axis: int = -1) -> Expr:
    """The dot product of vectors along an axis, counted from the end; the other axes broadcast."""
    left, right = as_expr(x1), as_expr(x2)
    if not -min(left.ndim, right.ndim) <= axis < 0:
        raise ShapeError(f"vecdot needs an axis from -{min(left.ndim, right.ndim)} to -1, not {axis}")
    moved = [_last(value, axis) for value in (left, right)]
    return einsum("...i,...i->...", *moved)


def _last(x: Expr, axis: int) -> Expr:
    at = axis % x.ndim
    return Expr(layout.permute(x.node, axes=(*range(at), *range(at + 1, x.ndim), at))) if axis != -1 else x


@located
def outer(x1: Any, x2: Any, /) -> Expr:
    """Every product of an element of x1 with one of x2; values with more axes are flattened, as in numpy."""
    flat = [Expr(layout.reshape(v.node, shape=(element_count(v.shape),))) for v in (as_expr(x1), as_expr(x2))]
    return einsum("i,j->ij", *flat)


# ---- einsum ----


@located
def einsum(subscripts: str, /, *operands: Any) -> Expr:
    """A sum of products by numpy's subscripts: 'ij,jk->ik', 'ii->i', '...ij,...jk->...ik'.

    Three operands or more are contracted pair by pair in the order that opt_einsum finds (Smith and Gray, "opt_einsum",
    JOSS 3, 2018), where a named dimension counts as 1024.
    """
    values = [as_expr(operand) for operand in operands]
    if not values or type(subscripts) is not str:
        raise AttributeValueError("einsum needs subscripts, such as 'ij,jk->ik', and at least one operand")
    dtype = values[0].dtype
    for value in values[1:]:
        dtype = promote(dtype, value.dtype)
    if dtype == BOOL:
        raise DTypeError("einsum needs numbers, not bool; cast the operands")
    terms, output = _named_axes(subscripts.replace(" ", ""), values)
    ready = [_distinct(cast(value, dtype).node, term) for value, term in zip(values, terms, strict=True)]
    for pair in _contractions(ready, output):
        ready = _contracted(ready, pair, output)
    return Expr(_product(ready, output))


def _product(operands: Sequence[tuple[Node, str]], output: str) -> Node:
    text = f"{','.join(letters for _, letters in operands)}->{output}"
    return contraction.einsum(*[node for node, _ in operands], subscripts=text)


_NAMED_SIZE = 1024
"""What a dimension without a number counts when contractions are ordered."""


def _contractions(operands: Sequence[tuple[Node, str]], output: str) -> list[tuple[int, ...]]:
    """Positions of the operands to contract first, next and so on, all but the last time."""
    if len(operands) < 3:
        return []
    import opt_einsum

    shapes = [tuple(d if isinstance(d, int) else _NAMED_SIZE for d in node.type.shape) for node, _ in operands]
    text = f"{','.join(letters for _, letters in operands)}->{output}"
    path, _ = opt_einsum.contract_path(text, *shapes, shapes=True)
    return [tuple(sorted(pair)) for pair in path[:-1]]


def _contracted(operands: list[tuple[Node, str]], chosen: tuple[int, ...], output: str) -> list[tuple[Node, str]]:
    """The operands with the chosen ones replaced by their product, which comes last."""
    rest = [operand for k, operand in enumerate(operands) if k not in chosen]
    needed = set(output).union(*(letters for _, letters in rest))
    own = dict.fromkeys("".join(operands[k][1] for k in chosen))
    kept = "".join(letter for letter in own if letter in needed)
    return [*rest, (_product([operands[k] for k in chosen], kept), kept)]


def _named_axes(text: str, values: list[Expr]) -> tuple[list[list[str | None]], str]:
    """The letter of each axis of each operand, and of the output; None for an axis of 1 that broadcasts."""
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(values):
        raise AttributeValueError(f"einsum {text!r} names {len(terms)} operands; {len(values)} are given")
    for term in (*terms, output):
        dots = term.replace("...", "", 1)
        if dots and not (dots.isascii() and dots.isalpha()):
            raise AttributeValueError(f"einsum subscripts {text!r} must look like 'ij,jk->ik' or '...ij->...ji'")
    shapes = [_ellipsis(text, term, value) for term, value in zip(terms, values, strict=True)]
    common: Shape = ()
    for shape in shapes:
        common = broadcast_shapes(common, shape)
    free = [c for c in ascii_letters if c not in text]
    if len(free) < len(common):
        raise AttributeValueError(f"einsum {text!r} needs more than the {len(ascii_letters)} letters there are")
    batch = free[: len(common)]
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        output = "..." + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    elif common and "..." not in output:
        raise AttributeValueError(f"einsum output {output!r} must have ... for the axes that {left!r} leaves unnamed")
    named = [_letters(term, shape, common, batch) for term, shape in zip(terms, shapes, strict=True)]
    return named, output.replace("...", "".join(batch))


def _ellipsis(text: str, term: str, value: Expr) -> Shape:
    """The sizes of the axes that ... stands for."""
    named = len(term.replace("...", ""))
    if named > value.ndim or (named < value.ndim and "..." not in term):
        raise ShapeError(
            f"einsum {text!r}: operand {term!r} does not fit {value.node.type}, which has {value.ndim} axes"
        )
    start = term.find("...")
    return value.shape[start : start + value.ndim - named] if start >= 0 else ()


def _letters(term: str, shape: Shape, common: Shape, batch: list[str]) -> list[str | None]:
    """The letters of one operand's axes; an axis of 1 under ... has none where the common size is another."""
    before, _, after = term.partition("...")
    tail = len(common) - len(shape)
    own = [None if d == 1 and common[tail + k] != 1 else batch[tail + k] for k, d in enumerate(shape)]
    return [*before, *own, *after]


def _distinct(node: Node, term: list[str | None]) -> tuple[Node, str]:
    """The operand with one axis a letter: axes without one are dropped, repeated ones become their diagonal."""
    if None in term:
        node = layout.reshape(node, shape=tuple(d for d, c in zip(node.type.shape, term, strict=True) if c))
    letters = [c for c in term if c]
    for letter in dict.fromkeys(letters):
        axes = tuple(axis for axis, c in enumerate(letters) if c == letter)
        if len(axes) == 1:
            continue
        sizes = {node.type.shape[axis] for axis in axes}
        if len(sizes) > 1:
            raise ShapeError(f"einsum index {letter!r} is repeated on axes of different sizes of {node.type}")
        along = iota(shape=(sizes.pop(),))
        node = gather.take_at(node, *[along] * len(axes), axes=axes)
        letters = [letter, *[c for c in letters if c != letter]]
    return node, "".join(letters)


FUNCTIONS |= {function.__name__: function for function in (matmul, tensordot, vecdot, outer, einsum)}
