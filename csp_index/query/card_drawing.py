"""The card: one picture that explains the label of one neuron.

A card shows the activating images above their contrastive partners, the label with its rivals, and where the threshold
of low activation lies. Knows nothing about the store; draws with Pillow alone.
"""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from csp_index.errors import QueryError, SourceError
from csp_index.images.decode import decode_stored
from csp_index.printable import not_turned

MOST_PAIRS = 30
MOST_LABELS = 5

_WIDTH = 1200  # of the picture, in pixels; everything below is in the same unit
_MARGIN = 40
_GUTTER = 104  # left of the images, where the rows are named
_GAP = 10
_COLUMNS = 10
_LARGEST_TILE = 128
_HEAD = 262  # height of address, label, scores and histogram
_FOOT = 54
_MOST_PIXELS = 2**24  # of a thumbnail; a larger one counts as unreadable
_LETTERS = 1_000  # of a text; no line has room for half of them
_FINE = 2  # drawn this much larger, then reduced, so that edges are smooth

_PAPER, _PANEL, _LINE = "#ffffff", "#f4f5f7", "#dfe2e7"
_INK, _SOFT, _FAINT = "#1c2128", "#5b6472", "#98a1ae"
_WARM, _COLD = "#d9480f", "#1971c2"  # activating, contrastive

# Pillow's own font knows little beyond English; these, where the machine has one, know more.
_WIDER_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf")

Anchor = Literal["left", "middle", "right"]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class CardPair:
    """An activating image and its contrastive partner, as encoded thumbnails."""

    activating: bytes
    contrastive: bytes | None
    activation: float
    contrast_activation: float | None
    similarity: float | None


@dataclass(frozen=True, slots=True)
class CardData:
    """What a card shows.

    `labels` come best first. `histogram` counts the dataset's activations between neighbouring `edges`, of which there
    is one more.
    """

    title: str  # the neuron's address
    method: str
    labels: Sequence[tuple[str, float]]
    state: str  # "labelled", "dead", ...
    note: str = ""
    pairs: Sequence[CardPair] = ()
    histogram: Sequence[int] = ()
    edges: Sequence[float] = ()
    threshold: float | None = None  # below it an image counts as silent
    threshold_name: str = "threshold"


def draw_card(card: CardData, path: str | Path) -> Path:
    """Return `path` after writing the card there as PNG; of more than 30 pairs the first 30 are drawn."""
    pairs = card.pairs[:MOST_PAIRS]
    rows = [pairs[start : start + _COLUMNS] for start in range(0, len(pairs), _COLUMNS)]
    tile = _tile_size(max((len(row) for row in rows), default=0))
    contrasted = any(pair.contrastive is not None for pair in pairs)
    row_height = _row_height(tile, contrasted)
    height = _MARGIN + _HEAD + (len(rows) * row_height if rows else 84) + _FOOT

    canvas = _Canvas(_WIDTH, height)
    _draw_head(canvas, card)
    _draw_scores(canvas, card, (_MARGIN, 164, 650, _MARGIN + _HEAD - 24))
    _draw_histogram(canvas, card, (720, _MARGIN, _WIDTH - _MARGIN, _MARGIN + _HEAD - 24))
    top = float(_MARGIN + _HEAD)
    if not rows:
        canvas.panel((_MARGIN, top, _WIDTH - _MARGIN, top + 64))
        canvas.text((_WIDTH / 2, top + 22), "no activating images", 18, _SOFT, anchor="middle")
    strongest = max((pair.activation for pair in pairs), default=0.0)
    for row in rows:
        _draw_row(canvas, row, top, tile, strongest, contrasted)
        top += row_height
    _draw_foot(canvas, card, len(pairs), contrasted, height)
    try:
        canvas.picture().save(path, format="PNG", optimize=True)
    except OSError as exc:
        raise QueryError(f"the card {path} cannot be written: {exc.strerror or exc}; name another file") from exc
    return Path(path)


# The parts, from top to bottom.


