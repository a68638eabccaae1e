"""Symbolic dimensions: polynomials over named sizes, held as canonical text.

A dimension is an `int`, or a `str` such as "n", "2*n + 1" or "(n + 1)//2". Canonical text makes equal
polynomials equal strings, so dimensions hash, compare and serialise as what they are. A name is an
identifier; the partitioner adds names with a dot ("n.local"), which users cannot collide with.
Division is by positive integers and rounds down; what does not divide stays as one atom.
"""

import ast
import functools
import threading
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from graphir.errors import ShapeError

Dim: TypeAlias = int | str
Monomial: TypeAlias = tuple[str, ...]
Poly: TypeAlias = dict[Monomial, int]

PARSING = threading.Lock()
"""Held while a syntax tree is made: CPython 3.11 counts its depth for all threads together, and raises SystemError."""
MAX_TEXT = 256
"""Longest accepted text of one dimension, in characters."""


def dim(value: object) -> Dim:
    """The canonical form of an int, a name or a polynomial text; ShapeError for anything else."""
    if isinstance(value, str):
        return _canonical(value)
    try:
        number = value.__index__()  # type: ignore[attr-defined]  # any integer type, numpy's included
    except AttributeError:
        raise ShapeError(
            f"a dimension is an int or a name like 'n', not {value!r} of type {type(value).__name__}"
        ) from None
    if isinstance(value, bool) or number < 0:
        raise ShapeError(f"a dimension cannot be {value!r}; use a non-negative int or a name like 'n'")
    return int(number)


def local(name: str) -> str:
    """The name of a cut dimension inside the program of a step over it: the size of one chunk."""
    return f"{name}.local"


def is_local(name: str) -> bool:
    """Whether a name is that of one chunk's size."""
    return name.endswith(".local")


def any_local(shape: Iterable[Dim]) -> bool:
    """Whether some size depends on one chunk's."""
    return any(is_local(name) for size in shape for name in names(size))


def add(a: Dim, b: Dim) -> Dim:
    """a + b"""
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    return _text(_sum(_poly(a), _poly(b), 1))


def subtract(a: Dim, b: Dim) -> Dim:
    """a - b; the caller answers for its being non-negative."""
    if isinstance(a, int) and isinstance(b, int):
        return a - b
    return _text(_sum(_poly(a), _poly(b), -1))


def multiply(a: Dim, b: Dim) -> Dim:
    """a * b"""
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return _text(_product(_poly(a), _poly(b)))


def floordiv(a: Dim, divisor: int) -> Dim:
    """a // divisor, rounding down."""
    return a // divisor if isinstance(a, int) else _text(_quotient(_poly(a), divisor))


def exact_quotient(a: Dim, b: Dim) -> Dim | None:
    """a / b where b is an int or a single product that divides every term of a; otherwise None."""
    if a == b:
        return 1
    divisor = _poly(b)
    if len(divisor) != 1:
        return None
    ((atoms, coefficient),) = divisor.items()
    result: Poly = {}
    for monomial, value in _poly(a).items():
        left = list(monomial)
        for atom in atoms:
            if atom not in left:
                return None
            left.remove(atom)
        if coefficient == 0 or value % coefficient:
            return None
        result[tuple(left)] = value // coefficient
    return _text(result)


def names(value: Dim) -> frozenset[str]:
    """The size names in a dimension."""
    return frozenset() if isinstance(value, int) else _names(value)


def evaluate(value: Dim, sizes: Mapping[str, int]) -> int:
    """The number a dimension stands for, given the size of each name."""
    if isinstance(value, int):
        return value
    try:
        return sizes[value]
    except KeyError:
        pass
    total = 0
    for monomial, coefficient in _poly(value).items():
        for atom in monomial:
            coefficient *= _evaluate_atom(atom, sizes)
        total += coefficient
    if total < 0:
        raise ShapeError(f"dimension '{value}' is {total} with the sizes {dict(sizes)}; it must not be negative")
    return total


def rename(value: Dim, renaming: Mapping[str, str]) -> Dim:
    """The same polynomial over other names."""
    if isinstance(value, int) or not any(name in renaming for name in _names(value)):
        return value
    total: Poly = {}
    for monomial, coefficient in _poly(value).items():
        term: Poly = {(): coefficient}
        for atom in monomial:
            term = _product(term, _poly(_rename_atom(atom, renaming)))
        total = _sum(total, term, 1)
    return _text(total)


def solve(value: Dim, size: int, known: Mapping[str, int]) -> tuple[str, int] | None:
    """The one unknown name of `value` and its size, where `value == size` determines it; else None."""
    unknown = [name for name in names(value) if name not in known]
    if len(unknown) != 1 or isinstance(value, int):
        return None
    if value == unknown[0]:
        return unknown[0], size
    constant, slope = 0, 0
    for monomial, coefficient in _poly(value).items():
        rest = [atom for atom in monomial if atom != unknown[0]]
        if len(monomial) - len(rest) > 1 or any(unknown[0] in _names(atom) for atom in rest):
            return None
        for atom in rest:
            coefficient *= _evaluate_atom(atom, known)
        if len(rest) == len(monomial):
            constant += coefficient
        else:
            slope += coefficient
    if slope == 0 or (size - constant) % slope or (size - constant) // slope < 0:
        return None
    return unknown[0], (size - constant) // slope


