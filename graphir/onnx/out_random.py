"""How random bits are written: Philox4x64-10 in unsigned 64-bit operators, which give the same bits as the kernel.

The upper half of a product of 64-bit words is put together from products of 32-bit halves. Each word of the counters
is one tensor, so a round is some forty operators, and one use of a key about four hundred.
"""

from graphir import dims
from graphir.dims import Dim
from graphir.errors import FormatError
from graphir.node import Node
from graphir.onnx.writer import Writer, writes
from graphir.ops.random import MULTIPLIERS, ROUNDS, WEYL, WORDS
from graphir.types import INT64, as_dtype

_UINT64 = as_dtype("uint64")


@writes("random_bits")
def _bits(w: Writer, node: Node, key: str) -> str:
    """Rows are keys, columns positions; four words to a counter, and NumPy's counters begin at 1."""
    whole, batch = node.attr("whole"), node.inputs[0].type.rank - 1
    if node.attr("shape") != whole:
        raise FormatError("random bits of a chunk have no ONNX operators; export the graph before it is cut")
    count, keys = _product(whole[batch:]), _product(whole[:batch])
    blocks = w.emit("Div", w.emit("Add", w.scalar(count), w.constant(WORDS - 1, INT64)), w.constant(WORDS, INT64))
    one = w.constant(1, INT64)
    numbers = w.emit("Range", one, w.emit("Add", blocks, one), one)
    zero = w.constant(0, _UINT64)
    rows = [w.reshape(word, (keys, 1)) for word in _key_words(w, key)]
    state = _philox(w, [w.cast(numbers, _UINT64), zero, zero, zero], rows)
    words = _stack(w, state)
    flat = w.emit("Reshape", words, w.emit("Concat", w.vector((keys,)), _last(w, blocks), axis=0), allowzero=1)
    drawn = w.emit("Slice", flat, w.ints([0]), w.vector((count,)), w.ints([1]))
    return w.emit("Reshape", drawn, w.vector(whole), allowzero=1)


@writes("random_key")
def _new_key(w: Writer, node: Node, key: str, data: str) -> str:
    zero, domain = w.constant(0, _UINT64), w.constant(node.attr("domain"), _UINT64)
    return _stack(w, _philox(w, [data, zero, zero, domain], _key_words(w, key))[:2])


def _product(shape: tuple[Dim, ...]) -> Dim:
    total: Dim = 1
    for d in shape:
        total = dims.multiply(total, d)
    return total


def _last(w: Writer, blocks: str) -> str:
    """How many numbers the blocks hold, as a vector."""
    return w.emit("Reshape", w.emit("Mul", blocks, w.constant(WORDS, INT64)), w.ints([1]))


def _key_words(w: Writer, key: str) -> list[str]:
    return [w.emit("Gather", key, w.constant(k, INT64), axis=-1) for k in range(2)]


def _stack(w: Writer, words: list[str]) -> str:
    """Words beside each other on a new last axis."""
    return w.emit("Concat", *[w.emit("Unsqueeze", word, w.ints([-1])) for word in words], axis=-1)


def _philox(w: Writer, counter: list[str], key: list[str]) -> list[str]:
    """The four words of each counter's block."""
    state = counter
    for turn in range(ROUNDS):
        if turn:
            key = [w.emit("Add", word, w.constant(step, _UINT64)) for word, step in zip(key, WEYL, strict=True)]
        (high0, low0), (high1, low1) = (_multiply(w, state[2 * k], int(MULTIPLIERS[k])) for k in range(2))
        state = [_xor(w, high1, state[1], key[0]), low1, _xor(w, high0, state[3], key[1]), low0]
    return state


def _xor(w: Writer, a: str, b: str, c: str) -> str:
    return w.emit("BitwiseXor", w.emit("BitwiseXor", a, b), c)


def _multiply(w: Writer, x: str, factor: int) -> tuple[str, str]:
    """The upper and the lower 64 bits of x times a number."""
    half, mask = w.constant(32, _UINT64), w.constant(0xFFFFFFFF, _UINT64)
    c, d = w.constant(factor >> 32, _UINT64), w.constant(factor & 0xFFFFFFFF, _UINT64)
    a, b = w.emit("BitShift", x, half, direction="RIGHT"), w.emit("BitwiseAnd", x, mask)
    carried = w.emit("BitShift", w.emit("Mul", b, d), half, direction="RIGHT")
    cross = w.emit("Add", w.emit("Mul", a, d), carried)
    middle = w.emit("Add", w.emit("Mul", b, c), w.emit("BitwiseAnd", cross, mask))
    high = w.emit("Mul", a, c)
    for part in (cross, middle):
        high = w.emit("Add", high, w.emit("BitShift", part, half, direction="RIGHT"))
    return high, w.emit("Mul", x, w.constant(factor, _UINT64))
