"""Label scores: pure tensor functions from example sets and text embeddings to scores [M, C]; higher is better.

Knows nothing about storage or models. Every method is one function and one row of FORMULAS, or comes from another
package by an entry point; `labelling.methods` says what each is and needs. Symbols: M neurons, K activating images
each, m contrastive images for each of those, C candidate labels, D embedding width; e(x) is a unit image embedding,
T(t) a text embedding, w_i = max(a_i, 0) / sum_j max(a_j, 0) the weight of an activating image (negative activations of
a layer without ReLU weigh nothing). Formulas: arXiv 2604.22477 (CSP), 2501.05398 (SemanticLens), 2204.10965
(CLIP-Dissect, in clip_dissect.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TypeAlias

from csp_index.errors import CspIndexError, LabelError, PluginError, one_line
from csp_index.labelling import clip_dissect
from csp_index.labelling.clip_dissect import dataset_share
from csp_index.labelling.evidence import Evidence, bags, even, pair_products
from csp_index.labelling.methods import METHODS, MethodInfo, check_method
from csp_index.labelling.response.silent_shares import filled_parts, near_share, silent_shares, with_dataset
from csp_index.labelling.response.views import Firing
from csp_index.models.plugins import METHOD_GROUP, load_methods
from csp_index.ordering import mix
from csp_index.records import ScoringOptions
from csp_index.tensors.library import functional, torch

_CUT = 1e-9  # a factor of a product is at least this, so that the others still tell candidates apart
_CONTRAST_WIDTH = 2.0  # nats; both widths of `firing_contrast` are from its search (scripts/method_search)
_APART_WIDTH = 0.1
_ROWS = 128  # neurons whose scores are computed at once: what lies between takes several times their memory
_FLAT = 1e-5  # of a label's mean share: a variance of its root below this is rounding

Score: TypeAlias = "Callable[[Evidence, ScoringOptions], torch.Tensor]"
Scale = Callable[[ScoringOptions], float | None]


def _no_scale(options: ScoringOptions) -> float | None:
    return None


@dataclass(frozen=True, slots=True)
class Terms:
    """A concept vector before it is normalized: sum_j weights[k, j] e(places[k, j]) + constant, -1 is absent."""

    places: torch.Tensor  # [M, J]
    weights: torch.Tensor  # [M, J]
    constant: torch.Tensor | None = None  # [D]


@dataclass(frozen=True, slots=True)
class ScoringMethod:
    """The formula of a labeling method: a concept `vector` [M, D] or a `score` [M, C], and their properties.

    `alone`: a label's score does not depend on the other labels, or only through one softmax over them at the scale
    that `softmax` returns; the confidence in a label then costs little (a concept vector is always alone).
    `background` returns the scale at which the labels' share of the whole dataset is needed, None if it is not.
    `pooled`: of the contrastive images a score sees only the labels' mean shares (`silent_shares`), and of a softmax
    only its denominators (`Evidence.log_totals`). `bound` returns what the score is at most where the evidence has
    lower bounds in place of these shares, and agreements of 1 (`labelling.response.screening`).
    """

    info: MethodInfo
    vector: Score | None = None  # the score is then vector.T(t), with the texts that `directions` returns
    terms: Callable[[Evidence, ScoringOptions], Terms] | None = None  # the summands of the vector, if it is a sum
    score: Score | None = None
    directions: Score = field(default=lambda evidence, options: evidence.texts)  # [C, D]
    background: Scale = _no_scale
    alone: bool = False
    softmax: Scale = _no_scale
    pooled: bool = False
    bound: Score | None = None

    def __post_init__(self) -> None:
        if self.terms is not None and self.vector is None:
            object.__setattr__(self, "vector", partial(vectors_of_terms, self.terms))


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores [M, C], higher is better, and the concept vectors [M, D] behind them if the method has any."""

    scores: torch.Tensor
    vectors: torch.Tensor | None = None


