"""Embeddings of crops: whether they are unit vectors, of images that exist, and of boxes that are part of a picture."""

from __future__ import annotations

from typing import Final

import numpy as np

from csp_index.integrity.column_checks import wrong_vectors
from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject
from csp_index.store import column_tables, schema
from csp_index.store.values.crops import KEY

_CROPS: Final = 1024  # of a table whose vectors are looked at without `full`
_AT_ONCE: Final = 4096


def check_crops(subject: Subject) -> None:
    """Check the crops of every encoder."""
    for name in subject.store.table_names():
        if name.startswith(column_tables.CROPS) and subject.is_readable(name):
            with reading(subject.result.findings, name):
                _check_table(subject, name)


def _check_table(subject: Subject, name: str) -> None:
    rows = subject.store.read(name, list(KEY))
    image, left, top, right, bottom = (rows[column].to_numpy() for column in KEY)
    wrong = (left < 0) | (top < 0) | (right <= left) | (bottom <= top)
    if subject.rests_on(schema.SHARDS, schema.IMAGES):
        wrong |= (image < 0) | (image >= subject.images)
    if wrong.any():
        subject.find(name, f"{int(wrong.sum()):,} of these crops are no part of an indexed image", key=(name,))
        return
    dataset = subject.store.dataset(name)
    width = dataset.schema.field(column_tables.EMBEDDING).type.list_size
    places = subject.sample(rows.num_rows, _CROPS)
    for part in np.array_split(places, max(1, -(-len(places) // _AT_ONCE))):
        subject.result.count("crops", len(part))
        taken = dataset.take(part, columns=[column_tables.EMBEDDING])
        if said := wrong_vectors(taken, column_tables.EMBEDDING, width, part.tolist()):
            subject.find(name, said, key=(name,))
            return
