"""Linear explanations (arXiv 2405.06855): a neuron as a weighted sum of the presence of a few texts. Pure tensors.

From the second pass of `correlation`: an elastic net on the listed texts leaves a short list, from which
texts are added while they raise the correlation on the images that validate; the weights are then fitted to all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from csp_index.labelling.linear.correlation import Moments, PartSums
from csp_index.labelling.linear.presence import PresenceSigmoids
from csp_index.ordering import leaders_of
from csp_index.records.weighted_labels import LabelTerm, WeightedLabel
from csp_index.tensors.library import torch

LISTED: Final = 50  # texts of each neuron by absolute correlation, among which the elastic net chooses
MOST_TERMS: Final = 10
LEAST_GAIN: Final = 0.02  # in correlation on the images that validate
_PENALTY, _L1 = 0.05, 0.99  # of the elastic net, as published
_SWEEPS, _STILL = 200, 1e-5
_OWN = 0.01  # share of a text's variance that the chosen ones leave, below which it is a synonym of theirs
_BLOCK = 512  # neurons solved at once


@dataclass(frozen=True, slots=True)
class Explanation:
    """The correlation [M, C] of M neurons with the presence of C texts over all images, and weighted sums if needed."""

    correlation: torch.Tensor
    terms: LinearTerms | None = None

    def scores(self) -> torch.Tensor:
        """Return the correlations [M, C], those of the sums in place of their texts of the largest weight.

        A sum correlates at least as well as any text alone but for rounding; it comes first in any case.
        """
        if self.terms is None:
            return self.correlation
        result, heads = self.correlation.clone(), self.terms.heads
        live = (heads >= 0).nonzero()[:, 0]
        best = result[live].amax(1)
        above = torch.nextafter(best, torch.full_like(best, torch.inf))
        result[live, heads[live]] = torch.maximum(self.terms.correlation[live], above)
        return result


@dataclass(frozen=True, slots=True)
class LinearTerms:
    """Weighted sums for M neurons: the activation, as a share of its maximum, is bias + sum_j weight c_j.

    `places` [M, T] among the candidates, -1 pads; `weights` [M, T]; `bias` [M]; `slope`, `shift` [M, T] of the
    presence c_j (`labelling.linear.presence`); `correlation` [M] of the sum with the activation over all images.
    """

    places: torch.Tensor
    weights: torch.Tensor
    bias: torch.Tensor
    slope: torch.Tensor
    shift: torch.Tensor
    correlation: torch.Tensor

    @property
    def heads(self) -> torch.Tensor:
        """The place of the candidate with the largest weight, [M]; -1 without terms."""
        first = self.weights.masked_fill(self.places < 0, -torch.inf).argmax(1, keepdim=True)
        return self.places.gather(1, first)[:, 0]

    def labels(self, texts: Sequence[str]) -> list[WeightedLabel | None]:
        """Return the sums with the candidates' texts; None for a neuron without terms."""
        columns = (self.places, self.weights, self.slope, self.shift)
        result: list[WeightedLabel | None] = []
        for bias, *rows in zip(self.bias.tolist(), *(column.tolist() for column in columns), strict=True):
            terms = [LabelTerm(texts[place], *rest) for place, *rest in zip(*rows, strict=True) if place >= 0]
            result.append(WeightedLabel(tuple(terms), bias) if terms else None)
        return result


def shortlist(correlation: torch.Tensor, count: int = LISTED) -> torch.Tensor:
    """Return the places of the texts among which sums are looked for, [M, count] at most; -1 pads.

    The highest correlation comes first, then the greatest absolute ones; equals in the vocabulary's order. -inf in
    `correlation` [M, C] marks texts that are no candidates of a neuron.
    """
    parts = []
    for rows in correlation.split(_BLOCK):
        strength = torch.where(rows == -torch.inf, rows, rows.abs())
        strength.scatter_(1, leaders_of(rows, 1), torch.inf)
        places = leaders_of(strength, count)
        parts.append(places.masked_fill(rows.gather(1, places) == -torch.inf, -1))
    return torch.cat(parts)


