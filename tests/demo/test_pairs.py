"""Pairs of the demo: one attribute differs, nothing else does, and the table names what the first image has alone."""

from __future__ import annotations

import csv

import numpy as np
from PIL import Image

from csp_index.demo.pairs import scene_pairs, write_pairs
from csp_index.demo.probing import PAIRS, SINGLES
from csp_index.demo.world import ATTRIBUTES, has_concept


def test_the_scenes_of_a_pair_differ_in_one_attribute_of_the_concept():
    pairs = scene_pairs(2)
    assert len(pairs) == 2 * len((*SINGLES, *PAIRS)) and pairs == scene_pairs(2) != scene_pairs(2, seed=1)
    for text, (a, b) in zip((text for text in (*SINGLES, *PAIRS) for _ in range(2)), pairs, strict=True):
        assert has_concept(a, text) and not has_concept(b, text)
        assert sum(a.value(name) != b.value(name) for name in ATTRIBUTES) == 1


def test_the_images_differ_where_the_attribute_does(tmp_path):
    table = write_pairs(tmp_path, count=1)
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len((*SINGLES, *PAIRS))
    for row, text in zip(rows, (*SINGLES, *PAIRS), strict=True):
        assert text in row["word"].split(";")
    shape = next(row for row in rows if row["word"].split(";")[0] in ATTRIBUTES["shape"])
    a, b = (np.asarray(Image.open(tmp_path / shape[side])).astype(int) for side in ("image_a", "image_b"))
    assert np.abs(a - b).max() > 60 and np.abs(a - b)[:4].max() <= 1  # the object differs, the corner does not
