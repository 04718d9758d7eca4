"""Label scores: pure tensor functions from example sets and text embeddings to scores [M, C]; higher is better.

Knows nothing about storage or models. Every method is one function and one row of METHODS. Symbols: M neurons, K
activating images each, m contrastive images for each of those, C candidate labels, D embedding width; e(x) is a unit
image embedding, T(t) a text embedding, w_i = max(a_i, 0) / sum_j max(a_j, 0) the weight of an activating image
(negative activations of a layer without ReLU weigh nothing). Formulas: arXiv 2604.22477 (CSP), 2501.05398
(SemanticLens), 2204.10965 (CLIP-Dissect).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch.nn.functional import embedding_bag, log_softmax, normalize

from csp_index.errors import LabelError
from csp_index.records import ScoringOptions

_BLOCK_BYTES = 256 * 2**20
_DISSECT_SCALE, _DISSECT_TOP, _DISSECT_FIRST, _DISSECT_LAST, _DISSECT_FLOOR = 10.0, 100, 0.998, 0.97, 1e-7
_MEAN_SCALE, _MEAN_FLOOR = 0.1, 1e-6


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a method sees: the example sets as places in `vectors`, and the candidate labels.

    `activating` [M, K] and `contrastive` [M, K, m] index rows of `vectors`; -1 is absent and never touches a score.
    `label_share` is what `Method.background` asked for: mean over the dataset of softmax_t(scale T(t).e(x)), [C].
    """

    vectors: torch.Tensor  # [I, D] unit image embeddings
    activating: torch.Tensor
    activations: torch.Tensor  # [M, K]
    contrastive: torch.Tensor
    texts: torch.Tensor  # [C, D]
    dataset_mean: torch.Tensor | None  # [D] mean image embedding, where the method `needs_mean`
    label_share: torch.Tensor | None = None
    empty_text: torch.Tensor | None = None  # [D] embedding of the empty template

    @property
    def weights(self) -> torch.Tensor:
        """The activation weights [M, K]; each row sums to 1, or to 0 where there is no activating image."""
        positive = self.activations.clamp(min=0).masked_fill(self.activating < 0, 0.0)
        return positive / positive.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)

    @property
    def even_weights(self) -> torch.Tensor:
        """The same weight for every activating image [M, K]."""
        return _even(self.activating >= 0)


Score = Callable[[Evidence, ScoringOptions], torch.Tensor]


@dataclass(frozen=True, slots=True)
class MethodRow:
    """A scoring method: its function and what it needs. It has either a concept `vector` [M, D] or a `score` [M, C]."""

    summary: str
    vector: Score | None = None  # the score is then vector.T(t), with the texts that `directions` gives
    score: Score | None = None
    directions: Score = field(default=lambda evidence, options: evidence.texts)  # [C, D]
    needs_contrast: bool = False
    needs_mean: bool = False  # of the dataset's embeddings
    examples: int = 30  # activating images by default
    neighbours: int = 1  # contrastive images an activating image by default
    background: Callable[[ScoringOptions], float | None] = field(default=lambda options: None)


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores [M, C], higher is better, and the concept vectors [M, D] behind them where the method has such."""

    scores: torch.Tensor
    vectors: torch.Tensor | None = None


def score(name: str, evidence: Evidence, options: ScoringOptions) -> Scored:
    """Score all candidates for all neurons by the named method."""
    row = method(name)
    if row.vector is not None:
        vectors = row.vector(evidence, options)
        return Scored(vectors @ row.directions(evidence, options).T, vectors)
    if row.score is None:
        raise LabelError(f"method {name!r} is registered without a function: give it a vector or a score")
    return Scored(row.score(evidence, options))


def csp_vectors(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return v = normalise(sum_i w_i (e(p_i) - gamma s_i e(n_i))), s_i = e(p_i).e(n_i), [M, D] (arXiv 2604.22477).

    An activating image without a contrastive partner keeps its whole embedding. With several partners each takes its
    share.
    """
    total = _bags(evidence.vectors, evidence.activating, evidence.weights)
    if options.gamma == 0.0:
        return normalize(total, dim=1)
    present = evidence.contrastive >= 0
    share = evidence.weights[..., None] * _even(present)
    similarity = _pair_products(evidence)
    shares = (share * similarity).flatten(1)
    removed = _bags(evidence.vectors, evidence.contrastive.flatten(1), shares)
    return normalize(total - options.gamma * removed, dim=1)