def fit_terms(
    listed: torch.Tensor,
    parts: tuple[PartSums, PartSums],
    moments: Moments,
    presence: Moments,
    highest: torch.Tensor,
    sigmoids: PresenceSigmoids,
) -> LinearTerms:
    """Return the weighted sums of M neurons from the sums over the images that choose and that validate.

    `listed` [M, L] are places of candidates, -1 pads (`shortlist`); the first of each neuron is always a term.
    `moments` are those of the activations, `highest` [M] what counts as 1 in the weights (> 0), `presence` and
    `sigmoids` those of all candidates.
    """
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(listed), _BLOCK)]
    solved = [_solve(listed[rows] >= 0, [part.centered(rows) for part in parts], parts) for rows in blocks]
    chosen, standard, correlation = (torch.cat(column) for column in zip(*solved, strict=True))
    places = torch.where(chosen >= 0, listed.gather(1, chosen.clamp(min=0)), -1)
    at = places.clamp(min=0)
    scale = (moments.deviation / highest.double())[:, None]
    weights = (standard * scale / presence.deviation[at]).masked_fill(places < 0, 0.0)
    bias = moments.mean / highest.double() - (weights * presence.mean[at]).sum(1)
    slope, shift = sigmoids.slope[at], sigmoids.shift[at]
    return LinearTerms(places, weights.float(), bias.float(), slope, shift, correlation.float())


