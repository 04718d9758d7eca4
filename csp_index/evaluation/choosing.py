"""The labels under judgement: what each method says when it sees the choosing images alone, and how steady that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from csp_index.candidates import CandidateTexts
from csp_index.encoders import Encoder
from csp_index.evaluation.options import MethodChoice
from csp_index.evaluation.perturbing import PERTURBATIONS, perturbed_copies, rescored
from csp_index.evaluation.records import Metric
from csp_index.evaluation.split import Split, draw_split
from csp_index.evaluation.structure import lead
from csp_index.label_rows import KEPT, leaders_of
from csp_index.labels import NeuronScores, make_request, score_neurons
from csp_index.networks import Network
from csp_index.statistics import mix
from csp_index.store import Store
from csp_index.subjects import Subject, draw_pool

Tell = Callable[[int, int, str], None]
_RANKED = 5  # candidates kept with each neuron


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one method says of M neurons: the places of each one's best candidates among the texts.

    `ranked` [M, R] is best first, -1 throughout for a neuron without a label. `scores` [M, C] are all scores, for the
    rank of the truth; `confidence` [M] is the share of resamples in which the label stays first (NaN where nothing was
    resampled).
    """

    texts: tuple[str, ...]
    ranked: torch.Tensor
    scores: torch.Tensor
    confidence: torch.Tensor

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

    def kept_by(self, scores: torch.Tensor) -> torch.Tensor:
        """Tell which neurons keep their label under other scores [M, C], 1 or 0; NaN for a neuron without label."""
        same = (leaders_of(scores, 1)[:, 0] == self.ranked[:, 0]).float()
        return same.masked_fill(self.ranked[:, 0] < 0, torch.nan)


@dataclass(frozen=True, slots=True)
class Chooser:
    """Chooses labels of a subject's neurons among candidate texts, on whichever images it is given."""

    store: Store
    subject: Subject
    candidates: CandidateTexts
    device: str

    def on(self, mask: torch.Tensor) -> Chooser:
        """Return a chooser that sees the images of `mask` [N] alone."""
        pool = draw_pool(self.store, self.subject.target, self.subject.neurons, mask)
        return replace(self, subject=replace(self.subject, pool=pool))

    def score(self, choice: MethodChoice) -> NeuronScores:
        """Return what a method scores all candidates."""
        request = make_request(choice.method, self.subject.source, _RANKED, choice.options)
        return score_neurons(self.store, self.subject, request, self.candidates, device=self.device)

    def choose(self, choice: MethodChoice) -> Chosen:
        """Return the labels that a method chooses."""
        found = self.score(choice)
        labelled = torch.from_numpy(found.states == "labelled")
        sure = found.confidence(KEPT)
        confidence = torch.full((len(labelled),), torch.nan) if sure is None else sure.share[:, 0].clamp(0, 1)
        ranked = found.leaders(_RANKED).masked_fill(~labelled[:, None], -1)
        return Chosen(self.candidates.texts, ranked, found.scored.scores, confidence)


def relabelled(
    chooser: Chooser,
    split: Split,
    methods: Sequence[MethodChoice],
    chosen: Mapping[str, Chosen],
    rounds: int,
    tell: Tell,
) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yield (method, metric, share of `rounds` relabellings that keep each neuron's label [M]).

    `stable-resample`: on random halves of the choosing images; `stable-seed`: on the choosing images of other splits.
    """
    kept: dict[tuple[str, str], list[torch.Tensor]] = {}
    used = split.choosing | split.judging
    held_out = float(split.judging.sum()) / float(used.sum())
    for turn in range(rounds):
        seed = split.seed + 1 + turn
        masks = {
            "stable-resample": _half(split.choosing, seed),
            "stable-seed": used & draw_split(len(used), held_out=held_out, seed=seed).choosing,
        }
        for done, (name, mask) in enumerate(masks.items()):
            tell(2 * turn + done, 2 * rounds, "relabellings")
            part = chooser.on(mask)
            for choice in methods:
                same = chosen[choice.text].kept_by(part.score(choice).scored.scores)
                kept.setdefault((choice.text, name), []).append(same)
    tell(2 * rounds, 2 * rounds, "relabellings")
    yield from ((method, name, torch.stack(turns).mean(0)) for (method, name), turns in kept.items())


def perturbed(
    chooser: Chooser,
    methods: Sequence[MethodChoice],
    chosen: Mapping[str, Chosen],
    encoder: Encoder,
    network: Network,
    tell: Tell,
) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Yield (method, metric, whether each neuron keeps its label [M]) when all example images are perturbed copies.

    One metric a perturbation, `stable-noise` and so on; `chooser` sees the choosing images.
    """
    scored = {choice.text: chooser.score(choice) for choice in methods}
    examples = [part.examples for part in scored.values()]
    held = torch.cat([ids.flatten() for e in examples for ids in (e.activating, e.contrastive)])
    ids = held[held >= 0].unique()
    if not len(ids):
        return
    columns = torch.from_numpy(chooser.subject.neurons)
    layer = chooser.subject.target.key.layer
    for kind in PERTURBATIONS:
        copies = perturbed_copies(
            chooser.store, ids, kind, encoder, network, lambda found: found[layer][:, columns], tell
        )
        for text, found in scored.items():
            yield text, f"stable-{kind}", chosen[text].kept_by(rescored(found, copies))


def _half(mask: torch.Tensor, seed: int) -> torch.Tensor:
    ids = mask.nonzero()[:, 0]
    part = torch.zeros_like(mask)
    part[ids[mix(ids, seed).argsort()[: max(1, len(ids) // 2)]]] = True
    return part


METRICS: dict[str, Metric] = {
    name: Metric(name, "robustness", summary, low=0.0, high=1.0)
    for name, summary in (
        ("confidence", "share of resamples of the activating images in which the label stays first"),
        ("stable-resample", "share of random halves of the choosing images that give the same label"),
        ("stable-seed", "share of other splits that give the same label"),
        ("stable-noise", "the label stays when all examples carry noise"),
        ("stable-blur", "the label stays when all examples are blurred"),
        ("stable-jpeg", "the label stays when all examples are compressed"),
        ("stable-dark", "the label stays when all examples are darker"),
    )
}
