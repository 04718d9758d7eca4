"""The metadata of images: the columns of their source, one JSON object per row of the table `images`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from csp_index.errors import NotFoundError, SourceError, one_line
from csp_index.store import catalog, schema
from csp_index.store.runs import read_runs
from csp_index.store.stored_json import parse_json
from csp_index.store.tables import Store

METADATA_COMMAND: Final = "metadata"  # in the record of runs: a table was joined to images that were indexed already


def parse_metadata(text: str | None, image: int) -> dict[str, object]:
    """Return an image's metadata, empty if it has none or its JSON is no object. SourceError if it is not JSON."""
    if not text:
        return {}
    try:
        record = parse_json(text)
    except ValueError as exc:
        raise SourceError(
            f"the metadata of image {image} is not JSON ({one_line(exc)}): index the image again"
        ) from exc
    return record if isinstance(record, dict) else {}


def metadata_texts(store: Store, images: int) -> Iterator[tuple[int, str | None]]:
    """Yield the id and the stored metadata, JSON, of each of the first `images` images, batch by batch."""
    for batch in store.scan(schema.IMAGES, ["image_id", "metadata"], where=f"image_id < {images}") if images else ():
        yield from zip(batch["image_id"].to_pylist(), batch["metadata"].to_pylist(), strict=True)


def image_records(store: Store, images: int) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield the id and the metadata of each of the first `images` images, batch by batch."""
    return ((image, parse_metadata(text, image)) for image, text in metadata_texts(store, images))


def metadata_text(record: Mapping[str, object]) -> str:
    """Return the JSON text of an image's metadata: NaN is null, and what JSON does not have is text.

    >>> metadata_text({"age": float("nan"), "size": float("inf"), "raw": [b"abc"], "n": 1})
    '{"age": null, "size": "inf", "raw": ["3 bytes"], "n": 1}'
    """
    return json.dumps(_storable(record), default=str)


def _storable(value: object) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _storable(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(part) for part in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value):,} byte{'' if len(value) == 1 else 's'}"
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def number_text(value: float) -> str:
    """Return a number of the metadata as a text: a table has 7 as 7.0 where another row of the column has no value.

    >>> number_text(7.0), number_text(7), number_text(0.5)
    ('7', '7', '0.5')
    """
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def check_columns(store: Store, columns: Sequence[str]) -> None:
    """Refuse a column that no image has; NotFoundError names those that exist.

    It reads images only until each of the columns was seen, so a column of the first images costs one batch.
    """
    known: dict[str, None] = {}
    for _, record in image_records(store, catalog.image_count(store)):
        known.update(dict.fromkeys(record))
        if known.keys() >= set(columns):
            return
    for column in columns:
        if column not in known:
            has = ", ".join(known) or "none: the images were indexed without metadata"
            raise NotFoundError(f"no image has the metadata column {column!r} (has: {has})")


def metadata_state(store: Store) -> dict[str, str]:
    """Return what changes when a table is joined to images that are indexed: part of the settings that depend on it."""
    runs = [run for run in read_runs(store, ["run_id", "command", "state"]) if run["command"] == METADATA_COMMAND]
    done = [run["run_id"] for run in runs if run["state"] == "done"]
    return {"metadata": done[-1]} if done else {}
