"""The metrics against scikit-learn and SciPy, row by row, on random, tied, constant, one-class and NaN-holding rows."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from sklearn import metrics as sk

from csp_index.errors import EvaluationError
from csp_index.evaluation.metrics import detection as metrics
from csp_index.evaluation.metrics.detection import DETECTION, detection
from csp_index.evaluation.metrics.table import METRICS

NAN = float("nan")
FINITE = st.floats(-100, 100, width=32)
TIED = st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0])
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 30))


@st.composite
def pairs(draw, elements=None):
    """Two matrices [M, N] of one shape: spread, tied, constant or holding a NaN."""
    shape = draw(SHAPES)

    def matrix() -> np.ndarray:
        x = draw(arrays.arrays(np.float32, shape, elements=elements or draw(st.sampled_from([FINITE, TIED]))))
        if draw(st.booleans()):
            x[draw(st.integers(0, shape[0] - 1))] = draw(st.sampled_from([0.0, 0.1, 3.0]))
        if elements is None and draw(st.integers(0, 3)) == 0:
            x[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] = NAN
        return x

    return matrix(), matrix()


@st.composite
def scored_masks(draw):
    """Scores and a mask [M, N]; some masks have one class only."""
    scores, _ = draw(pairs())
    mask = draw(arrays.arrays(np.bool_, scores.shape))
    if draw(st.booleans()):
        mask[draw(st.integers(0, len(mask) - 1))] = draw(st.booleans())
    return scores, mask


masks = SHAPES.flatmap(lambda s: st.tuples(arrays.arrays(np.bool_, s), arrays.arrays(np.bool_, s)))


def rows(function, a, b, dtype=np.float64):
    """The oracle's value of each row; NaN where it warns that it is undefined, or a row holds a NaN."""
    found = []
    for x, y in zip(a, b, strict=True):
        if np.isnan(x.astype(float)).any() or np.isnan(y.astype(float)).any():
            found.append(NAN)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(float(function(x.astype(dtype), y if y.dtype == bool else y.astype(dtype))))
    return np.array(found)


def same(found, expected):
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6, rtol=1e-6, equal_nan=True)


def varying(function):
    """SciPy refuses rows of one image; a single value is constant."""
    return lambda x, y: NAN if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0 else function(x, y).statistic


@settings(deadline=None, max_examples=40)
@given(pairs())
def test_pearson_spearman_and_cosine_equal_scipy(both):
    a, b = both
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    same(metrics.pearson(x, y), rows(varying(stats.pearsonr), a, b))
    same(metrics.spearman(x, y), rows(varying(stats.spearmanr), a, b))
    same(
        metrics.cosine(x, y),
        rows(lambda u, v: u @ v / np.linalg.norm(u) / np.linalg.norm(v) if u.any() and v.any() else NAN, a, b),
    )


@settings(deadline=None, max_examples=40)
@given(scored_masks())
def test_auroc_and_average_precision_equal_sklearn(both):
    scores, mask = both
    x, y = torch.from_numpy(scores), torch.from_numpy(mask)
    one_class = mask.all(1) | ~mask.any(1)
    auc = rows(lambda s, m: NAN if m.all() or not m.any() else sk.roc_auc_score(m, s), scores, mask)
    same(metrics.auroc(x, y), auc)
    assert np.isnan(metrics.auroc(x, y).numpy()[one_class]).all()
    same(
        metrics.average_precision(x, y),
        rows(lambda s, m: sk.average_precision_score(m, s) if m.any() else NAN, scores, mask),
    )


@settings(deadline=None, max_examples=40)
@given(masks)
def test_masks_equal_sklearn(both):
    predicted, present = both
    x, y = torch.from_numpy(predicted), torch.from_numpy(present)
    for ours, theirs in (
        (metrics.f1, lambda p, m: sk.f1_score(m, p, zero_division=np.nan)),
        (metrics.precision, lambda p, m: sk.precision_score(m, p, zero_division=np.nan)),
        (metrics.recall, lambda p, m: sk.recall_score(m, p, zero_division=np.nan)),
        (metrics.iou, lambda p, m: sk.jaccard_score(m, p) if (m | p).any() else NAN),
        (metrics.balanced_accuracy, lambda p, m: NAN if m.all() or not m.any() else sk.balanced_accuracy_score(m, p)),
    ):
        same(ours(x, y), rows(theirs, predicted, present, bool))


