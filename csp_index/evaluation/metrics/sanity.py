"""The test of the metrics themselves: does worse labelling lower the score? (arXiv 2506.05774, section 4)

A neuron that detects a concept is scored against the concept's true labels, and again against worse ones: the *missing*
test deletes each positive with probability 0.5, the *extra* test adds as many random negatives as there are positives.
A sound metric falls clearly. Its drop is measured on a scale from the score of the true labels (drop 0) to that of
random labels of the same frequency (drop 1):

    drop = (score(true) - score(worse)) / (score(true) - score(random))

A metric passes a test where the lower end of the drop's bootstrap interval is at least `LEAST_DROP`, and passes overall
if it passes both tests at every frequency, for neurons that are 1 or 0 (`binary`) and for noisy ones (`graded`).

The publication names its metrics from the neuron's side: there the neuron's activity is the truth and the labels are
scored, so that its precision, AUC and AUPRC are `recall`, `auroc-inverse` and `auprc-inverse` here, and its recall,
inverse AUC and inverse AUPRC are `precision`, `auroc` and `auprc` (`PUBLISHED` has each metric's name there).

The results agree with the publication: Pearson, cosine, `auprc-inverse`, F1 and IoU pass; AUROC, balanced accuracy
(either way round), the mean activation difference, precision and recall do not, because one of the two tests changes
them by no more than the concept's frequency. Four differences:
- `auprc` passes here, except where a concept shows on half of the images: doubled, it is on nearly all. In the
  publication it fails the extra-labels test (it falls in 89.5 % of the cases) and passes the other.
- Spearman passes here and fails in the publication, whose ranks break ties at random (so a rare concept's own ranks are
  noise) and whose scale runs from -1 to 1; ties have average ranks here.
- WPMI changes by log 2 with extra labels, however wrong they are, against the log of its least probability for random
  ones: with 1e-8 that is 0.04 of its range, just too little. With 1e-3 it would pass.
- MAD in units of the deviation on absent images is CoSy's; the publication's is `mean-difference`. Both fail: a perfect
  binary neuron has no deviation to divide by, and in a noisy one missing labels of a rare concept hardly change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch

from csp_index.errors import EvaluationError
from csp_index.evaluation.metrics import detection
from csp_index.evaluation.metrics.intervals import mean_interval
from csp_index.evaluation.metrics.ranking import Counts, ratio

Neuron = Literal["binary", "graded"]
Test = Literal["missing", "extra"]

#: A drop clearly above 0. Metrics that fail in the publication fall at most by about the frequency of the concept.
LEAST_DROP: Final = 0.05
#: Concepts above this frequency are left out: doubling the positives of a frequent one leaves too few negatives.
MOST_FREQUENT: Final = 0.25
FREQUENCIES: Final = (0.001, 0.01, 0.1)
_NOISE, _SPREAD = 0.2, 0.25  # of a graded neuron: on every image, and among the images of its concept


@dataclass(frozen=True, slots=True)
class Published:
    """A metric in arXiv 2506.05774: its name there and the tests it fails; None if it fails one not noted here."""

    name: str
    fails: tuple[Test, ...] | None = ()

    @property
    def passes(self) -> bool:
        """Whether it passes both tests there."""
        return self.fails == ()


#: The published result of a metric, by its name here.
PUBLISHED: Final[Mapping[str, Published]] = {
    "pearson": Published("correlation"),
    "spearman": Published("Spearman correlation", None),
    "cosine": Published("cosine similarity"),
    "auroc": Published("inverse AUC", ("missing",)),
    "auprc": Published("inverse AUPRC", ("extra",)),
    "f1": Published("F1"),
    "iou": Published("IoU"),
    "precision": Published("recall", ("extra",)),
    "recall": Published("precision", ("missing",)),
    "balanced-accuracy": Published("inverse balanced accuracy", ("missing",)),
    "wpmi": Published("WPMI", None),
    "auroc-inverse": Published("AUC", ("extra",)),
    "auprc-inverse": Published("AUPRC"),
    "balanced-accuracy-inverse": Published("balanced accuracy", ("extra",)),
    "mean-difference": Published("MAD", ("missing",)),
}


@dataclass(frozen=True, slots=True)
class SanityRow:
    """The result of one test of one metric: mean drop over `count` neurons and its interval; None where undefined."""

    metric: str
    neurons: Neuron
    test: Test
    frequency: float
    drop: float | None
    low: float | None
    high: float | None
    count: int
    passes: bool


@dataclass(frozen=True, slots=True)
class SanityReport:
    """All rows of a check, in the order of frequency, neurons, test, metric."""

    rows: tuple[SanityRow, ...]

    def verdicts(self) -> dict[str, bool]:
        """Return whether each metric passes both tests everywhere."""
        names = dict.fromkeys(row.metric for row in self.rows)
        return {name: all(row.passes for row in self.rows if row.metric == name) for name in names}

    def failures(self, metric: str) -> tuple[SanityRow, ...]:
        """Return the rows in which a metric does not pass, the smallest drop first."""
        failed = [row for row in self.rows if row.metric == metric and not row.passes]
        return tuple(sorted(failed, key=lambda row: -torch.inf if row.drop is None else row.drop))


def check_metrics(
    concepts: torch.Tensor | None = None,
    *,
    frequencies: Sequence[float] = FREQUENCIES,
    images: int = 20_000,
    neurons: int = 6,
    repeats: int = 4,
    seed: int = 0,
    least: float = LEAST_DROP,
) -> SanityReport:
    """Run both tests on every detection metric, on simulated neurons.

    The concepts are `neurons` random ones at each frequency over `images`, or the masks `concepts` [concepts, N]: each
    mask up to MOST_FREQUENT is then one neuron, and all of them form one row (its frequency is their mean). Labels are
    made worse `repeats` times per neuron; the interval is over neurons. `least` is the smallest drop that passes.

    Raises:
        EvaluationError: no concept is left, or a frequency gives none or all of the images.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[SanityRow] = []
    for masks in _concepts(concepts, frequencies, images, neurons, generator):
        frequency = masks.double().mean().item()
        for kind in ("binary", "graded"):
            activations = simulate(masks, kind, generator)
            drops = _drops(activations, masks, repeats, generator)
            for test, of_metric in drops.items():
                intervals = mean_interval(torch.stack(list(of_metric.values())), seed=seed)
                for row, name in enumerate(of_metric):
                    drop, low, high, count = (
                        x[row].item() for x in (intervals.mean, intervals.low, intervals.high, intervals.count)
                    )
                    known = count > 0
                    rows.append(
                        SanityRow(
                            name, kind, test, frequency,
                            drop if known else None, low if known else None, high if known else None,
                            int(count), known and low >= least,
                        )
                    )  # fmt: skip
    return SanityReport(tuple(rows))


