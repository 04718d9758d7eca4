"""Pictures for a model: grids of images."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from csp_index.errors import ProposerError
from csp_index.proposers.grids import Layout, full_prompt, grid, pictures
from csp_index.proposers.prompts import PROMPTS
from csp_index.proposers.proposer import Question
from csp_index.records import NeuronKey

RED, GREEN, BLUE, GREY, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128), (255, 255, 255)
SMALL = Layout(cell=32)  # gaps of 2 px


def image(colour: tuple[int, int, int], size: tuple[int, int] = (20, 20)) -> Image.Image:
    return Image.new("RGB", size, colour)


def question(activating: int = 9, contrastive: int = 9) -> Question:
    return Question(NeuronKey("m", "l", 0), (image(RED),) * activating, (image(BLUE),) * contrastive)


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    packed = np.asarray(picture).reshape(-1, 3).astype(np.int64) @ (65536, 256, 1)
    return {(int(value) >> 16, int(value) >> 8 & 255, int(value) & 255) for value in np.unique(packed)}


def test_images_stand_row_by_row_with_thin_gaps() -> None:
    sheet = grid([image(RED), image(GREEN), image(BLUE), image(RED)], SMALL)
    assert sheet.size == (3 * 32 + 2 * 2, 2 * 32 + 2)
    pixels = np.asarray(sheet)
    for x, y, colour in [(0, 0, RED), (34, 0, GREEN), (99, 31, BLUE), (0, 34, RED), (32, 5, WHITE), (50, 50, WHITE)]:
        assert tuple(pixels[y, x]) == colour, (x, y)


def test_the_default_cells_are_those_of_the_methods() -> None:
    assert Layout() == Layout("two", 3, 224)
    assert grid([image(RED)] * 9, Layout()).size == (3 * 224 + 2 * 4,) * 2


def test_fewer_images_than_columns_make_a_narrower_picture() -> None:
    assert grid([image(RED)] * 2, SMALL).size == (66, 32)
    assert grid([image(RED)], Layout(columns=1, cell=32)).size == (32, 32)


@pytest.mark.parametrize("size", [(60, 30), (30, 60), (1000, 500), (6, 3)])
def test_an_image_is_shown_whole_on_grey(size: tuple[int, int]) -> None:
    pixels = np.asarray(image(RED, size))
    pixels = pixels.copy()
    pixels[:, : size[0] // 2] = BLUE
    shown = np.asarray(grid([Image.fromarray(pixels)], SMALL))
    assert shown.shape == (32, 32, 3)
    assert tuple(shown[16, 1] if size[0] > size[1] else shown[1, 10]) == BLUE  # the left border is there
    assert tuple(shown[16, 30] if size[0] > size[1] else shown[30, 21]) == RED  # and the right one
    assert tuple(shown[2, 16] if size[0] > size[1] else shown[16, 2]) == GREY
    assert (shown == GREY).all(2).mean() == pytest.approx(0.5)


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_a_line_of_one_pixel_is_not_lost(size: tuple[int, int]) -> None:
    assert RED in colours(grid([image(RED, size)], SMALL))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_images_of_any_mode_become_rgb(mode: str) -> None:
    assert grid([image(RED).convert(mode)], SMALL).mode == "RGB"


def test_two_grids_activating_first() -> None:
    first, second = pictures(question(9, 4), SMALL)
    assert (first.size, second.size) == ((100, 100), (100, 66))
    assert colours(first) == {RED, WHITE}
    assert colours(second) == {BLUE, WHITE}


def test_one_grid_leaves_the_contrastive_images_out() -> None:
    (only,) = pictures(question(), Layout("one", cell=32))
    assert colours(only) == {RED, WHITE}
    assert Layout("one").contrasts(question()) == 0


@pytest.mark.parametrize("style", ["two", "one", "composed"])
def test_a_question_without_contrast_is_a_plain_grid(style) -> None:
    (only,) = pictures(question(9, 0), Layout(style, cell=32))
    assert only.size == (100, 100)
    assert colours(only) == {RED, WHITE}


def test_a_composed_picture_has_both_sets_side_by_side_below_their_headings() -> None:
    (sheet,) = pictures(question(), Layout("composed"))
    pixels = np.asarray(sheet)
    left, right = pixels[:, : 3 * 224 + 8], pixels[:, -(3 * 224 + 8) :]
    top = sheet.height - (3 * 224 + 8)
    assert 20 < top < 80
    for half, colour in ((left, RED), (right, BLUE)):
        assert colours(half[top:]) == {colour, WHITE}
        strip = half[: top - 4]
        dark = (strip < 60).all(2).mean()
        light = (strip > 200).all(2).mean()
        assert dark > 0.7  # a strip of ink
        assert 0.01 < light < 0.2  # with words on it
    assert not np.array_equal(left[: top - 4], right[: top - 4])  # and not the same words
    assert (pixels[:, 3 * 224 + 8 : -(3 * 224 + 8)] == 255).all()


def test_headings_have_room_over_a_single_small_cell() -> None:
    (sheet,) = pictures(question(1, 1), Layout("composed", cell=16))
    words = (np.asarray(sheet) > 200).all(2)
    assert sheet.width > 100
    assert RED in colours(sheet)
    assert BLUE in colours(sheet)
    assert not words[0].all()


def test_pictures_do_not_depend_on_when_they_are_drawn() -> None:
    for style in ("two", "composed"):
        first, second = (pictures(question(), Layout(style, cell=40)) for _ in range(2))
        assert [picture.tobytes() for picture in first] == [picture.tobytes() for picture in second]


@pytest.mark.parametrize("fields", [{"columns": 0}, {"columns": 33}, {"cell": 15}, {"cell": 4096}])
def test_a_layout_that_cannot_be_drawn_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ProposerError, match="expected"):
        Layout(**fields)


def test_a_neuron_without_images_cannot_be_shown() -> None:
    with pytest.raises(ProposerError, match="m/l/0 has no activating image"):
        pictures(question(0), SMALL)


def test_what_is_told_names_all_that_decides_an_answer() -> None:
    prompt = PROMPTS["concepts"]
    texts = {full_prompt(prompt, Layout(cell=cell), 3, words, 64) for cell in (32, 224) for words in (3, 4)}
    assert len(texts) == 4
    assert all(prompt.contrastive in text and prompt.positive in text for text in texts)
