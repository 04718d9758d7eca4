"""The evidence every scoring method sees: example sets as places in a table of embeddings, and candidate labels.

Knows nothing about storage or models. Absent examples are -1, stand last, and never touch a sum.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from csp_index.labelling.linear.explanation import Explanation
from csp_index.labelling.response.dataset_sums import log_totals
from csp_index.labelling.response.views import Response, Silent
from csp_index.tensors.library import functional, torch


@dataclass(frozen=True, slots=True)
class GroupedShares:
    """Mean shares over the contrastive images of each activating image: `means` [G, C], and where each belongs.

    `rows` [M, K] index the means of every activating image's partners (-1 absent), `counts` [M, K] say how many it has.
    """

    means: Silent
    rows: torch.Tensor
    counts: torch.Tensor


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a method sees of M neurons and C candidate labels.

    `activating` [M, K] (highest activation first) and `contrastive` [M, K, m] index rows of `vectors`; -1 is absent.
    `label_share` is what `ScoringMethod.background` needs: mean over the dataset of softmax_t(scale T(t).e(x)), [C].
    """

    vectors: torch.Tensor  # [I, D] unit image embeddings
    activating: torch.Tensor
    activations: torch.Tensor  # [M, K]
    contrastive: torch.Tensor
    texts: torch.Tensor  # [C, D]
    dataset_mean: torch.Tensor | None  # [D] mean image embedding, where the method `needs_mean`
    label_share: torch.Tensor | None = None
    empty_text: torch.Tensor | None = None  # [D] embedding of the empty template
    neurons: torch.Tensor | None = None  # [M] the neurons' numbers; by default their rows
    candidates: torch.Tensor | None = None  # [C] the candidates' numbers; by default their rows
    response: Response | None = None  # of the whole dataset, where the method `needs_response`
    explanation: Explanation | None = None  # over the whole dataset, where the method `needs_correlation`
    similarities: torch.Tensor | None = None  # [M, K, m] s = e(p).e(n) of every pair, where already known
    partners: int | None = None  # contrastive images an activating image was to have; by default m
    images: torch.Tensor | None = None  # [I] the ids of the images behind `vectors`
    totals: torch.Tensor | None = None  # [I] log sum_t exp(scale T(t).e(x)) of these images, where already known
    grouped: GroupedShares | None = None  # in place of `contrastive`, for methods whose scores see their mean share

    @property
    def weights(self) -> torch.Tensor:
        """The activation weights [M, K]; each row sums to 1, or to 0 where there is no activating image."""
        positive = self.activations.clamp(min=0).masked_fill(self.activating < 0, 0.0)
        return positive / positive.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

    @property
    def even_weights(self) -> torch.Tensor:
        """The same weight for every activating image [M, K]."""
        return even(self.activating >= 0)

    @property
    def asked(self) -> int:
        """How many contrastive images make an activating image's set complete."""
        return self.contrastive.shape[2] if self.partners is None else self.partners

    @property
    def partner_counts(self) -> torch.Tensor:
        """How many contrastive images each activating image has, [M, K]."""
        return (self.contrastive >= 0).sum(2) if self.grouped is None else self.grouped.counts

    def log_totals(self, scale: float) -> torch.Tensor:
        """Return log sum_t exp(scale T(t).e(x)) of the images behind `vectors`, [I]."""
        return log_totals(self.vectors, self.texts, scale) if self.totals is None else self.totals

    def of_neurons(self, pick: slice) -> Evidence:
        """Return the evidence of some neurons, over the same images."""
        return replace(
            self,
            activating=self.activating[pick],
            activations=self.activations[pick],
            contrastive=self.contrastive[pick],
            similarities=None if self.similarities is None else self.similarities[pick],
            response=None if self.response is None else self.response.of_neurons(pick),
            neurons=self.neuron_numbers[pick],
        )

    def of_candidates(self, selected: torch.Tensor) -> Evidence:
        """Return the evidence with the candidates at these places [S], ascending, alone."""
        share = self.label_share
        return replace(
            self,
            texts=self.texts[selected],
            candidates=self.candidate_numbers[selected],
            label_share=None if share is None else share[selected],
            response=None if self.response is None else self.response.of_candidates(selected),
        )

    @property
    def neuron_numbers(self) -> torch.Tensor:
        """The neurons' numbers [M]."""
        return torch.arange(len(self.activating)) if self.neurons is None else self.neurons

    @property
    def candidate_numbers(self) -> torch.Tensor:
        """The candidates' numbers [C]."""
        return torch.arange(len(self.texts)) if self.candidates is None else self.candidates


def bags(rows: torch.Tensor, places: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return sum_i weights[k, i] rows[places[k, i]] for every k, without gathering the rows."""
    return functional.embedding_bag(
        places.clamp(min=0), rows, per_sample_weights=weights.masked_fill(places < 0, 0.0), mode="sum"
    )


def even(present: torch.Tensor) -> torch.Tensor:
    """Return equal weights over what is present along the last axis; zeros where nothing is."""
    return present.float() / present.sum(-1, keepdim=True).clamp(min=1)


def pair_products(evidence: Evidence) -> torch.Tensor:
    """Return s = e(p).e(n) of every pair, [M, K, m]; 0 where there is none."""
    left = evidence.activating[..., None].expand(evidence.contrastive.shape)
    present = (evidence.contrastive >= 0) & (left >= 0)
    if evidence.similarities is not None:
        return torch.where(present, evidence.similarities, 0.0)
    result = torch.zeros(evidence.contrastive.shape)
    pairs = zip(left[present].split(16384), evidence.contrastive[present].split(16384), strict=True)
    products = [(evidence.vectors[a] * evidence.vectors[b]).sum(1) for a, b in pairs]
    if products:
        result[present] = torch.cat(products)
    return result
