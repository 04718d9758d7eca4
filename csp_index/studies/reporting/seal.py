"""The digest of a report: of all that it shows, part by part, and how the file states it.

It is no signature by a key: it tells whether an index still says what a report does, and whether a file is as it was
written, to whoever got the digest from someone they trust. Loads no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Any, Final

from csp_index.errors import SourceError

FORMAT: Final = "csp_index audit report 1"
META: Final = "csp-index-report"
"""The name of the element that states the seal in the head of the page."""
_END: Final = b"<!-- sha256 of all bytes before this line: "
_TAIL: Final = b" -->\n"
_TEXTS: Final = ("format", "model", "layer", "by", "digest")
_HEAD: Final = 65_536  # bytes of a page within which its seal stands


@dataclass(frozen=True, slots=True)
class Seal:
    """What a report is of, the digest of each part of what it shows, and the digest of these: sha256 in hexadecimal."""

    model: str
    layer: str
    by: str
    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """The digest of all parts."""
        return digest_of({"model": self.model, "layer": self.layer, "by": self.by, "parts": dict(self.parts)})

    def as_json(self) -> dict[str, Any]:
        """Return the seal as the page states it."""
        own = {"model": self.model, "layer": self.layer, "by": self.by, "parts": dict(self.parts)}
        return {"format": FORMAT, **own, "digest": self.digest}


def digest_of(value: Any) -> str:
    """Return the sha256 of a plain value, whatever the order of its names.

    >>> digest_of({"a": 1, "b": [2.5]}) == digest_of({"b": [2.5], "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def closed(page: str) -> bytes:
    """Return a page as bytes, with a last line that states their hash."""
    content = page.encode()
    content = content if content.endswith(b"\n") else content + b"\n"
    return content + _END + hashlib.sha256(content).hexdigest().encode() + _TAIL


def is_intact(content: bytes) -> bool:
    """Return whether the bytes of a file are those that `closed` returned."""
    before, mark, last = content.rpartition(_END)
    return bool(mark) and last == hashlib.sha256(before).hexdigest().encode() + _TAIL


def stated_seal(content: bytes) -> tuple[Seal, str]:
    """Return the seal that a file states, and the digest that it states. Raises SourceError for any other file."""
    reader = _Meta()
    reader.feed(content[:_HEAD].decode("utf-8", "replace"))
    try:
        given = json.loads(reader.content or "null")
        kind, model, layer, by, digest = texts = [given[name] for name in _TEXTS]
        parts = dict(given["parts"])
    except (ValueError, TypeError, KeyError, RecursionError) as exc:
        raise _none() from exc
    if kind != FORMAT or not all(isinstance(one, str) for one in (*texts, *parts, *parts.values())):
        raise _none()
    return Seal(model, layer, by, parts), digest


def _none() -> SourceError:
    return SourceError("it states no digest: expected a page that `csp-index report` wrote")


class _Meta(HTMLParser):
    """Finds the element of a page's head that states the seal."""

    content: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "meta" and found.get("name") == META and self.content is None:
            self.content = found.get("content")
