"""A pool of images: what is drawn from it equals what an index that holds only those images says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import write_arrays

from csp_index import open_index
from csp_index.contrast.pool import draw_pool
from csp_index.contrast.selection import Selection
from csp_index.labelling.candidates import read_text_arrays
from csp_index.labelling.pipeline import Pipeline
from csp_index.labelling.request import make_request
from csp_index.records import LayerKey
from csp_index.store import catalog

NEURONS = np.array([0, 2, 3, 4, 7])


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """An index of 90 images, one of the 47 of them that a mask picks, the mask, and the candidate texts."""
    folder = tmp_path_factory.mktemp("pool")
    paths = write_arrays(folder, images=90)
    mask = np.random.default_rng(5).permutation(90) < 47
    for name in ("embeddings", "activations"):
        np.save(folder / f"part_{name}.npy", np.load(paths[name])[mask])
    whole, part = open_index(folder / "whole"), open_index(folder / "part")
    whole.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=20, logit_scale=30.0)
    part.import_arrays(
        folder / "part_activations.npy", "m/l", embeddings=folder / "part_embeddings.npy", logit_scale=30.0
    )
    return whole, part, mask, read_text_arrays(paths["text_embeddings"], paths["texts"])


def subject_of(index, mask=None):
    target = catalog.layer(index.store, LayerKey("m", "l"))
    pool = None if mask is None else draw_pool(index.store, target, NEURONS, torch.from_numpy(mask))
    return Selection(catalog.encoder(index.store), target, NEURONS, pool)


def test_statistics_over_a_pool_equal_those_of_an_index_of_its_images(halves):
    whole, part, mask, _ = halves
    ids = mask.nonzero()[0]
    expected = subject_of(part).statistics(part.store).to_pylist()
    for row, other in zip(subject_of(whole, mask).statistics(whole.store).to_pylist(), expected, strict=True):
        assert row["top_images"] == ids[other["top_images"]].tolist()
        for name in ("neuron", "images", "mean", "std", "max", "firing_rate", "top_activations"):
            assert row[name] == pytest.approx(other[name]), name


@pytest.mark.parametrize(
    "method", ["csp", "mean-centred", "clip-dissect", "clip-dissect-mean", "contrastive-pmi", "consensus"]
)
def test_labels_from_a_pool_equal_those_of_an_index_of_its_images(halves, method):
    whole, part, mask, texts = halves
    request = make_request(method, catalog.encoder(whole.store), 5, {"examples": 10})
    found = Pipeline(whole.store).scores(subject_of(whole, mask), request, texts)
    expected = Pipeline(part.store).scores(subject_of(part), request, texts)
    torch.testing.assert_close(found.scored.scores, expected.scored.scores, atol=1e-5, rtol=1e-5)
    assert found.states.tolist() == expected.states.tolist()
    ids = np.append(mask.nonzero()[0], -1)
    for name in ("activating", "contrastive"):
        assert (getattr(found.examples, name).numpy() == ids[getattr(expected.examples, name).numpy()]).all(), name


def test_random_contrast_stays_in_the_pool(halves):
    whole, _, mask, texts = halves
    request = make_request("csp", catalog.encoder(whole.store), 5, {"examples": 10, "contrast": "random"})
    chosen = Pipeline(whole.store).scores(subject_of(whole, mask), request, texts).examples.contrastive
    assert mask[chosen[chosen >= 0].numpy()].all()
    assert (chosen[0] >= 0).all()
