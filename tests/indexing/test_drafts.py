"""The choice to decode JPEGs reduced: made once for an index, in its identity, the same however a pass is executed."""

from __future__ import annotations

import io
from pathlib import Path

import fakes
import numpy as np
import pytest
import torch
from indexed import ENCODER, NETWORK, contents
from PIL import Image
from ray_here import engine_here

from csp_index import CspIndexError, Index, NetworkSource, open_index
from csp_index.images.decode import ImageRead
from csp_index.images.sources import open_source
from csp_index.indexing import indexer
from csp_index.models.encoders import load_encoder
from csp_index.models.networks import load_network
from csp_index.store import column_tables, schema
from csp_index.store.connect import create_store
from csp_index.store.originals import read_originals

LAYER = NetworkSource("python:fakes:network", ("concepts",), name="net")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six JPEGs, each with a texture that is lost where it is decoded at a half, and a PNG."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        picture(number).save(folder / f"{number}.jpg", quality=95)
    picture(7).save(folder / "7.png")
    return folder


def picture(number: int) -> Image.Image:
    rng = np.random.default_rng(number)
    texture = rng.integers(0, 256, (260, 300, 3), dtype=np.uint8)
    colors = Image.fromarray(rng.integers(0, 256, (2, 3, 3), dtype=np.uint8)).resize((300, 260))
    return Image.blend(colors, Image.fromarray(texture), 0.5)


def add(db: Path, source: Path | None, **options):
    options = {"encoders": [ENCODER], "networks": [NETWORK], "shard_size": 3} | options
    open_index(db).add_images(source, **options)
    return open_index(db)


def drafts(index: Index) -> set[object]:
    rows = index.sql("SELECT identity FROM encoders UNION ALL SELECT identity FROM layers").rows()
    return {"draft" in row["identity"] for row in rows}


def vectors(index: Index) -> np.ndarray:
    return np.array(index.store.read(column_tables.embeddings_table(ENCODER))["embedding"].to_pylist())


def test_jpegs_are_reduced_and_nothing_else_changes(photos, tmp_path):
    whole, draft = add(tmp_path / "whole", photos), add(tmp_path / "draft", photos, draft=True)
    assert (drafts(whole), drafts(draft)) == ({False}, {True})
    rows, same = draft.store.read(schema.IMAGES), whole.store.read(schema.IMAGES)
    for name in ("image_id", "uri", "sha256", "width", "height"):
        assert rows[name].to_pylist() == same[name].to_pylist()
    uris = rows["uri"].to_pylist()
    encoder, expected = fakes.encoder(), []
    for uri in uris:
        with Image.open(uri) as image:
            image.draft(None, (128, 128))  # the thumbnail needs more than the models do
            assert image.size == ((150, 130) if uri.endswith("jpg") else (300, 260))
            expected.append(encoder.preprocess(image.convert("RGB")))
    np.testing.assert_allclose(vectors(draft), encoder.embed_images(torch.stack(expected)).numpy(), atol=1e-6)
    cosines = (vectors(draft) * vectors(whole)).sum(1)
    png = [uri.endswith("png") for uri in uris]
    assert np.array_equal(vectors(draft)[png], vectors(whole)[png])
    assert 0.99 < cosines.min() < 1 - 1e-7
    thumbnails = [Image.open(io.BytesIO(data)).size for data in rows["thumbnail"].to_pylist()]
    assert thumbnails == [(128, 111)] * 7


@pytest.mark.slow
def test_threads_processes_ray_and_a_new_layer_read_images_in_one_way(photos, tmp_path, monkeypatch):
    index = add(tmp_path / "db", photos, networks=[LAYER], draft=True)
    index.add_layer("python:fakes:network", "conv", name="net")  # the choice of the index is kept
    add(tmp_path / "processes", photos, draft=True, decode_workers=1)
    with engine_here("ray", monkeypatch) as (engine, _):
        models = [load_encoder(ENCODER)], [load_network(NETWORK.spec, layers=NETWORK.layers, name="net")]
        options = {"shard_size": 3, "engine": engine, "draft": True}
        indexer.add_images(create_store(tmp_path / "ray"), open_source(photos), *models, **options)
    assert contents(tmp_path / "processes") == contents(tmp_path / "ray")
    assert contents(tmp_path / "db")["neurons"] == contents(tmp_path / "processes")["neurons"]
    Image.fromarray(np.zeros((260, 300, 3), np.uint8)).save(photos / "8.jpg")
    open_index(tmp_path / "db").add_images(photos)
    assert drafts(open_index(tmp_path / "db")) == {True}
    assert open_index(tmp_path / "db").sql("SELECT count(*) AS n FROM images").rows() == [{"n": 8}]


def test_originals_are_read_again_as_they_were_indexed(photos, tmp_path):
    index = add(tmp_path / "db", photos, draft=True)
    uris = index.store.read(schema.IMAGES)["uri"].to_pylist()
    sizes = [read.image.size for read in read_originals(index.store, uris) if isinstance(read, ImageRead)]
    assert sizes == [(150, 130)] * 6 + [(300, 260)]


def test_another_choice_than_that_of_the_index_is_refused(photos, tmp_path):
    add(tmp_path / "whole", photos)
    add(tmp_path / "draft", photos, draft=True)
    before = contents(tmp_path / "whole"), contents(tmp_path / "draft")
    with pytest.raises(CspIndexError, match=r"were decoded whole, and all further ones are: leave out --draft"):
        add(tmp_path / "whole", photos, draft=True)
    with pytest.raises(CspIndexError, match=r"reduced, to a short side of at least 128 pixels.*leave out --no-draft"):
        add(tmp_path / "draft", photos, draft=False)
    add(tmp_path / "whole", photos, draft=False)
    add(tmp_path / "draft", photos, draft=True)
    assert (contents(tmp_path / "whole"), contents(tmp_path / "draft")) == before


def test_a_model_that_needs_larger_pictures_is_refused(photos, tmp_path):
    add(tmp_path / "db", photos, draft=True)
    with pytest.raises(CspIndexError, match=r"odd_encoders:large needs pictures with a short side of 19\d .*least 128"):
        add(tmp_path / "db", photos, encoders=["python:odd_encoders:large"], networks=[])
    assert (
        "19"
        in add(tmp_path / "large", photos, encoders=["python:odd_encoders:large"], draft=True)
        .sql("SELECT identity FROM encoders")
        .rows()[0]["identity"]
    )


def test_a_model_whose_need_is_unknown_is_refused_before_anything_is_written(photos, tmp_path):
    with pytest.raises(CspIndexError, match="odd_encoders:cropping cannot be used with --draft"):
        add(tmp_path / "db", photos, encoders=["python:odd_encoders:cropping"], draft=True)
    assert open_index(tmp_path / "db").sql("SELECT count(*) AS n FROM images").rows() == [{"n": 0}]
