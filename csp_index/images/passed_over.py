"""Files that a source passes over, counted by reason, so that a user learns what of a folder is not in the index."""

from __future__ import annotations

import tarfile
from collections import Counter
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from csp_index.errors import SourceError
from csp_index.images.decode import ImageSource, uris_of
from csp_index.images.files.formats import RAW_ENDINGS, advice, kind_of

_TRIED = 1_000  # files of one ending that are opened; if none of them is a picture, no other is opened
_PACKED = frozenset({".zip", ".7z", ".rar", ".zst"})
HIDDEN = "hidden (the name starts with a dot)"
DATABASE = "database of LanceDB (an index?)"
UNLISTED = "folder that you may not list"  # named behind it, in brackets
_NAMED, _FOLDERS = 6, 2  # reasons; folders that may not be listed


class PassedOver(Counter[str]):
    """How many files are passed over, by reason: an ending, and what to do about it if something can be done."""

    def __str__(self) -> str:
        """Return one line: first the folders that could not be looked into, then the most frequent reasons.

        >>> print(PassedOver({".txt": 8, "unreadable": 1}))
        passed over 9 files: 8 .txt, 1 unreadable
        >>> print(PassedOver())
        passed over 0 files
        >>> str(PassedOver({f"{UNLISTED} ({name})": 1 for name in "abcd"})).split(", ", 1)[1]
        '1 folder that you may not list (b), 2 more such folders'
        """
        folders = [one for one in self.most_common() if one[0].startswith(UNLISTED)]
        files = [one for one in self.most_common() if not one[0].startswith(UNLISTED)]
        parts = [f"{count:,} {reason}" for reason, count in folders[:_FOLDERS]]
        parts += [f"{len(folders) - _FOLDERS:,} more such folders"] if len(folders) > _FOLDERS else []
        parts += [f"{count:,} {reason}" for reason, count in files[:_NAMED]]
        rest = sum(count for _, count in files[_NAMED:])
        parts += [f"{rest:,} others"] if rest else []
        line = f"passed over {self.total():,} file{'' if self.total() == 1 else 's'}"
        return f"{line}: {', '.join(parts)}" if parts else line


@runtime_checkable
class CountsFiles(ImageSource, Protocol):
    """A source that knows which files it passes over; what it says is complete after its images were listed once."""

    @property
    def passed_over(self) -> PassedOver:
        """The files passed over, by reason."""
        ...


def passed_over_by(source: object) -> PassedOver:
    """Return what a source passes over: nothing, if it is no source of files."""
    return source.passed_over if isinstance(source, CountsFiles) else PassedOver()


def refuse_passed_over(source: ImageSource | None) -> None:
    """Raise SourceError if a source passes over any file; a source of files is listed once to know it."""
    if isinstance(source, CountsFiles):
        for _ in uris_of(source):
            pass
        if source.passed_over:
            raise SourceError(f"{source.passed_over}: --strict allows none; remove them, or index without --strict")


class ContentCheck:
    """Separates pictures from other files by their first bytes, where the name does not end like one."""

    def __init__(self) -> None:
        """Start without having seen a file."""
        self._tried = Counter[str]()
        self._pictures = set[str]()

    def reason(self, ending: str, head: Callable[[], bytes]) -> str | None:
        """Return why a file is passed over, None if it is a picture; ``head`` reads its first `formats.HEAD` bytes."""
        name = ending or "without an ending"
        if ending in _PACKED:
            return f"{name} (unpack it)"
        if ending and ending not in self._pictures and self._tried[ending] >= _TRIED:
            return name
        self._tried[ending] += 1
        try:
            kind = kind_of(head())
        except (OSError, tarfile.TarError):
            return "unreadable"
        if kind is None:
            return name
        if kind == "TIFF" and ending in RAW_ENDINGS:
            return f"{name} (camera raw: convert it)"
        self._pictures.add(ending)
        return f"{name} ({advice(kind)})" if advice(kind) else None