def simulate(masks: torch.Tensor, kind: Neuron, generator: torch.Generator) -> torch.Tensor:
    """Return activations [K, N] of neurons that detect the concepts: 1 or 0, or graded and noisy but never negative."""
    if kind == "binary":
        return masks.float()
    noise = _NOISE * torch.randn(masks.shape, generator=generator)
    signal = 1 + _SPREAD * torch.randn(masks.shape, generator=generator)
    return noise.abs() + masks * signal.clamp(min=0)


def missing_labels(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the masks with each positive deleted with probability 0.5."""
    return masks & (torch.rand(masks.shape, generator=generator) < 0.5)


def extra_labels(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the masks with as many random negatives added as there are positives, leaving at least one negative."""
    positives = masks.sum(1, keepdim=True)
    added = torch.minimum(positives, masks.shape[1] - positives - 1)
    return masks | _random(masks, added, generator)


def random_labels(masks: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return random masks with the same number of positives in each row."""
    return _random(torch.zeros_like(masks), masks.sum(1, keepdim=True), generator)


def _random(excluded: torch.Tensor, number: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return masks with `number` [K, 1] random images each, none of them in `excluded`."""
    keys = torch.rand(excluded.shape, generator=generator).masked_fill(excluded, -1.0)
    order = keys.topk(int(number.max()), dim=1).indices
    return torch.zeros_like(excluded).scatter_(1, order, torch.arange(order.shape[1]) < number)


def _concepts(
    concepts: torch.Tensor | None,
    frequencies: Sequence[float],
    images: int,
    neurons: int,
    generator: torch.Generator,
) -> Iterator[torch.Tensor]:
    """Yield masks [K, N], one set per frequency, or those of `concepts`."""
    if concepts is not None:
        share = concepts.double().mean(1)
        selected = concepts[(share > 0) & (share <= MOST_FREQUENT)]
        if not len(selected):
            raise EvaluationError(
                f"none of {len(concepts)} concepts shows on some and at most {MOST_FREQUENT:.0%} of the images:"
                " check the metrics on simulated concepts instead"
            )
        yield selected
        return
    for frequency in frequencies:
        positives = round(frequency * images)
        if not 0 < positives < images:
            raise EvaluationError(f"frequency {frequency} is {positives} of {images} images: expected some but not all")
        empty = torch.zeros(neurons, images, dtype=torch.bool)
        yield _random(empty, torch.full((neurons, 1), positives), generator)


def _drops(
    activations: torch.Tensor, masks: torch.Tensor, repeats: int, generator: torch.Generator
) -> dict[Test, dict[str, torch.Tensor]]:
    """Return each metric's drop for each neuron, test -> metric -> [K]; NaN where a score is undefined.

    Where the true labels score no better than random ones, there is no scale and the drop is 0. A drop below -1 (worse
    labels score far higher, as with MAD's deviation of 0) counts as -1.
    """
    share = masks.double().mean(1)
    active = detection.binarise_top(activations, share)
    true = _scores(activations, masks, share, active)
    sums: dict[str, dict[str, torch.Tensor]] = {}
    for name, worsen in (("random", random_labels), ("missing", missing_labels), ("extra", extra_labels)):
        parts = [_scores(activations, worsen(masks, generator), share, active) for _ in range(repeats)]
        sums[name] = {metric: torch.stack([part[metric] for part in parts]).nanmean(0) for metric in true}
    drops_of: dict[Test, dict[str, torch.Tensor]] = {"missing": {}, "extra": {}}
    for metric, best in true.items():
        scale = best - sums["random"][metric]
        for test, drops in drops_of.items():
            fall = best - sums[test][metric]
            drops[metric] = torch.where(scale > 0, fall / torch.where(scale > 0, scale, 1.0), fall * 0.0).clamp(
                min=-1.0
            )
    return drops_of


def _scores(
    activations: torch.Tensor, labels: torch.Tensor, share: torch.Tensor, active: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return every metric of the neurons against labels [K, N], name -> [K].

    Activations are binarized at the true concept's frequency `share` [K] into the mask `active` [K, N], so that no
    metric fails because of a badly chosen share.
    """
    inverse = Counts.of(labels, active)
    present = labels.sum(1).double()
    absent = labels.shape[1] - present
    wide = activations.double()
    total = (wide * labels).sum(1)
    means = (ratio(part, size, size > 0) for part, size in ((total, present), (wide.sum(1) - total, absent)))
    return detection.detection(activations, labels, alpha=share) | {
        # labels with two values have one threshold between them, and a last one that includes everything
        "auroc-inverse": inverse.balanced_accuracy,
        "auprc-inverse": inverse.precision * inverse.recall + (1 - inverse.recall) * active.double().mean(1),
        "balanced-accuracy-inverse": inverse.balanced_accuracy,
        "mad": detection.mad(activations, labels),
        "mean-difference": next(means) - next(means),
    }