def top_oracle(a: np.ndarray, alpha: float) -> np.ndarray:
    """The active images of one neuron, as the docstring tells it."""
    found = np.zeros(len(a), bool)
    if np.isfinite(a).all() and a.max() > a.min():
        order = np.lexsort((np.arange(len(a)), -a))[: max(1, int(np.ceil(round(alpha * len(a), 6))))]
        found[order[(a[order] > 0) | (a.min() < 0)]] = True
    return found


@settings(deadline=None, max_examples=40)
@given(pairs(), st.sampled_from([0.001, 0.05, 0.1, 0.3, 0.5, 1.0]))
def test_the_top_images_follow_the_rule(both, alpha):
    a, _ = both
    expected = np.stack([top_oracle(row, alpha) for row in a])
    assert (metrics.binarise_top(torch.from_numpy(a), alpha).numpy() == expected).all()


def test_the_top_share_of_a_relu_neuron_holds_no_silent_image():
    a = torch.tensor([[0.0, 0.0, 3.0, 0.0], [-1.0, 0.0, -2.0, -3.0], [0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 1.0, 2.0]])
    top = metrics.binarise_top(a, 0.5)
    assert top.tolist() == [
        [False, False, True, False],  # fires once: one image, no padding
        [True, True, False, False],  # a layer without ReLU: the top half
        [False] * 4,  # dead
        [True, True, False, False],  # ties go to the lower image id
    ]
    assert metrics.binarise_top(torch.arange(100.0)[None], 0.07).sum() == 7  # 0.07 * 100 > 7 in floating point


@settings(deadline=None, max_examples=25)
@given(pairs(), st.sampled_from([0.05, 0.3]))
def test_detection_equals_the_single_functions(both, alpha):
    a, p = both
    x = torch.from_numpy(a)
    probability = torch.from_numpy(p).sigmoid()
    check_detection(x, probability, probability >= 0.5, detection(x, probability, alpha=alpha), alpha)
    mask = torch.from_numpy(p > 0)
    check_detection(x, mask.float(), mask, detection(x, mask, alpha=alpha), alpha)


def check_detection(x, graded, present, found, alpha):
    active = metrics.binarise_top(x, alpha)
    broken = x.isnan().any(1) | graded.isnan().any(1)
    expected = {
        "pearson": metrics.pearson(x, graded),
        "spearman": metrics.spearman(x, graded),
        "cosine": metrics.cosine(x, graded),
        "auroc": metrics.auroc(x, present),
        "auprc": metrics.average_precision(x, present),
        "f1": metrics.f1(active, present),
        "iou": metrics.iou(active, present),
        "precision": metrics.precision(active, present),
        "recall": metrics.recall(active, present),
        "balanced-accuracy": metrics.balanced_accuracy(active, present),
        "wpmi": metrics.wpmi(x, graded, alpha),
    }
    assert tuple(found) == DETECTION == tuple(expected)
    for name, values in expected.items():
        same(found[name], values.masked_fill(broken, NAN).numpy())


