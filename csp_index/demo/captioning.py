"""The demo without a vocabulary: a captioner names the candidates of every planted neuron from its pictures.

The captioner runs twice, with contrastive pictures next to the activating ones and without. Each time the candidates
are evaluated as the captioner ranks them, and as stage 2 scores them, exactly as `csp-index label --candidates
captioner` does.

Phrases that the captioner cannot tell apart have equal scores: where all captions of a neuron say "green star", they
also say "green" and "star". A tie for the first place is broken at random, so a right phrase among n counts 1/n; the
report also states the result for the shortest and for the longest of tied phrases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import torch

from csp_index.demo.network import CAPTIONER_FOLDER, PLANTED, PlantedNeuron
from csp_index.demo.world import ATTRIBUTES, concept_of, concept_text
from csp_index.evaluation.metrics.intervals import mean_interval
from csp_index.index import Index
from csp_index.proposers.registry import load_proposer
from csp_index.query.results import Labels
from csp_index.store import schema
from csp_index.store.catalog import sql_text

Arm: TypeAlias = Literal["contrastive", "positive_only"]

ARMS: Final[tuple[Arm, ...]] = ("contrastive", "positive_only")
KINDS: Final = ("single", "pair")
SCORED_BY: Final = ("csp", "consensus")  # the paper's method, and one that looks at all images
_EQUAL: Final = 1e-9  # scores closer than this are equal
SHOWN: Final = 30  # activating pictures of a neuron, as many as stage 2 scores
_KNOWN: Final = tuple(neuron for neuron in PLANTED if neuron.concept)
_ATTRIBUTE_OF: Final[Mapping[str, str]] = {value: name for name, values in ATTRIBUTES.items() for value in values}
_WITH: Final[Mapping[Arm, str]] = {"contrastive": "with contrast", "positive_only": "without"}
_FILLERS: Final = frozenset({"a", "an", "background", "on", "that", "is", "the"})


@dataclass(frozen=True, slots=True)
class Said:
    """The candidates of one neuron: `texts`, best first, and those that share the first place."""

    texts: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """Shares of n neurons whose planted concept comes first (95 % bootstrap interval), among five, letter for letter.

    A text says the planted concept if it says the same values and no others (`concept_said`); `exact` is the share
    whose first text is the concept's own. Of several first texts each counts its part.
    """

    top1: float
    low: float
    high: float
    top5: float
    exact: float
    n: int


@dataclass(frozen=True, slots=True)
class Gain:
    """Mean over n neurons of right first texts with contrast minus without, with its 95 % bootstrap interval."""

    top1: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Ranked:
    """One ranking of the candidates of both arms: shares by arm and kind of concept; gains by kind, and of `all`."""

    shares: dict[Arm, dict[str, Share]]
    gains: dict[str, Gain]


@dataclass(frozen=True, slots=True)
class Scored:
    """The ranking by a method of stage 2, and the same method's with the whole vocabulary as candidates.

    `ratio` is the share of right first labels over all planted neurons, divided by the vocabulary's.
    """

    ranked: Ranked
    vocabulary: dict[str, Share]
    ratio: float


@dataclass(frozen=True, slots=True)
class CaptionerReport:
    """How good candidates from pictures are: as the captioner ranks them, and by method of stage 2.

    `captioned` breaks ties at random; `shortest` and `longest` put the shortest or longest of tied phrases first.
    `named`: the share of planted neurons that have their concept among their candidates at all.
    """

    captioned: Ranked
    shortest: Ranked
    longest: Ranked
    named: dict[Arm, float]
    scored: dict[str, Scored]
    seconds: float

    @property
    def helps(self) -> bool:
        """Whether contrast puts more of the captioner's first phrases right, by a margin outside the interval.

        With ties broken at random; with the longest of tied phrases first it may differ, see `finding`.
        """
        return self.captioned.gains["all"].low > 0

    @property
    def finding(self) -> str:
        """Whether contrast helped, and where it did not, in words."""
        verdict = "Contrast helps" if self.helps else "Contrast does not help beyond the noise"
        gain = f"{verdict}: the captioner's first phrase is right more often by {_told(self.captioned)} with it."
        ties = (
            f"That is with ties broken at random; with the shortest of equal ones first it is {_told(self.shortest)}, "
            f"with the longest {_told(self.longest)}."
        )
        if self.longest.gains["all"].low <= 0:
            ties += " There contrast adds nothing: the longest phrase common to all captions is mostly the concept."
        named = " and ".join(f"{share:.0%} of the neurons {_WITH[arm]}" for arm, share in self.named.items())
        among = f"The planted concept is among the candidates of {named}."
        return " ".join([gain, ties, among, *(_after_scoring(*result) for result in self.scored.items())])


def _told(ranked: Ranked) -> str:
    gain = ranked.gains["all"]
    return f"{gain.top1:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"


def _after_scoring(method: str, scored: Scored) -> str:
    if scored.ranked.gains["all"].low > 0:
        return f"Scored by {method}, the gain is {_told(scored.ranked)}."
    return f"Once {method} has scored the candidates, which has a contrast of its own, it is {_told(scored.ranked)}."


def concept_said(text: str) -> str | None:
    """Return the concept a text says, in the words of the demo vocabulary; None if it says anything else.

    Order and filler words do not matter: every value belongs to one attribute, so "navy" says what "navy background"
    does, and a background without a value says nothing.

    >>> concept_said("star that is red"), concept_said("red star on background"), concept_said("Navy")
    ('red star', 'red star', 'navy background')
    >>> concept_said("wooden star") is None and concept_said("red blue star") is None
    True
    """
    fixed: dict[str, str] = {}
    for word in text.casefold().split():
        if word in _FILLERS:
            continue
        attribute = _ATTRIBUTE_OF.get(word)
        if attribute is None or attribute in fixed:
            return None
        fixed[attribute] = word
    return concept_text(concept_of(fixed)) if fixed else None


def run_captioner(
    index: Index, layer: str, vocabulary: Mapping[str, Labels], tell: Callable[[str], None]
) -> CaptionerReport:
    """Let the shipped captioner name candidates of the planted neurons of `layer`, with contrast and without.

    `vocabulary` holds the labels from the whole vocabulary by method, SCORED_BY among them.
    """
    started = time.monotonic()
    proposer = load_proposer("captioner", f"transformers:{CAPTIONER_FOLDER}")
    neurons = [f"{layer}/{neuron.index}" for neuron in _KNOWN]
    own: dict[Arm, list[Said]] = {}
    labelled: dict[str, dict[Arm, list[Said]]] = {method: {} for method in SCORED_BY}
    for arm in ARMS:
        # Again even if it ran before: the last answers of a captioner are its candidates.
        (summary,) = index.propose(
            neurons, captioner=proposer, examples=SHOWN, positive_only=arm == "positive_only", again=True
        )
        own[arm] = _proposed(index, summary.run_id)
        for method in SCORED_BY:
            labels = index.label(neurons, method, candidates="captioner", templates="none", bootstrap=0)
            labelled[method][arm] = _labelled(labels)
        tell(f"captioner, {arm.replace('_', ' ')}: {summary.answered} of {len(neurons)} neurons have candidates")
    return CaptionerReport(
        _ranked(own),
        _ranked({arm: [_settled(each, shortest) for each in own[arm]] for arm in ARMS}),
        _ranked({arm: [_settled(each, longest) for each in own[arm]] for arm in ARMS}),
        {arm: _named(own[arm]) for arm in ARMS},
        {method: _scored(labelled[method], _labelled(vocabulary[method])) for method in SCORED_BY},
        time.monotonic() - started,
    )


def shortest(text: str) -> int:
    """Sort by the number of words."""
    return len(text.split())


def longest(text: str) -> int:
    """Sort by the number of words, the most first."""
    return -len(text.split())


def _settled(said: Said, by: Callable[[str], int]) -> Said:
    """Return the same candidates with a single text in the first place."""
    return Said(said.texts, tuple(sorted(said.first, key=by)[:1]))


def _proposed(index: Index, run_id: str) -> list[Said]:
    """Return the captioner's candidates for each planted neuron in a run."""
    columns = ["neuron", "rank", "text", "score"]
    rows = index.store.read(schema.CANDIDATES, columns, f"run_id = {sql_text(run_id)}").sort_by("rank").to_pylist()
    answers = []
    for neuron in _KNOWN:
        own = [row for row in rows if row["neuron"] == neuron.index]
        best = max((row["score"] for row in own), default=0.0)
        first = tuple(row["text"] for row in own if row["score"] >= best - _EQUAL)
        answers.append(Said(tuple(row["text"] for row in own), first))
    return answers


