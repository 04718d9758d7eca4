"""The best labels of one neuron, without the dear part of the scores of labels that cannot be among them.

Upper bounds of all scores come from cheap parts. Labels are then looked at in falling order of the bounds, until enough
of them have scores that no further bound reaches: the best ones are exact, as if all had been looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from csp_index.labelling.evidence import Evidence, bags, even
from csp_index.labelling.response.dataset_sums import DatasetSums
from csp_index.labelling.response.images_looked_at import LookedAt
from csp_index.labelling.response.response_sums import FiringSums, ResponseMoments
from csp_index.labelling.response.share_means import ShareMeans, Weights
from csp_index.labelling.response.views import Response, Saturation, Silent
from csp_index.tensors.library import torch

_LABELS = 256  # looked at first
SLACK = 1e-2  # a score may exceed its bound by so much of it: variances near 0 are mostly rounding

Score: TypeAlias = "Callable[[Evidence], torch.Tensor]"


def least_silent(evidence: Evidence, scale: float) -> Silent:
    """Return lower bounds of the labels' mean shares, and of their roots, over each neuron's contrastive images.

    A mean of exponentials is at least the exponential of the mean (Jensen), and that of log P is linear in e(x).
    """
    pooled = evidence.contrastive.flatten(1)
    weights = even(pooled >= 0)
    mean = bags(evidence.vectors, pooled, weights)
    total = (evidence.log_totals(scale)[pooled.clamp(min=0)] * weights).sum(1, keepdim=True)
    root = (mean @ evidence.texts.T).mul_(scale).sub_(total).mul_(0.5).exp_()
    root[(pooled < 0).all(1)] = 0.0
    return Silent(root.square(), root)


class OneNeuron:
    """The response of one neuron, its dear parts only for labels that are looked at.

    `response` has what is known so far: bounds where a label was not looked at, and 0 for its agreement.
    """

    def __init__(
        self,
        evidence: Evidence,
        saturation: Saturation,
        scale: float,
        sums: DatasetSums,
        looked_at: LookedAt,
        row: int,
        *,
        only_firing: bool,
    ) -> None:
        """Compute the cheap parts, from the evidence of neuron `row` of those that are looked at."""
        self._evidence, self._scale, self._sums = evidence, scale, sums
        self._part = looked_at.firing_images(row, saturation, only_firing=only_firing)
        part, texts, least = self._part, evidence.texts, least_silent(evidence, scale)
        silent = evidence.contrastive[evidence.contrastive >= 0]
        images, places = silent.unique(return_inverse=True)
        self._silent = evidence.vectors[images], evidence.log_totals(scale)[images]
        self._silent_weights = Weights(torch.zeros(len(silent), dtype=torch.int64), places, even(silent[None] >= 0)[0])
        self._known = least if only_firing else Silent(least.share)
        self._moments: ResponseMoments | None = None
        if only_firing:
            firing = FiringSums(saturation, texts, scale)
            firing.add(part.embeddings, part.totals, part.activations, part.silent)
            self.response = replace(firing.finish(), silent=self._known)
        else:
            self._moments = ResponseMoments(saturation, texts.shape[1])
            self._weights = Weights.of(self._moments.add(part.embeddings, part.activations))
            linear = self._moments.linear(texts, sums)
            self.response = Response(linear, torch.zeros(linear.shape), silent=self._known)

    def bounds(self, score: Score) -> torch.Tensor:
        """Return the score [C] of all labels at bounds: silent images' shares from below, agreement from above."""
        return score(replace(self._evidence, response=_agreeing(self.response)))[0]

    def exact(self, labels: torch.Tensor, floor: float, bound: Score, score: Score) -> torch.Tensor:
        """Return the scores [L] of some labels, ascending places, or -inf below `floor`; what was computed is kept."""
        some = self._evidence.of_candidates(labels)
        means = ShareMeans(1, some.texts, self._scale, root=self._known.root is not None)
        means.add(*self._silent, self._silent_weights)
        self._known.share[:, labels] = means.share
        if self._known.root is not None:
            self._known.root[:, labels] = means.root
        known = self.response.of_candidates(labels)
        if self._moments is None or known.agreement is None:
            return score(replace(some, response=known))[0]
        scores = torch.full((len(labels),), -torch.inf)
        near = (bound(replace(some, response=_agreeing(known)))[0] * (1 + SLACK) >= floor).nonzero()[:, 0]
        if len(near):
            self._agree(some.texts[near], labels[near])
            scores[near] = score(replace(some.of_candidates(near), response=self.response.of_candidates(labels[near])))[
                0
            ]
        return scores

    def _agree(self, texts: torch.Tensor, labels: torch.Tensor) -> None:
        """Compute the agreement of labels, given their texts [L, D] too."""
        if self._moments is not None and self.response.agreement is not None:
            roots, sums = ShareMeans(1, texts, self._scale, share=False), self._sums
            roots.add(self._part.embeddings, self._part.totals, self._weights)
            agreement = self._moments.agreement(roots.root, sums.share[labels], sums.root[labels], sums.images)
            self.response.agreement[:, labels] = agreement


def _agreeing(response: Response) -> Response:
    agreement = response.agreement
    return response if agreement is None else replace(response, agreement=torch.ones(agreement.shape))


def best_scores(bounds: torch.Tensor, count: int, exact: Callable[[torch.Tensor, float], torch.Tensor]) -> torch.Tensor:
    """Return scores [C], at least 0, of which the `count` best are right; `bounds` [C] are at least the scores.

    `exact(labels, floor)` returns the scores of some labels, given by their places in ascending order; it may return
    -inf for a score below `floor`. Labels that were not looked at get -inf, as those do whose bound is -inf: they are
    no candidates.
    """
    scores = torch.full(bounds.shape, -torch.inf)
    bounds = bounds.nan_to_num(nan=torch.inf, neginf=-torch.inf)
    order = bounds.argsort(descending=True)[: int((bounds > -torch.inf).sum())]
    start, size = 0, _LABELS
    while start < len(order):
        floor = float(scores.topk(min(count, len(scores))).values[-1])
        possible = order[start : start + size]
        possible = possible[bounds[possible] * (1 + SLACK) >= floor]
        if not len(possible):
            break
        labels = possible.sort().values
        scores[labels] = exact(labels, floor)
        start, size = start + size, 2 * size  # the longer it takes, the less there is to be spared
    return scores
