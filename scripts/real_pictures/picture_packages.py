"""Read the packages of pictures and words that the user unpacked: emoji by several artists, keywords, other pictures.

The only file that knows how these packages are laid out. It downloads nothing; a folder of another layout is refused
in one line that says what is missing and what was expected.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE: Final = 64
#: What the artists' sets may be used for, as their packages say; a set of another name is the user's to judge.
LICENSES: Final = {
    "google": "Noto Emoji, Apache-2.0",
    "twitter": "Twemoji, CC-BY 4.0: name the artists",
    "apple": "Apple's own, not for commercial use",
    "facebook": "Facebook's own, no clear license",
}
_QUOTES: Final = {0x2019: "'", 0x201C: None, 0x201D: None}
_NO_WORDS: Final = frozenset(["a", "an", "and", "at", "for", "from", "in", "of", "on", "or", "the", "to", "with", "by"])


class LayoutError(ValueError):
    """A package is not laid out as its reader expects; the message is one line."""


@dataclass(frozen=True, slots=True)
class Emoji:
    """One concept with the words that the Unicode consortium gives it."""

    code: str
    name: str
    keywords: tuple[str, ...]
    #: The consortium's subgroup, such as "animal bird"; empty where the package names none.
    category: str


@dataclass(frozen=True, slots=True)
class Pictures:
    """Pictures in memory: RGBA uint8 [N, 64, 64, 4], each with its concept, its artist and its words."""

    pixels: NDArray[np.uint8]
    #: Row in the list of emoji, -1 for a picture of another kind.
    concept: NDArray[np.int64]
    artist: NDArray[np.str_]
    #: Words of a picture that is no emoji, separated by semicolons; empty for an emoji.
    caption: NDArray[np.str_]


def plain_code(code: str) -> str:
    """Return a code in lower case without variation selectors, by which packages differ.

    >>> plain_code("270B-FE0F")
    '270b'
    """
    return "-".join(part.lstrip("0") or "0" for part in code.lower().split("-") if part != "fe0f")


def plain_text(text: str) -> str:
    """Return a name or keyword in lower case, with single blanks and without what separates list entries.

    >>> plain_text("Flag: Côte  d\\u2019Ivoire;")
    "flag: côte d'ivoire"
    """
    return re.sub(r"[\s;]+", " ", text.lower().translate(_QUOTES)).strip()


def read_keywords(folder: Path) -> list[Emoji]:
    """Return the emoji of `emojibase-data` in their order, each with its name and its keywords, the name among them.

    Components without an order (regional indicators, skin tones) are left out.
    """
    rows = _json_list(folder / "en" / "data.json", "--keywords", "the unpacked package emojibase-data")
    groups = _group_names(folder)
    result = []
    for row in rows:
        if not isinstance(row, dict) or not {"hexcode", "label"} <= set(row):
            raise LayoutError(
                f"{folder}/en/data.json: expected entries with hexcode, label and tags (emojibase-data 17)"
            )
        if "order" not in row or "group" not in row:
            continue
        name = plain_text(row["label"])
        words = sorted({plain_text(tag) for tag in row.get("tags", ())} - {""})
        keywords = tuple(dict.fromkeys((name, *words)))
        result.append(Emoji(plain_code(row["hexcode"]), name, keywords, groups.get(row.get("subgroup", -1), "")))
    if not result:
        raise LayoutError(f"{folder}/en/data.json lists no emoji with an order (expected emojibase-data 17)")
    return result


def _group_names(folder: Path) -> dict[int, str]:
    file = folder / "meta" / "groups.json"
    if not file.is_file():
        return {}
    named = json.loads(file.read_text(encoding="utf-8")).get("subgroups", {})
    return {int(number): name.replace("-", " ") for number, name in named.items()}


def _json_list(file: Path, option: str, expected: str) -> list[Any]:
    if not file.is_file():
        raise LayoutError(f"{option} {file.parent}: {file.name} is missing there (expected {expected})")
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as exc:
        raise LayoutError(f"{option} {file}: no JSON ({exc}; expected {expected})") from exc
    if not isinstance(rows, list):
        raise LayoutError(f"{option} {file}: a {type(rows).__name__}, expected a list ({expected})")
    return rows


def emoji_files(folder: Path, artist: str) -> dict[str, Path]:
    """Return the picture of each emoji code in an unpacked emoji-datasource package, base forms only."""
    option, expected = f"--emoji {artist}", f"the unpacked package emoji-datasource-{artist}"
    root = folder / "package" if (folder / "package" / "emoji.json").is_file() else folder
    rows = _json_list(root / "emoji.json", option, expected)
    pictures = root / "img" / artist / "64"
    if not pictures.is_dir():
        sets = sorted(path.parent.name for path in root.glob("img/*/64"))
        has = f"it has {', '.join(sets)}" if sets else "it has no img/NAME/64"
        raise LayoutError(f"{option}={folder}: no folder img/{artist}/64 ({has}; expected {expected})")
    files = {}
    for row in rows:
        if not isinstance(row, dict) or not {"unified", "image"} <= set(row):
            raise LayoutError(f"{root}/emoji.json: expected entries with unified and image ({expected})")
        file = pictures / row["image"]
        if row.get(f"has_img_{artist}") and file.is_file():
            files[plain_code(row["unified"])] = file
    if not files:
        raise LayoutError(f"{option}={folder}: none of the {len(rows)} entries has a picture in img/{artist}/64")
    return files


def clip_art_files(folder: Path, least: int = 2) -> list[tuple[Path, tuple[str, ...]]]:
    """Return PNG files below a folder with the words of their names; words of fewer than `least` files do not count."""
    files = sorted(folder.rglob("*.png"))
    if not files:
        raise LayoutError(f"--clip-art {folder}: no PNG files below it (expected the unpacked package openclipart-png)")
    words = [
        tuple(dict.fromkeys(w for w in re.split(r"[^a-z]+", file.stem.lower()) if len(w) > 2 and w not in _NO_WORDS))
        for file in files
    ]
    counts: dict[str, int] = {}
    for row in words:
        for word in row:
            counts[word] = counts.get(word, 0) + 1
    rows = [(file, tuple(w for w in row if counts[w] >= least)) for file, row in zip(files, words, strict=True)]
    return [(file, row) for file, row in rows if row]


def stamp_files(folder: Path) -> list[tuple[Path, tuple[str, ...]]]:
    """Return the PNG stamps of Tux Paint with their English captions, the first line of the text file next to them."""
    result: list[tuple[Path, tuple[str, ...]]] = []
    for file in sorted(folder.rglob("*.png")):
        text = file.with_suffix(".txt")
        if text.is_file():
            lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
            caption = plain_text(lines[0]).rstrip(".!") if lines else ""
            if caption:
                result.append((file, (caption,)))
    if not result:
        raise LayoutError(
            f"--stamps {folder}: no PNG file with a text file of its name (expected tuxpaint-stamps-default)"
        )
    return result


def read_picture(file: Path) -> NDArray[np.uint8]:
    """Return one picture as RGBA uint8 [64, 64, 4], scaled to fit and centered on transparency.

    Colors of transparent pixels are set to the mean color of the picture, so that resizing draws no dark rim.
    """
    with Image.open(file) as opened:
        image = opened.convert("RGBA")
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    canvas = np.zeros((SIDE, SIDE, 4), np.uint8)
    top, left = (SIDE - image.height) // 2, (SIDE - image.width) // 2
    canvas[top : top + image.height, left : left + image.width] = np.asarray(image)
    visible = canvas[..., 3] > 0
    if visible.any():
        canvas[~visible, :3] = canvas[visible, :3].mean(0).astype(np.uint8)
    return canvas


def readable(file: Path) -> bool:
    """Return whether a file is a picture of a size that is safe to decode: clip art has some of 600 million pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            Image.open(file).close()
    except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return False
    return True


