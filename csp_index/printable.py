"""Texts of an index as a terminal or a page may show them: spelled out, or without the folders of this machine.

What would move the cursor or reorder the line is spelled out. Names, labels, notes, addresses and messages come from
an index, which may come from a stranger.
"""

from __future__ import annotations

import json
import re
from typing import Any

# C0, DEL and C1; line and paragraph separators; what changes the direction of writing; halves of surrogate pairs.
_HIDDEN = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_VALUE = re.compile(f"[{_HIDDEN}]")
_TURN = re.compile("[\u202a-\u202e\u2066-\u2069]")  # what turns the direction of writing for all that follows
_FOLDERS = re.compile(r"""(?<![\w.~])(?:~|\.{1,2})?/(?:[^\s/:'"]+/)+""")


def printable(value: object) -> str:
    r"""Return a value of an index as text on one line.

    >>> print(printable("red\x1b[2J\n"))
    red\x1b[2J\n
    """
    return _VALUE.sub(_spelled, str(value))


def not_turned(value: Any) -> Any:
    r"""Return a text for a page, whose characters that would turn the direction of other text are spelled out.

    Letters written from right to left stay as they are; so do values that are no plain text, also markup.

    >>> ascii(not_turned("red\u202e evil \u05d0"))
    "'red\\\\u202e evil \\u05d0'"
    """
    if not isinstance(value, str) or value.isascii() or hasattr(value, "__html__"):  # most are, and it is known at once
        return value
    return _TURN.sub(_spelled, value)


def printable_json(value: Any) -> str:
    r"""Return a value as JSON on one line, readable, and with what a terminal would obey as \u escapes.

    >>> printable_json({"text": "gr\u00fcn\x9b2J"})
    '{"text": "grün\\u009b2J"}'
    """
    return _VALUE.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False, default=str))


def shortened(text: str, most: int) -> str:
    """Return a text of at most `most` characters, which ends with an ellipsis where it was longer.

    >>> shortened("striped", 7), shortened("striped fur", 8)
    ('striped', 'striped…')
    """
    return text if len(text) <= most else f"{text[: most - 1]}…"


def megabytes(count: int) -> str:
    """Return a number of bytes as text.

    >>> megabytes(1_234_567)
    '1.2 MB'
    """
    return f"{count / 1e6:,.1f} MB"


def without_folders(value: Any) -> Any:
    """Return a text, or all texts in lists and dictionaries, without the folders of files on this machine.

    >>> without_folders({"encoder": "open_clip:/srv/models/clip", "layer": "m/l"})
    {'encoder': 'open_clip:clip', 'layer': 'm/l'}
    """
    match value:
        case str():
            return _FOLDERS.sub("", value)
        case dict():
            return {name: without_folders(item) for name, item in value.items()}
        case list() | tuple():
            return [without_folders(item) for item in value]
    return value


def _spelled(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
