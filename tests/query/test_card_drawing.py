"""Cards: every kind of neuron gives a readable picture."""

from __future__ import annotations

import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import pytest
from few import few
from PIL import Image

from csp_index.errors import QueryError
from csp_index.query.card_drawing import CardData, CardPair, draw_card

WARM, COLD, PAPER = (217, 72, 15), (25, 113, 194), (255, 255, 255)


def _thumbnail(colour: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def _pair(place: int, contrast: bool = True) -> CardPair:
    first = _thumbnail((10 + place, 200, 10))
    if not contrast:
        return CardPair(first, None, 9.0 - place, None, None)
    return CardPair(first, _thumbnail((10 + place, 10, 200)), 9.0 - place, 0.01 * place, 0.9)


def _card(**changes: Any) -> CardData:
    card = CardData(
        title="net/layer/7",
        method="csp",
        labels=[("striped", 0.31), ("red circle", 0.2)],
        state="labelled",
        note="run 1",
        pairs=[_pair(i) for i in range(4)],
        histogram=[900, 40, 0, 8],
        edges=[0.0, 1.0, 2.0, 3.0, 4.0],
        threshold=0.5,
        threshold_name="mean",
    )
    return dataclasses.replace(card, **changes)


def _draw(card: CardData, folder: Path) -> Image.Image:
    path = draw_card(card, folder / "card.png")
    picture = Image.open(path)
    assert picture.format == "PNG"
    return picture.convert("RGB")


def _columns_of(picture: Image.Image, colour: tuple[int, int, int]) -> set[int]:
    """Where the colour stands, from left to right."""
    width, height = picture.size
    pixels = picture.load()
    assert pixels is not None
    return {x for x in range(width) for y in range(height) if pixels[x, y] == colour}


def test_each_partner_stands_below_its_image(tmp_path: Path) -> None:
    picture = _draw(_card(pairs=[_pair(i) for i in range(10)]), tmp_path)
    ends = set()
    for place in range(10):
        above = _columns_of(picture, (10 + place, 200, 10))
        assert above == _columns_of(picture, (10 + place, 10, 200)) != set()
        ends.add((min(above), max(above)))
    assert len(ends) == 10
    assert max(end for _, end in ends) <= picture.width - 40


@pytest.mark.parametrize(("pairs", "rows"), few([(1, 1), (10, 1), (11, 2), (30, 3), (45, 3)], 2))
def test_more_than_ten_pairs_wrap_and_more_than_thirty_are_cut(pairs: int, rows: int, tmp_path: Path) -> None:
    heights = {
        count: _draw(_card(pairs=[_pair(i) for i in range(count)]), tmp_path).height for count in {pairs, 10, 20}
    }
    if pairs >= 10:
        row = heights[20] - heights[10]
        assert heights[pairs] == heights[10] + (rows - 1) * row


def test_the_histogram_changes_colour_at_the_threshold(tmp_path: Path) -> None:
    plain = _card(pairs=[], labels=[], histogram=[5, 5], edges=[0.0, 1.0, 2.0])
    low = _columns_of(_draw(dataclasses.replace(plain, threshold=0.5), tmp_path), COLD)
    high = _columns_of(_draw(dataclasses.replace(plain, threshold=1.5), tmp_path), COLD)
    assert len(high) == pytest.approx(3 * len(low), rel=0.03)
    assert not _columns_of(_draw(dataclasses.replace(plain, threshold=None), tmp_path), COLD)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": [], "state": "dead", "note": "never fires", "pairs": [], "histogram": [], "edges": []},
        {"labels": [], "state": "dead", "histogram": [9], "edges": [0.0, 0.0], "pairs": []},
        {"pairs": [_pair(i, contrast=False) for i in range(3)]},
        {"pairs": [_pair(0), _pair(1, contrast=False)]},
        {"pairs": [CardPair(b"not an image", None, math.nan, None, None)]},
        {"pairs": [CardPair(_thumbnail((1, 2, 3), (200, 3)), None, -1.0, None, None)]},
        {"labels": [("a", -3.2), ("b", -3.2), ("c", -math.inf)]},
        {"labels": [("only", 0.0)]},
        {"labels": [("wide " * 60, 0.5), ("line\nbreak\tand \x00 more", 0.4), ("Café 漢字 🦊", 0.3), ("", 0.1)]},
        {"threshold": 99.0},
        {"threshold": None},
    ],
)
def test_every_kind_of_neuron_can_be_drawn(changes: dict[str, Any], tmp_path: Path) -> None:
    picture = _draw(_card(**changes), tmp_path)
    width, height = picture.size
    border = [picture.getpixel((x, y)) for x in (3, width - 4) for y in range(height)]
    assert set(border) == {PAPER}, "something runs over the edge"


def test_a_card_without_contrast_has_one_line_of_images(tmp_path: Path) -> None:
    without = _draw(_card(pairs=[_pair(0, contrast=False)]), tmp_path)
    assert without.height < _draw(_card(pairs=[_pair(0)]), tmp_path).height


def test_a_card_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(QueryError, match=r"card\.png cannot be written: No such file or directory; name another file"):
        draw_card(_card(), tmp_path / "missing" / "card.png")


def test_a_label_of_any_length_is_drawn(tmp_path: Path) -> None:
    long = _draw(_card(labels=[("long " * 300_000, 0.5)]), tmp_path)  # Pillow measures no text of a million letters
    assert long.tobytes() == _draw(_card(labels=[("long " * 1_000, 0.5)]), tmp_path).tobytes()


def test_no_label_turns_the_direction_of_its_line(tmp_path: Path) -> None:
    spelled = _draw(_card(labels=[("red\\u202e evil", 0.5)]), tmp_path)
    assert _draw(_card(labels=[("red\u202e evil", 0.5)]), tmp_path).tobytes() == spelled.tobytes()
