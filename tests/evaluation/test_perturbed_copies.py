"""Perturbed copies: how strong they are, and which share of them still fires a neuron."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from csp_index.errors import SourceError
from csp_index.evaluation import perturbed_copies
from csp_index.evaluation.perturbed_copies import LOW_STRENGTH, PERTURBATIONS, copies_that_fire, perturb
from csp_index.images.decode import ImageFailure

PIXELS = np.repeat(np.add.outer(np.arange(64), 2 * np.arange(64))[..., None], 3, 2).astype(np.uint8)
PIXELS[20:40, 20:40] = 230


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_a_lower_strength_changes_less_and_none_hardly_anything(kind):
    changes = [
        np.abs(np.asarray(perturb(Image.fromarray(PIXELS), kind, 1, strength)).astype(float) - PIXELS).mean()
        for strength in (0.0, LOW_STRENGTH, 1.0)
    ]
    assert changes[0] < 3 and changes[0] < changes[1] < changes[2]


class Brightness:
    """A network of three neurons: the mean brightness, the same less 0.5, and one that is always silent."""

    batch_size = 2

    def preprocess(self, image):
        return torch.from_numpy(np.asarray(image).astype(np.float32)).mean() / 255

    def activations(self, images):
        return {"l": torch.stack([images, images - 0.5, 0 * images], 1)}


def fire(monkeypatch, items, thresholds):
    table = pa.table({"image_id": [3, 5, 8][: len(items)], "uri": ["a", "b", "c"][: len(items)]})
    monkeypatch.setattr(perturbed_copies, "read_originals", lambda store, uris: items)
    store = SimpleNamespace(read=lambda *_: table)
    ids = torch.tensor([3, 5, 8][: len(items)])
    return copies_that_fire(store, ids, thresholds, Brightness(), lambda layers: layers["l"], lambda *_: None)


def gray(level):
    return SimpleNamespace(image=Image.new("RGB", (32, 32), (level,) * 3))


def test_the_share_of_copies_that_fire_a_neuron(monkeypatch):
    found = fire(monkeypatch, [gray(140), gray(200), gray(40)], torch.tensor([0.5, 0.0, 0.0]))
    # a darker copy of 140 of 255 has a brightness of 0.48, which is the only one of the four below one half
    assert found.tolist() == [[0.75, 0.75, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


def test_an_image_that_cannot_be_read_is_named(monkeypatch):
    with pytest.raises(SourceError, match="the image a can no longer be read"):
        fire(monkeypatch, [ImageFailure("a", "gone")], torch.zeros(3))
