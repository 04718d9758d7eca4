"""The labels to evaluate: what each method chooses on the choosing images alone, and how stable its choice is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from csp_index.contrast.context import ComputeContext, Derive
from csp_index.contrast.examples import quality_of
from csp_index.contrast.pool import draw_pool
from csp_index.contrast.quality import ContrastQuality
from csp_index.contrast.selection import Selection
from csp_index.evaluation.metrics.prediction_sets import prediction_sets
from csp_index.evaluation.metrics.structure import lead
from csp_index.evaluation.options import MethodChoice
from csp_index.evaluation.perturbed_copies import PERTURBATIONS, Copies, perturbed_copies, rescored
from csp_index.evaluation.split import Split, draw_split
from csp_index.labelling import scoring
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.pipeline import NeuronScores, Pipeline
from csp_index.labelling.request import KEPT, make_request
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.networks import LoadedNetwork
from csp_index.ordering import leaders_of, seeded_sample
from csp_index.records import DerivedKind, Progress
from csp_index.records.weighted_labels import LabelTerm, WeightedLabel
from csp_index.store.tables import Store
from csp_index.store.values.derived_images import is_derived
from csp_index.store.values.streams import embeddings_of_derived

_RANKED = 5  # best candidates per neuron
_HALVES = 1 << 40  # makes the draw of halves differ from that of splits with the same seed


@dataclass(frozen=True, slots=True)
class ChosenLabels:
    """One method's labels of M neurons, as indices of their best candidates among the texts.

    `predicted` [M, L] are the members of each neuron's prediction set (-1 absent), empty where nothing was resampled.
    `ranked` [M, R] is best first, and -1 throughout for a neuron without a label. `scores` [M, C] are all scores, for
    the rank of the truth; `confidence` [M] is the share of resamples in which the label stays first (NaN where nothing
    was resampled). `quality` is that of the contrast, None where the method looks at none. `sums` [M] are the labels of
    a method that weighs several texts, whose candidate of the largest weight is the first of `ranked`.
    """

    texts: tuple[str, ...]
    ranked: torch.Tensor
    scores: torch.Tensor
    confidence: torch.Tensor
    predicted: torch.Tensor
    quality: ContrastQuality | None = None
    sums: tuple[WeightedLabel | None, ...] | None = None

    @property
    def weighted(self) -> list[WeightedLabel | None]:
        """The label of each neuron, or None: the method's weighted sum of texts, or its best candidate."""
        if self.sums is not None:
            return list(self.sums)
        best = self.ranked[:, 0].tolist()
        return [WeightedLabel((LabelTerm(self.texts[column]),)) if column >= 0 else None for column in best]

    @property
    def labels(self) -> list[str | None]:
        """The label of each neuron as it is written, or None."""
        return [label.text if label else None for label in self.weighted]

    @property
    def lead(self) -> torch.Tensor:
        """The best label's lead over the second, in standard deviations of the neuron's scores, [M]."""
        return lead(self.scores).masked_fill(self.ranked[:, 0] < 0, torch.nan)

    def ranked_texts(self) -> list[list[str]]:
        """Return the best candidates of each neuron, best first."""
        return [[self.texts[column] for column in row if column >= 0] for row in self.ranked.tolist()]

    @property
    def set_size(self) -> torch.Tensor:
        """The number of labels in each neuron's prediction set, [M]; NaN where nothing was resampled."""
        size = (self.predicted >= 0).sum(1).float()
        return size.masked_fill(size == 0, torch.nan)

    def predicted_texts(self) -> list[list[str]]:
        """Return the labels of each neuron's prediction set, those of higher score first."""
        return [[self.texts[column] for column in row if column >= 0] for row in self.predicted.tolist()]

    def kept_by(self, scores: torch.Tensor, has_label: torch.Tensor) -> torch.Tensor:
        """Return 1 for neurons that keep their label under other scores [M, C], else 0; NaN for one without label.

        A neuron that gets no label under these scores (`has_label` [M] is False) does not keep its own.
        """
        same = ((leaders_of(scores, 1)[:, 0] == self.ranked[:, 0]) & has_label).float()
        return same.masked_fill(self.ranked[:, 0] < 0, torch.nan)


