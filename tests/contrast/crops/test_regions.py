"""Which part of a picture stands for it: around the peak, square, inside the picture."""

from __future__ import annotations

import numpy as np
import pytest

from csp_index.contrast.crops.regions import region_boxes

WHOLE = (0.0, 0.0, 1.0, 1.0)


def box(
    filled: dict[tuple[int, int], int],
    size: tuple[int, int] = (160, 160),
    part: tuple[float, float, float, float] = WHOLE,
) -> tuple[int, ...]:
    maps = np.zeros((1, 8, 8), np.uint8)
    for place, level in filled.items():
        maps[0][place] = level
    return tuple(region_boxes(maps, np.array([part]), np.array([size]))[0].tolist())


def test_one_hot_place_gives_the_least_square_around_it() -> None:
    assert box({(1, 6): 255}) == (110, 10, 150, 50)  # its middle is at (130, 30), a quarter of 160 is 40


def test_what_hangs_together_with_the_peak_above_a_fifth_is_the_region() -> None:
    row = {(4, 1): 60, (4, 2): 255, (4, 3): 60, (4, 4): 60}
    assert box(row) == (12, 42, 108, 138)  # 4 places of 20 pixels, and a tenth of that on each side
    assert box(row | {(4, 4): 50}) == (14, 54, 86, 126)  # less than a fifth: one place fewer
    assert box({(1, 6): 255, (6, 1): 254}) == (110, 10, 150, 50)  # another region, as hot, is left out


def test_maps_are_regions_of_their_own() -> None:
    maps = np.zeros((2, 8, 8), np.uint8)
    maps[0, 0, 0] = maps[1, 0, 0] = maps[1, 0, 1] = 255
    boxes = region_boxes(maps, np.array([WHOLE, WHOLE]), np.full((2, 2), 800))
    assert boxes.tolist() == [[0, 0, 200, 200], [0, 0, 240, 240]]


def test_no_maps_have_no_regions() -> None:
    assert region_boxes(np.zeros((0, 8, 8), np.uint8), np.zeros((0, 4)), np.zeros((0, 2), np.int64)).shape == (0, 4)


def test_a_region_is_moved_into_the_picture_and_ends_where_it_is_too_long() -> None:
    assert box({(0, 0): 255}) == (0, 0, 40, 40) and box({(7, 7): 255}) == (120, 120, 160, 160)
    long = {(2, column): 255 for column in range(8)}
    assert box(long, (400, 100)) == (0, 0, 400, 100)
    assert box({(2, column): 255 for column in range(4)}, (400, 100)) == (0, 0, 240, 100)


def test_the_median_does_not_count() -> None:
    everywhere = {(row, column): 200 for row in range(8) for column in range(8)}
    assert box(everywhere | {(1, 6): 255}) == (110, 10, 150, 50)
    assert box(everywhere) == box({}) == (0, 0, 160, 160)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ((0.25, 0.25, 0.75, 0.75), (85, 25, 125, 65)),  # the middle alone: a place is 10 pixels
        ((0.0, -0.5, 1.0, 1.5), (106, 0, 154, 48)),  # a margin above and below: places are twice as high
    ],
)
def test_maps_cover_a_part_of_the_picture(part: tuple[float, float, float, float], expected: tuple[int, ...]) -> None:
    assert box({(0, 6): 255}, part=part) == expected
