"""The scoring methods that `search_methods.py` compares: functions of what a method sees of a world, to scores [M, C].

Symbols as in `labelling.scoring`: L(t, x) = log softmax over the labels of scale T(t).e(x), P = exp L; p_i are the 30
images of highest activation with weights w_i in proportion to it; N_m pools the m nearest silent images of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Final, TypeAlias

import torch
from search_worlds import World
from torch import Tensor
from torch.nn.functional import normalize

EXAMPLES: Final = 30
_WIDEST: Final = 100
_TINY: Final = 1e-35


class Sight:
    """What a method sees of a world, each part computed once."""

    def __init__(self, world: World) -> None:
        """Hold a world; nothing is computed yet."""
        self.vectors, self.texts, self.scale = world.vectors, world.texts, world.scale
        self.activations = world.activations
        weights, self.top = world.activations.topk(min(EXAMPLES, len(world.vectors)), dim=1)
        self.weights = weights / weights.sum(1, keepdim=True).clamp(min=_TINY)
        self.share_near = lru_cache(maxsize=None)(self._share_near)
        self.linear = lru_cache(maxsize=None)(self._linear)
        self.agreement = lru_cache(maxsize=None)(self._agreement)

    @cached_property
    def logits(self) -> Tensor:
        """scale T(t).e(x), [N, C]."""
        return self.scale * (self.vectors @ self.texts.T)

    @cached_property
    def log_shares(self) -> Tensor:
        """L, [N, C]."""
        return self.logits.log_softmax(1)

    @cached_property
    def shares(self) -> Tensor:
        """P, [N, C]."""
        return self.log_shares.exp()

    @cached_property
    def log_prior(self) -> Tensor:
        """log mean_x P, [C]."""
        return self.shares.mean(0).clamp(min=_TINY).log()

    @cached_property
    def fit(self) -> Tensor:
        """sum_i w_i L(t, p_i), [M, C]."""
        return torch.stack([w @ self.log_shares[p] for w, p in zip(self.weights, self.top, strict=True)])

    @cached_property
    def near(self) -> Tensor:
        """The nearest images below the neuron's mean activation for each activating one, [M, 30, 100]."""
        cosines = self.vectors[self.top] @ self.vectors.T
        loud = self.activations >= self.activations.mean(1, keepdim=True)
        return cosines.masked_fill_(loud[:, None], -9.0).topk(min(_WIDEST, len(self.vectors)), dim=2).indices

    def near_weights(self, m: int) -> Tensor:
        """How often an image is among the m nearest silent ones, as shares, [M, N]."""
        places = self.near[:, :, :m].flatten(1)
        counts = torch.zeros_like(self.activations).scatter_add_(1, places, torch.ones(places.shape))
        return counts / places.shape[1]

    def _share_near(self, m: int, power: float = 1.0) -> Tensor:
        raised = self.shares if power == 1 else self.shares**power
        return (self.near_weights(m) @ raised).clamp(min=_TINY).log() / power

    @cached_property
    def response(self) -> Tensor:
        """y = min(a / (half the mean of the 30 highest), 1), [M, N]: what counts is that it fires, not how much."""
        high = self.activations.gather(1, self.top).mean(1, keepdim=True)
        return (self.activations / (0.5 * high).clamp(min=_TINY)).clamp(max=1.0)

    def _linear(self, ridge: float) -> Tensor:
        """Dot product of the unit ridge regression of y on e(x) with the centred texts, [M, C]."""
        centred = self.vectors - self.vectors.mean(0)
        covariance = centred.T @ centred / len(centred)
        cross = (self.response - self.response.mean(1, keepdim=True)) @ centred / len(centred)
        penalty = ridge * covariance.trace() / len(covariance) * torch.eye(len(covariance))
        directions = normalize(torch.linalg.solve(covariance + penalty, cross.T).T, dim=1)
        return directions @ (self.texts - self.texts.mean(0)).T

    def _agreement(self, power: float) -> Tensor:
        """Correlation over all images of y and P**power, [M, C]."""
        y = normalize(self.response - self.response.mean(1, keepdim=True), dim=1)
        raised = self.shares.sqrt() if power == 0.5 else self.shares**power
        return y @ raised / (raised.var(0, correction=0) * len(raised)).sqrt().clamp(min=1e-12)


Variant: TypeAlias = Callable[[Sight], Tensor]


def positive(score: Tensor) -> Tensor:
    """Return the score cut at 0 (a little above, so that a product keeps the order of its other factors)."""
    return score.clamp(min=1e-9)


def softened(scores: Tensor, width: float) -> Tensor:
    """Return a positive number that grows with a score: near the score far above `width`, near 0 far below -width."""
    return 0.5 * (scores + (scores.square() + 4 * width**2).sqrt())


