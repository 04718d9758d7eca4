"""Candidates of round three: scores that explain the whole response of a neuron, and not only its top images.

Symbols as in `search_variants.py`; y is the saturated response, F the *firing* images, those with y = 1 (activation of
at least half the mean of the 30 highest); c_t(x) is a label's presence, a sigmoid of its cosine's standard score.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final, TypeAlias

import torch
from search_variants import Sight, positive
from torch import Tensor
from torch.nn.functional import normalize

from csp_index.evaluation.metrics.calibration import TextCalibration
from csp_index.labelling.evidence import Evidence
from csp_index.labelling.response.dataset_sums import label_share
from csp_index.labelling.scoring import score
from csp_index.records import ScoringOptions

_TINY: Final = 1e-35
_LEADERS: Final = 24


class FullSight(Sight):
    """A sight that also holds what the candidates of round three look at."""

    @cached_property
    def cosines(self) -> Tensor:
        """Return T(t).e(x), [N, C]."""
        return self.logits / self.scale

    @cached_property
    def root(self) -> Tensor:
        """Return the root of P, [N, C]."""
        return self.shares.sqrt()

    @cached_property
    def firing(self) -> Tensor:
        """Return the weights of F, in proportion to the activation, [M, N]."""
        weights = self.activations.masked_fill(self.response < 1, 0.0)
        return weights / weights.sum(1, keepdim=True).clamp(min=_TINY)

    @cached_property
    def firing_fit(self) -> Tensor:
        """Return sum_F w L, [M, C]."""
        return self.firing @ self.log_shares

    @cached_property
    def standard(self) -> Tensor:
        """Return the cosines as standard scores of each label, [N, C]."""
        mean, spread = self.cosines.mean(0), self.cosines.std(0).clamp(min=1e-9)
        return (self.cosines - mean) / spread

    @cached_property
    def presence(self) -> Tensor:
        """Return c, [N, C] in [0, 1]: half at the middle between the label's mean and its highest hundredth."""
        high = self.standard.topk(max(1, len(self.standard) // 100), dim=0).values[-1]
        return torch.sigmoid(6 * (self.standard / high.clamp(min=1e-6) - 0.5) * 2)

    @cached_property
    def centred_response(self) -> Tensor:
        """Return y minus its mean at unit length, [M, N]."""
        return normalize(self.response - self.response.mean(1, keepdim=True), dim=1)

    @cached_property
    def evidence(self) -> Evidence:
        """Return the same sight as the package's methods take it, with 100 activating images."""
        values, top = self.activations.topk(min(100, len(self.vectors)), dim=1)
        share = label_share(self.vectors, self.texts, 10.0) / len(self.vectors)
        none = torch.full((*top.shape, 0), -1)
        return Evidence(self.vectors, top, values, none, self.texts, self.vectors.mean(0), share)

    def of(self, key: str, make: Callable[[FullSight], Tensor]) -> Tensor:
        """Return a variant's scores, computed once."""
        kept = self.__dict__.setdefault("_kept", {})
        if key not in kept:
            kept[key] = make(self)
        scores: Tensor = kept[key]
        return scores


FullVariant: TypeAlias = Callable[[FullSight], Tensor]


def published(name: str, examples: int) -> FullVariant:
    """Return a published method by the package's own code."""

    def variant(sight: FullSight) -> Tensor:
        evidence = sight.evidence
        few = Evidence(
            evidence.vectors,
            evidence.activating[:, :examples],
            evidence.activations[:, :examples],
            evidence.contrastive[:, :examples],
            evidence.texts,
            evidence.dataset_mean,
            evidence.label_share,
        )
        return score(name, few, ScoringOptions(logit_scale=sight.scale)).scores

    return variant


def published_csp(gamma: float) -> FullVariant:
    """Return csp by the package's own code, with the nearest silent image of each activating one."""

    def variant(sight: FullSight) -> Tensor:
        evidence = sight.evidence
        few = Evidence(
            evidence.vectors,
            evidence.activating[:, :30],
            evidence.activations[:, :30],
            sight.near[:, :, :1],
            evidence.texts,
            evidence.dataset_mean,
        )
        return score("csp", few, ScoringOptions(gamma=gamma)).scores

    return variant


def correlation(left: Tensor, right: Tensor) -> Tensor:
    """Return the correlations of rows [M, N] with columns [N, C], [M, C]; 0 where one of them is constant."""
    unit = normalize(left - left.mean(1, keepdim=True), dim=1)
    spread = right.var(0, correction=0).mul(len(right)).sqrt()
    return unit @ right / spread.clamp(min=1e-12)


def linear_1(sight: FullSight) -> Tensor:
    """Correlation of the activation with the calibrated presence (Linear Explanations, one concept)."""
    cosines = sight.cosines.T.contiguous()
    calibration = TextCalibration.fit(cosines[:, :: max(1, cosines.shape[1] // 2000)])
    return correlation(sight.activations, calibration.apply(cosines).nan_to_num(0.0).T)


def all_firing_csp(sight: FullSight, gamma: float) -> Tensor:
    """csp's direction over F, with the mean silent neighbor for its partners."""
    toward = sight.firing @ sight.vectors
    away = sight.near_weights(1) @ sight.vectors
    return normalize(toward - gamma * away, dim=1) @ sight.texts.T


def mean_cosine(sight: FullSight) -> Tensor:
    """Cosine of the label with the mean of F."""
    return normalize(sight.firing @ sight.vectors, dim=1) @ sight.texts.T


def lift(sight: FullSight) -> Tensor:
    """sum_F w P over the dataset's mean of P, as a logarithm: pmi with the mean outside the softmax."""
    return (sight.firing @ sight.shares).clamp(min=_TINY).log() - sight.log_prior


def overlap(sight: FullSight, table: Tensor) -> Tensor:
    """sum y c / sqrt(sum y^2 sum c^2): precision and coverage in one, without subtracting means."""
    lengths: Tensor = sight.response.norm(dim=1, keepdim=True) * table.norm(dim=0)
    found: Tensor = sight.response @ table / lengths.clamp(min=1e-12)
    return found


def f_score(sight: FullSight) -> Tensor:
    """2 sum y c / (sum y + sum c) of the presence."""
    return 2 * (sight.response @ sight.presence) / (sight.response.sum(1, keepdim=True) + sight.presence.sum(0))


def siblings(sight: FullSight) -> Tensor:
    """sum_i w_i L(t, p_i) - log mean P over images that a similar neuron fires and this one does not."""
    y, vectors = sight.response, normalize(sight.firing @ sight.vectors - sight.vectors.mean(0), dim=1)
    alike = vectors @ vectors.T
    alike.fill_diagonal_(-9)
    near = alike.topk(min(5, len(alike)), dim=1)
    weights = (near.values.clamp(min=0)[..., None] * y[near.indices]).sum(1) * (1 - y) * (y < 0.2)
    total = weights.sum(1, keepdim=True)
    share = (weights @ sight.shares / total.clamp(min=1e-9)).clamp(min=_TINY).log()
    return sight.fit - 0.5 * torch.where(total > 1e-6, share, sight.log_prior) - 0.5 * sight.log_prior


def ranks(scores: Tensor) -> Tensor:
    """Return the rank of every label, from 1 for the best, [M, C]."""
    order = scores.argsort(1, descending=True)
    places = torch.arange(1, scores.shape[1] + 1, dtype=torch.float32).expand(scores.shape)
    return torch.empty_like(scores).scatter_(1, order, places)


def fused(*parts: Tensor, constant: float = 3.0) -> Tensor:
    """Return the sum of reciprocal ranks, 1 / (constant + rank)."""
    return torch.stack([1 / (constant + ranks(part)) for part in parts]).sum(0)


def of_leaders(base: Tensor, rows: Callable[[int, Tensor], Tensor], count: int = _LEADERS) -> Tensor:
    """Return a factor for the leaders of `base` and next to nothing for the others; `rows(neuron, labels)`."""
    best = base.topk(min(count, base.shape[1]), dim=1).indices
    result = torch.full_like(base, 1e-9)
    for neuron, labels in enumerate(best):
        result[neuron, labels] = positive(rows(neuron, labels))
    return result


def average_precision(sight: FullSight, base: Tensor, ridge: float | None = None) -> Tensor:
    """Average precision of y in the order of the cosine, or of a filtered one, for the leaders of `base`."""
    table = sight.standard if ridge is None else filtered(sight, ridge)
    count = torch.arange(1, len(table) + 1)

    def rows(neuron: int, labels: Tensor) -> Tensor:
        fired = sight.response[neuron][table[:, labels].T.argsort(1, descending=True)]
        hits = fired.cumsum(1)
        return (fired * hits / count).sum(1) / hits[:, -1].clamp(min=1e-9)

    return of_leaders(base, rows)


def filtered(sight: FullSight, ridge: float) -> Tensor:
    """Return the filtered cosines (e(x) - mean).f_t, f_t = (Cov(e) + ridge I)^-1 (T(t) - mean T), [N, C]."""
    return sight.of(f"filtered {ridge}", lambda s: _filtered(s, ridge))


def filter_agreement(sight: FullSight, ridge: float = 3.0) -> Tensor:
    """Correlation over all images of y and a label's filtered cosine."""
    return sight.of(f"filter agreement {ridge}", lambda s: correlation(s.response, filtered(s, ridge)))


def near_agreement(sight: FullSight, m: int = 50) -> Tensor:
    """Correlation of firing (F, half the weight) or near and silent (the other half) with the root of P.

    A label of a part of F is held against the rest of F, and a look that the near silent images share against these.
    """
    fired, near = sight.firing, sight.near_weights(m)
    high, low = fired @ sight.root, near @ sight.root
    variance = 0.5 * (fired + near) @ sight.shares - (0.5 * (high + low)).square()
    return 0.5 * (high - low) / variance.clamp(min=1e-12).sqrt()


def unit_linear(sight: FullSight, ridge: float = 1.0) -> Tensor:
    """Cosine of the ridge regression's direction and the centred text: `linear` without the texts' lengths."""
    lengths = (sight.texts - sight.texts.mean(0)).norm(dim=1)
    found: Tensor = sight.linear(ridge) / lengths.clamp(min=1e-9)
    return found


def _filtered(sight: FullSight, ridge: float) -> Tensor:
    centred = sight.vectors - sight.vectors.mean(0)
    covariance = centred.T @ centred / len(centred)
    penalty = ridge * covariance.trace() / len(covariance) * torch.eye(len(covariance))
    found: Tensor = centred @ torch.linalg.solve(covariance + penalty, (sight.texts - sight.texts.mean(0)).T)
    return found


def likelihood(sight: FullSight, base: Tensor, table: Tensor) -> Tensor:
    """How much of y's entropy a logistic regression on one column of `table` explains, for leaders, in [0, 1]."""
    step = max(1, len(table) // 3000)

    def rows(neuron: int, labels: Tensor) -> Tensor:
        y, x = sight.response[neuron, ::step], table[::step, labels]
        x = (x - x.mean(0)) / x.std(0).clamp(min=1e-9)
        rate = y.mean().clamp(1e-4, 1 - 1e-4)
        slope, bias = torch.ones(len(labels)), torch.full((len(labels),), float(torch.logit(rate)))
        for _ in range(8):
            p = torch.sigmoid(slope * x + bias)
            w = (p * (1 - p)).clamp(min=1e-5)
            error = y[:, None] - p
            a, b, c = w.mean(0) + 1e-3, (w * x).mean(0), (w * x * x).mean(0) + 1e-3
            g, h = error.mean(0), (error * x).mean(0)
            determinant = (a * c - b * b).clamp(min=1e-9)
            bias = bias + ((c * g - b * h) / determinant).clamp(-2, 2)
            slope = slope + ((a * h - b * g) / determinant).clamp(-2, 2)
        p = torch.sigmoid(slope * x + bias).clamp(1e-6, 1 - 1e-6)
        loss = -(y[:, None] * p.log() + (1 - y[:, None]) * (1 - p).log()).mean(0)
        none = -(rate * rate.log() + (1 - rate) * (1 - rate).log())
        return (1 - loss / none) * (slope > 0)

    return of_leaders(base, rows)


def level(sight: FullSight, base: Tensor, count: int = 12, share: float = 0.7, slack: float = 0.0) -> Tensor:
    """Prefer a broader leader that explains the response outside the top images as well as the best label does.

    Label B is broader than A if B is present where A is (their presences' overlap over A's is at least `share`) and its
    presence is larger in sum. It replaces A if the correlation of y and root P over the images outside the top 30 is
    not lower by more than `slack`.
    """
    best = base.topk(min(count, base.shape[1]), dim=1)
    result = base.clone()
    top = best.values[:, 0]
    for neuron, labels in enumerate(best.indices):
        rest = torch.ones(len(sight.vectors), dtype=torch.bool)
        rest[sight.top[neuron]] = False
        explained = correlation(sight.response[neuron][None, rest], sight.root[:, labels][rest])[0]
        shown = sight.presence[:, labels]
        size = shown.sum(0)
        broader = (shown[:, 0] @ shown / size[0] >= share) & (size > size[0])
        allowed = broader & (explained >= explained[0] - slack)
        if bool(allowed.any()):
            chosen = labels[int(explained.masked_fill(~allowed, -9).argmax())]
            result[neuron, chosen] = top[neuron] + 1e-3 * top[neuron].abs() + 1e-6
    return result


def product(*factors: Tensor) -> Tensor:
    """Return the product of factors cut at 0."""
    result = positive(factors[0])
    for factor in factors[1:]:
        result = result * positive(factor)
    return result
