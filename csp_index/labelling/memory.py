"""What a pipeline may remember between calls: results of its steps, by all that they depend on."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol, TypeVar

Value = TypeVar("Value")


class Memory(Protocol):
    """Remembers results of steps. Keys name all that a result depends on but the store, which must not change."""

    def examples(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """Return what belongs to example sets: remembered, or made; `size` returns its bytes."""
        ...

    def dataset(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the result of a pass over the whole dataset: remembered, or made."""
        ...


class NoMemory:
    """Remembers nothing."""

    def examples(self, key: Hashable, make: Callable[[], Value], size: Callable[[Value], int]) -> Value:
        """Make the value."""
        return make()

    def dataset(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Make the value."""
        return make()
