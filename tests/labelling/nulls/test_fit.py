"""The fit of labels: against its plain definition, where it decides, and what a label says then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

import csp_index
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.nulls.fit import LEAST_FIT, Sample, fit_notes, label_fit
from csp_index.store import catalog

RNG = np.random.default_rng(0)


def unit(*shape: int) -> torch.Tensor:
    return normalize(torch.from_numpy(RNG.standard_normal(shape).astype(np.float32)), dim=-1)


def evidence_of(vectors: torch.Tensor, activating: torch.Tensor, activations: torch.Tensor) -> Evidence:
    none = torch.full((len(activating), activating.shape[1], 1), -1)
    return Evidence(vectors, activating, activations, none, torch.zeros(1, vectors.shape[1]), None)


def test_fit_is_the_share_of_pairs_in_order() -> None:
    vectors, labels, other = unit(12, 8), unit(3, 8), unit(60, 8)
    activating = torch.tensor([[0, 1, 2, 3], [4, 5, -1, -1], [-1, -1, -1, -1]])
    activations = torch.tensor([[4.0, 3.0, 3.0, 2.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    sampled = torch.from_numpy(RNG.uniform(0, 4, (3, 60)).astype(np.float32))
    means = torch.tensor([1.0, 0.5, 0.0])
    fit = label_fit(
        evidence_of(vectors, activating, activations), labels, means, Sample(other, (), np.arange(60)), sampled
    )
    counted = (sampled[0] < (1 + 3) / 2).numpy()
    own, rest = (vectors[:4] @ labels[0]).numpy(), (other[counted] @ labels[0]).numpy()
    assert float(fit[0]) == pytest.approx((own[:, None] > rest[None]).mean(), abs=1e-5)
    assert torch.isnan(fit[1:]).all()  # fewer than 20 images stay below .75, and a neuron without images


def test_notes_are_of_labels_that_fit_too_little() -> None:
    notes = fit_notes(torch.tensor([LEAST_FIT - 0.1, LEAST_FIT, torch.nan]))
    assert notes[0].startswith("its label fits other images nearly as well (0.88 of pairs in order") and notes[1:] == [
        "",
        "",
    ]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> csp_index.Index:
    """Neuron 0 fires where images show the first word; neuron 1 at random, on images of one side of the space."""
    folder: Path = tmp_path_factory.mktemp("fit")
    rng = np.random.default_rng(1)
    images = rng.standard_normal((400, 16)) * 0.4
    shows = np.arange(400) % 10 == 0
    images[shows, 0] += 3
    activations = np.zeros((400, 2), np.float32)
    activations[:, 0] = shows * rng.uniform(2, 3, 400)
    activations[:, 1] = np.maximum(images[:, 3] + 0.15 * rng.standard_normal(400), 0) * ~shows
    np.save(folder / "E.npy", images.astype(np.float32))
    np.save(folder / "A.npy", activations)
    index = csp_index.open_index(folder / "db")
    index.import_arrays(folder / "A.npy", "net/layer", embeddings=folder / "E.npy", shard_size=100)
    return index


def test_a_stable_label_that_fits_other_images_is_uncertain_and_says_so(index: csp_index.Index) -> None:
    words = torch.eye(16)[[0, 3, 7]]
    texts = csp_index.CandidateTexts(("striped", "red", "moon"), words, key="words")
    real, other = index.label("net/layer", "semanticlens", vocabulary=texts)
    assert (real.text, real.uncertain, real.note) == ("striped", False, "")
    assert other.text == "red" and other.confidence is not None and other.confidence > 0.9
    assert other.uncertain and "fits other images nearly as well" in other.note
    assert index.label("net/layer", "semanticlens", vocabulary=texts)[1] == other  # read as it was made
    without = index.label("net/layer", "semanticlens", vocabulary=texts, bootstrap=0)[1]
    assert not without.uncertain and not without.note


def test_a_sample_reads_images_of_all_shards(index: csp_index.Index) -> None:
    from csp_index.contrast.selection import Selection
    from csp_index.labelling.nulls.fit import read_sample, sampled_activations

    ((target, numbers),) = index.resolve("net/layer")
    selection = Selection(catalog.encoder(index.store), target, numbers)
    sample = read_sample(index.store, selection)
    assert len(sample.shards) == 4 and len(sample.places) == 400
    values = sampled_activations(index.store, selection, sample)
    assert np.array_equal(values[1].numpy(), index.activations("net/layer/1")[sample.places])
