"""Metrics of a label, row by row over tensors [M, N]: how well a concept's presence matches a neuron's activations.

Every function returns float64 [M], higher is better, and never warns. A row is NaN where the metric is undefined: where
it has a value that is not finite, and in the cases that each docstring names. Ties are treated as in SciPy and
scikit-learn: average ranks, one half in every AUC, one threshold per tie in the average precision. Sums are float64;
sorts keep the input's type; rows are processed in blocks, so little memory is needed on top of the inputs.

The neuron is the detector, the concept the truth: `precision` is the share of active images that show the concept,
`auroc` ranks images by activation. The unified evaluation framework (arXiv 2506.05774) does the reverse: its recall,
AUC and balanced accuracy are `precision`, `auroc` and `balanced_accuracy` here with the two arguments exchanged, which
the test of the metrics (`sanity`) calls `auroc-inverse`, `balanced-accuracy-inverse` and so on.

Knows nothing about storage, models or labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import torch

from csp_index.errors import EvaluationError
from csp_index.evaluation.metrics import ranking
from csp_index.evaluation.metrics.ranking import Counts, Sorted, ratio
from csp_index.evaluation.metrics.table import named

ALPHA: Final = 0.05  # share of images that count as activating where a metric needs a yes or no
THRESHOLD: Final = 0.5  # a concept is present from this probability on
_LEAST_PROBABILITY: Final = 1e-8  # of wpmi, as in the code of arXiv 2506.05774
_BLOCK: Final = 2**20  # values of a block of rows

# --- two graded inputs ----------------------------------------------------------------------------------------------


def pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return Pearson's correlation of the rows of `a` and `b` [M, N], in [-1, 1]; NaN where either is constant."""
    return _by_rows(_pearson, a, b)


