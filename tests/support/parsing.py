"""What parsers of outside input get in property tests, and what they may do: parse, or refuse in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis
from hypothesis import strategies as st

from csp_index.errors import CspIndexError
from csp_index.printable import printable

_EXAMPLES = os.environ.get("PARSER_EXAMPLES")  # a number of examples to hunt with, other ones in each run

QUICK = hypothesis.settings(
    max_examples=int(_EXAMPLES or 30),
    deadline=None,
    derandomize=_EXAMPLES is None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
"""Few examples, the same ones in each run."""

ODD = ("", " ", "\0", "\n", "\r\n", "\x1b[2J", "\x85", "\u2028", "\u00a0", "\u202e", "\ufeff", "e\u0301", "\u0130")
ODD += ("\u00b2", "\u0663", "-", "--5", "1e999", "nan", "~nobody-here", "9" * 25, "9" * 5000, "a" * 300, "[" * 3000)
"""Texts that parsers stumble over: white space of all kinds, digits that are none, too long, too deep."""


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """Let the block raise these errors, with a message in one line that every terminal and every client can take."""
    try:
        yield
    except kinds or (CspIndexError,) as exc:  # noqa: B030
        check_message(str(exc))


def check_message(message: str) -> None:
    """Check that a message is one line of text that moves no cursor."""
    assert message.encode() and len(message.splitlines()) == 1 and printable(message) == message, ascii(message)


def like(*pieces: str) -> st.SearchStrategy[str]:
    """Return texts made of the pieces that a parser looks for, of odd ones, and of any others."""
    piece = st.one_of(st.sampled_from(pieces), st.sampled_from(ODD), st.text(max_size=5))
    return st.lists(piece, max_size=8).map("".join)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return bytes with some of them changed, and perhaps an end cut off or bytes added."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))]) + draw(st.binary(max_size=8))


_LEAF: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([2**31, 2**63, 2**70, -1, float("inf"), float("nan"), 1e308, "\ud800", "a\ud83d"]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(ODD),
)
JSON = st.recursive(
    _LEAF,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)
"""Values that JSON can hold, with numbers beyond all columns and halves of characters."""


@st.composite
def replaced(draw: st.DrawFn, fields: dict[str, Any]) -> dict[str, Any]:
    """Return an object some of whose fields are missing or have other values."""
    result = dict(fields)
    for name in draw(st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=3)):
        if draw(st.booleans()):
            result[name] = draw(JSON)
        else:
            del result[name]
    return result
