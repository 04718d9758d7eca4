"""The labels under judgement: what each method says when it sees the choosing images alone, and how steady that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from csp_index.contrast.context import ComputeContext, Derive
from csp_index.contrast.examples import quality_of
from csp_index.contrast.quality import ContrastQuality
from csp_index.contrast.selection import Selection, draw_pool
from csp_index.evaluation.metrics.structure import lead
from csp_index.evaluation.options import MethodChoice
from csp_index.evaluation.perturbed_copies import PERTURBATIONS, Copies, perturbed_copies, rescored
from csp_index.evaluation.split import Split, draw_split
from csp_index.labelling import scoring
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.label_values import KEPT
from csp_index.labelling.pipeline import NeuronScores, Pipeline
from csp_index.labelling.request import make_request
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.networks import LoadedNetwork
from csp_index.ordering import leaders_of, mix
from csp_index.records import DerivedKind, Progress
from csp_index.store.derived_images import is_derived
from csp_index.store.streams import embeddings_of_derived
from csp_index.store.tables import Store

_RANKED = 5  # candidates kept with each neuron
_HALVES = 1 << 40  # sets the draw of halves apart from that of splits with the same seed


@dataclass(frozen=True, slots=True)
class ChosenLabels:
    """What one method says of M neurons: the places of each one's best candidates among the texts.

    `ranked` [M, R] is best first, -1 throughout for a neuron without a label. `scores` [M, C] are all scores, for the
    rank of the truth; `confidence` [M] is the share of resamples in which the label stays first (NaN where nothing was
    resampled). `quality` is that of the contrast, None where the method looks at none.
    """

    texts: tuple[str, ...]
    ranked: torch.Tensor
    scores: torch.Tensor
    confidence: torch.Tensor
    quality: ContrastQuality | None = None

    @property
    def labels(self) -> list[str | None]:
        """The best label of every neuron, or None."""
        return [self.texts[place] if place >= 0 else None for place in self.ranked[:, 0].tolist()]

    @property
    def lead(self) -> torch.Tensor:
        """How far the best label stands above the second, in standard deviations of the neuron's scores, [M]."""
        return lead(self.scores).masked_fill(self.ranked[:, 0] < 0, torch.nan)

    def ranked_texts(self) -> list[list[str]]:
        """Return the best candidates of every neuron, best first."""
        return [[self.texts[place] for place in row if place >= 0] for row in self.ranked.tolist()]

    def kept_by(self, scores: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
        """Return which neurons keep their label under other scores [M, C], 1 or 0; NaN for a neuron without label.

        One that gets no label there (`labelled` [M] is False) does not keep its own.
        """
        same = ((leaders_of(scores, 1)[:, 0] == self.ranked[:, 0]) & labelled).float()
        return same.masked_fill(self.ranked[:, 0] < 0, torch.nan)


@dataclass(frozen=True, slots=True)
class Chooser:
    """Chooses labels of selected neurons among candidate texts, on whichever images it is given."""

    store: Store
    selection: Selection
    candidates: CandidateTexts
    device: str
    defaults: Mapping[str, Any]  # options of every method that does not name its own
    derive: Mapping[DerivedKind, Derive] = field(default_factory=dict)  # makes contrastive images; the lock is held

    def on(self, mask: torch.Tensor) -> Chooser:
        """Return a chooser that sees the images of `mask` [N] alone."""
        pool = draw_pool(self.store, self.selection.target, self.selection.neurons, mask)
        return replace(self, selection=replace(self.selection, pool=pool))

    def score(self, choice: MethodChoice) -> NeuronScores:
        """Return what a method scores all candidates."""
        request = make_request(choice.method, self.selection.source, _RANKED, {**self.defaults, **choice.options})
        made = any(kind in self.derive for kind in request.examples.kinds)
        pipeline = Pipeline(self.store, ComputeContext(self.device, keep=made, derive=self.derive))
        return pipeline.scores(self.selection, request, self.candidates)

    def choose(self, choice: MethodChoice) -> ChosenLabels:
        """Return the labels that a method chooses."""
        found = self.score(choice)
        live = labelled(found)
        sure = found.confidence(found.leaders(KEPT))
        confidence = torch.full((len(live),), torch.nan) if sure is None else sure.share[:, 0].clamp(0, 1)
        ranked = found.leaders(_RANKED).masked_fill(~live[:, None], -1)
        quality = quality_of(found.examples) if scoring.method(choice.method).info.needs_contrast else None
        return ChosenLabels(self.candidates.texts, ranked, found.scored.scores, confidence, quality)


def others(chooser: Chooser, split: Split, rounds: int, progress: Progress) -> list[tuple[str, Chooser]]:
    """Return choosers that see other images, by the metric that their labels are for: two for each of the rounds.

    `stable-resample`: a random half of the choosing images; `stable-seed`: the choosing images of another split.
    """
    found = []
    used = split.choosing | split.judging
    held_out = float(split.judging.sum()) / float(used.sum())
    for turn in range(rounds):
        progress(turn, rounds, "other sets of images")
        seed = split.seed + 1 + turn
        found.append(("stable-resample", chooser.on(_half(split.choosing, seed))))
        found.append(("stable-seed", chooser.on(used & draw_split(len(used), held_out=held_out, seed=seed).choosing)))
    return found


def relabelled(
    choosers: Sequence[tuple[str, Chooser]], choice: MethodChoice, chosen: ChosenLabels, progress: Progress
) -> dict[str, torch.Tensor]:
    """Return metric -> share of the choosers that keep each neuron's label, [M]."""
    kept: dict[str, list[torch.Tensor]] = {}
    for done, (name, chooser) in enumerate(choosers):
        progress(done, len(choosers), "relabellings")
        found = chooser.score(choice)
        kept.setdefault(name, []).append(chosen.kept_by(found.scored.scores, labelled(found)))
    return {name: torch.stack(turns).mean(0) for name, turns in kept.items()}


def perturbed(
    chooser: Chooser,
    choice: MethodChoice,
    chosen: ChosenLabels,
    encoder: LoadedEncoder,
    network: LoadedNetwork,
    progress: Progress,
) -> dict[str, torch.Tensor]:
    """Return metric -> whether each neuron keeps its label [M] when all example images are perturbed copies.

    One metric a perturbation, `stable-noise` and so on; `chooser` sees the choosing images. Contrastive images that
    were made for the neuron stay as they are.
    """
    found = chooser.score(choice)
    held = torch.cat([found.examples.activating.flatten(), found.examples.contrastive.flatten()])
    ids = held[held >= 0].unique()
    if not len(ids):
        return {}
    made = is_derived(ids)
    kept_as_is = embeddings_of_derived(chooser.store, chooser.selection.source, ids[made].numpy())
    columns = torch.from_numpy(chooser.selection.neurons)
    layer = chooser.selection.target.key.layer
    kept = {}
    for kind in PERTURBATIONS:
        copies = perturbed_copies(
            chooser.store, ids[~made], kind, encoder, network, lambda values: values[layer][:, columns], progress
        )
        silent = torch.zeros(len(kept_as_is), copies.activations.shape[1])
        copies = Copies(ids, torch.cat([copies.embeddings, kept_as_is]), torch.cat([copies.activations, silent]))
        scores, live = rescored(found, copies)
        kept[f"stable-{kind}"] = chosen.kept_by(scores, live)
    return kept


def labelled(found: NeuronScores) -> torch.Tensor:
    """Return which neurons get a label, [M] bool."""
    return torch.from_numpy(found.states == "labelled")


def _half(mask: torch.Tensor, seed: int) -> torch.Tensor:
    ids = mask.nonzero()[:, 0]
    part = torch.zeros_like(mask)
    part[ids[mix(ids, _HALVES + seed).argsort()[: max(1, len(ids) // 2)]]] = True
    return part