def score(name: str, evidence: Evidence, options: ScoringOptions) -> Scored:
    """Score all candidates for all neurons by the named method.

    Errors: LabelError if a method of another package fails or returns anything but finite scores.
    """
    row = method(name)
    if name in FORMULAS:
        return _scored(name, row, evidence, options)
    try:
        result = _scored(name, row, evidence, options)
    except CspIndexError:
        raise
    except Exception as exc:  # it is somebody else's code
        raise LabelError(f"the method {name!r} failed: {type(exc).__name__}: {one_line(exc)}") from exc
    shape = (len(evidence.activating), len(evidence.texts))
    if not isinstance(result.scores, torch.Tensor) or result.scores.shape != shape:
        got = list(getattr(result.scores, "shape", ())) or type(result.scores).__name__
        raise LabelError(f"the method {name!r} returned {got}: expected scores [neurons, labels], {list(shape)}")
    live = (evidence.activating >= 0).any(1)
    if not bool(torch.isfinite(result.scores[live]).all()):
        raise LabelError(f"the method {name!r} returned scores that are not finite: expected a number for every label")
    return result


def by_vectors(name: str) -> bool:
    """Return whether a method of this package scores labels by products of single vectors, of a neuron or an image."""
    row = FORMULAS.get(name)
    return row is not None and (row.vector is not None or row.score in (csp_difference, random_label))


def _scored(name: str, row: ScoringMethod, evidence: Evidence, options: ScoringOptions) -> Scored:
    if row.vector is not None:
        vectors = row.vector(evidence, options)
        return Scored(vectors @ row.directions(evidence, options).T, vectors)
    if row.score is None:
        raise LabelError(f"method {name!r} is registered without a function: give it a vector or a score")
    return Scored(row.score(evidence, options))


def vectors_of_terms(
    terms: Callable[[Evidence, ScoringOptions], Terms], evidence: Evidence, options: ScoringOptions
) -> torch.Tensor:
    """Return the concept vectors [M, D], at unit length: the sums of a method's terms."""
    summands = terms(evidence, options)
    total = bags(evidence.vectors, summands.places, summands.weights)
    return functional.normalize(total if summands.constant is None else total + summands.constant, dim=1)


def csp_terms(evidence: Evidence, options: ScoringOptions) -> Terms:
    """Return v = normalize(sum_i w_i (e(p_i) - gamma s_i e(n_i))), s_i = e(p_i).e(n_i) (arXiv 2604.22477).

    An activating image without a contrastive partner keeps its whole embedding; several partners share its weight
    equally.
    """
    if options.gamma == 0.0:
        return Terms(evidence.activating, evidence.weights)
    shares = evidence.weights[..., None] * even(evidence.contrastive >= 0) * pair_products(evidence)
    places = torch.cat([evidence.activating, evidence.contrastive.flatten(1)], 1)
    return Terms(places, torch.cat([evidence.weights, -options.gamma * shares.flatten(1)], 1))


