"""The page of an image: what it tells, held to the stored rows and to plain products; pictures by id alone."""

from __future__ import annotations

import io
import json
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planted import CONCEPTS, DERIVED, PLANTED, Served, opened

from csp_index.errors import NotFoundError
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents import image as module
from csp_index.service.documents.image import (
    NEIGHBOURS,
    excited_by,
    image_document,
    image_vector,
    pictures_inside,
    read_ahead,
    stored_thumbnail,
)


def test_an_indexed_image(planted: Served) -> None:
    document = image_document(*planted, 0)
    assert list(document) == [
        "image_id",
        "name",
        "width",
        "height",
        "split",
        "metadata",
        "derived",
        "excites",
        "neighbours",
    ]
    assert (document["image_id"], document["name"], document["split"]) == (0, "img00001.png", None)
    assert (document["width"], document["height"]) == (8, 8)
    assert document["metadata"] == {"label": "a", "colour": "grey", "count": 3}
    assert document["derived"] is None
    assert image_document(*planted, 1)["metadata"] == {"label": "a"}, "the folders a and b look like classes"


def test_the_neurons_an_image_excites_are_those_whose_top_images_hold_it(planted: Served) -> None:
    snapshot, engine = planted
    keys = [info.key for info in snapshot.layers()]
    ranks = {}
    for key in keys:
        for neuron in range(snapshot.info(key).neurons):
            values = engine.models().activations(NeuronKey(key.model, key.layer, neuron))
            for rank, image in enumerate(np.argsort(-values, kind="stable")[:100].tolist()):
                if values[image] > 0:
                    ranks[image, f"{key}/{neuron}"] = (rank, float(values[image]))
    for image in (0, 7, 39):
        expected = {neuron: told for (held, neuron), told in ranks.items() if held == image}
        found = excited_by(snapshot, image, 100)
        assert {row["neuron"] for row in found} == set(expected)
        parts = [[row for row in found if (row["label"] is None) == bare] for bare in (False, True)]
        assert found == parts[0] + parts[1]  # those with a label first
        for part in parts:
            ranked = [expected[row["neuron"]][0] for row in part]
            assert ranked == sorted(ranked)
        for row in found:
            rank, activation = expected[row["neuron"]]
            assert row["activation"] == pytest.approx(activation)
            assert row["quantile"] == pytest.approx(1 - rank / 39)
            more = row.keys() - snapshot.layer(keys[0]).row(0).keys()
            assert more == {"activation", "quantile", "pushes", "mapped", "where"}
        least = sorted(expected.values())[1][0]  # of the two most extreme ones
        assert all(expected[row["neuron"]][0] <= least for row in excited_by(snapshot, image, 2))