def terms(value: Dim) -> list[tuple[Monomial, int]]:
    """The products of a dimension and their coefficients; a factor is a name or a quotient (`split_quotient`)."""
    return list(_poly(value).items())


def split_quotient(factor: str) -> tuple[Dim, int] | None:
    """Numerator and divisor of a factor such as "(n + 1)//2"; None for a name."""
    if "//" not in factor:
        return None
    inner, divisor = _numerator(factor)
    return dim(inner), divisor


@functools.lru_cache(maxsize=4096)
def is_multiple_of(value: Dim, name: str) -> bool:
    """Whether every term has `name` as a factor exactly once, so that cutting the name cuts the dimension."""
    return not isinstance(value, int) and all(
        monomial.count(name) == 1 and not any("//" in atom and name in _names(atom) for atom in monomial)
        for monomial in _poly(value)
    )


# ---- canonical text and polynomials ----


@functools.lru_cache(maxsize=4096)
def _canonical(text: str) -> Dim:
    if text.isidentifier() and len(text) <= MAX_TEXT:
        return text
    return _text(_parse(text))


@functools.lru_cache(maxsize=4096)
def _poly(value: Dim) -> Poly:
    """The polynomial; callers must not change the returned dict."""
    if isinstance(value, int):
        return {(): value} if value else {}
    return _parse(value)


@functools.lru_cache(maxsize=4096)
def _names(value: str) -> frozenset[str]:
    if value.isidentifier():
        return frozenset({value})
    found: set[str] = set()
    for monomial in _poly(value):
        for atom in monomial:
            found |= _names(_numerator(atom)[0]) if "//" in atom else {atom}
    return frozenset(found)


def _parse(text: str) -> Poly:
    if len(text) > MAX_TEXT:
        raise ShapeError(f"a dimension's text has {len(text)} characters; at most {MAX_TEXT} are allowed")
    try:
        with PARSING:
            tree = ast.parse(text.strip(), mode="eval")
        return _from_ast(tree.body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ShapeError(
            f"cannot read dimension {text!r}; use an int, a name like 'n', or +, -, * and // of these"
        ) from None


def _from_ast(node: ast.expr) -> Poly:
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return {(): number} if number else {}
        case ast.Name(id=name):
            return {(name,): 1}
        case ast.Attribute(value=ast.Name() | ast.Attribute()):
            return {(ast.unparse(node),): 1}
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _sum({}, _from_ast(operand), -1)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _sum(_from_ast(left), _from_ast(right), 1)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _sum(_from_ast(left), _from_ast(right), -1)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _product(_from_ast(left), _from_ast(right))
        case ast.BinOp(left=left, op=ast.FloorDiv(), right=ast.Constant(value=int(divisor))):
            return _quotient(_from_ast(left), divisor)
    raise ValueError(ast.dump(node))


def _sum(a: Poly, b: Poly, sign: int) -> Poly:
    result = dict(a)
    for monomial, coefficient in b.items():
        value = result.get(monomial, 0) + sign * coefficient
        if value:
            result[monomial] = value
        else:
            result.pop(monomial, None)
    return result


def _product(a: Poly, b: Poly) -> Poly:
    result: Poly = {}
    for left, x in a.items():
        result = _sum(result, {tuple(sorted(left + right)): x * y for right, y in b.items()}, 1)
    return result


def _quotient(a: Poly, divisor: int) -> Poly:
    if divisor < 1:
        raise ShapeError(f"a dimension can be divided by a positive int only, not by {divisor}")
    whole = {monomial: value // divisor for monomial, value in a.items() if value % divisor == 0}
    rest = {monomial: value for monomial, value in a.items() if value % divisor}
    if not rest:
        return whole
    if set(rest) == {()}:
        return _sum(whole, {(): rest[()] // divisor}, 1)
    return _sum(whole, {(f"({_text(rest)})//{divisor}",): 1}, 1)


def _text(poly: Poly) -> Dim:
    if not poly:
        return 0
    if set(poly) == {()}:
        return poly[()]
    parts: list[str] = []
    for monomial in sorted(poly, key=lambda m: (-len(m), m)):
        coefficient = poly[monomial]
        sign = "-" if coefficient < 0 else "+" if parts else ""
        factors = [str(abs(coefficient))] if abs(coefficient) != 1 or not monomial else []
        body = "*".join([*factors, *monomial])
        parts.append(f"{sign} {body}" if parts else f"{sign}{body}")
    text = " ".join(parts)
    if len(text) > MAX_TEXT:
        raise ShapeError(f"the dimension '{text[:60]}...' has grown over {MAX_TEXT} characters; name it by a new size")
    return text


def _numerator(atom: str) -> tuple[str, int]:
    inner, _, divisor = atom.rpartition("//")
    return inner[1:-1], int(divisor)


def _evaluate_atom(atom: str, sizes: Mapping[str, int]) -> int:
    if "//" in atom:
        inner, divisor = _numerator(atom)
        return evaluate(inner, sizes) // divisor
    try:
        return sizes[atom]
    except KeyError:
        raise ShapeError(
            f"the size '{atom}' is not known; give it by feeding an input that has the dimension '{atom}'"
        ) from None


def _rename_atom(atom: str, renaming: Mapping[str, str]) -> Dim:
    if "//" in atom:
        inner, divisor = _numerator(atom)
        return floordiv(rename(inner, renaming), divisor)
    return renaming.get(atom, atom)
