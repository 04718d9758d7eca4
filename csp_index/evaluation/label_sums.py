"""Labels as weighted sums of texts, for the metrics that need a number per image: pure tensors.

A label is one text or several texts with weights (`records.WeightedLabel`). What it says of an image is

- of one text, whatever its weight: the cosine of image and text, and the probability that the image shows it;
- of a sum: *predicted* = sum_j w_j c_j(x), c_j the presence of text j (`labelling.linear.presence`; the bias changes no
  correlation), and *share* = sum_j w_j P_j(x) / sum of the positive w_j, cut to [0, 1], P_j the probability that the
  image shows text j: the part of the label that the image shows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from csp_index.records.weighted_labels import WeightedLabel

OfTexts = Callable[[torch.Tensor], torch.Tensor]
"""From rows [S] of texts to what each says of N images, [S, N]."""


@dataclass(frozen=True, slots=True)
class LabelSums:
    """The labels of M neurons as sums of P texts at most, the largest weight first; no label is all padding.

    `rows` [M, P] are rows of T distinct texts, -1 pads; `weights` [M, P], 0 pads; `is_sum` [M]: the weights matter.
    """

    rows: torch.Tensor
    weights: torch.Tensor
    is_sum: torch.Tensor

    @classmethod
    def of(cls, labels: Sequence[WeightedLabel | None], texts: Sequence[str]) -> LabelSums:
        """Return the sums for labels [M] whose texts are all among `texts` [T]."""
        row_of = {text: row for row, text in enumerate(texts)}
        width = max((len(label.terms) for label in labels if label is not None), default=1)
        rows = torch.full((len(labels), width), -1, dtype=torch.int64)
        weights = torch.zeros(len(labels), width)
        for neuron, label in enumerate(labels):
            if label is not None:
                count = len(label.terms)
                rows[neuron, :count] = torch.tensor([row_of[term.text] for term in label.terms])
                weights[neuron, :count] = torch.tensor([term.weight for term in label.terms])
        is_sum = [label is not None and label.is_sum for label in labels]
        return cls(rows, weights, torch.tensor(is_sum, dtype=torch.bool))

    @property
    def heads(self) -> torch.Tensor:
        """The row of each label's text, or of the text with the largest weight, [M]; -1 for no label."""
        return self.rows[:, 0]

    def of_neurons(self, pick: slice | torch.Tensor) -> LabelSums:
        """Return the labels of some neurons."""
        return LabelSums(self.rows[pick], self.weights[pick], self.is_sum[pick])

    def directions(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return each label's unit vector [M, D]: its text's [T, D], or that of the weighted sum of its texts'."""
        result = vectors[self.heads.clamp(min=0)]
        own = self.of_neurons(self.is_sum)
        sums = torch.einsum("mp,mpd->md", own.weights, vectors[own.rows.clamp(min=0)])
        result[self.is_sum] = normalize(sums, dim=1)
        return result

    def predicted(self, presence: OfTexts) -> torch.Tensor:
        """Return the weighted sum of the texts' presence in N images, [M, N]; 0 for no label."""
        total = self.weights[:, :1] * presence(self.rows[:, 0].clamp(min=0))
        for place in range(1, self.rows.shape[1]):
            used = (self.rows[:, place] >= 0).nonzero()[:, 0]
            total[used] += self.weights[used, place, None] * presence(self.rows[used, place])
        return total

    def share(self, probability: OfTexts) -> torch.Tensor:
        """Return which part of each label N images show, in [0, 1], [M, N]; 0 for one without a positive weight."""
        positive = self.weights.clamp(min=0).sum(1, keepdim=True)
        least = torch.finfo(torch.float32).tiny
        share = (self.predicted(probability) / positive.clamp(min=least)).clamp(0, 1)
        return share.masked_fill(positive <= 0, 0.0)

    def known(self, known: torch.Tensor) -> torch.Tensor:
        """Return whether all texts of each label are known [M], given which of the T texts are."""
        return (known[self.rows.clamp(min=0)] | (self.rows < 0)).all(1) & (self.heads >= 0)
