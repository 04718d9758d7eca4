"""What a sequence has, for results that are tables too.

polars reads a Sequence item by item before it asks whether it is an Arrow stream, so results are none by `isinstance`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any


class ItemsByPlace:
    """The methods that `Sequence` makes of a length and of items by their places."""

    __slots__ = ()
    __iter__: Any = Sequence.__iter__
    __contains__: Any = Sequence.__contains__
    __reversed__: Any = Sequence.__reversed__
    index: Any = Sequence.index
    count: Any = Sequence.count

    def __class_getitem__(cls, item: Any) -> type[ItemsByPlace]:
        return cls


if TYPE_CHECKING:
    Items = Sequence  # to a type checker results are sequences
else:
    Items = ItemsByPlace
