"""Which image a cell of a table names: by path, by name, by name without ending, by number, or by an address.

Knows nothing about tables.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from posixpath import basename, dirname, normpath
from urllib.parse import unquote, urlsplit

WITHOUT_ENDING, OTHER_ENDING = "without the ending of their file", "with another ending than their file"
ADDRESS, NUMBER = "as a web address", "as a number without leading zeros"


@dataclass(frozen=True, slots=True)
class Fit:
    """How well a cell names an image."""

    exact: bool  # the same path, below the folder of the source
    folders: int  # equal folders before the name, counted from the name
    case: bool
    how: str = ""  # in which other way than by its name with its ending

    def rank(self) -> tuple[bool, int, bool, bool]:
        """Return what is larger the better a cell names an image."""
        return (self.exact, self.folders, not self.how, self.case)


class ImageNames:
    """The images below a folder by the ways in which cells may name them.

    A path whose folders contradict the image's is about another image, unless ``name_alone``. Case and the form of
    composed letters do not matter where they do not decide between two images.
    """

    def __init__(self, images: Iterable[str], root: Path, endings: Iterable[str], *, name_alone: bool = False) -> None:
        self.images = list(images)
        self._root, self._name_alone, self._endings = root, name_alone, frozenset(endings)
        self._above = [_plain(part) for part in root.parts]
        self._by_stem: dict[str, list[int]] = {}
        self._by_number: dict[str, list[int]] = {}
        for place, path in enumerate(self.images):
            stem = _plain(self._stem(path))
            self._by_stem.setdefault(stem, []).append(place)
            if stem.isdecimal() and stem.startswith("0"):
                self._by_number.setdefault(stem.lstrip("0") or "0", []).append(place)

    def has_ending(self, text: str) -> bool:
        """Return whether a text ends as the name of an image file does."""
        return self._stem(text) != basename(text)

    def fits(self, value: object) -> tuple[list[int], Fit | None]:
        """Return the places of the images that a cell names best, and how well it does."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # a column of numbers with empty cells
        if value is None or isinstance(value, bool | float) or not str(value).strip():
            return [], None
        text = str(value).strip()
        places, fit = self._best(self.relative(text))
        if fit is None and ("%" in text or "://" in text):
            places, fit = self._best(self.relative(_without_address(text)), ADDRESS)
        if fit is None and text.isdecimal() and text in self._by_number:
            return self._by_number[text], Fit(False, 0, True, NUMBER)
        return places, fit

    def relative(self, value: object) -> str:
        """Return the path that a cell holds, relative to the folder where it lies below it."""
        path = normpath(str(value).strip().replace("\\", "/").removeprefix("file://"))
        if not os.path.isabs(path):
            return path
        below = os.path.relpath(path, self._root).replace(os.sep, "/")
        return path if below.startswith("../") else below

    def _best(self, path: str, how: str = "") -> tuple[list[int], Fit | None]:
        stem = self._stem(path)
        best: list[int] = []
        best_fit: Fit | None = None
        for place in self._by_stem.get(_plain(stem), ()):
            fit = self._fit(path, stem, self.images[place], how)
            if fit is None:
                continue
            if best_fit is None or fit.rank() > best_fit.rank():
                best, best_fit = [place], fit
            elif fit.rank() == best_fit.rank():
                best.append(place)
        return best, best_fit

    def _fit(self, path: str, stem: str, image: str, how: str) -> Fit | None:
        """Compare a cell's path with an image's; None if their folders contradict each other."""
        folders = [_plain(part) for part in dirname(path).split("/") if part not in ("", ".", "..")]
        own = [_plain(part) for part in dirname(image).split("/") if part]
        full = [*self._above, *own]
        equal = 0
        while equal < min(len(folders), len(full)) and folders[-1 - equal] == full[-1 - equal]:
            equal += 1
        contradict = equal == 0 if not own else equal < min(len(folders), len(own))
        if folders and contradict and not self._name_alone:
            return None
        if _plain(basename(path)) != _plain(basename(image)):
            how = how or (OTHER_ENDING if self.has_ending(path) else WITHOUT_ENDING)
        return Fit(_composed(path) == _composed(image), equal, self._stem(image) == stem, how)

    def _stem(self, path: str) -> str:
        name = basename(path)
        start, dot, ending = name.rpartition(".")
        return start if start and f"{dot}{ending}".lower() in self._endings else name


def _without_address(text: str) -> str:
    """Return the path of a web address, or of an escaped path; a text that only looks like an address as it is.

    >>> _without_address("https://a.org/my%20photo.jpg?w=1"), _without_address("http://[a.jpg")
    ('/my photo.jpg', 'http://[a.jpg')
    """
    try:
        return unquote(urlsplit(text).path if "://" in text else text)
    except ValueError:
        return text


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _plain(text: str) -> str:
    """Return a name as it is compared: macOS writes umlauts as two characters, and Windows ignores case."""
    return text.casefold() if text.isascii() else _composed(text).casefold()