def _solve(
    present: torch.Tensor, centered: Sequence[tuple[torch.Tensor, ...]], parts: Sequence[PartSums]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the chosen columns [m, T] of the lists (-1 pads), their standardized weights [m, T], correlations [m]."""
    (aa, ac, cc), validating = centered
    kept = elastic_net(cc, ac).ne(0) & present
    kept[:, 0] = present[:, 0]
    chosen = _add_terms(kept, cc, ac, *validating) if parts[1].images > 1 else _firsts(present)
    share = [part.images / max(1, sum(one.images for one in parts)) for part in parts]
    whole = [share[0] * one + share[1] * other for one, other in zip((aa, ac, cc), validating, strict=True)]
    weights, correlation = _regression(chosen, *whole)
    backwards = weights.masked_fill(chosen < 0, -torch.inf).amax(1) <= 0  # a sum without a positive weight
    if backwards.any():
        chosen[backwards] = _firsts(present)[backwards]
        weights[backwards], correlation[backwards] = _regression(chosen[backwards], *(one[backwards] for one in whole))
    return chosen, weights, correlation


def elastic_net(cc: torch.Tensor, ac: torch.Tensor) -> torch.Tensor:
    """Return the coefficients [m, L] of the elastic net of m standardized targets on L columns each.

    Minimizes |a - c beta|^2 / 2 + penalty (l1 |beta|_1 + (1 - l1) |beta|^2 / 2) per image, by coordinate descent, given
    the covariances of columns [m, L, L] and with the target [m, L].
    """
    beta, rest = torch.zeros_like(ac), ac.clone()
    own = cc.diagonal(dim1=1, dim2=2)
    for _ in range(_SWEEPS):
        largest = 0.0
        for column in range(ac.shape[1]):
            target = rest[:, column] + own[:, column] * beta[:, column]
            shrunk = target.sign() * (target.abs() - _PENALTY * _L1).clamp(min=0)
            step = shrunk / (own[:, column] + _PENALTY * (1 - _L1)) - beta[:, column]
            beta[:, column] += step
            rest -= step[:, None] * cc[:, column]
            largest = max(largest, float(step.abs().max()))
        if largest < _STILL:
            break
    return beta


def _firsts(present: torch.Tensor) -> torch.Tensor:
    chosen = torch.full((len(present), MOST_TERMS), -1, dtype=torch.int64)
    chosen[:, 0] = torch.where(present[:, 0], 0, -1)
    return chosen


def _add_terms(
    kept: torch.Tensor,
    cc: torch.Tensor,
    ac: torch.Tensor,
    aa_v: torch.Tensor,
    ac_v: torch.Tensor,
    cc_v: torch.Tensor,
) -> torch.Tensor:
    """Return the columns [m, T] that are added one by one (-1 pads): weights from one part, gains from the other (_v).

    All columns are kept orthogonal, on the part that chooses, to the chosen ones: the weight of the next one is then
    known without solving, and with it the correlation that the prediction would have on the part that validates.
    """
    cc, ac, ac_v, cc_v = cc.clone(), ac.clone(), ac_v.clone(), cc_v.clone()
    rows, least = torch.arange(len(ac)), _OWN * cc.diagonal(dim1=1, dim2=2)
    chosen = torch.full((len(ac), MOST_TERMS), -1, dtype=torch.int64)
    along, square, across = torch.zeros(len(ac)).double(), torch.zeros(len(ac)).double(), torch.zeros_like(ac)
    reached = torch.zeros(len(ac)).double()
    going = kept[:, 0].clone()
    for turn in range(MOST_TERMS):
        own, own_v = cc.diagonal(dim1=1, dim2=2), cc_v.diagonal(dim1=1, dim2=2)
        usable = kept & (own > least)
        weight = ac / own.clamp(min=1e-12)
        length = (square[:, None] + 2 * weight * across + weight.square() * own_v).clamp(min=1e-12).sqrt()
        correlation = (along[:, None] + weight * ac_v) / (length * aa_v.clamp(min=1e-12).sqrt()[:, None])
        best = correlation.masked_fill(~usable, -torch.inf).argmax(1) if turn else torch.zeros_like(rows)
        gained = correlation[rows, best]
        if turn:
            going = going & usable[rows, best] & (gained - reached >= LEAST_GAIN)
        if not going.any():
            break
        chosen[going, turn] = best[going]
        kept = kept.clone()
        kept[rows[going], best[going]] = False
        # those that stopped go on in vain: their results are not looked at any more
        reached = torch.where(going, gained, reached)
        step = weight[rows, best]
        along = along + step * ac_v[rows, best]
        square = square + 2 * step * across[rows, best] + step.square() * own_v[rows, best]
        across = across + step[:, None] * cc_v[rows, best]
        share = cc[rows, best] / own[rows, best].clamp(min=1e-12)[:, None]
        ac = ac - share * ac[rows, best][:, None]
        ac_v = ac_v - share * ac_v[rows, best][:, None]
        across = across - share * across[rows, best][:, None]
        cc = cc - share[:, :, None] * cc[rows, best][:, None]
        line, corner = cc_v[rows, best], own_v[rows, best]
        cc_v = cc_v - share[:, :, None] * line[:, None] - line[:, :, None] * share[:, None]
        cc_v = cc_v + corner[:, None, None] * share[:, :, None] * share[:, None]
    return chosen


def _regression(
    chosen: torch.Tensor, aa: torch.Tensor, ac: torch.Tensor, cc: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the weights [m, T] of a regression on the chosen columns, and its correlation with the target [m]."""
    at, used = chosen.clamp(min=0), chosen >= 0
    target = ac.gather(1, at).masked_fill(~used, 0.0)
    gram = cc.gather(1, at[:, :, None].expand(-1, -1, cc.shape[2])).gather(2, at[:, None].expand(-1, at.shape[1], -1))
    both = used[:, :, None] & used[:, None]
    gram = torch.where(both, gram, torch.eye(at.shape[1], dtype=gram.dtype))
    weights = torch.linalg.solve(gram + 1e-9 * torch.eye(at.shape[1], dtype=gram.dtype), target)
    explained = (weights * target).sum(1).clamp(min=0)
    return weights, (explained / aa.clamp(min=1e-12)).sqrt().clamp(max=1.0)