@dataclass(frozen=True, slots=True)
class Chooser:
    """Chooses labels of selected neurons among candidate texts, on the images of the selection's pool."""

    store: Store
    selection: Selection
    candidates: CandidateTexts
    device: str
    defaults: Mapping[str, Any]  # options that a method does not name itself
    derive: Mapping[DerivedKind, Derive] = field(default_factory=dict)  # makes contrastive images, under the write lock

    def on(self, mask: torch.Tensor) -> Chooser:
        """Return a chooser that sees only the images of `mask` [N]."""
        pool = draw_pool(self.store, self.selection.target, self.selection.neurons, mask)
        return replace(self, selection=replace(self.selection, pool=pool))

    def score(self, choice: MethodChoice) -> NeuronScores:
        """Return a method's scores of all candidates."""
        request = make_request(choice.method, self.selection.source, _RANKED, {**self.defaults, **choice.options})
        made = any(kind in self.derive for kind in request.examples.kinds)
        pipeline = Pipeline(self.store, ComputeContext(self.device, keep=made, derive=self.derive))
        return pipeline.scores(self.selection, request, self.candidates)

    def choose(self, choice: MethodChoice) -> ChosenLabels:
        """Return the labels that a method chooses."""
        neuron_scores = self.score(choice)
        has_label = label_mask(neuron_scores)
        leaders = neuron_scores.leaders(KEPT)
        resampled = neuron_scores.confidence(leaders)
        share = torch.full(leaders.shape, torch.nan) if resampled is None else resampled.share.clamp(0, 1)
        predicted = leaders.masked_fill(~prediction_sets(share) | ~has_label[:, None], -1)
        ranked = _terms_first(neuron_scores, neuron_scores.leaders(_RANKED)).masked_fill(~has_label[:, None], -1)
        quality = quality_of(neuron_scores.examples) if scoring.method(choice.method).info.needs_contrast else None
        scores, sums = neuron_scores.scored.scores, neuron_scores.sums
        return ChosenLabels(self.candidates.texts, ranked, scores, share[:, 0], predicted, quality, sums)


def _terms_first(neuron_scores: NeuronScores, ranked: torch.Tensor) -> torch.Tensor:
    """Return the best candidates [M, R], those of a weighted sum before all others, the largest weight first."""
    explanation = neuron_scores.evidence.explanation
    if explanation is None or explanation.terms is None:
        return ranked
    terms, result = explanation.terms, ranked.clone()
    order = terms.weights.masked_fill(terms.places < 0, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    for row, places in enumerate(terms.places.gather(1, order).tolist()):
        own = [place for place in places if place >= 0]
        rest = [place for place in ranked[row].tolist() if place not in own]
        result[row] = torch.tensor([*own, *rest][: ranked.shape[1]])
    return result


def others(chooser: Chooser, split: Split, rounds: int, progress: Progress) -> list[tuple[str, Chooser]]:
    """Return choosers that see other images, each with the metric that it serves: two per round.

    `stable-resample` sees a random half of the choosing images, `stable-seed` the choosing images of another split.
    """
    choosers = []
    used = split.choosing | split.judging
    held_out = float(split.judging.sum()) / float(used.sum())
    for number in range(rounds):
        progress(number, rounds, "other sets of images")
        seed = split.seed + 1 + number
        choosers.append(("stable-resample", chooser.on(_half(split.choosing, seed))))
        choosers.append(
            ("stable-seed", chooser.on(used & draw_split(len(used), held_out=held_out, seed=seed).choosing))
        )
    return choosers


def relabeled(
    choosers: Sequence[tuple[str, Chooser]], choice: MethodChoice, method_labels: ChosenLabels, progress: Progress
) -> dict[str, torch.Tensor]:
    """Return metric -> share of its choosers under which each neuron keeps its label, [M]."""
    stays: dict[str, list[torch.Tensor]] = {}
    for done, (name, chooser) in enumerate(choosers):
        progress(done, len(choosers), "relabelings")
        neuron_scores = chooser.score(choice)
        stays.setdefault(name, []).append(method_labels.kept_by(neuron_scores.scored.scores, label_mask(neuron_scores)))
    return {name: torch.stack(turns).mean(0) for name, turns in stays.items()}


def perturbed(
    chooser: Chooser,
    choice: MethodChoice,
    method_labels: ChosenLabels,
    encoder: LoadedEncoder,
    network: LoadedNetwork,
    progress: Progress,
) -> dict[str, torch.Tensor]:
    """Return metric -> whether each neuron keeps its label [M] when all example images are perturbed copies.

    There is one metric per perturbation, `stable-noise` and so on; `chooser` sees the choosing images. Edited and
    generated contrastive images stay as they are.
    """
    neuron_scores = chooser.score(choice)
    examples = torch.cat([neuron_scores.examples.activating.flatten(), neuron_scores.examples.contrastive.flatten()])
    ids = examples[examples >= 0].unique()
    if not len(ids):
        return {}
    is_made = is_derived(ids)
    made_vectors = embeddings_of_derived(chooser.store, chooser.selection.source, ids[is_made].numpy())
    columns = torch.from_numpy(chooser.selection.neurons)
    layer = chooser.selection.target.key.layer
    stays = {}
    for kind in PERTURBATIONS:
        copies = perturbed_copies(
            chooser.store, ids[~is_made], kind, encoder, network, lambda values: values[layer][:, columns], progress
        )
        silent = torch.zeros(len(made_vectors), copies.activations.shape[1])
        copies = Copies(ids, torch.cat([copies.embeddings, made_vectors]), torch.cat([copies.activations, silent]))
        scores, has_label = rescored(neuron_scores, copies)
        stays[f"stable-{kind}"] = method_labels.kept_by(scores, has_label)
    return stays


def label_mask(neuron_scores: NeuronScores) -> torch.Tensor:
    """Return which neurons get a label, [M] bool."""
    return torch.from_numpy(neuron_scores.states == "labelled")


def _half(mask: torch.Tensor, seed: int) -> torch.Tensor:
    ids = mask.nonzero()[:, 0]
    part = torch.zeros_like(mask)
    part[ids[seeded_sample(ids, max(1, len(ids) // 2), _HALVES + seed)]] = True
    return part