def test_few_top_images_are_kept_of_many_neurons(planted: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = type(planted[0])(planted[0].store.uri)
    monkeypatch.setattr(module, "_ENTRIES", 10)
    firsts = {row["neuron"] for row in excited_by(snapshot, 0, 100)}
    expected = {row["neuron"] for row in excited_by(planted[0], 0, 100) if row["quantile"] == 1}
    assert expected and firsts == expected


def test_neighbours_are_the_highest_cosines(planted: Served) -> None:
    snapshot, engine = planted
    vectors = engine.models().vectors_of(range(40))
    for image in (0, 5):
        cosines = vectors @ vectors[image]
        cosines[image] = -2
        order = np.argsort(-cosines, kind="stable")[:NEIGHBOURS]
        found = image_document(snapshot, engine, image)["neighbours"]
        assert [row["image_id"] for row in found] == order.tolist()
        assert [row["similarity"] for row in found] == pytest.approx(cosines[order].tolist(), abs=1e-6)
        assert [row["name"] for row in found] == [snapshot.names([row["image_id"]])[row["image_id"]] for row in found]


def test_a_derived_image(planted: Served) -> None:
    document = image_document(*planted, DERIVED)
    assert document["derived"] == {
        "kind": "synthetic",
        "origin": 0,
        "neuron": f"{PLANTED}/0",
        "rank": 0,
        "activation": 0.25,
        "recipe": {"prompt": "a red star", "model": "painter", "seed": 3},
    }
    assert (document["name"], document["width"], document["height"]) == ("a red star", 8, 8)
    assert document["neighbours"][0]["image_id"] == 0 and document["excites"] == []
    assert stored_thumbnail(planted[0], DERIVED)[1] == "image/png"


def test_a_thumbnail_is_the_stored_picture(planted: Served) -> None:
    data, kind = stored_thumbnail(planted[0], 3)
    assert kind == "image/jpeg"
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.size == (8, 8)


def test_pictures_inside_a_page_are_the_stored_ones_up_to_a_size(
    planted: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = planted[0]
    inside = pictures_inside(snapshot, [5, 3, 5, DERIVED, 2**40 - 1])
    assert list(inside) == [5, 3]
    for image, address in inside.items():
        kind, _, data = address.removeprefix("data:").partition(";base64,")
        assert (b64decode(data), kind) == stored_thumbnail(snapshot, image)
    monkeypatch.setattr("csp_index.service.documents.image._INSIDE", len(stored_thumbnail(snapshot, 5)[0]))
    assert list(pictures_inside(snapshot, [5, 3, 7])) == [5]


def test_pictures_read_ahead_are_those_that_are_sent(planted: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = type(planted[0])(planted[0].store.uri)
    expected = [stored_thumbnail(snapshot, image) for image in (3, 5)]
    read_ahead(snapshot, [5, 3, 3, DERIVED, 2**40 - 1])
    looked: list[object] = []
    monkeypatch.setattr(snapshot, "image_rows", lambda ids, columns: looked.append(ids) or {})
    assert [stored_thumbnail(snapshot, image) for image in (3, 5)] == expected and looked == []
    read_ahead(snapshot, [3, 5, 7])
    assert looked == [[7]]


@pytest.mark.parametrize("image", [-1, 40, 2**31, DERIVED - 1, DERIVED + 1, 2**63 - 1])
def test_an_image_that_is_not_there(planted: Served, image: int) -> None:
    for ask in (lambda: image_document(*planted, image), lambda: stored_thumbnail(planted[0], image)):
        with pytest.raises(NotFoundError, match="does not exist"):
            ask()


def test_images_that_came_as_arrays_have_no_picture(arrays: Served) -> None:
    document = image_document(*arrays, 2)
    assert document["width"] is None and len(document["neighbours"]) == NEIGHBOURS
    assert 3 not in [row["index"] for row in document["excites"]]
    with pytest.raises(NotFoundError, match="image 2 has no picture in the index"):
        stored_thumbnail(arrays[0], 2)


def test_no_document_tells_where_files_lie(planted: Served) -> None:
    folder = str(Path(planted[0].store.uri).parent)
    for image in (0, 39, DERIVED):
        told = json.dumps(image_document(*planted, image), allow_nan=False)
        assert folder not in told and "/somewhere" not in told


def test_metadata_that_is_no_object_is_left_out() -> None:
    assert [module._parsed(text) for text in (None, "", "[1]", "{", '{"a": NaN}')] == [{}, {}, {}, {}, {"a": None}]


def test_without_an_encoder_there_are_no_neighbours(tmp_path: Path, planted: Served) -> None:
    snapshot, engine = opened(Path(planted[0].store.uri))
    snapshot.encoders.clear()
    document = image_document(snapshot, engine, 0)
    assert document["neighbours"] == [] and document["excites"] and not engine.ready
    assert image_vector(snapshot, engine, DERIVED) is None


def test_a_layer_that_is_not_finished_is_passed_over(planted: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = type(planted[0])(planted[0].store.uri)
    read = snapshot.layer

    def half(key: LayerKey) -> object:
        if str(key) == CONCEPTS:
            raise NotFoundError("layer net/concepts is not finished")
        return read(key)

    monkeypatch.setattr(snapshot, "layer", half)
    assert {row["model"] for row in excited_by(snapshot, 0, 100)} == {"planted"}
    assert [str(table.info.key) for table in module.finished(snapshot)] == [PLANTED]