def _labelled(labels: Labels) -> list[Said]:
    """Return the labels of each planted neuron."""
    rows = [tuple(score.text for score in labels[neuron.index].labels) for neuron in _KNOWN]
    return [Said(texts, texts[:1]) for texts in rows]


def _hits(said: Sequence[Said]) -> torch.Tensor:
    """Return whether each planted neuron's concept comes first, among five, letter for letter: [3, M], 0 to 1."""
    hits = [_hit(neuron, each) for neuron, each in zip(_KNOWN, said, strict=True)]
    return torch.tensor(hits, dtype=torch.float64).T


def _hit(neuron: PlantedNeuron, said: Said) -> tuple[float, float, float]:
    tied = max(1, len(said.first))
    right = sum(concept_said(text) == neuron.concept for text in said.first)
    among = any(concept_said(text) == neuron.concept for text in said.texts[:5])
    return right / tied, float(among), said.first.count(neuron.concept) / tied


def _named(said: Sequence[Said]) -> float:
    """Return the share of planted neurons whose concept is said by any of their texts."""
    hits = [neuron.concept in map(concept_said, each.texts) for neuron, each in zip(_KNOWN, said, strict=True)]
    return sum(hits) / len(hits)


def _of_kind(kind: str) -> torch.Tensor:
    """Return which planted neurons [M] are of a kind; of `all` kinds, all are."""
    return torch.tensor([kind in ("all", neuron.kind) for neuron in _KNOWN])


def _shares(said: Sequence[Said]) -> dict[str, Share]:
    hits = _hits(said)
    shares = {}
    for kind in KINDS:
        columns = hits[:, _of_kind(kind)]
        interval = mean_interval(columns)
        top1, top5, exact = interval.mean.tolist()
        shares[kind] = Share(top1, interval.low[0].item(), interval.high[0].item(), top5, exact, columns.shape[1])
    return shares


def _ranked(said: Mapping[Arm, Sequence[Said]]) -> Ranked:
    first = {arm: _hits(said[arm])[0] for arm in ARMS}
    gains = {}
    for kind in (*KINDS, "all"):
        difference = (first["contrastive"] - first["positive_only"])[_of_kind(kind)]
        interval = mean_interval(difference[None])
        gains[kind] = Gain(interval.mean.item(), interval.low.item(), interval.high.item(), len(difference))
    return Ranked({arm: _shares(said[arm]) for arm in ARMS}, gains)


def _scored(said: Mapping[Arm, Sequence[Said]], vocabulary: Sequence[Said]) -> Scored:
    right, best = (_hits(each)[0].mean().item() for each in (said["contrastive"], vocabulary))
    return Scored(_ranked(said), _shares(vocabulary), right / best if best else 0.0)