def _draw_head(canvas: _Canvas, card: CardData) -> None:
    canvas.text((_MARGIN, _MARGIN - 6), f"{card.title} · {card.method}", 17, _SOFT, width=620)
    label = card.labels[0][0] if card.labels else _state_text(card.state)
    canvas.text((_MARGIN - 2, _MARGIN + 22), label, 54, _INK if card.labels else _FAINT, width=620, bold=True)
    if card.labels and card.state != "labelled":
        canvas.text((_MARGIN, _MARGIN + 92), card.state, 15, _WARM, width=620)


def _draw_scores(canvas: _Canvas, card: CardData, box: Box) -> None:
    """Draw the labels as bars: from zero, or from a little below the least where a score is negative."""
    left, top, right, _ = box
    if not any(math.isfinite(score) for _, score in card.labels):
        canvas.text((left, top - 20), card.note or "no label was given", 17, _SOFT, width=right - left)
        return
    labels = card.labels[:MOST_LABELS]
    finite = [score for _, score in labels if math.isfinite(score)] or [0.0]
    high, low = max(finite), min(0.0, *finite)
    start = low - 0.1 * (high - low) if low < 0 else 0.0
    span = (high - start) or 1.0
    bar_left, bar_right = left + 250, right - 80
    for place, (text, score) in enumerate(labels):
        y = top + 24 * place
        share = (score - start) / span if math.isfinite(score) else 0.0
        canvas.text((left, y), text, 16, _SOFT if place else _INK, width=236)
        canvas.bar((bar_left, y + 5, bar_right, y + 15), _PANEL)
        canvas.bar((bar_left, y + 5, bar_left + share * (bar_right - bar_left), y + 15), _FAINT if place else _WARM)
        canvas.text((right, y), _number(score), 16, _SOFT if place else _INK, anchor="right")


def _draw_histogram(canvas: _Canvas, card: CardData, box: Box) -> None:
    """Draw how many images have which activation, on a logarithmic scale; the images below the threshold in blue."""
    canvas.panel(box)
    left, top, right, bottom = box[0] + 22, box[1] + 46, box[2] - 22, box[3] - 38
    canvas.text((left, box[1] + 14), "activations over all images (log count)", 15, _SOFT)
    counts, edges = card.histogram, card.edges
    if len(counts) == 0 or len(edges) != len(counts) + 1 or max(counts) <= 0 or edges[-1] <= edges[0]:
        canvas.text(((left + right) / 2, (top + bottom) / 2 - 12), "no activations", 16, _FAINT, anchor="middle")
        return
    highest = math.log1p(max(counts))
    threshold = -math.inf if card.threshold is None else card.threshold

    def place(value: float) -> float:
        return left + (right - left) * (min(max(value, edges[0]), edges[-1]) - edges[0]) / (edges[-1] - edges[0])

    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        if count > 0:
            tip = bottom - max(2.0, (bottom - top - 20) * math.log1p(count) / highest)
            # The threshold falls inside a bin; the bin is split there.
            middle = min(max(threshold, low), high)
            canvas.rectangle((place(low), tip, place(middle), bottom), _COLD)
            canvas.rectangle((place(middle), tip, place(high) - 1, bottom), _WARM)
    canvas.rectangle((left, bottom, right, bottom + 1.5), _FAINT)
    canvas.text((left, bottom + 8), _number(edges[0]), 14, _SOFT)
    canvas.text((right, bottom + 8), _number(edges[-1]), 14, _SOFT, anchor="right")
    if card.threshold is not None:
        _mark_threshold(canvas, card, place(card.threshold), (left, top, right, bottom))


def _mark_threshold(canvas: _Canvas, card: CardData, x: float, box: Box) -> None:
    left, top, right, bottom = box
    for step in range(int(top), int(bottom), 8):
        canvas.rectangle((x - 1, step, x + 1, step + 5), _INK)
    text = f"{card.threshold_name} {_number(card.threshold)}"
    side: Anchor = "left" if x < (left + right) / 2 else "right"
    canvas.text((x + (8 if side == "left" else -8), top - 4), text, 14, _INK, anchor=side)


