"""Pictures for a model: a neuron's images as grids. Knows nothing about models; draws with Pillow alone.

An image is shown whole, on grey where it is not square: what drives the neuron may lie at the border that a crop would
cut away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Final, Literal

from PIL import Image, ImageDraw, ImageFont, ImageOps

from csp_index.errors import ProposerError
from csp_index.stage1.prompts import Prompt
from csp_index.stage1.records import Question

LayoutStyle = Literal["two", "one", "composed"]

HEADINGS: Final = ("A: activating", "B: contrastive")

_GREY = (128, 128, 128)
_PAPER = (255, 255, 255)
_INK = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a neuron's images are shown.

    `two`: a grid of activating images and a grid of contrastive ones; `one`: the activating ones only; `composed`: both
    grids in one picture, side by side below their headings, for models that take a single picture. `columns` is the
    most images a row; `cell` the side of an image in pixels.
    """

    style: LayoutStyle = "two"
    columns: int = 3
    cell: int = 224

    def __post_init__(self) -> None:
        """Refuse a layout that cannot be drawn."""
        if not 1 <= self.columns <= 32:
            raise ProposerError(f"a grid has {self.columns} columns: expected 1 to 32")
        if not 16 <= self.cell <= 2048:
            raise ProposerError(f"a grid's cells have {self.cell} px: expected 16 to 2048")

    @property
    def gap(self) -> int:
        """White space between cells, in pixels."""
        return max(2, self.cell // 56)

    def contrasts(self, question: Question) -> int:
        """Return how many contrastive images this layout shows of a question."""
        return 0 if self.style == "one" else len(question.contrastive)


class Cells:
    """Cells drawn before, for the next question that shows the same image object; several threads may ask."""

    def __init__(self, most: int = 256) -> None:
        """Hold so many of them, those used last."""
        self._most = most
        self._held: OrderedDict[tuple[int, int], tuple[Image.Image, Image.Image]] = OrderedDict()
        self._mutex = Lock()

    def of(self, image: Image.Image, side: int) -> Image.Image:
        """Return the image as a square cell; nobody may draw on either."""
        key = (id(image), side)
        with self._mutex:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][1]
        cell = _cell(image, side)
        with self._mutex:
            self._held[key] = (image, cell)  # with the image, so that no other one can get its id
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return cell


def pictures(question: Question, layout: Layout, cells: Cells | None = None) -> list[Image.Image]:
    """Return the question as one or two RGB pictures; the activating images are the first, or the left half.

    A question without contrastive images is one plain grid in every style. `cells` saves work where neurons share
    images. Errors: ProposerError without any activating image.
    """
    if not question.activating:
        raise ProposerError(f"neuron {question.neuron} has no activating image to show")
    first = grid(question.activating, layout, cells)
    if not layout.contrasts(question):
        return [first]
    second = grid(question.contrastive, layout, cells)
    return [_side_by_side((first, second), layout)] if layout.style == "composed" else [first, second]


def grid(images: Sequence[Image.Image], layout: Layout, cells: Cells | None = None) -> Image.Image:
    """Return the images row by row as one picture: square cells on grey, thin white gaps, no border.

    Fewer images than columns make a narrower picture; free places of the last row stay white.
    """
    columns = min(layout.columns, len(images))
    rows = -(-len(images) // columns)
    step = layout.cell + layout.gap
    sheet = Image.new("RGB", (columns * step - layout.gap, rows * step - layout.gap), _PAPER)
    for place, image in enumerate(images):
        cell = cells.of(image, layout.cell) if cells else _cell(image, layout.cell)
        sheet.paste(cell, (place % columns * step, place // columns * step))
    return sheet


def told(prompt: Prompt, layout: Layout, concepts: int, words: int, tokens: int) -> str:
    """Return all that decides what a model is told and shown: the `prompt` of a proposer."""
    shown = f"{layout.style}, {layout.columns} columns of {layout.cell} px"
    return f"{prompt.text}\n[{concepts} concepts of {words} words, {tokens} new tokens; {shown}]"


def _cell(image: Image.Image, side: int) -> Image.Image:
    # These filters cost half of what bicubic ones do: with eighteen cells a question they are most of its price. A line
    # of one pixel must keep one pixel when it is made smaller, which ImageOps.pad does not see to.
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    chosen = Image.Resampling.HAMMING if scale < 1 else Image.Resampling.BILINEAR
    fitted = image.convert("RGB").resize(size, chosen, reducing_gap=1.0)
    return ImageOps.pad(fitted, (side, side), color=_GREY) if size != (side, side) else fitted


def _side_by_side(grids: tuple[Image.Image, Image.Image], layout: Layout) -> Image.Image:
    font = ImageFont.load_default(size=max(10, min(32, layout.cell // 8)))
    # The widest heading keeps its place even over a grid of one small column.
    boxes = [font.getbbox(heading) for heading in HEADINGS]
    strip = round(max(box[3] for box in boxes) * 1.4)
    margin = 4 * layout.gap
    widths = [max(picture.width, round(box[2]) + 2 * layout.gap) for picture, box in zip(grids, boxes, strict=True)]
    height = strip + max(picture.height for picture in grids)
    sheet = Image.new("RGB", (sum(widths) + margin, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    left = 0
    for heading, picture, width in zip(HEADINGS, grids, widths, strict=True):
        draw.rectangle((left, 0, left + width - 1, strip - layout.gap - 1), fill=_INK)
        draw.text((left + layout.gap, (strip - layout.gap) / 2), heading, fill=_PAPER, font=font, anchor="lm")
        sheet.paste(picture, (left, strip))
        left += width + margin
    return sheet
