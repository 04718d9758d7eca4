"""Documents as short JSON: a model that reads them pays for each character, and an answer has a largest size.

Numbers keep six significant digits, long texts end with an ellipsis, and of lists that do not fit the first entries
stay; the document then says how many. Knows nothing about an index.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from typing import Any, Final

from csp_index.errors import SettingError
from csp_index.printable import printable_json, shortened

LETTERS: Final = 500
"""Characters of a text in an answer, at most."""
CUT: Final = "cut"
"""The field of a document that says which of its lists lost entries."""

_DIGITS = 6


def plain(value: Any) -> Any:
    """Return a value for JSON: numbers of six significant digits, None where not finite, texts of bounded length.

    >>> plain({"score": 0.123456789, "lead": float("nan"), "ids": (3,)})
    {'score': 0.123457, 'lead': None, 'ids': [3]}
    """
    match value:
        case float():
            return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
        case str():
            return shortened(value, LETTERS)
        case dict():
            return {str(name): plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
    return value


def fitted(document: dict[str, Any], most: int, lists: Sequence[str]) -> dict[str, Any]:
    """Return a document whose JSON has at most `most` characters: of the named lists only the first entries stay.

    A dictionary that is named loses its last fields like a list. A list inside another is named by its path:
    `groups.0.neurons`. The one that takes most characters is halved, again and again, but never to nothing. `cut` says
    what was left out, as {"labels": "12 of 40"}. Raises SettingError if that is not enough.
    """
    fitting = plain(document)
    named: dict[str, list[Any] | dict[str, Any]] = {path: _at(fitting, path) for path in lists}
    counts = {name: len(entries) for name, entries in named.items()}
    sizes = {name: [len(printable_json(entry)) + 2 for entry in _entries(named[name])] for name in lists}
    while len(printable_json(_with_cuts(fitting, named, counts))) > most:
        longest = max((name for name in lists if len(named[name]) > 1), key=lambda name: sum(sizes[name]), default="")
        if not longest:
            raise SettingError(
                f"the answer would have more than {most:,} characters: ask for less at once (limit, or fewer columns), "
                "or raise the setting agent_characters"
            )
        half, entries = len(named[longest]) // 2, named[longest]
        del sizes[longest][half:]
        if isinstance(entries, list):
            del entries[half:]
        else:
            for field in list(entries)[half:]:
                del entries[field]
    return _with_cuts(fitting, named, counts)


def _entries(value: list[Any] | dict[str, Any]) -> list[Any]:
    return value if isinstance(value, list) else [{name: item} for name, item in value.items()]


def _at(document: Any, path: str) -> Any:
    for step in path.split("."):
        document = document[int(step)] if isinstance(document, list) else document[step]
    return document


def _with_cuts(document: dict[str, Any], named: Mapping[str, Sized], counts: Mapping[str, int]) -> dict[str, Any]:
    cuts = {name: f"{len(named[name]):,} of {count:,}" for name, count in counts.items() if len(named[name]) < count}
    return {**document, CUT: cuts} if cuts else document


def page_of(
    document: dict[str, Any], name: str, rows: Sequence[Any], offset: int, limit: int, most: int
) -> dict[str, Any]:
    """Return a document with some of a list's rows, from `offset` on: at most `limit`, and as many as fit.

    `total` counts all rows, and `next` is the offset of the following page, None on the last one.
    """
    page = {**document, name: list(rows[offset : offset + limit]), "total": len(rows), "next": len(rows)}
    fitting = {**fitted(page, most, [name])}
    fitting.pop(CUT, None)  # the following page has what was left out
    after = offset + len(fitting[name])
    return {**fitting, "next": after if after < len(rows) else None}
