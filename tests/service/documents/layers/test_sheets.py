"""Sheets of pictures: each neuron's strongest image at its place, whole, with a veil where one is asked for."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from planted import PLANTED, Served, serve_arrays, serve_planted

from csp_index.errors import NotFoundError, SettingError
from csp_index.records import LayerKey
from csp_index.service.documents.image import stored_thumbnail
from csp_index.service.documents.layers import sheets
from csp_index.service.documents.layers.sheets import COLUMNS, places, sheet
from csp_index.store.values.activation_maps import Frame, NeuronMaps

WORDS = LayerKey.parse(PLANTED)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve_planted(tmp_path_factory)


def tiles(data: bytes, numbers: list[int]) -> dict[int, np.ndarray]:
    """Return the picture of each neuron in a sheet, [side, side, 4]."""
    image = Image.open(io.BytesIO(data))
    assert image.format == "WEBP" and image.mode == "RGBA" and image.width % COLUMNS == 0
    pixels, side = np.asarray(image), image.width // COLUMNS
    assert image.height == side * (1 + max(row for _, row in places(numbers).values()))
    return {n: pixels[y * side : (y + 1) * side, x * side : (x + 1) * side] for n, (x, y) in places(numbers).items()}


def test_each_neuron_has_its_strongest_image_at_its_place(planted: Served) -> None:
    snapshot, _ = planted
    table = snapshot.layer(WORDS)
    made = tiles(sheet(snapshot, WORDS, [5, 0, 6, 3, 0]), [0, 3, 5, 6])
    for neuron in (0, 3, 5):
        data = stored_thumbnail(snapshot, int(table.top_images[neuron, 0]))[0]
        picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize(made[neuron].shape[:2]), float)
        assert np.abs(made[neuron][..., :3] - picture).mean() < 12 and made[neuron][..., 3].min() == 255
    assert made[6][..., 3].max() == 0, "a dead neuron has none"


def test_rows_follow_each_other(monkeypatch: pytest.MonkeyPatch, planted: Served) -> None:
    monkeypatch.setattr(sheets, "COLUMNS", 2)
    image = Image.open(io.BytesIO(sheet(planted[0], WORDS, [0, 1, 2])))
    side = image.width // 2
    assert image.height == 2 * side and sheets.places([0, 1, 2]) == {0: (0, 0), 1: (1, 0), 2: (0, 1)}


def test_pictures_are_whole(planted: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = io.BytesIO()
    Image.new("RGB", (300, 100), (200, 30, 30)).save(wide, "PNG")
    rows = {"thumbnail": wide.getvalue(), "width": 300, "height": 100}
    monkeypatch.setattr(planted[0], "image_rows", lambda ids, _: dict.fromkeys(ids, rows))
    (tile,) = tiles(sheet(planted[0], WORDS, [1]), [1]).values()
    assert tile.shape[0] == sheets.TILE
    clear = tile[..., 3].max(axis=1) == 0
    assert clear[: sheets.TILE // 3].all() and clear[-sheets.TILE // 3 :].all() and clear.sum() == 2 * sheets.TILE // 3


def test_a_veil_hides_where_its_neuron_does_not_fire(planted: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot, _ = planted
    image = int(snapshot.layer(WORDS).top_images[1, 0])
    heat = np.array([[255, 0]], np.uint8)[None]
    maps = NeuronMaps(Frame(1, 2, 0.0), np.array([image]), np.ones(1, np.float32), heat)
    plain = tiles(sheet(snapshot, WORDS, [1, 2]), [1, 2])
    monkeypatch.setattr(sheets, "read_maps", lambda *_: {1: maps})
    veiled = tiles(sheet(snapshot, WORDS, [1, 2], veiled=True), [1, 2])
    change = np.abs(veiled[1][..., :3].astype(float) - plain[1][..., :3]).mean(axis=(0, 2))
    assert change[0] < 12 < change[-1]
    assert np.abs(veiled[2][..., :3].astype(float) - plain[2][..., :3]).mean() < 3, "without a map there is no veil"


def test_what_cannot_be_a_sheet_is_refused(planted: Served, tmp_path_factory: pytest.TempPathFactory) -> None:
    for numbers in ([], list(range(601))):
        with pytest.raises(SettingError, match="expected 1 to 600"):
            sheet(planted[0], WORDS, numbers)
    with pytest.raises(NotFoundError, match="has neurons 0 to 6"):
        sheet(planted[0], WORDS, [7])
    with pytest.raises(NotFoundError, match="came as arrays"):
        sheet(serve_arrays(tmp_path_factory)[0], LayerKey("m", "l"), [0])