def _draw_row(
    canvas: _Canvas, pairs: Sequence[CardPair], top: float, tile: float, strongest: float, contrasted: bool
) -> None:
    """Draw up to ten pairs side by side, and name the two lines of images at the left."""
    canvas.text((_MARGIN, top + tile / 2 - 22), "activating", 16, _WARM)
    canvas.text((_MARGIN, top + tile / 2), "the neuron fires", 12, _SOFT)
    below = top + tile + 56
    if contrasted:
        canvas.text((_MARGIN, top + tile + 33), "similarity", 12, _FAINT)
        canvas.text((_MARGIN, below + tile / 2 - 22), "contrastive", 16, _COLD)
        canvas.text((_MARGIN, below + tile / 2), "alike, but silent", 12, _SOFT)
    else:
        canvas.text((_MARGIN, top + tile / 2 + 18), "no contrast", 12, _COLD)
    for place, pair in enumerate(pairs):
        left = _MARGIN + _GUTTER + place * (tile + _GAP)
        canvas.tile(pair.activating, (left, top), tile)
        _draw_activation(canvas, pair.activation, strongest, (left, top + tile), tile, _WARM)
        if pair.contrastive is not None:
            if pair.similarity is not None:
                canvas.text((left + tile / 2, top + tile + 33), _number(pair.similarity), 12, _FAINT, anchor="middle")
            canvas.tile(pair.contrastive, (left, below), tile)
            if pair.contrast_activation is not None:
                _draw_activation(canvas, pair.contrast_activation, strongest, (left, below + tile), tile, _COLD)
        elif contrasted:
            canvas.panel((left, below, left + tile, below + tile))
            canvas.text((left + tile / 2, below + tile / 2 - 9), "none", 14, _FAINT, anchor="middle")


def _draw_activation(
    canvas: _Canvas, value: float, strongest: float, corner: tuple[float, float], width: float, colour: str
) -> None:
    """Draw the value, and a bar as long as its share of the strongest."""
    left, top = corner
    share = min(max(value / strongest, 0.0), 1.0) if strongest > 0 and math.isfinite(value) else 0.0
    canvas.rectangle((left, top + 5, left + width, top + 8), _LINE)
    canvas.rectangle((left, top + 5, left + share * width, top + 8), colour)
    canvas.text((left + width / 2, top + 12), _number(value), 14, _INK, anchor="middle")


def _draw_foot(canvas: _Canvas, card: CardData, pairs: int, contrasted: bool, height: float) -> None:
    parts = ["csp_index", card.title, f"method {card.method}"]
    total = len(card.pairs)
    if total:
        noun = "pair" if contrasted else "activating image"
        count = f"{total} {noun}{'' if total == 1 else 's'}"
        parts.append(count if pairs == total else f"first {pairs} of {count}")
    if card.note and card.labels:
        parts.append(card.note)
    canvas.rectangle((_MARGIN, height - _FOOT, _WIDTH - _MARGIN, height - _FOOT + 1), _LINE)
    canvas.text((_MARGIN, height - _FOOT + 16), " · ".join(parts), 13, _SOFT, width=_WIDTH - 2 * _MARGIN)


def _tile_size(columns: int) -> float:
    room = _WIDTH - 2 * _MARGIN - _GUTTER
    tile = (room - _GAP * (columns - 1)) / max(columns, 1)
    return min(_LARGEST_TILE, math.floor(tile * _FINE) / _FINE)


def _row_height(tile: float, contrasted: bool) -> float:
    return 2 * tile + 56 + 50 if contrasted else tile + 50


def _state_text(state: str) -> str:
    names = {
        "dead": "dead neuron",
        "constant": "constant neuron",
        "no-contrast": "no contrast",
        "no-candidates": "no candidates",
        "labelled": "no label",
    }
    return names.get(state, state or "no label")


def _number(value: float | None) -> str:
    """Return the number with three significant digits, if a card has room for them.

    >>> _number(0.91234), _number(8), _number(1234.5), _number(-0.0000123), _number(0)
    ('0.912', '8.00', '1234', '-1e-05', '0')
    """
    if value is None or not math.isfinite(value):
        return "?"
    size = abs(value)
    if value == 0:
        return "0"
    if not 0.001 <= size < 1e6:
        return f"{value:.0e}"
    return f"{value:.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3}f}"


# Drawing.


