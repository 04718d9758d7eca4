"""Whether derived images, those that were made for neurons, are whole: ids, origins, pictures, embeddings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from csp_index.integrity.column_checks import decodes, wrong_vectors
from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject, many
from csp_index.store import column_tables, schema
from csp_index.store.values.derived_images import FIRST

_PICTURES = 64  # derived pictures that are decoded without `full`


def derived_tables(subject: Subject) -> list[str]:
    """Return the names of the tables of derived images."""
    return [name for name in subject.store.table_names() if name.startswith("derived_")]


def check_derived(subject: Subject) -> set[int]:
    """Check derived images; return their ids."""
    tables = [name for name in derived_tables(subject) if subject.is_readable(name)]
    ids: list[int] = []
    for name in tables:
        with reading(subject.result.findings, name):
            rows = subject.store.read(name, ["image_id", "origin"])
            own = rows["image_id"].to_numpy()
            if (np.diff(own) <= 0).any() or (len(own) and own[0] < FIRST):
                subject.find(name, "its ids are doubled, out of order or those of indexed images", key=(name,))
            origin = rows["origin"].to_numpy()
            known = subject.rests_on(schema.SHARDS, schema.IMAGES)
            lost = own[(origin < 0) | (origin >= subject.images)] if known else []
            if len(lost):
                condition = f"image_id IN ({','.join(map(str, lost))})"
                subject.find(
                    name, "the image it was made from does not exist", many(list(lost), "image"), key=(name, condition)
                )
            ids += own.tolist()
            for wrong, why in _wrong_pictures(subject, name, own):
                subject.find(name, why, f"image {wrong}", key=(name, f"image_id = {wrong}"))
    if len(set(ids)) != len(ids) and len(tables) > 1:
        subject.find(tables[-1], "ids of derived images are those of another encoder's", key=(tables[-1],))
    return set(ids)


def _wrong_pictures(subject: Subject, name: str, ids: np.ndarray) -> Iterator[tuple[int, str]]:
    places = subject.sample(len(ids), _PICTURES)
    dataset = subject.store.dataset(name)
    width = dataset.schema.field(column_tables.EMBEDDING).type.list_size
    for part in np.array_split(places, max(1, len(places) // 64)):
        rows = dataset.take(part, columns=["image_id", "picture", column_tables.EMBEDDING, "activation"])
        subject.result.count("derived images", rows.num_rows)
        for number, row in enumerate(rows.select(["image_id", "picture", "activation"]).to_pylist()):
            if not decodes(row["picture"]):
                yield row["image_id"], "its picture cannot be decoded"
            elif wrong_vectors(rows.slice(number, 1), column_tables.EMBEDDING, width, [row["image_id"]]):
                yield row["image_id"], "its embedding is no finite unit vector"
            elif not np.isfinite(row["activation"]):
                yield row["image_id"], "its activation is not finite"