def test_rows_pick_the_concept_of_each_neuron_and_blocks_do_not_show(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    a, concepts = torch.randn(7, 50, generator=generator), torch.rand(3, 50, generator=generator)
    rows = torch.tensor([2, 0, 1, -1, 2, 2, 0])
    whole = detection(a, concepts[rows.clamp(min=0)])
    monkeypatch.setattr(metrics, "_BLOCK", 100)  # two rows a block
    found = detection(a, concepts, rows=rows)
    for name in DETECTION:
        assert found[name][3].isnan()
        torch.testing.assert_close(found[name][rows >= 0], whole[name][rows >= 0])
    torch.testing.assert_close(metrics.pearson(a, concepts[rows.clamp(min=0)]), whole["pearson"])


def test_wpmi_is_the_gain_in_log_probability_on_active_images():
    a = torch.tensor([[5.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    p = torch.tensor([[0.8, 0.4, 0.1, 0.1]]).repeat(2, 1)
    expected = (np.log(0.8) + np.log(0.4)) / 2 - np.log(0.35)
    same(metrics.wpmi(a, p, alpha=0.5), np.array([expected, NAN]))  # a dead neuron has no active image
    same(metrics.wpmi(a[:1], torch.zeros(1, 4), alpha=0.5), np.array([NAN]))  # a concept without any probability
    missed = metrics.wpmi(a[:1], torch.tensor([[0.0, 0.4, 0.4, 0.0]]), alpha=0.5)
    same(missed, np.array([(np.log(1e-8) + np.log(0.4)) / 2 - np.log(0.2)]))


def test_mad_counts_in_deviations_of_the_absent_images():
    a = torch.tensor([[3.0, 5.0, 1.0, 2.0, 3.0], [1.0, 1.0, 0.1, 0.1, 0.1], [1.0, NAN, 0.0, 1.0, 2.0]])
    present = torch.tensor([[True, True, False, False, False]]).repeat(3, 1)
    same(metrics.mad(a, present), np.array([(4 - 2) / np.std([1, 2, 3]), 0.0, NAN]))
    assert metrics.mad(a[:1], torch.ones(1, 5, dtype=torch.bool)).isnan().all()


def test_a_silent_neuron_has_cosy_auc_one_half_and_mad_zero():
    """Trap 11: a neuron that never fires knows nothing; it is not wrong every time."""
    generated, control = torch.zeros(2, 4), torch.zeros(2, 6)
    generated[1] = torch.tensor([0.0, 1.0, 2.0, 3.0])
    same(metrics.cosy_auc(generated, control), np.array([0.5, 3.5 / 4]))
    same(metrics.cosy_mad(generated, control), np.array([0.0, 0.0]))
    control[1, :3] = 1.0
    same(metrics.cosy_auc(generated, control)[1:], np.array([(0.25 * 0.25 + 0.25 * 0.75 + 0.5)]))
    same(metrics.cosy_mad(generated, control)[1:], np.array([(1.5 - 0.5) / 0.5]))
    same(metrics.cosy_auc(generated[1], control[1]).reshape(1), np.array([0.75]))
    assert metrics.cosy_auc(generated[:, None], control[:, None]).shape == (2, 1)
    assert metrics.cosy_auc(generated, control[:, :0]).isnan().all()


def test_dma_is_a_share_of_the_maximum():
    generated = torch.tensor([[1.0, 3.0], [0.0, 0.0], [NAN, 1.0]])
    same(metrics.dma(generated, torch.tensor([4.0, 0.0, 1.0])), np.array([0.5, NAN, NAN]))
    assert metrics.dma(torch.zeros(2, 0), torch.ones(2)).isnan().all()


def test_an_infinite_activation_is_as_unusable_as_nan():
    a = torch.tensor([[torch.inf, 1.0, 0.0]])
    found = detection(a, torch.tensor([[True, False, False]]))
    assert all(values.isnan().all() for values in found.values())
    assert not metrics.binarise_top(a).any()


def test_nothing_in_gives_nothing_out():
    assert metrics.pearson(torch.zeros(0, 5), torch.zeros(0, 5)).shape == (0,)
    assert all(len(v) == 0 for v in detection(torch.zeros(0, 5), torch.zeros(0, 5)).values())
    empty = detection(torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.bool))
    assert all(v.isnan().all() and len(v) == 2 for v in empty.values())
    none = detection(torch.rand(2, 4), torch.zeros(0, 4), rows=torch.tensor([-1, -1]))
    assert all(v.isnan().all() for v in none.values())


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.pearson(torch.zeros(2, 3), torch.zeros(3, 2)), r"\(2, 3\) and \(3, 2\)"),
        (lambda: metrics.auroc(torch.zeros(1, 2), torch.zeros(1, 2)), "expected bool"),
        (lambda: metrics.binarise_top(torch.zeros(1, 2), 0.0), "alpha is 0.0"),
        (lambda: detection(torch.zeros(2, 3), torch.zeros(1, 3)), "do not match"),
        (lambda: detection(torch.zeros(2, 3), torch.zeros(1, 3), rows=torch.tensor([0])), "does not fit"),
        (lambda: metrics.dma(torch.zeros(2, 3), torch.zeros(3)), "maximal activations"),
        (lambda: metrics.cosy_auc(torch.zeros(2, 3), torch.zeros(1, 3)), "expected \\[.., G\\]"),
    ],
)
def test_what_does_not_fit_is_said(call, says):
    with pytest.raises(EvaluationError, match=says):
        call()


def test_every_metric_has_a_name_a_family_and_a_range_its_values_keep():
    generator = torch.Generator().manual_seed(1)
    found = detection(torch.randn(20, 40, generator=generator), torch.rand(20, 40, generator=generator))
    assert tuple(found) == DETECTION
    for name, values in found.items():
        low, high = METRICS[name].low, METRICS[name].high
        assert METRICS[name].name == name and METRICS[name].family == "detection" and METRICS[name].summary
        assert low is None or (values >= low).all()
        assert high is None or (values <= high).all()
