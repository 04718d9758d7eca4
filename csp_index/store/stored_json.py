"""JSON that an index stores, read within bounds: one cell cannot exhaust the stack or the memory of its reader."""

from __future__ import annotations

import json
from typing import Any, Final

from csp_index.errors import StoreError, one_line

_DEEPEST: Final = 64  # levels of lists and objects
_LARGEST: Final = 2**26  # characters


def parse_json(text: str, *, constants: bool = True) -> Any:
    """Return the value of JSON text; without `constants`, NaN and infinities are None.

    Raises ValueError, in one line, for what is no JSON, too deep, or too large.
    """
    if len(text) > _LARGEST:
        raise ValueError(f"it has {len(text):,} characters, expected at most {_LARGEST:,}")
    try:
        value = json.loads(text, parse_constant=None if constants else _nothing)
    except RecursionError:
        raise _too_deep() from None
    if text.count("[") + text.count("{") > _DEEPEST and _is_deeper(value, _DEEPEST):
        raise _too_deep()
    return _whole(value) if r"\ud" in text.lower() else value


def _whole(value: Any) -> Any:
    """Return a value with ? for halves of characters, which an escape can name and no text can hold."""
    return json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))


def read_object(text: str | None, table: str, column: str) -> dict[str, Any]:
    """Return the JSON object of a cell, empty for an empty one. Raises StoreError, which names table and column."""
    try:
        value = parse_json(text) if text else {}
    except ValueError as exc:
        raise _damaged(table, column, one_line(exc)) from exc
    if not isinstance(value, dict):
        raise _damaged(table, column, f"it is a {type(value).__name__}, expected an object")
    return value


def _damaged(table: str, column: str, why: str) -> StoreError:
    return StoreError(f"the column {column} of the table {table} cannot be read as JSON: {why}; the index is damaged")


def _nothing(constant: str) -> None:
    """Stand for a constant that JSON does not have."""


def _too_deep() -> ValueError:
    return ValueError(f"it is nested too deep, expected at most {_DEEPEST} levels")


def _is_deeper(value: Any, levels: int) -> bool:
    """Return whether a value has more levels of lists and objects; looks at one level at a time."""
    level = [value]
    for _ in range(levels + 1):
        level = [part for item in level if isinstance(item, list | dict) for part in _parts(item)]
        if not level:
            return False
    return True


def _parts(item: Any) -> list[Any]:
    return list(item.values()) if isinstance(item, dict) else item
