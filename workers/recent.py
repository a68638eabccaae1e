"""A bounded mapping that forgets what was used longest ago; bounded by entries, and by their weight if they differ much."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """At most `most` entries, of at most `heaviest` together; the newest is always kept. May be used by several threads."""

    def __init__(self, most: int, heaviest: int | None = None, weigh: Callable[[V], int] = lambda value: 1) -> None:
        self._most, self._heaviest, self._weigh = most, most if heaviest is None else heaviest, weigh
        self._weight, self._lock = 0, threading.Lock()
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The entry, used now; None if it is not here."""
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key]

    def made(self, key: K, make: Callable[[], V]) -> V:
        """The entry, made if there is none; if threads need it at once, each may make it, and one is kept."""
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key]
        value = make()
        self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep an entry."""
        with self._lock:
            if key in self._entries:
                self._weight -= self._weigh(self._entries.pop(key))
            self._entries[key] = value
            self._weight += self._weigh(value)
            while len(self._entries) > 1 and (len(self._entries) > self._most or self._weight > self._heaviest):
                self._weight -= self._weigh(self._entries.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget all entries."""
        with self._lock:
            self._entries.clear()
            self._weight = 0
