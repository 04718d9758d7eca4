"""The one cache of this package: values that are expensive to make, in memory, the least recently used dropped first.

Knows nothing about what it caches.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

Value = TypeVar("Value")


def _one(_: object) -> int:
    return 1


class LRUCache:
    """Values by key whose sizes add up to at most `limit`; safe to share between threads.

    A size is whatever the caller counts in: bytes, or entries (each value has size 1 by default). A value may be valid
    only for one `state` of what it was made from: it is then missing for any other state, and the next one replaces it.
    """

    def __init__(self, limit: float = float("inf"), dropped: Callable[[Any], None] | None = None) -> None:
        """Start empty; without a limit, values stay until they are removed.

        `dropped` gets each value that leaves the cache, while this is locked: it must be quick, and ask for nothing.
        """
        self.limit, self._dropped = limit, dropped
        self._size = 0
        self._entries: OrderedDict[Hashable, tuple[Any, int, Hashable]] = OrderedDict()  # value, size, state
        self._makers: dict[
            Hashable, tuple[threading.Lock, int]
        ] = {}  # of keys that a thread makes; threads that use it
        self._mutex = threading.Lock()

    def get(
        self,
        key: Hashable,
        make: Callable[[], Value],
        size: Callable[[Value], int] = _one,
        state: Hashable = None,
    ) -> Value:
        """Return the cached value, or make and cache it.

        Threads that ask for one missing key at once wait for one of them to make it. If `make` raises, its caller gets
        the error and the next thread tries. `make` must not ask for its own key.
        """
        if (entry := self._entry(key, state)) is not None:
            return entry[0]  # type: ignore[no-any-return]
        with self._making(key):
            if (entry := self._entry(key, state)) is not None:
                return entry[0]  # type: ignore[no-any-return]
            value = make()
            self.put(key, value, size(value), state)
        return value

    def find(self, key: Hashable, state: Hashable = None) -> Any | None:
        """Return the cached value, or None."""
        entry = self._entry(key, state)
        return None if entry is None else entry[0]

    def put(self, key: Hashable, value: object, size: int = 1, state: Hashable = None) -> None:
        """Cache a value in place of the key's last one. A value larger than the limit is not cached."""
        with self._mutex:
            self._drop(key)
            if size > self.limit:
                return
            self._entries[key] = (value, size, state)
            self._size += size
            while self._size > self.limit:
                self._drop(next(iter(self._entries)))

    def remove(self, where: Callable[[Any], bool] = lambda key: True) -> None:
        """Remove the values whose keys meet a condition, by default all of them."""
        with self._mutex:
            for key in [key for key in self._entries if where(key)]:
                self._drop(key)

    def _entry(self, key: Hashable, state: Hashable) -> tuple[Any, int, Hashable] | None:
        with self._mutex:
            entry = self._entries.get(key)
            if entry is None or entry[2] != state:
                return None
            self._entries.move_to_end(key)
            return entry

    def _drop(self, key: Hashable) -> None:
        if key in self._entries:
            value, size, _ = self._entries.pop(key)
            self._size -= size
            if self._dropped is not None:
                self._dropped(value)

    @contextmanager
    def _making(self, key: Hashable) -> Iterator[None]:
        """Let one thread at a time make the value of a key."""
        with self._mutex:
            lock, threads = self._makers.get(key, (threading.Lock(), 0))
            self._makers[key] = (lock, threads + 1)
        try:
            with lock:
                yield
        finally:
            with self._mutex:
                lock, threads = self._makers.pop(key)
                if threads > 1:
                    self._makers[key] = (lock, threads - 1)
