"""Labels from crops: of the regions that the stored maps say, embedded once, told apart from those of whole images."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pyarrow as pa
import pytest
import torch
from few import few
from indexed import ENCODER
from PIL import Image
from with_maps import NETWORK, OPTIONS, SIDE, WORDS, draw, live, make_index, turn_maps, uris

from csp_index import Index, open_index
from csp_index.contrast.crops import embed
from csp_index.contrast.crops.embed import cut
from csp_index.contrast.crops.regions import region_boxes
from csp_index.contrast.examples import Examples
from csp_index.errors import LabelError, SettingError, SourceError
from csp_index.integrity.verify import verify
from csp_index.labelling import pipeline
from csp_index.labelling.cropped import PartnerCrops, _Pairs, with_crops
from csp_index.labelling.evidence import Evidence
from csp_index.records import LayerKey, NeuronKey
from csp_index.service import ServiceSettings
from csp_index.service.layer_table import read_layer
from csp_index.service.live.engine import Engine
from csp_index.service.live.queries import LabelQuery
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog, column_tables
from csp_index.store.values.crops import append_crops
from csp_index.store.values.derived_images import FIRST


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return draw(tmp_path)


@pytest.fixture
def index(images: Path, tmp_path: Path) -> Index:
    return make_index(images, tmp_path)


def crops_stored(index: Index) -> int:
    table = column_tables.crops_table(catalog.encoder(index.store).name)
    return index.store.count(table) if index.store.has(table) else 0


def crop_embeddings(index: Index, neuron: int, count: int) -> torch.Tensor:
    maps, encoder = index.maps(f"net/maps/{neuron}"), fakes.encoder()
    boxes = region_boxes(maps.maps[:count], np.tile([0.0, 0, 1, 1], (count, 1)), np.full((count, 2), SIDE))
    pictures = [Image.open(uris(index)[image]).convert("RGB") for image in maps.images[:count]]
    parts = [cut(picture, box, picture.size) for picture, box in zip(pictures, boxes, strict=True)]
    assert any(part.size != picture.size for part, picture in zip(parts, pictures, strict=True))
    return encoder.embed_images(torch.stack([encoder.preprocess(part) for part in parts]))


def test_the_scores_are_those_of_the_crops(index: Index) -> None:
    labels = index.label("net/maps", "semanticlens", crop=True, top=6, **OPTIONS)
    texts = torch.nn.functional.normalize(fakes.encoder().embed_texts(WORDS), dim=1)
    for label in labels:
        assert label.state == "labelled" and label.cropped and label.as_json()["crop"]
        fired = sum(pair.activation > 0 for pair in label.pairs)
        expected = torch.nn.functional.normalize(crop_embeddings(index, label.neuron.neuron, fired).mean(0), dim=0)
        scores = dict(zip(WORDS, (texts @ expected).tolist(), strict=True))
        assert {score.text: pytest.approx(score.score, abs=1e-5) for score in label.labels} == scores


def evidence_of(index: Index, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Examples, Evidence]:
    """The examples and evidence behind a label of neuron 0 from crops that is not kept."""
    seen: list[tuple[Examples, Evidence]] = []

    def spied(*given: Any) -> tuple[Examples, Evidence]:
        seen.append(with_crops(*given))
        return seen[-1]

    monkeypatch.setattr(pipeline, "with_crops", spied)
    index.label("net/maps/0", "csp", crop=True, keep=False, **(OPTIONS | options))
    return seen[-1]


def test_partners_are_cropped_where_their_image_is(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    examples, evidence = evidence_of(index, monkeypatch, neighbours=2)
    maps, encoder, count = index.maps("net/maps/0"), fakes.encoder(), 0
    for rank, image in enumerate(examples.activating[0].tolist()):
        (levels,) = maps.maps[maps.images == image]
        (box,) = region_boxes(levels[None], np.array([[0.0, 0, 1, 1]]), np.array([[SIDE, SIDE]]))
        for slot, partner in enumerate(examples.contrastive[0, rank].tolist()):
            part = cut(Image.open(uris(index)[partner]).convert("RGB"), box, (SIDE, SIDE))
            expected = encoder.embed_images(encoder.preprocess(part)[None])[0]
            torch.testing.assert_close(evidence.vectors[evidence.contrastive[0, rank, slot]], expected)
            count += 1
    assert count == 12 and examples.whole_partners is not None and examples.whole_partners.tolist() == [0]


def test_a_part_keeps_its_place_and_size_in_a_partner_of_another_shape(index: Index) -> None:
    index.store.delete("images", "image_id = 3")
    rows = index.store.read("images", where="image_id = 4").to_pylist()
    index.store.append(
        "images",
        pa.Table.from_pylist(
            [rows[0] | {"image_id": 3, "width": 4 * SIDE, "height": 2 * SIDE}],
            schema=index.store.dataset("images").schema,
        ),
    )
    pairs = _Pairs(np.array([0]), np.array([1]), np.array([[5, 0, 16, 32, 48]]))
    partners = PartnerCrops.of(index.store, np.array([[[9, 9], [3, FIRST]]]), pairs)
    assert partners.crops.tolist() == [[3, 32, 32, 96, 96]] and [axis.tolist() for axis in partners.places] == [
        [0],
        [1],
        [0],
    ]


def test_without_the_encoder_partners_that_are_not_stored_stay_whole(index: Index) -> None:
    index.label("net/maps/0", "semanticlens", crop=True, **OPTIONS)  # which has no partners
    engine = Engine(Snapshot(index.uri), ServiceSettings())
    query = LabelQuery((NeuronKey("net", "maps", 0),), "csp", crop=True, examples=6)
    (result,) = engine.models().relabel(query)
    assert "6 of their contrastive images stay whole" in result["note"]
    index.label("net/maps/0", "csp", crop=True, **OPTIONS)
    engine = Engine(Snapshot(index.uri), ServiceSettings())
    assert "stay whole" not in engine.models().relabel(query)[0]["note"]


def test_labels_with_and_without_crops_are_told_apart(index: Index) -> None:
    whole = index.label("net/maps", "csp", **OPTIONS)
    cropped = index.label("net/maps", "csp", crop=True, **OPTIONS)
    assert [label.run_id for label in index.label("net/maps", "csp", **OPTIONS)] == [label.run_id for label in whole]
    again = index.label("net/maps", "csp", crop=True, **OPTIONS)
    assert [label.run_id for label in again] == [label.run_id for label in cropped]
    assert not any(label.cropped for label in whole) and all(label.cropped for label in again)
    assert [label.pairs for label in cropped] == [label.pairs for label in whole], "images and partners are the same"
    assert [label.labels for label in cropped] != [label.labels for label in whole]
    assert all(label.probability is None for label in cropped)
    assert index.view("net/maps/0", method="csp").label.cropped
    table = read_layer(index.store, catalog.layer(index.store, LayerKey("net", "maps")))
    shown = table.methods["csp"].label(again[0].neuron, 1)
    assert shown is not None and shown.cropped
    rows = index.sql("SELECT DISTINCT note LIKE '%crops of the regions%' AS crop FROM labels ORDER BY crop").rows()
    assert [row["crop"] for row in rows] == [False, True]


def test_a_note_does_not_say_whether_there_are_crops(index: Index) -> None:
    label = index.label("net/maps/0", "csp", **OPTIONS)[0]
    said = replace(label, note="crops of the regions that drive it stand in for its activating images")
    assert not said.cropped and replace(label, crop=True).cropped
    assert not replace(label, crop=True, state="no-contrast", labels=()).cropped


def test_crops_are_embedded_once(index: Index) -> None:
    first = index.label("net/maps", "csp", crop=True, **OPTIONS)
    stored = crops_stored(index)
    assert stored > 0
    for uri in uris(index):
        Path(uri).unlink()
    same = index.label("net/maps", "csp", crop=True, recompute=True, **OPTIONS)
    assert [label.labels for label in same] == [label.labels for label in first]
    assert crops_stored(index) == stored
    assert index.label("net/maps/0", "csp", crop=True, keep=False, gamma=0.3, **OPTIONS)[0].cropped


def test_nothing_is_stored_by_a_question(index: Index) -> None:
    asked = index.label("net/maps/0", "csp", crop=True, keep=False, **OPTIONS)
    assert crops_stored(index) == 0
    assert index.label("net/maps/0", "csp", crop=True, **OPTIONS)[0].labels == asked[0].labels


def test_an_interrupted_run_keeps_what_is_embedded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "_ROWS", 4)
    real, batches = fakes.FakeEncoder.embed_images, []

    def stopped(self: fakes.FakeEncoder, pixels: torch.Tensor) -> torch.Tensor:
        batches.append(len(pixels))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return real(self, pixels)

    monkeypatch.setattr(fakes.FakeEncoder, "embed_images", stopped)
    with pytest.raises(KeyboardInterrupt):
        index.label("net/maps", "csp", crop=True, **OPTIONS)
    assert crops_stored(index) == batches[0] == 4
    batches[:] = [0, 0]
    index.label("net/maps", "csp", crop=True, **OPTIONS)
    assert sum(batches) == crops_stored(index) - 4


def test_lost_pictures_stay_whole_and_that_is_said(index: Index, caplog: pytest.LogCaptureFixture) -> None:
    top = index.maps("net/maps/0").images.tolist()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(uris(index)[top[0]])  # another picture now
    with caplog.at_level(logging.WARNING):
        label = index.label("net/maps/0", "csp", crop=True, **OPTIONS)[0]
    assert "1 of 10 pictures cannot be cropped and stay whole, first reason:" in caplog.text
    assert "it is another file than the one indexed" in caplog.text
    assert "1 of 6 stay whole, because their pictures cannot be opened" in label.note
    for uri in uris(index):
        Path(uri).unlink()
    with pytest.raises(SourceError, match=r"none of the .* pictures to crop can be opened .*leave out crop"):
        index.label("net/maps/1", "csp", crop=True, **OPTIONS)


def test_live_labels_leave_lost_pictures_whole_as_stored_ones_do(index: Index) -> None:
    lost = int(index.maps("net/maps/0").images[0])
    index.label("net/maps/0", "csp", **OPTIONS)
    with pytest.raises(LabelError, match=r"crops that this label needs are not stored"):
        live(index)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(uris(index)[lost])  # another picture now
    label, result = index.label("net/maps/0", "csp", crop=True, **OPTIONS)[0], live(index)
    assert result["note"] == label.note and "1 of 6 stay whole" in label.note
    assert [each["text"] for each in result["labels"]] == [score.text for score in label.labels]
    assert [each["score"] for each in result["labels"]] == pytest.approx([score.score for score in label.labels])
    turn_maps(index)
    with pytest.raises(LabelError, match=r"\d crops that this label needs are not stored.* label --crop first"):
        live(index)


def test_crops_that_no_label_asked_for_belong_to_no_lost_pictures(index: Index) -> None:
    strongest = index.store.read("neurons", where="neuron = 0 AND layer = 'maps'")["top_activations"][0].as_py()
    index.label("net/maps/0", "csp", crop=True, floor=strongest[2] - 1e-6, **OPTIONS)
    index.label("net/maps/1", "csp", crop=True, **OPTIONS)
    with pytest.raises(LabelError, match=r"crops that this label needs are not stored"):
        live(index)


def test_what_has_no_crops_is_refused(index: Index, images: Path, tmp_path: Path) -> None:
    with pytest.raises(LabelError, match=r"net/vector, and none are stored: csp-index index DB --maps"):
        index.label("net/vector", "csp", crop=True, **OPTIONS)
    with pytest.raises(LabelError, match="firing-contrast does not look at alone"):
        index.label("net/maps", "firing-contrast", crop=True, **OPTIONS)
    with pytest.raises(SettingError, match="crop is 'yes': expected true or false"):
        index.label("net/maps", "csp", crop="yes", **OPTIONS)
    other = open_index(tmp_path / "bare")
    other.add_images(images, encoders=[ENCODER], networks=[NETWORK], maps=False)
    with pytest.raises(LabelError, match="and none are stored"):
        other.label("net/maps", "csp", crop=True, **OPTIONS)


def test_more_examples_than_maps_are_refused(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CSP_INDEX_MAP_IMAGES", "4")
    index = open_index(tmp_path / "few")
    index.add_images(images, encoders=[ENCODER], networks=[NETWORK])
    with pytest.raises(LabelError, match=r"and \d+ are stored.*'s 4 highest images .*that cannot be opened have none"):
        index.label("net/maps", "csp", crop=True, **OPTIONS)


def test_a_cut_is_made_square_with_its_mean_color() -> None:
    picture = Image.new("RGB", (40, 20), (10, 20, 30))
    picture.paste((50, 60, 70), (0, 0, 10, 20))
    assert cut(picture, np.array([20, 10, 30, 20]), (40, 20)).getpixel((0, 0)) == (10, 20, 30)
    long = cut(picture, np.array([0, 0, 80, 40]), (80, 40))  # decoded at half its size
    assert long.size == (40, 40) and long.getpixel((5, 2)) == (20, 30, 40) and long.getpixel((5, 20)) == (50, 60, 70)


def test_a_copy_has_the_crops_of_its_images(index: Index, tmp_path: Path) -> None:
    made = index.label("net/maps", "csp", crop=True, **OPTIONS)
    index.copy(tmp_path / "copy", [uris(index)[3]])
    copy = open_index(tmp_path / "copy")
    assert 0 < crops_stored(copy) <= crops_stored(index)
    assert verify(tmp_path / "copy", full=True).sound
    for uri in uris(index):
        Path(uri).unlink()
    without = [label.neuron.neuron for label in made if 3 not in [pair.image_id for pair in label.pairs]]
    again = copy.label([f"net/maps/{neuron}" for neuron in without], "semanticlens", crop=True, **OPTIONS)
    asked = index.label([f"net/maps/{neuron}" for neuron in without], "semanticlens", crop=True, **OPTIONS)
    assert again and [label.labels for label in again] == [label.labels for label in asked]


@pytest.mark.parametrize("wrong", few(["image", "box", "vector"], 1))
def test_verify_finds_crops_that_cannot_be(index: Index, tmp_path: Path, wrong: str) -> None:
    index.label("net/maps/0", "csp", crop=True, **OPTIONS)
    source = catalog.encoder(index.store)
    assert verify(tmp_path / "db").sound
    key = {"image": [77, 0, 0, 1, 1], "box": [0, 3, 0, 3, 1], "vector": [0, 0, 0, 1, 1]}[wrong]
    vector = np.zeros((1, source.width)) + (2.0 if wrong == "vector" else source.width**-0.5)
    with index.store.write_lock():
        append_crops(index.store, source, np.array([key]), vector, "")
    (found,) = verify(tmp_path / "db", full=True).findings
    assert found.table == column_tables.crops_table(source.name)
    verify(tmp_path / "db", repair=True, full=True)
    assert verify(tmp_path / "db", full=True).sound
