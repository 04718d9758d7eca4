"""A table about images that was read: its columns, and what had to be guessed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class MetadataFile:
    """The columns of a table, text as text, numbers as numbers, empty cells null; and what was guessed about it.

    ``has_header`` says that the names of columns are a line of the file, which may be a row instead.
    """

    columns: Any  # pyarrow.Table
    notes: list[str] = field(default_factory=list)
    has_header: bool = False


def named_columns(names: Sequence[str], columns: Sequence[Any]) -> dict[str, Any]:
    """Return columns by name, without those that have neither a name nor a value.

    One with values alone is called as pandas calls it, `Unnamed: 3`, or `column_4` where none has a name. Raises
    ValueError for two of one name.
    """
    named: dict[str, Any] = {}
    for place, (name, column) in enumerate(zip(names, columns, strict=True)):
        if not name.strip() and column.null_count == len(column):
            continue
        key = name.strip() or (f"Unnamed: {place}" if any(names) else f"column_{place + 1}")
        if key in named:
            raise ValueError(f"it has two columns {key!r}: rename one")
        named[key] = column
    return named


def table_of(names: Sequence[str], columns: Sequence[Any]) -> Any:
    """Return the Arrow table of these columns."""
    import pyarrow as pa

    return pa.Table.from_arrays(list(columns), names=list(names))
