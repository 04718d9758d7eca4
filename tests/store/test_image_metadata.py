"""Metadata of images: what is read of a row, and columns that no image has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fakes import write_arrays

from csp_index import open_index
from csp_index.errors import NotFoundError, SourceError
from csp_index.store.image_metadata import check_columns, metadata_text, parse_metadata
from csp_index.store.tables import Store


def test_metadata_is_a_json_object_or_empty() -> None:
    assert parse_metadata('{"color": "red"}', 3) == {"color": "red"}
    assert [parse_metadata(text, 3) for text in (None, "", "[1, 2]", "null")] == [{}] * 4
    with pytest.raises(SourceError, match="the metadata of image 3 is not JSON"):
        parse_metadata("{red", 3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An index of arrays, whose images have no metadata."""
    paths = write_arrays(tmp_path)
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    return index.store


def batches(*records: dict[str, object] | None) -> Iterator[pa.RecordBatch]:
    """Yield a batch per image."""
    for image, record in enumerate(records):
        text = None if record is None else json.dumps(record)
        yield pa.record_batch({"image_id": pa.array([image]), "metadata": pa.array([text], pa.string())})


def test_a_column_that_no_image_has_is_not_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFoundError, match=r"no image has the metadata column 'kind' \(has: none: the images were"):
        check_columns(store, ["kind"])
    monkeypatch.setattr(Store, "scan", lambda *_, **__: batches({"color": 1}, None, {"size": None, "color": 2}))
    check_columns(store, [])
    check_columns(store, ["size", "color"])
    with pytest.raises(NotFoundError, match=r"'kind' \(has: color, size\)"):
        check_columns(store, ["color", "kind"])


def test_images_are_read_until_every_column_was_seen(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    images = batches({"color": 1}, {"size": 2}, {"color": 3})

    def scan(*_: Any, **__: Any) -> Iterator[pa.RecordBatch]:
        return images

    monkeypatch.setattr(Store, "scan", scan)
    check_columns(store, ["color", "size"])
    assert [batch["image_id"].to_pylist() for batch in images] == [[2]]


def test_what_json_does_not_have_is_stored_as_json() -> None:
    text = metadata_text({"nan": float("nan"), "deep": {"x": [float("-inf")]}, "day": date(2020, 3, 1), "raw": b"\xff"})
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert strict == {"nan": None, "deep": {"x": ["-inf"]}, "day": "2020-03-01", "raw": "1 byte"}