class _Canvas:
    """A picture drawn in the card's unit."""

    def __init__(self, width: float, height: float) -> None:
        self._image = Image.new("RGB", (round(width * _FINE), round(height * _FINE)), _PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def picture(self) -> Image.Image:
        """Return the picture at its final size."""
        return self._image.reduce(_FINE)

    def rectangle(self, box: Box, colour: str) -> None:
        left, top, right, bottom = (round(_FINE * side) for side in box)
        if right > left and bottom > top:
            self._draw.rectangle((left, top, right - 1, bottom - 1), fill=colour)

    def bar(self, box: Box, colour: str) -> None:
        left, top, right, bottom = (round(_FINE * side) for side in box)
        if right > left:
            self._draw.rounded_rectangle((left, top, right - 1, bottom - 1), radius=(bottom - top) // 2, fill=colour)

    def panel(self, box: Box) -> None:
        self._draw.rounded_rectangle([_FINE * side for side in box], radius=8 * _FINE, fill=_PANEL)

    def text(
        self,
        at: tuple[float, float],
        text: str,
        size: int,
        colour: str,
        *,
        anchor: Anchor = "left",
        width: float | None = None,
        bold: bool = False,
    ) -> None:
        """Draw one line with its upper edge at `at`; what does not fit into `width` becomes an ellipsis."""
        line, font = _typeset(text, size * _FINE)
        stroke = size * _FINE / 60 if bold else 0.0
        if width is not None:
            line = _fit(line, font, width * _FINE)
        position = (at[0] * _FINE, at[1] * _FINE)
        side = {"left": "la", "middle": "ma", "right": "ra"}[anchor]
        self._draw.text(position, line, fill=colour, font=font, anchor=side, stroke_width=stroke)

    def tile(self, encoded: bytes, corner: tuple[float, float], size: float) -> None:
        """Draw an image into a square with round corners: whole, in the middle, the rest of the square in grey."""
        side = round(size * _FINE)
        square = Image.new("RGB", (side, side), _PANEL)
        try:
            picture = decode_stored(encoded, max_pixels=_MOST_PIXELS)
        except SourceError:
            self.panel((*corner, corner[0] + size, corner[1] + size))
            self.text((corner[0] + size / 2, corner[1] + size / 2 - 9), "unreadable", 14, _FAINT, anchor="middle")
            return
        scale = side / max(picture.size)
        width, height = (max(1, round(length * scale)) for length in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        square.paste(picture, ((side - width) // 2, (side - height) // 2))
        mask = Image.new("L", (side, side), 0)
        ImageDraw.Draw(mask).rounded_rectangle((0, 0, side - 1, side - 1), radius=6 * _FINE, fill=255)
        self._image.paste(square, (round(corner[0] * _FINE), round(corner[1] * _FINE)), mask)


@functools.cache
def _fonts(size: int) -> list[ImageFont.FreeTypeFont]:
    fonts = [ImageFont.load_default(size)]
    for name in _WIDER_FONTS:
        try:
            fonts.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return [font for font in fonts if isinstance(font, ImageFont.FreeTypeFont)]


def _typeset(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """Return one line of text and the font that has most of its letters; the others lose their accent or become `?`.

    Of a text longer than any line here only the beginning is looked at.
    """
    line = not_turned(re.sub(r"\s+", " ", text[:_LETTERS]).strip())
    font, lacking = min(((font, _lacking(font, line)) for font in _fonts(size)), key=lambda pair: len(pair[1]))
    return "".join(_plain_letter(letter) if letter in lacking else letter for letter in line), font


def _lacking(font: ImageFont.FreeTypeFont, line: str) -> set[str]:
    """Return the letters that the font would draw as its sign for a missing one."""
    sign = font.getmask("\uffff")
    masks = {letter: font.getmask(letter) for letter in set(line) - {" "}}
    return {letter for letter, mask in masks.items() if (mask.size, bytes(mask)) == (sign.size, bytes(sign))}


def _plain_letter(letter: str) -> str:
    """Return the letter without its accent.

    >>> _plain_letter("é"), _plain_letter("漢")
    ('e', '?')
    """
    return unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode() or "?"


def _fit(line: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(line) <= width:
        return line
    fitting = bisect_right(range(len(line)), width, key=lambda end: font.getlength(line[:end] + "…"))
    return line[: max(fitting - 1, 0)].rstrip() + "…"