def csp_difference(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return mean_i T(t).e(p_i) - mean_i T(t).e(n_i), in [-2, 2]: the two-mean form of the contrast."""
    contrastive = evidence.contrastive.flatten(1)
    toward = _bags(evidence.vectors, evidence.activating, evidence.even_weights)
    away = _bags(evidence.vectors, contrastive, _even(contrastive >= 0))
    return (toward - away) @ evidence.texts.T


def semanticlens_vectors(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return normalise(mean_i e(p_i)), [M, D] (arXiv 2501.05398)."""
    return normalize(_bags(evidence.vectors, evidence.activating, evidence.even_weights), dim=1)


def texts_without_empty(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return the texts [C, D], with `subtract_empty` less the empty template's embedding, as SemanticLens offers."""
    if not options.subtract_empty:
        return evidence.texts
    if evidence.empty_text is None:
        raise LabelError("subtracting the empty template needs an encoder: text arrays made elsewhere do not hold it")
    return normalize(evidence.texts - evidence.empty_text, dim=1)


def mean_centred_vectors(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return normalise(sum_i w_i e(p_i) - mean over the dataset of e(x)), [M, D]: the cheap baseline."""
    if evidence.dataset_mean is None:
        raise LabelError("this method needs the mean embedding of the dataset, and none was computed")
    return normalize(_bags(evidence.vectors, evidence.activating, evidence.weights) - evidence.dataset_mean, dim=1)


def clip_dissect(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return CLIP-Dissect's softWPMI as published (arXiv 2204.10965), a log ratio without fixed range.

    p = softmax over labels of 10 P; the inclusion probability falls linearly from 0.998 to 0.97 over the top 100
    images; L = sum_i log(1 + p_in,i (p_i,t - 1)), with 1e-7 inside the logarithm. The prior is the log mean over the
    neurons of the same run, so a label depends on which neurons share the run; `prior="images"` takes the label's mean
    share over the dataset.
    """
    rank = torch.arange(evidence.activating.shape[1])
    inclusion = _DISSECT_FIRST - rank / _DISSECT_TOP * (_DISSECT_FIRST - _DISSECT_LAST)
    likelihood = torch.empty(len(evidence.activating), len(evidence.texts))
    for pick in _neuron_blocks(evidence, evidence.activating.shape[1]):
        places = evidence.activating[pick]
        shares = (_DISSECT_SCALE * (evidence.vectors[places.clamp(min=0)] @ evidence.texts.T)).softmax(-1)
        terms = torch.log(1 + inclusion[:, None] * (shares - 1) + _DISSECT_FLOOR)
        likelihood[pick] = terms.masked_fill((places < 0)[..., None], 0.0).sum(1)
    live = (evidence.activating >= 0).any(1)
    if options.prior == "images":
        share = _share(evidence).float()
        present = (evidence.activating >= 0).float()
        prior = present @ torch.log(1 + inclusion[:, None] * (share - 1) + _DISSECT_FLOOR)
    else:
        prior = likelihood[live].logsumexp(0, keepdim=True) - torch.log(live.sum().clamp(min=1))
    return likelihood - options.prior_weight * prior


def clip_dissect_mean(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return log(sum_i w_i softmax(P/10) + 1e-6) - lambda log mean_x softmax(P/10): the variant of CSP's code.

    Dividing by ten makes the softmax nearly flat; it is a weaker method than CLIP-Dissect and goes by its own name
    here. The labels then differ in the seventh digit, so this one is computed in float64.
    """
    shares = _weighted_rows(
        evidence,
        evidence.activating,
        evidence.weights.double(),
        lambda cosines: (_MEAN_SCALE * cosines.double()).softmax(1),
    )
    return (torch.log(shares + _MEAN_FLOOR) - options.prior_weight * _share(evidence).log()).float()


def pmi(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return sum_i w_i L(t, p_i) - log mean_x exp L(t, x), L = log softmax over labels at the encoder's own scale.

    Pointwise mutual information of label and neuron: softWPMI at the logit scale, the strongest rival without contrast.
    """
    tiny = torch.finfo(torch.float32).tiny
    return _log_shares(evidence, options) - _share(evidence).clamp(min=tiny).log().float()


def contrastive_pmi(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return pmi with `alpha` of its prior taken over the contrastive images C instead of the dataset:

    sum_i w_i L(t, p_i) - alpha log mean_{n in C} exp L(t, n) - (1 - alpha) log mean_x exp L(t, x); C pools the m
    nearest silent images of every activating one (a neuron without any keeps the prior over the dataset).
    """
    scale = _scale(options)
    pooled = evidence.contrastive.flatten(1)
    present = pooled >= 0
    near = _weighted_rows(evidence, pooled, _even(present), lambda cosines: (scale * cosines).softmax(1))
    dataset = _share(evidence).float()
    near = torch.where(present.any(1, keepdim=True), near, dataset)
    tiny = torch.finfo(torch.float32).tiny
    prior = options.alpha * near.clamp(min=tiny).log() + (1 - options.alpha) * dataset.clamp(min=tiny).log()
    return _log_shares(evidence, options) - prior


def label_share(vectors: torch.Tensor, texts: torch.Tensor, scale: float) -> torch.Tensor:
    """Return the sum over images of softmax_t(scale T(t).e(x)) for image embeddings [n, D], as float64 [C]."""
    total = torch.zeros(len(texts), dtype=torch.float64)
    exact = (
        torch.float64 if scale < 1 else torch.float32
    )  # a nearly flat softmax differs in digits float32 does not have
    for part in vectors.split(max(1, _BLOCK_BYTES // (4 * len(texts)))):
        total += (scale * (part @ texts.T).to(exact)).softmax(1).sum(0, dtype=torch.float64)
    return total


def _scale(options: ScoringOptions) -> float:
    if options.logit_scale is None:
        raise LabelError(
            "this method needs the encoder's logit scale, and none is known: give --logit-scale, for CLIP often 100"
        )
    return options.logit_scale


def _share(evidence: Evidence) -> torch.Tensor:
    """Return the labels' mean share over the dataset, float64 [C]."""
    if evidence.label_share is None:
        raise LabelError("this method needs the labels' mean share over the dataset, and none was computed")
    return evidence.label_share


def _log_shares(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    scale = _scale(options)
    return _weighted_rows(
        evidence, evidence.activating, evidence.weights, lambda cosines: log_softmax(scale * cosines, 1)
    )


def _weighted_rows(
    evidence: Evidence, places: torch.Tensor, weights: torch.Tensor, rows: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Return sum_i weights[k, i] rows(cosines of image i with all labels), [M, C], a block of neurons at a time."""
    result = torch.empty(len(places), len(evidence.texts), dtype=weights.dtype)
    for pick in _neuron_blocks(evidence, places.shape[1]):
        used, inverse = places[pick].clamp(min=0).unique(return_inverse=True)
        result[pick] = _bags(rows(evidence.vectors[used] @ evidence.texts.T), inverse, weights[pick])
    return result


def _neuron_blocks(evidence: Evidence, images: int) -> Iterator[slice]:
    size = max(1, _BLOCK_BYTES // (4 * max(1, images) * len(evidence.texts)))
    for start in range(0, len(evidence.activating), size):
        yield slice(start, start + size)


def _bags(rows: torch.Tensor, places: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return sum_i weights[k, i] rows[places[k, i]] for every k, without gathering the rows."""
    return embedding_bag(places.clamp(min=0), rows, per_sample_weights=weights.masked_fill(places < 0, 0.0), mode="sum")


def _even(present: torch.Tensor) -> torch.Tensor:
    return present.float() / present.sum(-1, keepdim=True).clamp(min=1)


def _pair_products(evidence: Evidence) -> torch.Tensor:
    """Return s = e(p).e(n) of every pair, [M, K, m]; 0 where there is none."""
    left = evidence.activating[..., None].expand(evidence.contrastive.shape)
    present = (evidence.contrastive >= 0) & (left >= 0)
    result = torch.zeros(evidence.contrastive.shape)
    pairs = zip(left[present].split(16384), evidence.contrastive[present].split(16384), strict=True)
    products = [(evidence.vectors[a] * evidence.vectors[b]).sum(1) for a, b in pairs]
    if products:
        result[present] = torch.cat(products)
    return result


METHODS: dict[str, MethodRow] = {
    "csp": MethodRow("activating images projected off their silent neighbours", csp_vectors, needs_contrast=True),
    "csp-difference": MethodRow(
        "mean of activating minus mean of contrastive images", score=csp_difference, needs_contrast=True
    ),
    "semanticlens": MethodRow("mean of activating images", semanticlens_vectors, directions=texts_without_empty),
    "mean-centred": MethodRow("weighted mean minus the dataset's mean", mean_centred_vectors, needs_mean=True),
    "clip-dissect": MethodRow(
        "softWPMI as published",
        score=clip_dissect,
        examples=_DISSECT_TOP,
        background=lambda options: _DISSECT_SCALE if options.prior == "images" else None,
    ),
    "clip-dissect-mean": MethodRow(
        "softmax(P/10) variant", score=clip_dissect_mean, background=lambda options: _MEAN_SCALE
    ),
    "pmi": MethodRow("softWPMI at the encoder's own logit scale", score=pmi, background=_scale),
    "contrastive-pmi": MethodRow(
        "pmi, half its prior over silent neighbours",
        score=contrastive_pmi,
        needs_contrast=True,
        neighbours=5,
        background=_scale,
    ),
}


def method(name: str) -> MethodRow:
    """Return a scoring method by name."""
    if name not in METHODS:
        raise LabelError(f"method {name!r} is unknown (has: {', '.join(METHODS)})")
    return METHODS[name]
