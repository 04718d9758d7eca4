"""What of a picture a preprocessing shows, and how large a picture it needs, without knowing the preprocessing."""

from __future__ import annotations

from collections.abc import Callable

import fakes
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from csp_index.images.footprint import footprint, middle_square, side_needed


@pytest.mark.parametrize("size", [(400, 300), (300, 500), (64, 64)])
def test_the_footprint_of_a_cut_is_found(size):
    cut = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.4, 0.5, 0.6), (0.2, 0.25, 0.3)),
        ]
    )
    side = min(size) * 224 / 256
    left, top = (size[0] - side) / 2, (size[1] - side) / 2
    expected = np.array((left, top, left + side, top + side))
    assert np.abs(np.array(footprint(cut, size)) - expected).max() <= 0.015 * max(size)


@pytest.mark.parametrize("fill", [0, 114, 255])
def test_the_footprint_of_a_picture_with_margins_is_larger_than_the_picture(fill: int) -> None:
    def letterboxed(image: Image.Image) -> torch.Tensor:
        side = max(image.size)
        canvas = Image.new("RGB", (side, side), (fill,) * 3)
        canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        tensor: torch.Tensor = transforms.ToTensor()(canvas.resize((96, 96)))
        return tensor

    assert np.abs(np.array(footprint(letterboxed, (400, 200))) - (0, -100, 400, 300)).max() <= 5
    assert middle_square(letterboxed) == pytest.approx(-1, abs=0.02)
    assert side_needed(letterboxed) is None


def test_the_footprint_of_a_scaled_picture_is_the_whole_and_so_is_an_unknown_one():
    assert np.abs(np.array(footprint(fakes.network().preprocess, (80, 60))) - (0, 0, 80, 60)).max() < 1.5
    assert footprint(lambda image: torch.rand(3, 8, 8), (80, 60)) == (0, 0, 80, 60)
    assert footprint(lambda image: torch.rand(16, 12), (80, 60)) == (0, 0, 80, 60)


@pytest.mark.parametrize(
    ("steps", "side"),
    [
        ([transforms.Resize(224), transforms.CenterCrop(224)], 224),
        ([transforms.Resize(256), transforms.CenterCrop(224)], 256),
        ([transforms.Resize((96, 96))], 96),
        ([transforms.CenterCrop(224)], None),  # whatever the size of the picture is
        ([transforms.Resize(224), transforms.Grayscale()], None),  # does more than that
        ([transforms.Resize(47, max_size=48), transforms.CenterCrop(48)], None),  # adds a margin
    ],
)
def test_the_side_needed_is_that_before_the_crop(steps: list[Callable[..., object]], side: int | None) -> None:
    measured = side_needed(transforms.Compose([*steps, transforms.ToTensor()]))
    assert measured == side if side is None else measured == pytest.approx(side, abs=1)


def test_an_input_that_is_no_picture_needs_no_side_that_is_known() -> None:
    assert side_needed(lambda image: torch.rand(16, 12)) is None
    assert side_needed(lambda image: torch.full((3, 8, 8), float(np.asarray(image.resize((1, 1))).mean()))) is None


def test_a_preprocessing_that_fails_says_so_itself() -> None:
    def fail(image: Image.Image) -> torch.Tensor:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        side_needed(fail)


@pytest.mark.parametrize(
    ("steps", "side"),
    [
        ([transforms.Resize(256), transforms.CenterCrop(224)], 224 / 256),
        ([transforms.Resize((64, 64))], 0.0),
        ([transforms.CenterCrop(100)], None),  # another share of larger pictures
        ([transforms.Resize(64), transforms.CenterCrop((64, 32))], None),  # no square
        ([transforms.Resize(95, max_size=96), transforms.CenterCrop(96)], -1.0),  # adds margins: all of the long side
    ],
)
def test_the_square_in_the_middle_of_a_picture(steps: list[Callable[..., object]], side: float | None) -> None:
    measured = middle_square(transforms.Compose([*steps, transforms.ToTensor()]))
    assert measured == side if side is None else measured == pytest.approx(side, abs=0.01)