def csp(sight: Sight, gamma: float) -> Tensor:
    """Score by the paper's projection."""
    p, n = sight.vectors[sight.top], sight.vectors[sight.near[:, :, 0]]
    kept = p - gamma * (p * n).sum(-1, keepdim=True) * n
    return normalize((sight.weights[..., None] * kept).sum(1), dim=1) @ sight.texts.T


def semanticlens(sight: Sight) -> Tensor:
    """Score by the mean activating image."""
    return normalize(sight.vectors[sight.top].mean(1), dim=1) @ sight.texts.T


def contrastive_pmi(sight: Sight, m: int, alpha: float, scale: float = 1.0) -> Tensor:
    """Score by pmi with a share alpha of the prior over silent neighbours (scale is relative to the encoder's)."""
    if scale != 1:
        flat = (scale * sight.logits).log_softmax(1)
        fit = torch.stack([w @ flat[p] for w, p in zip(sight.weights, sight.top, strict=True)])
        near = (sight.near_weights(m) @ flat.exp()).log()
        return fit - alpha * near - (1 - alpha) * flat.exp().mean(0).log()
    return sight.fit - alpha * sight.share_near(m) - (1 - alpha) * sight.log_prior


def odds(sight: Sight, m: int) -> Tensor:
    """sum_i w_i L(t, p_i) - log mean_{n in N_m} P(t, n): the log likelihood ratio of firing and near silent images."""
    return sight.fit - sight.share_near(m)


def silent_odds(sight: Sight) -> Tensor:
    """Return the same against all images below the mean, near or not."""
    silent = (sight.activations < sight.activations.mean(1, keepdim=True)).float()
    return sight.fit - (silent @ sight.shares / silent.sum(1, keepdim=True).clamp(min=1)).clamp(min=_TINY).log()


def images_pmi(sight: Sight, m: int) -> Tensor:
    """Score by the ratio with a softmax over images instead of labels (up to a constant a label: the raw logits)."""
    fit = torch.stack([w @ sight.logits[p] for w, p in zip(sight.weights, sight.top, strict=True)])
    highest = sight.logits.amax(0)
    return fit - highest - (sight.near_weights(m) @ (sight.logits - highest).exp()).clamp(min=_TINY).log()


def precision(sight: Sight, power: float) -> Tensor:
    """sum_x y P**power / sum_x P**power: how much of the label's own images fires, in [0, 1]."""
    raised = sight.shares**power
    return sight.response @ raised / raised.sum(0).clamp(min=_TINY)


def coverage(sight: Sight) -> Tensor:
    """How far the activating images fall short of the label's own best 30 images, in nats, <= 0."""
    return sight.fit - sight.log_shares.topk(len(sight.top[0]), 0).values.mean(0)


def consensus(sight: Sight, m: int = 50, ridge: float = 0.5, whole: float = 0.5) -> Tensor:
    """odds(m) x linear(ridge) x agreement of y with the root of P, to the power `whole`; each factor cut at 0."""
    found = positive(odds(sight, m)) * positive(sight.linear(ridge))
    return found * positive(sight.agreement(0.5)) ** whole if whole else found


def ranked(sight: Sight, leaders: int = 24, ridge: float = 3.0, whole: float = 0.25) -> Tensor:
    """consensus with a fourth factor for its leaders: the average precision of y in the order of a filtered cosine.

    The filter of a label is (Cov(e) + ridge I)^-1 (T(t) - mean T). Unlike a share it does not hang on how many other
    labels fit the image, so a triple does not starve the pairs inside it. Labels that do not lead get next to nothing.
    """
    first = consensus(sight, 50, 1.0)
    best = first.topk(min(leaders, first.shape[1]), dim=1).indices
    centred = sight.vectors - sight.vectors.mean(0)
    covariance = centred.T @ centred / len(centred)
    penalty = ridge * covariance.trace() / len(covariance) * torch.eye(len(covariance))
    filters = torch.linalg.solve(covariance + penalty, (sight.texts - sight.texts.mean(0)).T)
    used, place = best.unique(return_inverse=True)
    order = (centred @ filters[:, used]).T.argsort(1, descending=True)
    count = torch.arange(1, len(centred) + 1)
    precision = torch.full_like(first, 1e-9)
    for neuron, y in enumerate(sight.response):
        fired = y[order[place[neuron]]]
        hits = fired.cumsum(1)
        found = (fired * hits / count).sum(1) / hits[:, -1].clamp(min=1e-9)
        precision[neuron, best[neuron]] = positive(found)
    three = positive(odds(sight, 50)) * positive(sight.linear(1.0))
    return three * positive(sight.agreement(0.5)) ** whole * precision