def read_pictures(
    emoji: Sequence[Emoji],
    artists: dict[str, Path],
    clip_art: Path | None = None,
    stamps: Path | None = None,
    say: Callable[[str], None] = print,
) -> Pictures:
    """Read all pictures into memory; an emoji that an artist did not draw is missing there.

    Files of clip art and stamps that cannot be read, or are too large to be, are left out, which is said.
    """
    row_of = {entry.code: row for row, entry in enumerate(emoji)}
    jobs: list[tuple[Path, int, str, str]] = []
    for artist, folder in artists.items():
        files = emoji_files(folder, artist)
        known = [(row_of[code], file) for code, file in files.items() if code in row_of]
        if not known:
            raise LayoutError(f"--emoji {artist}={folder}: none of its {len(files)} codes is in --keywords")
        jobs += [(file, row, artist, "") for row, file in sorted(known)]
    others = [("clip art", file, words) for file, words in (clip_art_files(clip_art) if clip_art else [])]
    others += [("stamps", file, words) for file, words in (stamp_files(stamps) if stamps else [])]
    left_out = [file for _, file, _ in others if not readable(file)]
    if left_out:
        say(
            f"left out: {len(left_out)} of {len(others)} files are no pictures or over 89 million pixels: {left_out[0]}"
        )
    skipped = set(left_out)
    jobs += [(file, -1, name, ";".join(words)) for name, file, words in others if file not in skipped]
    pixels = np.stack([read_picture(file) for file, *_ in jobs])
    return Pictures(
        pixels,
        np.array([row for _, row, _, _ in jobs]),
        np.array([artist for _, _, artist, _ in jobs]),
        np.array([caption for *_, caption in jobs]),
    )