def spearman(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the rank correlation (ties: average rank), in [-1, 1]; NaN where either row is constant."""
    return _by_rows(lambda x, y: _finite(_pearson(ranking.ranks(x), ranking.ranks(y)), x, y), a, b)


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the cosine of the rows of `a` and `b` [M, N], in [-1, 1]; NaN where either row is all zeros."""
    return _by_rows(_cosine, a, b)


def auroc(scores: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return P(score of a present image > score of an absent one) + half the ties; NaN with one class only.

    `present` [M, N] is boolean; 0.5 is chance, and the value of a constant row.
    """
    return _by_rows(lambda x, y: _finite(ranking.auroc(ranking.ranks(x), y), x), scores, _mask(present))


def average_precision(scores: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return the area under the precision-recall steps, sum over thresholds of (R_i - R_i-1) P_i; NaN with no positive.

    Equals `sklearn.metrics.average_precision_score`, which returns 0 where no image is present. In [0, 1]; chance is
    the share of present images.
    """
    return _by_rows(lambda x, y: _finite(ranking.average_precision(Sorted.of(x), y), x), scores, _mask(present))


def wpmi(activations: torch.Tensor, probability: torch.Tensor, alpha: float | torch.Tensor = ALPHA) -> torch.Tensor:
    """Return mean over active images of log p(t|x) - log mean over all images of p(t|x); 0 is chance, no upper bound.

    Active images are the top `alpha` (`binarise_top`); p below 1e-8 counts as 1e-8. The weighted pointwise mutual
    information of CLIP-Dissect (arXiv 2204.10965) with weight 1 for its prior, as a metric by arXiv 2506.05774. NaN
    where no image is active or the concept has probability 0 everywhere.
    """
    _check_shapes(activations, probability)
    active = binarise_top(activations, alpha)
    return _finite(_by_rows(_wpmi, active, probability), activations, probability)


def mad(activations: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return (mean on present - mean on absent images) / standard deviation on absent ones; unbounded.

    The deviation divides by the number of images; where it is 0 the result is 0 (METHODS, section 4). NaN with one
    class only.
    """
    return _by_rows(_mad, activations, _mask(present))


# --- two yes-or-no inputs -------------------------------------------------------------------------------------------


def f1(predicted: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return 2 tp / (2 tp + fp + fn) of two boolean masks [M, N], in [0, 1]; NaN where both are empty."""
    return _by_rows(lambda x, y: Counts.of(x, y).f1, _mask(predicted), _mask(present))


def iou(predicted: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return intersection over union of two boolean masks [M, N], in [0, 1]; NaN where both are empty."""
    return _by_rows(lambda x, y: Counts.of(x, y).iou, _mask(predicted), _mask(present))


def precision(predicted: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return the share of predicted images that are present, in [0, 1]; NaN where none is predicted."""
    return _by_rows(lambda x, y: Counts.of(x, y).precision, _mask(predicted), _mask(present))


def recall(predicted: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return the share of present images that are predicted, in [0, 1]; NaN where none is present."""
    return _by_rows(lambda x, y: Counts.of(x, y).recall, _mask(predicted), _mask(present))


def balanced_accuracy(predicted: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """Return the mean of the recalls of present and of absent images, chance 0.5; NaN with one class only."""
    return _by_rows(lambda x, y: Counts.of(x, y).balanced_accuracy, _mask(predicted), _mask(present))


def binarise_top(activations: torch.Tensor, alpha: float | torch.Tensor = ALPHA) -> torch.Tensor:
    """Return which images [M, N] activate a neuron: its top ceil(alpha N), at least one, ties to the lower image id.

    `alpha` is one share for all neurons, or one share per neuron [M]. Where no activation is negative (a layer with
    ReLU), only images above 0 count, so a rarely firing neuron has fewer active images instead of silent ones as
    padding. A constant row and a row with a value that is not finite have no active image.
    """
    _check_shapes(activations, activations)
    shares = _shares(alpha, activations)
    active = torch.empty(activations.shape, dtype=torch.bool, device=activations.device)
    for rows in _blocks(activations):
        active[rows] = Sorted.of(activations[rows]).top(activations[rows], shares[rows])
    return active


# --- generated images (CoSy, arXiv 2405.20331) ----------------------------------------------------------------------


def cosy_auc(generated: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
    """Return P(a(control) < a(generated)) + half the ties, for activations on generated [.., G] and control images
    [.., C]; float64 [..].

    A silent neuron scores 0.5, which is chance. NaN without images of either kind.
    """
    return auroc(*_generated_or_not(generated, control)).reshape(generated.shape[:-1])


def cosy_mad(generated: torch.Tensor, control: torch.Tensor) -> torch.Tensor:
    """Return (mean a(generated) - mean a(control)) / std a(control), 0 if the std is 0; shapes as in `cosy_auc`."""
    return mad(*_generated_or_not(generated, control)).reshape(generated.shape[:-1])


def _generated_or_not(generated: torch.Tensor, control: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both kinds of images concatenated, [rows, G + C], and the mask of the generated ones."""
    if generated.shape[:-1] != control.shape[:-1]:
        raise EvaluationError(
            f"activations on generated {tuple(generated.shape)} and control images {tuple(control.shape)} do not match:"
            " expected [.., G] and [.., C]"
        )
    scores = torch.cat((generated, control), -1)
    scores = scores.reshape(scores.shape[:-1].numel(), scores.shape[-1])
    present = torch.arange(scores.shape[1], device=scores.device) < generated.shape[-1]
    return scores, present.expand(scores.shape)


def dma(generated: torch.Tensor, maximum: torch.Tensor) -> torch.Tensor:
    """Return mean a(generated) / maximal activation, for [.., G] and [..]; NaN where the maximum is not above 0."""
    if generated.shape[:-1] != maximum.shape:
        raise EvaluationError(
            f"maximal activations have shape {tuple(maximum.shape)}: expected {tuple(generated.shape[:-1])},"
            " one for each row of activations on generated images"
        )
    mean, top = generated.double().sum(-1) / max(1, generated.shape[-1]), maximum.double()
    return ratio(mean, top, (top > 0) & top.isfinite() & mean.isfinite() & (generated.shape[-1] > 0))


# --- all of them at once --------------------------------------------------------------------------------------------

#: What `detection` returns, in this order.
DETECTION: Final = named("detection")


def detection(
    activations: torch.Tensor,
    presence: torch.Tensor,
    *,
    rows: torch.Tensor | None = None,
    alpha: float | torch.Tensor = ALPHA,
    threshold: float = THRESHOLD,
) -> dict[str, torch.Tensor]:
    """Return every metric of DETECTION for activations [M, N] and a concept's presence, name -> float64 [M].

    `presence` is a boolean mask, or the probability that the concept is present (then present means at least
    `threshold`). It has a row per neuron [M, N], or is [T, N] with `rows` [M] as each neuron's row (-1: none, all NaN).
    Activations are sorted once for all metrics, probabilities once for Spearman; values equal those of the single
    functions.
    """
    shares = _shares(alpha, activations)
    if rows is None:
        _check_shapes(activations, presence)
    elif activations.shape[1] != presence.shape[1] or rows.shape != activations.shape[:1]:
        raise EvaluationError(
            f"presence {tuple(presence.shape)} with rows {tuple(rows.shape)} does not fit activations"
            f" {tuple(activations.shape)}: expected [T, {activations.shape[1]}] and [{len(activations)}]"
        )
    values_of = {name: torch.full((len(activations),), torch.nan, dtype=torch.float64) for name in DETECTION}
    for pick in _blocks(activations):
        own = None if rows is None else rows[pick]
        block = presence[pick] if own is None else presence[own.clamp(min=0)] if len(presence) else None
        if block is None:
            continue
        for name, values in _detect(activations[pick], block, shares[pick], threshold).items():
            values_of[name][pick] = values if own is None else values.masked_fill(own < 0, torch.nan)
    return values_of


def _detect(a: torch.Tensor, presence: torch.Tensor, alpha: torch.Tensor, threshold: float) -> dict[str, torch.Tensor]:
    ordered = Sorted.of(a)
    ranked = ordered.ranks()
    binary = presence.dtype == torch.bool
    present = presence if binary else presence >= threshold
    graded = presence.float() if binary else presence
    active = ordered.top(a, alpha)
    counts = Counts.of(active, present)
    values_of = {
        "pearson": _pearson(a, graded),
        # two values have two ranks, and a correlation does not depend on their scale
        "spearman": _pearson(ranked, graded if binary else ranking.ranks(graded)),
        "cosine": _cosine(a, graded),
        "auroc": ranking.auroc(ranked, present),
        "auprc": ranking.average_precision(ordered, present),
        "f1": counts.f1,
        "iou": counts.iou,
        "precision": counts.precision,
        "recall": counts.recall,
        "balanced-accuracy": counts.balanced_accuracy,
        "wpmi": _wpmi(active, graded),
    }
    broken = ~(a.isfinite().all(1) & graded.isfinite().all(1))
    return {name: values.masked_fill(broken, torch.nan) for name, values in values_of.items()}


# --- the numerics of one block of rows ------------------------------------------------------------------------------


def _pearson(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    x, y = _centered(a), _centered(b)
    return ratio((x * y).sum(1), x.norm(dim=1) * y.norm(dim=1), _varies(a) & _varies(b)).clamp(-1, 1)


def _centered(x: torch.Tensor) -> torch.Tensor:
    wide = x.double()
    return wide - wide.mean(1, keepdim=True) if x.shape[1] else wide


def _varies(x: torch.Tensor) -> torch.Tensor:
    return (x != x[:, :1]).any(1)


def _cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    x, y = a.double(), b.double()
    length = x.norm(dim=1) * y.norm(dim=1)
    return ratio((x * y).sum(1), length, length > 0).clamp(-1, 1)


def _wpmi(active: torch.Tensor, probability: torch.Tensor) -> torch.Tensor:
    wide = probability.double()
    count, mean = active.sum(1).double(), wide.sum(1) / max(1, wide.shape[1])
    likelihood = (wide.clamp(min=_LEAST_PROBABILITY).log() * active).sum(1)
    return ratio(likelihood, count, (count > 0) & (mean > 0)) - mean.clamp(min=torch.finfo(torch.float64).tiny).log()


def _mad(activations: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    x, absent = activations.double(), ~present
    positive, negative = present.sum(1).double(), absent.sum(1).double()
    both = (positive > 0) & (negative > 0)
    base = ratio((x * absent).sum(1), negative, both)
    variance = ratio(((x - base[:, None]).square() * absent).sum(1), negative, both)
    # the mean of equal values may differ from them by a rounding error; their deviation is still 0
    same = x.masked_fill(present, -torch.inf).amax(1) == x.masked_fill(present, torch.inf).amin(1)
    gap = ratio((x * present).sum(1), positive, both) - base
    spread = variance.sqrt()
    return _finite(torch.where(same & both, 0.0, ratio(gap, spread, spread > 0)), activations)


def _finite(result: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
    """Return the result with NaN for every row that has a value that is not finite."""
    for values in inputs:
        if values.is_floating_point():
            result = result.masked_fill(~values.isfinite().all(1), torch.nan)
    return result


# --- shapes and blocks ----------------------------------------------------------------------------------------------


def _by_rows(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], a: torch.Tensor, b: torch.Tensor
) -> torch.Tensor:
    _check_shapes(a, b)
    parts = [function(a[rows], b[rows]) for rows in _blocks(a)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def _blocks(x: torch.Tensor) -> Iterator[slice]:
    size = max(1, _BLOCK // max(1, x.shape[1]))
    for start in range(0, len(x), size):
        yield slice(start, start + size)


def _mask(x: torch.Tensor) -> torch.Tensor:
    if x.dtype != torch.bool:
        raise EvaluationError(f"a mask has dtype {x.dtype}: expected bool, for example `probability >= 0.5`")
    return x


def _check_shapes(a: torch.Tensor, b: torch.Tensor) -> None:
    if a.ndim != 2 or a.shape != b.shape:
        raise EvaluationError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} do not match: expected [M, N] twice")


def _shares(alpha: float | torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
    """Return each neuron's share of active images, float64 [M]."""
    shares = torch.as_tensor(alpha, dtype=torch.float64, device=activations.device)
    if shares.ndim and shares.shape != activations.shape[:1]:
        raise EvaluationError(f"alpha has shape {tuple(shares.shape)}: expected one share, or one per neuron")
    if not ((shares > 0) & (shares <= 1)).all():
        raise EvaluationError(f"alpha is {alpha}: expected a share of the images above 0 and up to 1, for example 0.05")
    return shares.expand(len(activations))
