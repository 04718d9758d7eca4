"""No image is its own contrastive partner, also where most activating images are below the mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nearest_images import WIDTH, asked, expected

from csp_index import Index, open_index
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.examples import gather_examples
from csp_index.records import ExampleOptions


def few(folder: Path) -> Index:
    """An index of 25 random images, ten of which repeat others; 6 neurons fire strongly on four, weakly on the rest."""
    rng = np.random.default_rng(1)
    activations = rng.uniform(0.1, 0.2, (25, 6))
    activations[rng.permuted(np.tile(np.arange(4), (6, 1)), axis=1).T, np.arange(6)] += 5
    embeddings = rng.standard_normal((25, WIDTH))
    embeddings[15:] = embeddings[4:14]
    np.save(folder / "E.npy", (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32))
    np.save(folder / "A.npy", activations.astype(np.float32))
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", "m/l", embeddings=folder / "E.npy")
    return index


@pytest.mark.parametrize("search", [True, False], ids=["search", "products"])
@pytest.mark.parametrize(
    "options",
    [ExampleOptions(), ExampleOptions(neighbours=5), ExampleOptions(reuse=False), ExampleOptions(near_duplicate=0.99)],
)
def test_no_image_is_its_own_partner(tmp_path, search, options):
    index = few(tmp_path)  # all images activate, and most of them less than the mean
    selection = asked(index, np.arange(6))
    found = gather_examples(index.store, selection, options, context=ComputeContext(search=search))
    assert (found.activating >= 0).all()
    np.testing.assert_array_equal(found.contrastive.numpy(), expected(tmp_path, found, options))


@pytest.mark.parametrize("kind", ["falcon", "random"])
def test_no_image_is_its_own_partner_by_another_kind(tmp_path, kind):
    found = gather_examples(
        (index := few(tmp_path)).store, asked(index, np.arange(6)), ExampleOptions(contrast=kind, neighbours=3)
    )
    partners, own = found.contrastive.numpy(), found.activating.numpy()[..., None]
    assert (partners >= 0).any() and not (partners == own).any()
    assert np.isnan(found.similarities.numpy()[partners < 0]).all()
