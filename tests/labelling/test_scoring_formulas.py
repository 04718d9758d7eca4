"""Scores of single methods, against their formulas and the oracle."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
import torch
from made_evidence import IMAGES, OPTIONS, RANKS, SCALE, TEXTS, WIDTH, evidence, score, unit, with_absent

from csp_index.errors import LabelError
from csp_index.labelling import scoring
from csp_index.labelling.evidence import pair_products
from csp_index.labelling.response import dataset_sums
from csp_index.labelling.response.dataset_sums import label_share
from csp_index.labelling.scoring import FORMULAS
from csp_index.records import ScoringOptions


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_csp_equals_the_formula_at_any_gamma(gamma):
    found = evidence()
    e, t = found.vectors.double().numpy(), found.texts.double().numpy()
    got = score("csp", found, replace(OPTIONS, gamma=gamma))
    for k in range(5):
        p, n = found.activating[k].numpy(), found.contrastive[k, :, 0].numpy()
        w = found.activations[k].double().numpy()
        s = (e[p] * e[n]).sum(1, keepdims=True)
        v = (w / w.sum()) @ (e[p] - gamma * s * e[n])
        np.testing.assert_allclose(got[k], v / np.linalg.norm(v) @ t.T, atol=1e-5)


def test_at_gamma_one_each_projection_is_orthogonal_to_its_neighbour():
    found = evidence(neurons=3)
    one = replace(
        found,
        activating=found.activating[:, :1],
        activations=found.activations[:, :1],
        contrastive=found.contrastive[:, :1],
    )
    vectors = FORMULAS["csp"].vector(one, ScoringOptions(gamma=1.0))
    torch.testing.assert_close(
        (vectors * found.vectors[one.contrastive[:, 0, 0]]).sum(1), torch.zeros(3), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    apart = FORMULAS["csp"].vector(one, ScoringOptions(gamma=0.0))
    torch.testing.assert_close(apart, found.vectors[one.activating[:, 0]])


def test_an_activating_image_without_partner_keeps_its_embedding():
    found = evidence()
    bare = replace(found, contrastive=torch.full_like(found.contrastive, -1))
    torch.testing.assert_close(score("csp", bare), score("csp", found, replace(OPTIONS, gamma=0.0)))


def test_several_partners_share_one_projection():
    found = evidence()
    twice = replace(found, contrastive=found.contrastive.expand(-1, -1, 2))
    torch.testing.assert_close(score("csp", twice), score("csp", found))
    torch.testing.assert_close(score("csp-difference", twice), score("csp-difference", found))
    torch.testing.assert_close(score("contrastive-pmi", twice), score("contrastive-pmi", found))


def test_contrastive_pmi_without_contrast_is_pmi():
    found = evidence()
    bare = replace(found, contrastive=torch.full_like(found.contrastive, -1))
    torch.testing.assert_close(score("contrastive-pmi", bare), score("pmi", found), atol=1e-5, rtol=1e-5)
    nothing = replace(OPTIONS, alpha=0.0)
    torch.testing.assert_close(score("contrastive-pmi", found, nothing), score("pmi", found), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", ["contrastive-pmi", "consensus"])
def test_missing_partners_leave_their_share_of_the_prior_to_the_dataset(method):
    whole = evidence(neighbours=2)
    part = replace(whole, contrastive=whole.contrastive.clone())
    part.contrastive[0, :, 1] = -1  # half of them
    part.contrastive[1] = -1  # all
    part.contrastive[2, 0, 1] = -1  # one of twelve
    scale, dataset = SCALE, label_share(whole.vectors, whole.texts, SCALE).numpy() / IMAGES
    near = scoring.near_share(replace(part, label_share=torch.from_numpy(dataset)), scale).double().numpy()
    share = oracle.softmax(scale * (whole.vectors @ whole.texts.T).double().numpy())
    for neuron, filled in enumerate((0.5, 0.0, 11 / 12, 1.0, 1.0)):
        ids = part.contrastive[neuron]
        own = share[ids[ids >= 0].numpy()].mean(0) if filled else 0.0
        np.testing.assert_allclose(near[neuron], filled * own + (1 - filled) * dataset, atol=1e-6)
    # Of a mixture of two kinds one partner may be asked for: a single one is then all there has to be.
    enough = replace(part, partners=1)
    assert torch.equal(score(method, enough)[3:], score(method, whole)[3:])
    lacking = replace(part, contrastive=part.contrastive[..., :1])
    torch.testing.assert_close(score(method, enough)[0], score(method, lacking)[0])


def test_contrastive_pmi_replaces_a_share_of_the_prior():
    found = evidence(neighbours=3)
    e, t = found.vectors.double().numpy(), found.texts.double().numpy()
    share = oracle.softmax(SCALE * e @ t.T)
    for alpha in (0.0, 0.3, 1.0):
        got = score("contrastive-pmi", found, replace(OPTIONS, alpha=alpha))
        for k in range(5):
            w = found.activations[k].double().numpy()
            near = np.log(share[found.contrastive[k].flatten().numpy()].mean(0))
            log = (w / w.sum()) @ np.log(share[found.activating[k].numpy()])
            np.testing.assert_allclose(got[k], log - alpha * near - (1 - alpha) * np.log(share.mean(0)), atol=1e-4)


@pytest.mark.parametrize("method", ["pmi", "contrastive-pmi"])
def test_a_method_that_needs_the_scale_asks_for_it(method):
    with pytest.raises(LabelError, match=r"needs the encoder's logit scale.*--logit-scale"):
        FORMULAS[method].background(ScoringOptions())
    with pytest.raises(LabelError, match="needs the encoder's logit scale"):
        scoring.score(method, evidence(), ScoringOptions())


@pytest.mark.parametrize("method", ["clip-dissect-mean", "pmi", "contrastive-pmi"])
def test_a_method_that_needs_the_background_says_so(method):
    with pytest.raises(LabelError, match="mean share over the dataset"):
        scoring.score(method, replace(evidence(), label_share=None), OPTIONS)


def test_a_tiny_share_does_not_become_infinite():
    texts = torch.nn.functional.one_hot(torch.arange(2), WIDTH).float()
    vectors = texts[:1].expand(IMAGES, -1).contiguous()
    found = replace(evidence(), vectors=vectors, texts=texts)
    for method in ("pmi", "contrastive-pmi"):
        got = score(method, found, ScoringOptions(logit_scale=100.0))
        assert bool(torch.isfinite(got).all()), method


@pytest.mark.parametrize("size", [1, 100, 10**9])
@pytest.mark.parametrize("scale", [0.1, 10.0, 100.0])
def test_label_share_equals_numpy(size, scale, monkeypatch):
    monkeypatch.setattr(dataset_sums, "_BLOCK_BYTES", size)
    vectors, texts = unit(IMAGES, WIDTH, seed=3), unit(TEXTS, WIDTH, seed=4)
    expected = oracle.softmax(scale * vectors.double().numpy() @ texts.double().numpy().T).sum(0)
    got = label_share(vectors, texts, scale)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    assert float(got.sum()) == pytest.approx(IMAGES, rel=1e-6)


def test_clip_dissect_prior_over_images_does_not_depend_on_the_neurons_of_the_run():
    found, options = evidence(), replace(OPTIONS, prior="images")
    pair = replace(
        found, activating=found.activating[:2], activations=found.activations[:2], contrastive=found.contrastive[:2]
    )
    torch.testing.assert_close(score("clip-dissect", pair, options), score("clip-dissect", found, options)[:2])
    assert not torch.allclose(score("clip-dissect", pair), score("clip-dissect", found)[:2])


def test_a_prior_of_no_weight_leaves_the_likelihood():
    found = evidence()
    options = replace(OPTIONS, prior_weight=0.0)
    shares = torch.softmax(10 * found.vectors.double() @ found.texts.double().T, 1)[found.activating]
    inclusion = 0.998 - torch.arange(RANKS).double() / 100 * 0.028
    expected = torch.log(1 + inclusion[:, None] * (shares - 1) + 1e-7).sum(1).float()
    torch.testing.assert_close(score("clip-dissect", found, options), expected)


def test_dead_neurons_do_not_move_the_prior_of_the_others():
    found = with_absent(evidence())
    live = torch.tensor([0, 1, 2, 4])
    part = replace(
        found,
        activating=found.activating[live],
        activations=found.activations[live],
        contrastive=found.contrastive[live],
    )
    torch.testing.assert_close(score("clip-dissect", found)[live], score("clip-dissect", part))


def test_wpmi_equals_the_oracle_and_its_prior_runs_over_the_neurons_or_the_images():
    found = with_absent(evidence())
    e, t = found.vectors.numpy(), found.texts.numpy()
    places = [row[row >= 0].numpy() for row in found.activating]
    np.testing.assert_allclose(score("wpmi", found)[[0, 1, 2, 4]], oracle.wpmi(e, t, places)[[0, 1, 2, 4]], atol=1e-4)
    over_images = score("wpmi", found, replace(OPTIONS, prior="images", prior_weight=1.0))
    share = oracle.softmax(2.0 * e.astype(np.float64) @ t.astype(np.float64).T)
    for k in (0, 1, 2, 4):
        expected = np.log(share[places[k]] / share.mean(0)).sum(0)
        np.testing.assert_allclose(over_images[k], expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_rank_reorder_equals_the_oracle(seed):
    found = with_absent(evidence(neurons=6, seed=seed))
    got = score("rank-reorder", found)
    for k in (0, 1, 2, 4, 5):
        p = found.activating[k][found.activating[k] >= 0].numpy()
        a = found.activations[k, : len(p)].numpy()
        np.testing.assert_allclose(
            got[k], oracle.rank_reorder(found.vectors.numpy()[p], a, found.texts.numpy()), rtol=1e-4
        )
    assert bool((got <= 0).all())


def test_rank_reorder_prefers_the_label_that_ranks_the_images_as_the_neuron_does():
    vectors = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.5], [1.0, 1.0]]), dim=1)
    found = replace(
        evidence(neurons=1),
        vectors=vectors,
        activating=torch.tensor([[0, 1, 2]]),
        activations=torch.tensor([[9.0, 4.0, 1.0]]),
        contrastive=torch.full((1, 3, 1), -1),
        texts=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
    )
    first, second = score("rank-reorder", found)[0]
    assert first == 0  # the neuron's own order
    assert second < -1  # the reverse is worse than a random order
    level = score("rank-reorder", replace(found, activations=torch.full((1, 3), 2.0)))[0]
    torch.testing.assert_close(level, -1 / (vectors @ found.texts.T).mean(0).sqrt())  # no order to find


def test_random_label_is_a_seeded_lot_of_neuron_and_candidate():
    found = evidence(neurons=4)
    many = replace(found, texts=unit(3000, WIDTH, seed=1), neurons=torch.tensor([7, 8, 9, 10]))
    got = score("random-label", many)
    assert float(got.min()) >= 0 and float(got.max()) < 1
    assert abs(float(got.mean()) - 0.5) < 0.02
    assert abs(float(got.std()) - 12**-0.5) < 0.02
    assert float(torch.corrcoef(got).fill_diagonal_(0).abs().max()) < 0.1
    assert torch.equal(got, score("random-label", replace(many, activating=found.activating.flip(0))))
    assert not torch.equal(got, score("random-label", many, replace(OPTIONS, seed=1)))
    part = replace(many, texts=many.texts[5:9], candidates=torch.arange(5, 9))
    assert torch.equal(score("random-label", part), got[:, 5:9])


def test_random_contrast_is_csp_against_another_kind_of_contrast():
    assert FORMULAS["random-contrast"].info.contrast == "random"
    assert FORMULAS["csp"].info.contrast is None
    torch.testing.assert_close(score("random-contrast", evidence()), score("csp", evidence()))


def test_similarities_that_are_known_are_not_computed_again():
    found = with_absent(evidence(neighbours=2))
    products = pair_products(found)
    known = replace(found, similarities=products.masked_fill(products == 0, torch.nan))
    torch.testing.assert_close(score("csp", known), score("csp", found))


def test_subtracting_the_empty_template():
    found, options = evidence(), replace(OPTIONS, subtract_empty=True)
    with pytest.raises(LabelError, match="empty template needs an encoder"):
        score("semanticlens", found, options)
    empty = unit(WIDTH, seed=9)
    texts = torch.nn.functional.normalize(found.texts - empty, dim=1)
    expected = score("semanticlens", replace(found, texts=texts))
    torch.testing.assert_close(score("semanticlens", replace(found, empty_text=empty), options), expected)