#: Known methods, to compare with.
KNOWN: Final[dict[str, Variant]] = {
    "semanticlens": semanticlens,
    "csp gamma 1": lambda s: csp(s, 1.0),
    "csp gamma .5": lambda s: csp(s, 0.5),
    "pmi": lambda s: s.fit - s.log_prior,
    "contrastive-pmi m=1": lambda s: contrastive_pmi(s, 1, 0.5),
    "contrastive-pmi m=5": lambda s: contrastive_pmi(s, 5, 0.5),
}
#: Variants that could be chosen.
CANDIDATES: Final[dict[str, Variant]] = {
    "contrastive-pmi m=5, half scale": lambda s: contrastive_pmi(s, 5, 0.5, 0.5),
    "contrastive-pmi m=20": lambda s: contrastive_pmi(s, 20, 0.5),
    "contrastive-pmi m=50 alpha=.75": lambda s: contrastive_pmi(s, 50, 0.75),
    "odds m=5": lambda s: odds(s, 5),
    "odds m=20": lambda s: odds(s, 20),
    "odds m=50": lambda s: odds(s, 50),
    "odds m=100": lambda s: odds(s, 100),
    "odds m=50, half scale": lambda s: contrastive_pmi(s, 50, 1.0, 0.5),
    "odds m=50, power 2": lambda s: s.fit - s.share_near(50, 2.0),
    "odds m=50 over images": lambda s: images_pmi(s, 50),
    "odds against all silent": silent_odds,
    "odds m=50 + half coverage": lambda s: odds(s, 50) + 0.5 * coverage(s),
    "odds m=50 + log precision": lambda s: odds(s, 50) + positive(precision(s, 2.0)).log(),
    "odds m=50 x precision": lambda s: positive(odds(s, 50)) * precision(s, 2.0),
    "linear ridge=.1": lambda s: s.linear(0.1),
    "linear ridge=.5": lambda s: s.linear(0.5),
    "linear ridge=2": lambda s: s.linear(2.0),
    "agreement with P": lambda s: s.agreement(1.0),
    "agreement with root P": lambda s: s.agreement(0.5),
    "contrastive-pmi m=5 x linear": lambda s: positive(contrastive_pmi(s, 5, 0.5)) * positive(s.linear(0.5)),
    "odds m=50 x agreement": lambda s: positive(odds(s, 50)) * positive(s.agreement(0.5)),
    "odds m=20 x linear": lambda s: consensus(s, 20, 0.5, 0.0),
    "odds m=50 x linear": lambda s: consensus(s, 50, 0.5, 0.0),
    "odds m=100 x linear": lambda s: consensus(s, 100, 0.5, 0.0),
    "odds m=50 x linear x root precision": lambda s: consensus(s, 50, 0.5, 0.0) * precision(s, 2.0).sqrt(),
    "consensus m=20": lambda s: consensus(s, 20),
    "consensus m=50": consensus,
    "consensus m=100": lambda s: consensus(s, 100),
    "consensus m=50 ridge=.1": lambda s: consensus(s, 50, 0.1),
    "consensus m=50 ridge=.25": lambda s: consensus(s, 50, 0.25),
    "consensus m=50 ridge=1": lambda s: consensus(s, 50, 1.0),
    "consensus m=50 whole=.25": lambda s: consensus(s, 50, 0.5, 0.25),
    "consensus m=50 whole=1": lambda s: consensus(s, 50, 0.5, 1.0),
    "odds m=30": lambda s: odds(s, 30),
    "odds m=30 x linear": lambda s: consensus(s, 30, 0.5, 0.0),
    "odds m=30 x linear x root precision": lambda s: consensus(s, 30, 0.5, 0.0) * precision(s, 2.0).sqrt(),
    "consensus m=30": lambda s: consensus(s, 30),
    "consensus m=30 ridge=1": lambda s: consensus(s, 30, 1.0),
    "consensus m=30 whole=.25": lambda s: consensus(s, 30, 0.5, 0.25),
    "consensus m=20 whole=1": lambda s: consensus(s, 20, 0.5, 1.0),
    "consensus with precision": ranked,
    "consensus with precision, whole=0": lambda s: ranked(s, whole=0.0),
    "consensus with precision, whole=.5": lambda s: ranked(s, whole=0.5),
    "consensus with precision, ridge=1": lambda s: ranked(s, ridge=1.0),
}


def top1(sight: Sight, truth: Tensor, variants: dict[str, Variant]) -> dict[str, list[bool]]:
    """Tell for every variant and neuron whether the best label is the truth."""
    found = {name: variant(sight) for name, variant in variants.items()}
    if any(math.isnan(float(scores.sum())) for scores in found.values()):
        raise ValueError("a variant gave NaN: a world with a dead neuron?")
    return {name: (scores.argmax(1) == truth).tolist() for name, scores in found.items()}
