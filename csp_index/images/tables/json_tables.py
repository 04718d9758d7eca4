"""Read tables in JSON: a list of objects, lines of them, objects by id, columns, and the ways pandas writes a table.

What had to be guessed is noted. Knows nothing about images.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from csp_index.images.tables.table import MetadataFile, table_of


def read_json_table(text: str, *, lines: bool = False) -> MetadataFile:
    """Return the table in JSON text, of which every line is a row with ``lines``, and may be one without.

    Raises ValueError that says what is wrong.
    """
    notes: list[str] = []
    repeated: list[str] = []
    try:
        value = _lines(text, repeated) if lines else load_json(text, repeated)
    except json.JSONDecodeError as exc:
        try:
            value = load_json(text, repeated) if lines else _lines(text, repeated)
        except json.JSONDecodeError:
            raise exc from None
    if repeated:
        notes.append(f"names that are there twice, of which the last counts: {len(repeated)} (first: {repeated[0]})")
    if isinstance(value, dict):
        value = _rows_of(value, notes)
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise ValueError("expected a list of objects, one per image, or objects by the names of images")
    names = list(dict.fromkeys(name for row in value for name in row))
    return MetadataFile(table_of(names, [_column([row.get(name) for row in value]) for name in names]), notes)


def load_json(text: str, repeated: list[str]) -> Any:
    """Return the value of JSON text, and add names that an object has twice to ``repeated``: the last one counts.

    >>> repeated = []
    >>> load_json('{"crane": 134, "crane": 517}', repeated), repeated
    ({'crane': 517}, ['crane'])
    """

    def made(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            repeated.extend(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return value

    return json.loads(text, object_pairs_hook=made)


def _lines(text: str, repeated: list[str]) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            rows += [load_json(line, repeated)] if line.strip() else []
        except json.JSONDecodeError as exc:
            raise json.JSONDecodeError(f"line {number} is no JSON, {exc.msg}", line, exc.pos) from None
    return rows


def _rows_of(value: dict[str, Any], notes: list[str]) -> Any:
    """Return rows from a dictionary, or something that is none."""
    parts = list(value.values())
    if parts and all(isinstance(part, dict) for part in parts):
        return _turned(value) if _is_of_columns(parts) else [{"key": name, **part} for name, part in value.items()]
    if _is_split(value):
        return [dict(zip(value["columns"], row, strict=True)) for row in value["data"]]
    if parts and all(isinstance(part, str | int | float | bool | None) for part in parts):
        notes.append("its names are images, and its values stand in the column 'value'")
        return [{"key": name, "value": part} for name, part in value.items()]
    tables = [name for name, part in value.items() if isinstance(part, list) and part and _are_objects(part)]
    lists = parts and all(isinstance(part, list) for part in parts)
    if lists and not tables and len({len(part) for part in parts}) == 1:
        return [dict(zip(value, row, strict=True)) for row in zip(*parts, strict=True)]
    rows = "images" if "images" in value else tables[0] if len(tables) == 1 else None
    if rows is None:
        return value
    others = ", ".join(name for name in value if name != rows)
    if others:
        notes.append(f"of its parts only {rows!r} is read, not {others}")
    return value[rows]


def _is_split(value: dict[str, Any]) -> bool:
    """Return whether a dictionary has names of columns and rows of cells, as pandas writes them (orient="split")."""
    names, rows = value.get("columns"), value.get("data")
    if not isinstance(names, list) or not isinstance(rows, list):
        return False
    return all(isinstance(name, str) for name in names) and all(isinstance(row, list) for row in rows)


def _are_objects(part: list[Any]) -> bool:
    return all(isinstance(row, dict) for row in part)


def _is_of_columns(parts: list[dict[str, Any]]) -> bool:
    """Return whether objects are columns by the number of the row, as pandas writes them, and not rows by name."""
    rows = list(parts[0])
    return bool(rows) and all(name.isdecimal() for name in rows) and all(list(part) == rows for part in parts)


def _turned(value: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    rows = list(next(iter(value.values())))
    return [{name: column[row] for name, column in value.items()} for row in rows]


def _column(cells: list[Any]) -> Any:
    import pyarrow as pa

    plain = [None if cell == "" or cell != cell else cell for cell in cells]  # NaN is no value
    try:
        return pa.array(plain)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # of several kinds, or beyond 64 bits
        return pa.array([cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in plain])
