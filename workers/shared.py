"""Memory shared by the workers of one machine: anonymous files (memfd_create(2)) whose descriptors are passed on.

The sender copies an array into a buffer, the receiver maps it and reads it in place, and says when nobody looks at it any
more, so that the buffer is used again: its pages are there already. Nothing has a name, so nothing is left behind
when a worker is killed.
"""

import mmap
import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphir.node import Array

KEEP_BYTES = 1 << 29
"""How many bytes of unused buffers a worker keeps."""


@dataclass(eq=False)
class Buffer:
    """One shared buffer of its maker; `readers` counts the receivers that have not given it back."""

    number: int
    descriptor: int
    memory: mmap.mmap
    readers: int = 0
    known: set[str] = field(default_factory=set)

    def close(self) -> None:
        """Give the memory back; mappings of receivers stay valid."""
        self.memory.close()
        os.close(self.descriptor)


class Buffers:
    """The buffers that a worker has made."""

    def __init__(self) -> None:
        self._all: dict[int, Buffer] = {}
        self._next = 0

    def fill(self, array: Array, readers: int) -> Buffer:
        """A buffer with the array's bytes, for so many readers."""
        buffer = self._free(array.nbytes) or self._make(array.nbytes)
        target: np.ndarray[Any, Any] = np.frombuffer(buffer.memory, array.dtype, array.size).reshape(array.shape)
        np.copyto(target, array)
        buffer.readers = readers
        return buffer

    def release(self, number: int) -> None:
        """One reader has done with it."""
        buffer = self._all.get(number)
        if buffer is None:
            return
        buffer.readers -= 1
        unused = [b for b in self._all.values() if b.readers == 0]
        while sum(len(b.memory) for b in unused) > KEEP_BYTES:
            self._drop(unused.pop(0))

    def close(self) -> None:
        """Forget every buffer."""
        for buffer in list(self._all.values()):
            self._drop(buffer)

    def _drop(self, buffer: Buffer) -> None:
        del self._all[buffer.number]
        buffer.close()

    def _free(self, size: int) -> Buffer | None:
        fitting = [b for b in self._all.values() if b.readers == 0 and size <= len(b.memory) <= 2 * size]
        return min(fitting, key=lambda b: len(b.memory), default=None)

    def _make(self, size: int) -> Buffer:
        descriptor = os.memfd_create("gradfleet", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, size)
        self._next += 1
        self._all[self._next] = made = Buffer(self._next, descriptor, mmap.mmap(descriptor, size))
        return made


def mapped(descriptor: int) -> mmap.mmap:
    """The received buffer, read-only; the descriptor is closed."""
    try:
        return mmap.mmap(descriptor, os.fstat(descriptor).st_size, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptor)
