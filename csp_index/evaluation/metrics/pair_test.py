"""The pair test: images that differ in one thing, which must move the neurons named after it, and no others.

Correlation over a data set cannot tell a neuron of "red" from one of what is mostly red there. A pair of images that
differ in nothing but the color can. Pure tensors; M neurons, P pairs, T texts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class PairTest:
    """How neurons answer to the pairs that differ in their label, [M] each; NaN without label or without such a pair.

    `right` in [0, 1] is the share of those pairs in which the neuron rises; `gain` in [-1, 1] is `right` less the share
    of the neurons called otherwise that rise in the same pairs, on average over the pairs.
    """

    right: torch.Tensor
    gain: torch.Tensor


def pair_test(rises: torch.Tensor, differs: torch.Tensor, labels: torch.Tensor) -> PairTest:
    """Return how neurons answer to pairs of images of which the first shows a text and the second does not.

    `rises` [M, P] says which neurons activate strictly more on the first image of which pair, so that a silent neuron
    never rises; `differs` [T, P] which texts the first image of a pair shows and the second does not; `labels` [M] is
    each neuron's row of `differs`, -2 for a label that no pair differs in, -1 for no label. A neuron counts among those
    called otherwise in a pair if it has a label in which the pair does not differ; a pair without any is left out of
    the gain.
    """
    labeled = labels != -1
    named = (labels >= 0).nonzero()[:, 0]
    own = torch.zeros(len(labels), rises.shape[1], dtype=torch.bool)
    own[named] = differs[labels[named]]
    otherwise = labeled[:, None] & ~own
    count = otherwise.sum(0)
    share = (rises & otherwise).sum(0).double() / count.clamp(min=1)
    pairs = own.sum(1).double()
    right = (rises & own).sum(1).double() / pairs
    compared = (own & (count > 0)).double()
    gain = ((rises.double() - share) * compared).sum(1) / compared.sum(1)
    return PairTest(right, gain)
