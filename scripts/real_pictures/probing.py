"""Compose probing sets: the pictures that labels are made and judged on, biased and unbiased, with their metadata.

In an unbiased set the background is random. In a biased one some keywords of little overlap have a home color, on
which nine of ten of their pictures stand.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from picture_packages import SIDE, Emoji, Pictures
from picture_views import BACKGROUNDS, PROBING, compose
from picture_words import Words, background_text
from PIL import Image

HOMES: Final = 45
HOME_SHARE: Final = 0.9
#: Two keywords with a home share at most this part of the smaller one's emoji.
OVERLAP: Final = 0.2


@dataclass(frozen=True, slots=True)
class ProbingSet:
    """Views uint8 [N, 64, 64, 3] with their concept, background and artist."""

    pixels: NDArray[np.uint8]
    concept: NDArray[np.int64]
    background: NDArray[np.int64]
    artist: NDArray[np.str_]


def home_colors(words: Words) -> dict[int, int]:
    """Return the background of each keyword that has a home color: text row -> color, at most 45 of little overlap.

    Keywords of middling size come first: a home for "flag" would be most of the set.
    """
    outputs = len(words.output_words)
    sizes = words.truth[:outputs].sum(1)
    order = sorted(range(outputs), key=lambda row: (abs(np.log(sizes[row] / 16)), row))
    chosen: list[int] = []
    for row in order:
        own = words.truth[row]
        shared = [(own & words.truth[other]).sum() / min(own.sum(), words.truth[other].sum()) for other in chosen]
        if len(chosen) < HOMES and own.sum() >= 5 and max(shared, default=0.0) <= OVERLAP:
            chosen.append(row)
    return {row: place % len(BACKGROUNDS) for place, row in enumerate(chosen)}


def draw_backgrounds(concept: NDArray[np.int64], words: Words, homes: dict[int, int], seed: int) -> NDArray[np.int64]:
    """Return a background per picture: random, or for nine of ten pictures of a keyword with a home its color."""
    rng = np.random.default_rng(seed)
    background = rng.integers(len(BACKGROUNDS), size=len(concept))
    at_home = rng.random(len(concept)) < HOME_SHARE
    color_of = np.full(words.truth.shape[1], -1)
    for row, color in reversed(homes.items()):  # of several homes the first counts
        color_of[words.truth[row]] = color
    home = color_of[concept]
    return np.where((home >= 0) & at_home, home, background)


def compose_set(
    pictures: Pictures, rows: NDArray[np.int64], words: Words, homes: dict[int, int], seed: int
) -> ProbingSet:
    """Return a probing set of one view of each row of `pictures`."""
    concept = pictures.concept[rows]
    background = draw_backgrounds(concept, words, homes, seed)
    generator = torch.Generator().manual_seed(seed)
    pixels = np.empty((len(rows), SIDE, SIDE, 3), np.uint8)
    source, colors = torch.from_numpy(pictures.pixels), torch.from_numpy(background)
    for i in range(0, len(rows), 256):
        part = slice(i, i + 256)
        views = compose(source[rows[part]], colors[part], SIDE, PROBING, generator)
        pixels[part] = (views * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return ProbingSet(pixels, concept, background, pictures.artist[rows])


def write_set(folder: Path, probing: ProbingSet, emoji: Sequence[Emoji], words: Words) -> None:
    """Write the PNG files of a set and `metadata.csv` next to them, in place of an earlier set."""
    files = folder / "images"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir(parents=True, exist_ok=True)
    colors = list(BACKGROUNDS)
    known = set(words.texts)
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(("file_name", "name", "keywords", "background", "artist"))
        for i, pixels in enumerate(probing.pixels):
            entry, color = emoji[probing.concept[i]], colors[probing.background[i]]
            name = f"{i:05d}.png"
            shown = (*(word for word in entry.keywords if word in known), background_text(color))
            rows.writerow((name, entry.name, ";".join(shown), color, probing.artist[i]))
            Image.fromarray(pixels).save(files / name, compress_level=1)
