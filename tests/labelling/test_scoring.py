"""Scores as pure tensor functions: what absent entries, negative activations and blocks may not change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from made_evidence import IMAGES, OPTIONS, RANKS, WIDTH, evidence, score, with_absent

from csp_index.errors import LabelError, SettingError
from csp_index.labelling import clip_dissect, scoring
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.response.dataset_sums import label_share
from csp_index.labelling.response.views import Firing, Response
from csp_index.labelling.scoring import FORMULAS
from csp_index.records import ScoringOptions

EVERY = sorted(name for name, row in FORMULAS.items() if not row.info.needs_correlation)  # these see no examples


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("neighbours", [1, 3])
def test_absent_entries_never_touch_a_score(method, neighbours):
    found = with_absent(evidence(neighbours=neighbours))
    expected = score(method, found, replace(OPTIONS, prior="images"))
    # A first and last row that no example names; activations beside absent images that look like the strongest.
    poison = torch.full((1, WIDTH), 100.0)
    shifted = replace(
        found,
        vectors=torch.cat([poison, found.vectors, -poison]),
        activating=torch.where(found.activating < 0, -1, found.activating + 1),
        contrastive=torch.where(found.contrastive < 0, -1, found.contrastive + 1),
        activations=found.activations.masked_fill(found.activating < 0, 1e6),
    )
    scale = FORMULAS[method].background(replace(OPTIONS, prior="images"))
    if scale is not None:
        share = (label_share(found.vectors, found.texts, scale) / IMAGES).float()
        shifted = replace(shifted, label_share=share)
    got = scoring.score(method, shifted, replace(OPTIONS, prior="images")).scores
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    assert bool(torch.isfinite(got).all())


@pytest.mark.parametrize("method", EVERY)
def test_padding_does_not_count_as_examples(method):
    found = evidence(neighbours=2)
    wide = replace(
        found,
        activating=torch.cat([found.activating, torch.full((5, 4), -1)], 1),
        activations=torch.cat([found.activations, torch.zeros(5, 4)], 1),
        contrastive=torch.cat([found.contrastive, torch.full((5, 4, 2), -1)], 1),
    )
    torch.testing.assert_close(score(method, wide), score(method, found))


@pytest.mark.parametrize("method", EVERY)
def test_a_neuron_is_scored_alone_as_among_others(method):
    found, options = evidence(neighbours=2), replace(OPTIONS, prior="images")
    whole = score(method, found, options)
    for k in range(5):
        alone = replace(
            found,
            activating=found.activating[k : k + 1],
            activations=found.activations[k : k + 1],
            contrastive=found.contrastive[k : k + 1],
            response=found.response.of_neurons(slice(k, k + 1)),
            neurons=torch.tensor([k]),
        )
        torch.testing.assert_close(score(method, alone, options)[0], whole[k], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", EVERY)
def test_the_order_of_the_vectors_does_not_matter(method):
    found = with_absent(evidence(neighbours=2))
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(5))
    place = order.argsort()
    moved = replace(
        found,
        vectors=found.vectors[order],
        activating=torch.where(found.activating < 0, -1, place[found.activating]),
        contrastive=torch.where(found.contrastive < 0, -1, place[found.contrastive]),
    )
    torch.testing.assert_close(score(method, moved), score(method, found), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("size", [1, 3000])
def test_blocks_change_nothing(method, size, monkeypatch):
    found = with_absent(evidence(neurons=11, neighbours=3))
    whole = score(method, found)
    for name in ("_WHOLE_BYTES", "_BLOCK", "_LABELS", "_GAPS"):
        monkeypatch.setattr(clip_dissect, name, min(size, 17) if name == "_LABELS" else size)
    torch.testing.assert_close(score(method, found), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["csp", "mean-centred", "clip-dissect-mean", "pmi", "contrastive-pmi"])
def test_negative_activations_weigh_nothing(method):
    found = evidence()
    activations = found.activations.clone()
    activations[:, -2:] = -7.0
    without = replace(
        found,
        activating=found.activating[:, :-2],
        activations=found.activations[:, :-2],
        contrastive=found.contrastive if method == "contrastive-pmi" else found.contrastive[:, :-2],
    )
    torch.testing.assert_close(score(method, replace(found, activations=activations)), score(method, without))


def test_weights_sum_to_one_or_to_nothing():
    weights = with_absent(evidence()).weights
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]))
    assert weights[1, 0] == 1
    huge = replace(evidence(), activations=torch.full((5, RANKS), 1e-30))
    torch.testing.assert_close(huge.weights.sum(1), torch.ones(5))
    torch.testing.assert_close(with_absent(evidence()).even_weights.sum(1), torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]))


@pytest.mark.parametrize("method", [name for name in EVERY if FORMULAS[name].vector])
def test_concept_vectors_are_unit_and_make_the_score(method):
    found = evidence()
    vectors = scoring.score(method, found, OPTIONS).vectors
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(vectors @ found.texts.T, score(method, found))


@pytest.mark.parametrize("method", ["csp", "semanticlens", "mean-centred"])
def test_scores_that_are_cosines_stay_in_range(method):
    got = score(method, evidence())
    assert float(got.abs().max()) <= 1 + 1e-6


@pytest.mark.parametrize(
    ("name", "value"), [("gamma", -0.1), ("gamma", 1.1), ("alpha", 2.0), ("alpha", -1.0), ("logit_scale", 0.0)]
)
def test_options_out_of_range_are_refused(name, value):
    with pytest.raises(SettingError, match=name.replace("_", " ")):
        ScoringOptions(**{name: value})


def test_an_unknown_prior_is_refused():
    with pytest.raises(SettingError, match="prior is 'bogus': expected neurons or images"):
        ScoringOptions(prior="bogus")  # type: ignore[arg-type]


def test_not_a_number_is_out_of_range():
    for name in ("gamma", "alpha", "logit_scale"):
        with pytest.raises(SettingError):
            ScoringOptions(**{name: float("nan")})


def test_an_unknown_method_is_told_with_the_known_ones():
    with pytest.raises(LabelError, match=r"method 'csq' is unknown .has: csp, csp-difference"):
        scoring.method("csq")
    assert all(row.info.summary for row in FORMULAS.values())


def test_firing_contrast_keeps_the_order_of_labels_whose_factors_are_all_below_0():
    found = evidence(neighbours=2)
    firing = found.response.firing
    weak = Firing(firing.log - 6, 0.05 * firing.root, 0.0025 * firing.share)  # less than on the silent images
    low = score("firing-contrast", replace(found, response=replace(found.response, firing=weak)))
    assert bool((low > 1e-4).all())  # a product of hard cuts would be 1e-18 for all of them
    better = replace(weak, log=weak.log + torch.eye(7)[3])
    high = score("firing-contrast", replace(found, response=replace(found.response, firing=better)))
    assert bool((high[:, 3] > 1.02 * low[:, 3]).all())
    torch.testing.assert_close(high[:, :3], low[:, :3])


def test_firing_contrast_does_not_take_rounding_for_a_label_that_sets_the_firing_images_apart():
    texts = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), dim=1)
    for step in range(50):  # the first text is on every image, to .9999 on the firing and .9997 on the silent ones
        logits = torch.tensor([9.2, 9.2, 8.1 + 0.01 * step, 8.0])
        images = torch.stack([logits / 30, torch.zeros(4), (1 - (logits / 30) ** 2).sqrt()], 1)
        log = torch.log_softmax(30 * images[:2] @ texts.T, 1)
        firing = Firing(*(part.mean(0, keepdim=True) for part in (log, (log / 2).exp(), log.exp())))
        share = torch.softmax(30 * images @ texts.T, 1).mean(0).double()
        found = Evidence(
            images,
            torch.tensor([[0, 1]]),
            torch.ones(1, 2),
            torch.tensor([[[2], [3]]]),
            texts,
            None,
            label_share=share,
            response=Response(firing=firing),
        )
        got = score("firing-contrast", found, replace(OPTIONS, logit_scale=30.0))
        assert float(got[0, 0]) < 0.3  # .2 is that of a label that is not apart at all
