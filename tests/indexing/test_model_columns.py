"""What every engine of the pass shares: parts, columns, the rows of images, known URIs, failures."""

from __future__ import annotations

import json
from pathlib import Path

import fakes
import pyarrow as pa
import pytest
import torch

from csp_index.errors import CspIndexError, ModelError
from csp_index.images.decode import ImageFailure, ImageRef
from csp_index.images.loader import Prepared
from csp_index.indexing.model_columns import (
    KnownUris,
    Part,
    columns_of,
    forget_failures,
    image_rows,
    parts_of,
    write_failures,
)
from csp_index.models.networks import LoadedNetwork, load_network
from csp_index.store import schema
from csp_index.store.catalog import LayerInfo, Shard
from csp_index.store.connect import create_store
from csp_index.store.tables import Store


@pytest.fixture
def network() -> LoadedNetwork:
    return load_network("python:fakes:network", layers=["conv", "concepts"], name="net", device="cpu")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "db")


def test_a_part_fills_the_columns_of_its_model(network: LoadedNetwork) -> None:
    encoder = fakes.encoder()
    infos = columns_of([encoder], [network], "float16")
    assert [info.what for info in infos] == [
        "embeddings:python:fakes:encoder",
        "activations:net/conv",
        "activations:net/concepts",
    ]
    assert {info.dtype for info in infos if isinstance(info, LayerInfo)} == {"float16"}
    parts = parts_of([encoder], [network], infos)
    assert [part.infos for part in parts] == [(infos[0],), tuple(infos[1:])]
    pixels = torch.rand(3, 3, 8, 8)
    assert torch.equal(parts[0].compute(pixels).values[infos[0].what], encoder.embed_images(pixels))
    assert parts[1].watch is None and not parts[1].compute(pixels).maps
    found = parts[1].compute(pixels).values
    assert list(found) == [info.what for info in infos[1:]]
    assert torch.equal(found["activations:net/concepts"], network.activations(pixels)["concepts"])


def test_somebody_elses_error_is_told_with_the_column(network: LoadedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part(network, tuple(columns_of([], [network], "float32")))

    def fail(error: Exception) -> None:
        def activations(pixels: torch.Tensor, watch: object) -> dict[str, torch.Tensor]:
            raise error

        monkeypatch.setattr(network, "activations", activations)

    fail(ValueError("out\nof luck"))
    with pytest.raises(ModelError, match=r"^activations:net/conv fails on 2 images: ValueError: out of luck"):
        part.compute(torch.zeros(2, 3, 8, 8))
    fail(CspIndexError("told already"))
    with pytest.raises(CspIndexError, match=r"^told already$"):
        part.compute(torch.zeros(2, 3, 8, 8))


def test_rows_of_images_hold_what_is_known_of_them() -> None:
    refs = [ImageRef("/a.png", {"split": 1, "when": Path("/x")}), ImageRef("/b.png")]
    prepared = [Prepared(ref, f"sha of {ref.uri}", 4, 3, b"jpeg", ()) for ref in refs]
    rows = image_rows(Shard(2, 20, 2, "hash"), prepared).to_pylist()
    assert [row["image_id"] for row in rows] == [20, 21]
    assert {row["shard"] for row in rows} == {2}
    assert [row["split"] for row in rows] == ["1", None]
    assert json.loads(rows[0]["metadata"]) == {"split": 1, "when": "/x"}
    assert (rows[1]["uri"], rows[1]["sha256"], rows[1]["width"]) == ("/b.png", "sha of /b.png", 4)


def test_known_uris() -> None:
    known = KnownUris(pa.chunked_array([["/a", "/b"], ["/c"]]))
    assert [uri in known for uri in ("/a", "/b", "/c", "/d", "")] == [True, True, True, False, False]
    assert "/a" not in KnownUris(pa.chunked_array([], pa.string()))


def test_failures_are_listed_once_and_forgotten_when_mended(store: Store) -> None:
    write_failures(store, [], "run")
    assert not store.has(schema.FAILURES)
    write_failures(store, [ImageFailure("/it's.png", "broken"), ImageFailure("/b.png", "broken")], "run 1")
    write_failures(store, [ImageFailure("/it's.png", "missing")], "run 2")
    rows = {row["uri"]: (row["reason"], row["run_id"]) for row in store.read(schema.FAILURES).to_pylist()}
    assert rows == {"/it's.png": ("missing", "run 2"), "/b.png": ("broken", "run 1")}
    forget_failures(store, {"/it's.png", "/never seen.png"})
    assert store.read(schema.FAILURES)["uri"].to_pylist() == ["/b.png"]
