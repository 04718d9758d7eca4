"""The vocabulary of images that nobody named one for."""

from __future__ import annotations

import json

import pytest

from csp_index.labelling.texts.suitable import suitable_vocabulary


@pytest.mark.parametrize(
    ("columns", "name", "why"),
    [
        ({}, "imagenet1k", "neither captions nor classes"),
        ({"label": "cat {n}"}, "metadata:label", "the 25 classes in the images' column label"),
        ({"Caption": "a {n}; b {n}", "label": "cat {n}"}, "metadata:Caption", "the 50 captions"),
        ({"txt": "a {n}", "label": "cat {n}"}, "metadata:txt", "the 25 captions"),  # files beside the images
        ({"label": "cat", "age": "{n}"}, "imagenet1k", "column label has only 1 texts, 20 are needed"),
        ({"label": "{n}"}, "imagenet1k", "neither captions nor classes"),  # numbers name nothing
        ({"label": "d{n}"}, "imagenet1k", "neither captions nor classes"),  # as folders of parts of a set are called
        ({"label": "Boeing {n}"}, "metadata:label", "the 25 classes"),
    ],
)
def test_captions_come_before_classes_and_few_are_none(monkeypatch, columns, name, why):
    records = [{column: text.format(n=n) for column, text in columns.items()} | {"class": n} for n in range(25)]
    rows = [(n, json.dumps(record)) for n, record in enumerate(records)]
    monkeypatch.setattr("csp_index.store.image_metadata.metadata_texts", lambda store, images: iter(rows))
    monkeypatch.setattr("csp_index.store.catalog.image_count", lambda store: len(rows))
    found = suitable_vocabulary(None)
    assert found.name == name
    assert why in found.why
