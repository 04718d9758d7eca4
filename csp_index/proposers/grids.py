"""Pictures for a model: a neuron's images as grids. Knows nothing about models; draws with Pillow.

An image is shown whole, on gray where it is not square: what activates the neuron may be at the border that a crop
would remove.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn.functional import interpolate

from csp_index.errors import ProposerError
from csp_index.proposers.prompts import Prompt
from csp_index.proposers.proposer import Question

LayoutStyle = Literal["two", "one", "composed"]

HEADINGS: Final = ("A: activating", "B: contrastive")

_GRAY = 128
_PAPER = (255, 255, 255)
_INK = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a neuron's images are shown.

    `two`: a grid of activating images and a grid of contrastive ones; `one`: the activating images only; `composed`:
    both grids in one picture, side by side below their headings, for models that take a single picture. `columns` is
    the most images per row, `cell` the side of an image in pixels.
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
        """Return the number of contrastive images that this layout shows for a question."""
        return 0 if self.style == "one" else len(question.contrastive)


def pictures(question: Question, layout: Layout) -> list[Image.Image]:
    """Return the question as one or two RGB pictures; the activating images are the first, or the left half.

    A question without contrastive images is one plain grid in every style. Errors: ProposerError without any activating
    image.
    """
    if not question.activating:
        raise ProposerError(f"neuron {question.neuron} has no activating image to show")
    first = grid(question.activating, layout)
    if not layout.contrasts(question):
        return [first]
    second = grid(question.contrastive, layout)
    return [_side_by_side((first, second), layout)] if layout.style == "composed" else [first, second]


def grid(images: Sequence[Image.Image], layout: Layout) -> Image.Image:
    """Return the images row by row as one picture: square cells on gray, thin white gaps, no border.

    Fewer images than columns make a narrower picture; empty cells of the last row are white.
    """
    columns, side = min(layout.columns, len(images)), layout.cell
    rows = -(-len(images) // columns)
    step = side + layout.gap
    sheet = np.full((rows * step - layout.gap, columns * step - layout.gap, 3), 255, dtype=np.uint8)
    for number, fitted in _fitted(images, side):
        cell = sheet[number // columns * step :, number % columns * step :][:side, :side]
        if fitted.shape != cell.shape:
            cell[:] = _GRAY
        top, left = ((side - length) // 2 for length in fitted.shape[:2])
        cell[top:, left:][: fitted.shape[0], : fitted.shape[1]] = fitted
    return Image.fromarray(sheet)


def _fitted(images: Sequence[Image.Image], side: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each image's number and its pixels [h, w, 3] scaled to fit a cell; images of one size are scaled together.

    Torch is several times as fast as Pillow, and with eighteen cells per question scaling is most of the work.
    """
    same_size: dict[tuple[int, int], list[int]] = {}
    for number, image in enumerate(images):
        same_size.setdefault(image.size, []).append(number)
    for (width, height), numbers in same_size.items():
        scale = side / max(width, height)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        pixels = torch.from_numpy(np.stack([np.asarray(_rgb(images[number])) for number in numbers]))
        scaled = interpolate(pixels.permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True)
        yield from zip(numbers, scaled.permute(0, 2, 3, 1).numpy(), strict=True)


def _rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")


def full_prompt(prompt: Prompt, layout: Layout, concepts: int, words: int, tokens: int) -> str:
    """Return everything that determines a model's prompt and pictures: the `prompt` of a proposer."""
    arrangement = f"{layout.style}, {layout.columns} columns of {layout.cell} px"
    return f"{prompt.text}\n[{concepts} concepts of {words} words, {tokens} new tokens; {arrangement}]"


def _side_by_side(grids: tuple[Image.Image, Image.Image], layout: Layout) -> Image.Image:
    font = ImageFont.load_default(size=max(10, min(32, layout.cell // 8)))
    # The widest heading fits even over a grid with one small column.
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