def csp_difference(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return mean_i T(t).e(p_i) - mean_i T(t).e(n_i), in [-2, 2]: the two-mean form of the contrast."""
    contrastive = evidence.contrastive.flatten(1)
    toward = bags(evidence.vectors, evidence.activating, evidence.even_weights)
    away = bags(evidence.vectors, contrastive, even(contrastive >= 0))
    return (toward - away) @ evidence.texts.T


def semanticlens_terms(evidence: Evidence, options: ScoringOptions) -> Terms:
    """Return v = normalize(mean_i e(p_i)) (arXiv 2501.05398)."""
    return Terms(evidence.activating, evidence.even_weights)


def texts_without_empty(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return the texts [C, D]; with `subtract_empty` minus the empty template's embedding, as SemanticLens offers."""
    if not options.subtract_empty:
        return evidence.texts
    if evidence.empty_text is None:
        raise LabelError("subtracting the empty template needs an encoder: text arrays made elsewhere do not hold it")
    return functional.normalize(evidence.texts - evidence.empty_text, dim=1)


def mean_centred_terms(evidence: Evidence, options: ScoringOptions) -> Terms:
    """Return v = normalize(sum_i w_i e(p_i) - mean over the dataset of e(x)): the cheap baseline."""
    if evidence.dataset_mean is None:
        raise LabelError("this method needs the mean embedding of the dataset, and none was computed")
    return Terms(evidence.activating, evidence.weights, -evidence.dataset_mean)


def pmi(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return sum_i w_i L(t, p_i) - log mean_x exp L(t, x), L = log softmax over labels at the encoder's own scale.

    Pointwise mutual information of label and neuron: softWPMI at the logit scale, the strongest rival without contrast.
    """
    tiny = torch.finfo(torch.float32).tiny
    return _log_shares(evidence, options) - dataset_share(evidence).clamp(min=tiny).log().float()


def contrastive_pmi(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return pmi with `alpha` of its prior taken over the contrastive images C instead of the dataset:

    sum_i w_i L(t, p_i) - alpha log mean_{n in C} exp L(t, n) - (1 - alpha) log mean_x exp L(t, x); C pools the m
    nearest silent images of every activating one; missing ones count with the dataset's share.
    """
    near, dataset = near_share(evidence, _scale(options)), dataset_share(evidence).float()
    tiny = torch.finfo(torch.float32).tiny
    prior = options.alpha * near.clamp(min=tiny).log() + (1 - options.alpha) * dataset.clamp(min=tiny).log()
    return _log_shares(evidence, options) - prior


def consensus(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return odds x linear x agreement^(1/4) x precision, each factor cut at 0: witnesses that err in different ways.

    odds = sum_i w_i L(t, p_i) - log mean_{n in C} exp L(t, n), C pooling the m = 50 nearest silent images of every
    activating one: `contrastive-pmi` with alpha 1, which sees the activating images and their neighbours. The other
    three see all images (`labelling.response`): where a regression of the response points, how the response varies with
    the label's share of an image, and how well a filter for the label finds the firing images. Precision is known for
    the 24 leaders by odds x linear x sqrt(agreement); without it that product is the score.

    Chosen in two rounds among some 70 variants on development worlds, each round judged once on fresh ones
    (`scripts/method_search`; 29 neurons per world; singles, pairs and triples; bias 0 to 1; analytic, leaky and CNN
    neurons; rendered images with a small CLIP, clean and noisy, and synthetic embeddings; candidates with and without
    triples). Fresh seeds 104 to 107, mean of 168 cells / mean of the worst tenth: csp .66 / .12, pmi .75 / .22,
    contrastive-pmi .88 / .58, consensus .97 / .84 (.96 / .78 without precision). On rendered images with singles and
    pairs as candidates every cell is at .95 or above. Nine cells stay below .90: pairs and triples where all triples
    are candidates, at bias .9 and 1.
    """
    response = evidence.response
    if response is None or response.linear is None or response.agreement is None:
        raise LabelError("this method needs the neurons' response to the whole dataset, and none was computed")
    near = near_share(evidence, _scale(options))
    odds = _log_shares(evidence, options) - near.clamp(min=torch.finfo(torch.float32).tiny).log()
    product = odds.clamp(min=_CUT) * response.linear.clamp(min=_CUT)
    agreement = response.agreement.clamp(min=_CUT)
    if response.precision is None:
        return product * agreement.sqrt()
    return product * agreement**0.25 * response.precision.clamp(min=_CUT)


def firing_contrast(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return s(contrast, 2) x s(apart, .1) x precision: what explains the whole response of a neuron.

    Let F be all images on which the neuron fires (a at least half the mean of its activating images), weighted by
    activation, and S the m = 50 nearest silent images of every activating one. With P = exp L and R = sqrt(P):
    contrast = mean_F L(t) - (log mean_S P(t)) / 2 - (log mean_x P(t)) / 2, which is `contrastive-pmi` over F; apart =
    correlation of R with firing, over F and S at half the weight each: a label of a part of F is held against the rest
    of F, and a look that the silent images share against these. s(x, u) = (x + sqrt(x^2 + 4 u^2)) / 2 cuts at 0
    softly: where no label has both factors above 0, the order of their sizes stays. A label whose share is the same in
    all these images, but for rounding, is not apart. Precision (`labelling.response`) is known for the 24 leaders by
    the product of the other two; without it that product is the score.
    """
    response = evidence.response
    product = None if response is None else response.leading
    if response is not None and response.firing is not None:
        product = _contrast_and_apart(evidence, response.firing, _scale(options))
    if response is None or product is None:
        raise LabelError("this method needs the neurons' response to the whole dataset, and none was computed")
    return product if response.precision is None else product * response.precision.clamp(min=_CUT)


def firing_contrast_bound(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return what the product of `contrast` and `apart` is at most, given lower bounds s <= mean_S P and sqrt(s).

    With d = mean_F R - mean_S R and v the variance of R over F, apart is at most d / sqrt(2 v + d^2), which grows with
    d, or 0 where d is negative; that is its value where all silent images have the share s.
    """
    if evidence.response is None or evidence.response.firing is None:
        raise LabelError("this bound needs the labels' shares on the firing images, and none were computed")
    return _contrast_and_apart(evidence, evidence.response.firing, _scale(options), least=0.0)


def _contrast_and_apart(evidence: Evidence, firing: Firing, scale: float, least: float = -1.0) -> torch.Tensor:
    silent, tiny = silent_shares(evidence, scale), torch.finfo(torch.float32).tiny
    share, root = silent.share, silent.root
    if root is None:
        raise LabelError("this method needs the roots of the contrastive images' shares, and none were computed")
    filled, dataset = filled_parts(evidence), dataset_share(evidence).float()
    dataset_log = dataset.clamp(min=tiny).log()
    result = torch.empty(share.shape)
    for start in range(0, len(result), _ROWS):
        pick = slice(start, start + _ROWS)
        f_share, f_root, s_share, s_root = firing.share[pick], firing.root[pick], share[pick], root[pick]
        prior = with_dataset(s_share, filled[pick], dataset).clamp(min=tiny).log() + dataset_log
        mean = 0.5 * (f_share + s_share)
        variance = torch.maximum(mean - (0.5 * (f_root + s_root)).square(), _FLAT * mean).clamp(min=tiny)
        apart = (0.5 * (f_root - s_root) / variance.sqrt()).clamp(least, 1)
        contrast = firing.log[pick] - 0.5 * prior
        result[pick] = _softened(contrast, _CONTRAST_WIDTH) * _softened(apart, _APART_WIDTH)
    return result


def _softened(values: torch.Tensor, width: float) -> torch.Tensor:
    """Return positive numbers that grow with `values`, near these where they are far above `width`."""
    return 0.5 * (values + (values.square() + 4 * width**2).sqrt())


def explained(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return corr(a, c_t) over all images, c_t the presence of text t; for `linear` its sum comes first.

    The weights of the sum are in `evidence.explanation`.
    """
    if evidence.explanation is None:
        raise LabelError("this method needs the neurons' correlations over the whole dataset, and none were computed")
    return evidence.explanation.scores()


def random_label(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return a seeded hash of neuron, candidate and seed as a number in [0, 1): the score of a random label."""
    neuron = mix(evidence.neuron_numbers, options.seed)[:, None]
    numbers = mix(neuron ^ mix(evidence.candidate_numbers, options.seed + 1))
    return (numbers >> 39).float() / 2**24


def _scale(options: ScoringOptions) -> float:
    if options.logit_scale is None:
        raise LabelError(
            "this method needs the encoder's logit scale, and none is known: give --logit-scale, for CLIP often 100"
        )
    return options.logit_scale


def _log_shares(evidence: Evidence, options: ScoringOptions) -> torch.Tensor:
    """Return sum_i w_i L(t, p_i) [M, C]: L is linear in the embeddings but for the softmax's denominator."""
    scale, weights = _scale(options), evidence.weights
    mean = bags(evidence.vectors, evidence.activating, weights)
    totals = evidence.log_totals(scale)[evidence.activating.clamp(min=0)]
    return (mean @ evidence.texts.T).mul_(scale).sub_((weights * totals).sum(1, keepdim=True))


FORMULAS: dict[str, ScoringMethod] = {
    "csp": ScoringMethod(METHODS["csp"], terms=csp_terms),
    "csp-difference": ScoringMethod(METHODS["csp-difference"], score=csp_difference, alone=True),
    "semanticlens": ScoringMethod(METHODS["semanticlens"], terms=semanticlens_terms, directions=texts_without_empty),
    "mean-centred": ScoringMethod(METHODS["mean-centred"], terms=mean_centred_terms),
    "clip-dissect": ScoringMethod(
        METHODS["clip-dissect"],
        score=clip_dissect.clip_dissect,
        background=lambda options: clip_dissect.SOFT_SCALE if options.prior == "images" else None,
        alone=True,
        softmax=lambda options: clip_dissect.SOFT_SCALE,
    ),
    "clip-dissect-mean": ScoringMethod(
        METHODS["clip-dissect-mean"],
        score=clip_dissect.clip_dissect_mean,
        background=lambda options: clip_dissect.MEAN_SCALE,
        alone=True,
        softmax=lambda options: clip_dissect.MEAN_SCALE,
    ),
    "wpmi": ScoringMethod(
        METHODS["wpmi"],
        score=clip_dissect.wpmi,
        background=lambda options: clip_dissect.HARD_SCALE if options.prior == "images" else None,
        alone=True,
        softmax=lambda options: clip_dissect.HARD_SCALE,
    ),
    "rank-reorder": ScoringMethod(METHODS["rank-reorder"], score=clip_dissect.rank_reorder, alone=True),
    **{
        name: ScoringMethod(
            METHODS[name], score=score, background=_scale, alone=True, softmax=_scale, pooled=True, bound=bound
        )
        for name, score, bound in (
            ("pmi", pmi, None),
            ("contrastive-pmi", contrastive_pmi, None),
            ("consensus", consensus, consensus),  # each factor grows with what the bounds replace
            ("firing-contrast", firing_contrast, firing_contrast_bound),
        )
    },
    "linear": ScoringMethod(METHODS["linear"], score=explained, alone=True),
    "linear-1": ScoringMethod(METHODS["linear-1"], score=explained, alone=True),
    "random-contrast": ScoringMethod(METHODS["random-contrast"], terms=csp_terms),
    "random-label": ScoringMethod(METHODS["random-label"], score=random_label, alone=True),
}


def method(name: str) -> ScoringMethod:
    """Return the formula of a method by name, of this package or another."""
    formula = FORMULAS.get(name)
    if formula is None:
        formula = _of_other_packages().get(check_method(name))
    if formula is None:  # installed since the names were read
        raise LabelError(f"method {name!r} is not offered by an installed package any more: start again")
    return formula


@cache
def _of_other_packages() -> dict[str, ScoringMethod]:
    formulas = {}
    for name, (value, origin) in load_methods().items():
        if name in METHODS:
            raise PluginError(f"{origin} offers the method {name!r}, which csp_index has: it needs another name")
        if isinstance(value, ScoringMethod):
            formulas[name] = value
        elif callable(value):
            first = (value.__doc__ or "").strip().partition("\n")[0]
            formulas[name] = ScoringMethod(MethodInfo(first or f"from {origin}"), score=value)
        else:
            raise PluginError(
                f"{origin} offers the method {name!r} in the group {METHOD_GROUP}, but it is a "
                f"{type(value).__name__}: expected a ScoringMethod or a function of evidence and options"
            )
    return formulas
