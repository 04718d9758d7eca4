"""The confidence of a label: resamples against the plain definition, and cases whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from made_evidence import OPTIONS, RANKS, WIDTH, evidence, unit, with_absent

from csp_index.errors import StoppedError
from csp_index.labelling import confidence, scoring
from csp_index.labelling.confidence import Confidence, bootstrap, draws
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.methods import MethodInfo
from csp_index.labelling.response.dataset_sums import label_share
from csp_index.labelling.scoring import FORMULAS, ScoringMethod

EVERY = sorted(name for name, row in FORMULAS.items() if not row.info.needs_correlation)  # these see no examples
ALONE = replace(OPTIONS, prior="images", bootstrap=25)
LEADERS = 4


def prepared(method: str, found: Evidence, options=ALONE) -> Evidence:
    scale = scoring.method(method).background(options)
    if scale is None:
        return found
    return replace(found, label_share=label_share(found.vectors, found.texts, scale) / len(found.vectors))


def judge(method: str, found: Evidence, options=ALONE, leaders: int = LEADERS) -> tuple[Confidence, torch.Tensor]:
    found = prepared(method, found, options)
    scores = scoring.score(method, found, options).scores
    best = scores.topk(leaders, dim=1).indices
    return bootstrap(method, found, options, scores, best), scores.gather(1, best)


def cluster(spread: float, *towards: int, images: int = 30) -> Evidence:
    """One neuron whose images lie around the sum of some axes, among 60 others; the candidates are the axes."""
    generator = torch.Generator().manual_seed(3)
    centre = torch.zeros(WIDTH)
    centre[list(towards)] = 1.0
    vectors = torch.nn.functional.normalize(centre + spread * torch.randn(images, WIDTH, generator=generator), dim=1)
    vectors = torch.cat([vectors, unit(60, WIDTH, seed=4)])
    return Evidence(
        vectors,
        torch.arange(images)[None],
        torch.linspace(2, 1, images)[None],
        torch.full((1, images, 1), -1),
        torch.eye(WIDTH),
        vectors.mean(0),
    )


@pytest.mark.parametrize("method", EVERY)
def test_every_resample_is_scored_as_if_it_were_a_neuron_of_its_own(method):
    found = prepared(method, with_absent(evidence(neighbours=2)))
    scores = scoring.score(method, found, ALONE).scores
    best = scores.topk(LEADERS, dim=1).indices
    got = bootstrap(method, found, ALONE, scores, best)
    places = draws(found, ALONE)[:, 1:]
    for k in (0, 2, 4):
        moved = []
        for chosen in places[k]:
            chosen = chosen[chosen >= 0]
            one = replace(
                found,
                activating=found.activating[k, chosen][None],
                activations=found.activations[k, chosen][None],
                contrastive=found.contrastive[k, chosen][None],
                response=found.response.of_neurons(slice(k, k + 1)),
                neurons=torch.tensor([k]),
            )
            moved.append(scoring.score(method, one, ALONE).scores[0, best[k]].double().numpy())
        moved, own = np.array(moved), scores[k, best[k]].double().numpy()
        if np.ptp(moved, axis=0).max() < 1e-6:
            assert bool(got.share[k].isnan().all()) and bool(got.uncertain[k])
            continue
        if own.max() < 1e-5:  # consensus of witnesses against every label: nothing but noise
            assert bool(got.uncertain[k])
            continue
        low, high = np.quantile(moved, [0.025, 0.975], axis=0)
        np.testing.assert_allclose(got.low[k], low, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(got.high[k], high, atol=1e-4, rtol=1e-4)
        first = (own + 2 * (moved - own)).argmax(1)
        np.testing.assert_allclose(got.share[k], np.bincount(first, minlength=LEADERS) / len(moved), atol=1e-6)
        lead = np.quantile(moved[:, :1] - moved[:, 1:], 0.025, axis=0)
        assert bool(got.uncertain[k]) == bool((lead <= 1e-6).any())


@pytest.mark.parametrize("method", EVERY)
def test_a_neuron_is_judged_alone_as_among_others(method):
    found = prepared(method, replace(evidence(neurons=9, neighbours=2), neurons=torch.arange(100, 109)))
    scores = scoring.score(method, found, ALONE).scores
    best = scores.topk(LEADERS, dim=1).indices
    whole = bootstrap(method, found, ALONE, scores, best)
    order = torch.tensor([7, 2, 5])
    part = replace(
        found,
        activating=found.activating[order],
        activations=found.activations[order],
        contrastive=found.contrastive[order],
        response=found.response.of_neurons(order),
        neurons=found.neurons[order],
    )
    again = bootstrap(method, part, ALONE, scores[order], best[order])
    for name in ("low", "high", "share"):
        torch.testing.assert_close(
            getattr(again, name), getattr(whole, name)[order], equal_nan=True, atol=1e-5, rtol=1e-5
        )
    assert torch.equal(again.uncertain, whole.uncertain[order])


@pytest.mark.parametrize("method", ["csp", "pmi", "clip-dissect"])
def test_a_huge_lead_is_certain(method):
    got, own = judge(method, cluster(0.2, 2), leaders=5)
    assert got.share[0].tolist() == [1, 0, 0, 0, 0]
    assert not got.uncertain[0]
    assert bool((got.low < own).all()) and bool((own < got.high).all())


@pytest.mark.parametrize("method", ["csp", "pmi", "contrastive-pmi", "clip-dissect-mean", "wpmi", "rank-reorder"])
def test_equal_candidates_share_the_first_place(method):
    found = cluster(0.5, 2)
    found = prepared(method, replace(found, texts=torch.cat([found.texts, found.texts[2:3]])))
    scores = scoring.score(method, found, ALONE).scores
    got = bootstrap(method, found, ALONE, scores, torch.tensor([[2, WIDTH]]))
    assert got.share.tolist() == [[0.5, 0.5]]
    assert bool(got.uncertain[0])


def test_a_lead_inside_the_noise_is_uncertain_and_the_rival_known():
    got, own = judge("semanticlens", cluster(1.0, 2, 5), replace(ALONE, bootstrap=400), leaders=WIDTH)
    assert float(own[0, 0] - own[0, 1]) < 0.2
    assert 0.3 < float(got.share[0, 0]) < 0.95
    assert float(got.share[0, 1]) > 0.05
    assert float(got.share[0, :2].sum()) > 0.8
    assert bool(got.uncertain[0])
    torch.testing.assert_close(got.share.sum(1), torch.ones(1))


def test_more_images_make_a_label_surer():
    few, _ = judge("semanticlens", cluster(0.6, 2, images=5))
    many, _ = judge("semanticlens", cluster(0.6, 2, images=200))
    assert float(many.share[0, 0]) > float(few.share[0, 0])
    assert float((many.high - many.low)[0, 0]) < 0.5 * float((few.high - few.low)[0, 0])


def test_one_image_is_no_evidence():
    found = cluster(0.1, 2, images=6)
    one = replace(found, activating=torch.tensor([[0, -1, -1, -1, -1, -1]]))
    for method in ("csp", "pmi", "rank-reorder"):
        got, _ = judge(method, one)
        assert bool(got.uncertain[0])
        for values in (got.low, got.high, got.share):
            assert bool(values.isnan().all())
    alike = replace(found, activating=torch.zeros(1, 6, dtype=torch.int64))
    assert bool(judge("csp", alike)[0].uncertain[0])


def test_a_method_that_looks_at_no_image_gives_no_confidence():
    got, _ = judge("random-label", evidence())
    assert bool(got.uncertain.all())
    assert bool(got.share.isnan().all())


def test_a_dead_neuron_has_no_values():
    found = with_absent(evidence(neighbours=2))
    for method in EVERY:
        got, _ = judge(method, found)
        assert bool(got.share[3].isnan().all()) and bool(got.low[3].isnan().all()) and bool(got.uncertain[3])


def test_draws_are_seeded_by_the_neuron_uniform_and_in_order():
    found = with_absent(replace(evidence(neurons=5), neurons=torch.tensor([3, 9, 4, 5, 6])))
    options = replace(OPTIONS, bootstrap=4000)
    got = draws(found, options)
    assert got.shape == (5, 4001, RANKS)
    assert got[0, 0].tolist() == [0, 1, 2, 3, 4, -1]
    assert got[3].unique().tolist() == [-1]
    assert bool((got[1, :, 0] == 0).all()) and bool((got[1, :, 1:] == -1).all())
    assert bool((got[2].diff(dim=1) >= 0).all())
    counts = torch.bincount(got[2, 1:].flatten(), minlength=RANKS) / 4000
    torch.testing.assert_close(counts, torch.ones(RANKS), atol=0.06, rtol=0)
    one = replace(found, **{n: getattr(found, n)[2:3] for n in ("activating", "activations", "contrastive", "neurons")})
    assert torch.equal(draws(one, options)[0], got[2])
    assert torch.equal(draws(one, replace(options, bootstrap=10))[0], got[2, :11])
    assert not torch.equal(draws(one, replace(options, seed=1))[0], got[2])
    assert not torch.equal(got[2], got[4])


def test_the_prior_over_the_neurons_of_the_run_stays_what_it_was():
    found, options = evidence(neurons=6), replace(OPTIONS, bootstrap=30)
    for method in ("clip-dissect", "wpmi"):
        scores = scoring.score(method, found, options).scores
        best = scores.topk(LEADERS, dim=1).indices
        got = bootstrap(method, found, options, scores, best)
        bare = replace(options, prior_weight=0.0)
        likelihood = scoring.score(method, found, bare).scores
        plain = bootstrap(method, found, bare, likelihood, best)
        shift = (scores - likelihood).gather(1, best)
        torch.testing.assert_close(got.low, plain.low + shift, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(got.high, plain.high + shift, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [1, 10**5, 10**9])
def test_blocks_change_nothing(size, monkeypatch):
    found = prepared("contrastive-pmi", evidence(neurons=7, neighbours=2))
    whole, _ = judge("contrastive-pmi", found)
    monkeypatch.setattr(confidence, "_BLOCK_BYTES", size)
    monkeypatch.setattr(confidence, "_TOTALS_BYTES", size)
    part, _ = judge("contrastive-pmi", found)
    torch.testing.assert_close(part.low, whole.low, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(part.share, whole.share)


def test_a_method_that_does_not_say_how_labels_depend_on_each_other_sees_them_all(monkeypatch):
    """A rank among all labels, as another package might score; the leaders alone would not do."""

    def ranks(found, options):
        means = scoring.csp_difference(replace(found, contrastive=torch.full_like(found.contrastive, -1)), options)
        assert len(found.texts) == 50
        return means.argsort(1).argsort(1).float()

    monkeypatch.setitem(FORMULAS, "ranks", ScoringMethod(MethodInfo("ranks"), score=ranks))
    found = replace(evidence(), texts=unit(50, WIDTH, seed=8))
    got, own = judge("ranks", found)
    assert own[:, 0].tolist() == [49] * 5
    assert bool((got.high <= 49).all())
    assert bool((got.share.sum(1) - 1).abs().max() < 1e-5)


def test_one_candidate_has_no_rival():
    got, _ = judge("csp", evidence(), leaders=1)
    assert got.share.tolist() == [[1.0]] * 5
    assert not got.uncertain.any()


@pytest.mark.parametrize("method", ["csp", "mean-centred", "semanticlens"])
def test_many_images_and_few_give_the_same_confidence(method, monkeypatch):
    found = with_absent(evidence(neighbours=2))
    few, _ = judge(method, found)
    monkeypatch.setattr(confidence, "_MANY_IMAGES", 0)
    many, _ = judge(method, found)
    for name in ("low", "high", "share"):
        torch.testing.assert_close(getattr(many, name), getattr(few, name), equal_nan=True, rtol=1e-5, atol=1e-6)
    assert torch.equal(many.uncertain, few.uncertain)


def test_a_check_between_blocks_ends_the_resampling():
    def end() -> None:
        raise StoppedError("enough")

    found = evidence()
    scores = scoring.score("csp", found, ALONE).scores
    with pytest.raises(StoppedError, match="enough"):
        bootstrap("csp", found, ALONE, scores, scores.topk(LEADERS, dim=1).indices, end)
