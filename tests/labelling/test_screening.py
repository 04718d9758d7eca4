"""One neuron's best labels without a look at all labels: they are those that a look at all would find."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from csp_index import Index, open_index
from csp_index.labelling import gather
from csp_index.labelling.candidates import CandidateTexts, read_text_arrays
from csp_index.labelling.response import screening
from csp_index.labelling.response.screening import best_scores

IMAGES, NEURONS, TEXTS, WIDTH = 900, 12, 1500, 24


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("slack", [0.0, 0.3, 3.0], ids=["tight", "near", "far"])
def test_the_best_scores_are_right_whatever_the_bounds(seed, slack):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(3000, generator=generator).exp()
    truth[1000:1010] = truth.max()  # equal scores
    bounds = truth * (1 + slack * torch.rand(3000, generator=generator))
    bounds[7] = -torch.inf
    looked: list[int] = []

    def exact(labels: torch.Tensor, floor: float) -> torch.Tensor:
        looked.extend(labels.tolist())
        assert bool((labels[1:] > labels[:-1]).all())
        return truth[labels].masked_fill(truth[labels] < floor, -torch.inf)

    scores = best_scores(bounds, 24, exact)
    expected = truth.clone()
    expected[7] = -torch.inf
    best = expected >= expected.topk(24).values[-1]
    torch.testing.assert_close(scores[best], truth[best], rtol=0, atol=0)
    assert bool((scores <= expected).all())
    assert len(set(looked)) == len(looked) and 7 not in looked
    if slack < 1:
        assert len(looked) < 1500


def test_all_labels_are_looked_at_where_fewer_exist_than_are_needed():
    truth = torch.rand(10)
    scores = best_scores(truth, 24, lambda labels, floor: truth[labels])
    torch.testing.assert_close(scores, truth, rtol=0, atol=0)


def test_a_score_that_is_no_number_is_looked_at_and_stays_one():
    bounds = torch.tensor([torch.nan, 1.0])
    scores = best_scores(bounds, 1, lambda labels, floor: bounds[labels])
    assert bool(scores[0].isnan())


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> tuple[Index, CandidateTexts]:
    """An index of clustered images whose neurons answer to directions of some texts; neuron 11 is dead."""
    folder = tmp_path_factory.mktemp("screened")
    rng = np.random.default_rng(2)
    embeddings = rng.standard_normal((12, WIDTH))[rng.integers(0, 12, IMAGES)] + 0.7 * rng.standard_normal(
        (IMAGES, WIDTH)
    )
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    texts = rng.standard_normal((TEXTS, WIDTH))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    activations = np.maximum(embeddings @ texts[:NEURONS].T - 0.1, 0)
    activations[:, 11] = 0
    np.save(folder / "E.npy", embeddings.astype(np.float32))
    np.save(folder / "A.npy", activations.astype(np.float32))
    np.save(folder / "T.npy", texts.astype(np.float32))
    (folder / "T.txt").write_text("\n".join(f"text {i}" for i in range(TEXTS)))
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", "m/l", embeddings=folder / "E.npy", shard_size=300)
    return index, read_text_arrays(folder / "T.npy", folder / "T.txt")


@pytest.mark.parametrize("top", [5, 60])
@pytest.mark.parametrize("method", ["firing-contrast", "consensus"])
def test_one_neuron_has_the_labels_that_it_has_among_many(world, monkeypatch, method, top):
    index, texts = world
    options = {"vocabulary": texts, "logit_scale": 20.0, "keep": False, "recompute": True, "top": top}
    layer = index.label("m/l", method, **options)
    monkeypatch.setattr(gather, "_SCREENED", 0)
    looked: list[int] = []
    whole = screening.OneNeuron.exact

    def exact(self, labels, *args, **more):
        looked.append(len(labels))
        return whole(self, labels, *args, **more)

    monkeypatch.setattr(screening.OneNeuron, "exact", exact)
    alone = [label for start in (0, 8) for label in index.label(addresses(start), method, **options)]
    assert 0 < sum(looked) < 0.75 * NEURONS * TEXTS
    assert [label.state for label in alone] == [label.state for label in layer]
    for one, among in zip(alone, layer, strict=True):
        assert [score.text for score in one.labels] == [score.text for score in among.labels]
        for name in ("score", "low", "high", "share"):
            ours, others = ([getattr(score, name) for score in label.labels] for label in (one, among))
            np.testing.assert_allclose(np.array(ours, dtype=float), np.array(others, dtype=float), rtol=1e-4, atol=1e-6)
        assert (one.uncertain, one.note, one.rivals) == (among.uncertain, among.note, among.rivals)


def addresses(start: int) -> list[str]:
    return [f"m/l/{neuron}" for neuron in range(start, min(start + 8, NEURONS))]
