"""The metrics' own test: which of them fall when labels are missing, and when there are too many."""

from __future__ import annotations

import pytest
import torch

from csp_index.errors import EvaluationError
from csp_index.evaluation.metrics import detection, sanity
from csp_index.evaluation.metrics.detection import DETECTION
from csp_index.evaluation.metrics.sanity import (
    PUBLISHED,
    SanityReport,
    SanityRow,
    check_metrics,
    extra_labels,
    missing_labels,
    random_labels,
    simulate,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def report() -> SanityReport:
    return check_metrics()


def row(report: SanityReport, metric: str, test: str, frequency: float, neurons: str = "binary") -> SanityRow:
    (found,) = (
        r
        for r in report.rows
        if (r.metric, r.test, r.neurons) == (metric, test, neurons) and r.frequency == pytest.approx(frequency)
    )
    return found


def test_the_published_finding_is_reproduced(report):
    """Pearson, cosine, AUPRC, F1 and IoU pass; the AUROC family, MAD, precision and recall do not."""
    verdicts = report.verdicts()
    assert set(verdicts) == set(PUBLISHED) | {"mad"} >= set(DETECTION)
    assert {name for name in ("pearson", "cosine", "auprc", "f1", "iou") if verdicts[name]} == {
        "pearson", "cosine", "auprc", "f1", "iou",
    }  # fmt: skip
    for name in ("auroc", "auroc-inverse", "balanced-accuracy", "balanced-accuracy-inverse", "mad", "mean-difference"):
        assert not verdicts[name], name
    # explained in the module's docstring: ties have average ranks here, and the publication's inverse AUPRC is `auprc`
    assert {name for name, result in PUBLISHED.items() if verdicts[name] != result.passes} == {"spearman", "auprc"}


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_finding_does_not_hang_on_the_seed(seed):
    verdicts = check_metrics(frequencies=(0.002, 0.1), images=10_000, seed=seed).verdicts()
    assert {name for name, result in PUBLISHED.items() if verdicts[name] != result.passes} == {"spearman", "auprc"}


def test_published_results_are_those_of_the_metric_with_the_publications_sides():
    """The publication's AUPRC passes both tests, its inverse fails with extra labels; its precision is recall here."""
    of_name = {result.name: (metric, result.fails) for metric, result in PUBLISHED.items()}
    assert of_name["AUPRC"] == ("auprc-inverse", ())
    assert of_name["inverse AUPRC"] == ("auprc", ("extra",))
    assert of_name["precision"] == ("recall", ("missing",))
    assert of_name["recall"] == ("precision", ("extra",))
    assert {name for name, (_, fails) in of_name.items() if fails == ()} == {
        "correlation", "cosine similarity", "AUPRC", "F1", "IoU",
    }  # fmt: skip


def test_the_tests_that_fail_in_the_publication_fail_here(report):
    for metric, result in PUBLISHED.items():
        if metric != "auprc":  # see the module's docstring
            assert set(result.fails or ()) <= {row.test for row in report.failures(metric)}, metric


@pytest.mark.parametrize(
    ("metric", "test", "published"),
    [  # average score differences in the publication's notebook, over the range from random to true labels
        ("f1", "missing", 0.333),
        ("f1", "extra", 0.333),
        ("iou", "missing", 0.5),
        ("iou", "extra", 0.5),
        ("auprc", "extra", 0.495),
        ("pearson", "missing", 2 * 0.147),
        ("pearson", "extra", 2 * 0.148),
        ("cosine", "extra", 2 * 0.146),
        ("precision", "missing", 0.5),
        ("precision", "extra", 0.0),
        ("recall", "missing", 0.0),
        ("recall", "extra", 0.5),
        ("auroc", "missing", 2 * 0.0025),
        ("auroc", "extra", 2 * 0.25),
        ("auroc-inverse", "missing", 2 * 0.25),
        ("auroc-inverse", "extra", 2 * 0.005),
        ("balanced-accuracy", "missing", 2 * 0.0025),
        ("mean-difference", "missing", 0.005),
        ("mean-difference", "extra", 0.5),
    ],
)
def test_the_drops_are_the_published_ones(report, metric, test, published):
    assert row(report, metric, test, 0.01).drop == pytest.approx(published, abs=0.03)


def test_the_auroc_family_fails_because_the_drop_shrinks_with_the_frequency(report):
    drops = [row(report, "auroc", "missing", f).drop for f in sanity.FREQUENCIES]
    assert drops[0] < 0.002 < drops[1] < 0.01 < 0.03 < drops[2] < 0.08
    worst = report.failures("auroc")
    assert worst and worst[0].drop == min(r.drop for r in report.rows if r.metric == "auroc")
    assert {r.test for r in report.failures("auroc")} == {"missing"}
    assert report.failures("pearson") == ()


def test_mad_gives_a_perfect_binary_neuron_nothing(report):
    assert row(report, "mad", "extra", 0.01).drop == 0.0  # no scale: true labels score 0
    assert row(report, "mad", "missing", 0.001, "graded").low < sanity.LEAST_DROP
    assert row(report, "mad", "extra", 0.001, "graded").passes


def test_rows_hold_what_they_say(report):
    assert len(report.rows) == 3 * 2 * 2 * len(report.verdicts())
    for r in report.rows:
        assert r.low <= r.drop <= r.high and r.count == 6
        assert r.passes == (r.low >= sanity.LEAST_DROP)


def test_worse_labels_are_worse_in_the_way_they_say():
    masks = torch.zeros(3, 2000, dtype=torch.bool)
    masks[0, :200], masks[1, 5:8], masks[2, :1500] = True, True, True
    fewer = missing_labels(masks, seeded())
    assert not (fewer & ~masks).any() and 70 < fewer[0].sum() < 130
    more = extra_labels(masks, seeded())
    assert (more & masks).sum() == masks.sum()
    assert more.sum(1).tolist() == [400, 6, 1999]  # one negative is left at least
    drawn = random_labels(masks, seeded())
    assert drawn.sum(1).tolist() == [200, 3, 1500]
    assert 5 < (drawn[0] & masks[0]).sum() < 40


def test_neurons_detect_their_concept():
    masks = torch.rand(4, 3000, generator=seeded()) < 0.05
    assert simulate(masks, "binary", seeded()).unique().tolist() == [0.0, 1.0]
    graded = simulate(masks, "graded", seeded())
    assert (graded >= 0).all() and graded.unique().numel() > 10_000
    assert (detection.auroc(graded, masks) > 0.97).all() and (detection.f1(graded > 0.6, masks) < 1).any()


def test_inverse_metrics_are_the_metrics_with_their_sides_exchanged():
    masks = torch.rand(5, 200, generator=seeded()) < 0.2
    labels = torch.rand(5, 200, generator=seeded(1)) < 0.3
    activations = simulate(masks, "graded", seeded(2))
    share = masks.double().mean(1)
    active = detection.binarise_top(activations, share)
    assert (active.sum(1) == masks.sum(1)).all()
    found = sanity._scores(activations, labels, share, active)
    torch.testing.assert_close(found["auroc-inverse"], detection.auroc(labels.float(), active))
    torch.testing.assert_close(found["auprc-inverse"], detection.average_precision(labels.float(), active))
    torch.testing.assert_close(found["balanced-accuracy-inverse"], detection.balanced_accuracy(labels, active))
    torch.testing.assert_close(found["f1"], detection.f1(active, labels))
    torch.testing.assert_close(found["auroc"], detection.auroc(activations, labels))
    gap = activations[0][labels[0]].mean() - activations[0][~labels[0]].mean()
    assert found["mean-difference"][0].item() == pytest.approx(gap.item(), abs=1e-6)


def test_real_concepts_are_checked_the_same_way():
    shares = torch.tensor([0.002, 0.004, 0.01, 0.01, 0.9, 0.0])[:, None]
    masks = torch.rand(6, 5000, generator=seeded()) < shares
    found = check_metrics(masks)
    assert {r.count for r in found.rows} == {4}  # too frequent, and never shown: left out
    assert {round(r.frequency, 3) for r in found.rows} == {round(masks[:4].double().mean().item(), 3)}
    verdicts = found.verdicts()
    assert verdicts["pearson"] and verdicts["auprc"] and verdicts["iou"] and verdicts["f1"] and verdicts["cosine"]
    assert not verdicts["auroc"] and not verdicts["precision"] and not verdicts["recall"]


def test_the_same_seed_gives_the_same_report():
    first, again, other = (check_metrics(frequencies=(0.01,), images=1000, seed=s) for s in (3, 3, 4))
    assert first == again != other


def test_a_frequency_or_concepts_without_contrast_are_refused():
    with pytest.raises(EvaluationError, match="is 0 of 100 images"):
        check_metrics(frequencies=(0.001,), images=100)
    with pytest.raises(EvaluationError, match="none of 2 concepts"):
        check_metrics(torch.ones(2, 50, dtype=torch.bool))
