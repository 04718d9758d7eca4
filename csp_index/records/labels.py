"""A label as a method gives it to a neuron: its candidates, the images it rests on, and what speaks for it."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from csp_index.printable import printable
from csp_index.records.addresses import NeuronKey
from csp_index.records.assurance import NullRank, stability
from csp_index.records.weighted_labels import LabelTerm, WeightedLabel

LabelState = Literal["labelled", "dead", "constant", "no-contrast", "no-candidates"]
_RIVALS = 5
_NAMED = 0.05  # share of the resamples from which a further rival is worth a word in a sentence
_UNSTABLE = 0.985  # share of the resamples, at most, in which a label comes first whose lead is inside the noise
PREDICTED_SHARE = 0.9  # of the resamples, in which some label of a prediction set comes first


@dataclass(frozen=True, slots=True)
class ExamplePair:
    """An activating image and a contrastive partner of it (None where the neuron has no candidate).

    `neighbour` counts the partners of one image, 0 being the first, and `kind` is the partner's kind of contrast.
    """

    rank: int
    image_id: int
    activation: float
    contrast_id: int | None = None
    contrast_activation: float | None = None
    similarity: float | None = None
    neighbour: int = 0
    kind: str = ""


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A candidate label and its score under one method; higher is better.

    `low` and `high` bound 95 % of its scores over resampled activating images, `share` is the part of the resamples in
    which it comes first; None where nothing was resampled, or nothing can be learned from it. The score of a name that
    a reader gave is NaN.
    """

    text: str
    score: float
    low: float | None = None
    high: float | None = None
    share: float | None = None

    @property
    def number(self) -> float | None:
        """The score as JSON can say it: None for a name that a reader gave, which has none."""
        return self.score if math.isfinite(self.score) else None


def rivals_of(scores: Sequence[LabelScore]) -> tuple[LabelScore, ...]:
    """Return the other candidates that come first in some resamples, the most frequent first; at most five."""
    results = [score for score in scores[1:] if score.share]
    return tuple(sorted(results, key=lambda score: -(score.share or 0.0))[:_RIVALS])


def prediction_set_of(scores: Sequence[LabelScore]) -> tuple[LabelScore, ...]:
    """Return the smallest set of candidates whose shares of first places reach 90 %, the most frequent first.

    Empty where nothing was resampled. Candidates with equal shares enter in the order of their scores.
    """
    chosen: list[LabelScore] = []
    reached = 0.0
    for score in sorted((score for score in scores if score.share), key=lambda score: -(score.share or 0.0)):
        if reached >= PREDICTED_SHARE - 1e-6:
            break
        chosen.append(score)
        reached += score.share or 0.0
    return tuple(chosen)


@dataclass(frozen=True, slots=True)
class Label:
    """What one method says of one neuron: its best candidates and the evidence they rest on.

    `state` is `labelled`, `dead` (the neuron never fires), `constant` (the same on every image), `no-contrast` (no
    image activates less than the threshold, and the method needs one) or `no-candidates` (only its own were asked
    for, and it has none); but for the first, `labels` is empty and `note` says why. `note` also mentions fewer
    examples than requested, ties among them, and a poor contrast. `uncertain`: the lead of the best candidate is
    inside the noise of the activating images, these tell nothing (there is but one), half of them were taken by the
    order of the images among more of the same activation, or the label fits other images nearly as well
    (`labelling.nulls`). `rivals` are the others that come first in some resamples, at most five. `prediction_set` is
    the smallest set of candidates of which one comes first in 90 % of the resamples; empty where nothing was
    resampled.
    `weighted` is the label of a method that weighs several texts: its text is then the first of `labels`, and the
    others are single texts. `drawer` shows the label with its pictures in a notebook; labels of an index have one.
    """

    neuron: NeuronKey
    method: str
    state: LabelState
    labels: tuple[LabelScore, ...] = ()
    pairs: tuple[ExamplePair, ...] = ()
    note: str = ""
    run_id: str = ""
    uncertain: bool = False
    rivals: tuple[LabelScore, ...] = ()
    prediction_set: tuple[LabelScore, ...] = ()
    weighted: WeightedLabel | None = None

    @property
    def terms(self) -> tuple[LabelTerm, ...]:
        """The texts of a label that is a weighted sum, the largest weight first; empty for other labels."""
        return self.weighted.terms if self.weighted is not None else ()

    null_rank: NullRank | None = None
    probability: float | None = None  # that the label is right (`labelling.probabilities`); None where none is known
    drawer: Callable[[Label], str] | None = field(default=None, compare=False)
    crop: bool = False  # what the settings of its run say

    def __repr__(self) -> str:
        best = f"{printable(self.text)!r} {self.labels[0].score:.3f}" if self.labels else self.state
        return f"Label({self.neuron}: {best}, {self.method}{', uncertain' if self.uncertain else ''})"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(repr(self))}</p>" if self.drawer is None else self.drawer(self)

    @property
    def null_percentile(self) -> float | None:
        """The share of a null's labels that score lower, in [0, 1], or None where no null was asked."""
        return None if self.null_rank is None else self.null_rank.percentile

    @property
    def cropped(self) -> bool:
        """Whether crops stood in for its activating images."""
        return self.crop and self.state == "labelled"

    @property
    def confidence(self) -> float | None:
        """How stable the label is: the share of the resamples in which it comes first, in [0, 1], or None."""
        return self.labels[0].share if self.labels else None

    @property
    def doubt(self) -> str:
        """In words why the best label is uncertain, or nothing; `note` comes before it, and may say the reason."""
        if not self.uncertain:
            return ""
        if self.null_rank is not None and not self.null_rank.passes:
            return f"uncertain: {self.null_rank.doubt}"
        if self.confidence is None:
            return "uncertain: resampling its images says nothing"
        named = [rival for at, rival in enumerate(self.rivals) if not at or (rival.share or 0) >= _NAMED]
        rivals = ", ".join(f"{rival.text} {rival.share:.2f}" for rival in named)
        said = stability(self.confidence) + (f", rivals {rivals}" if rivals else "")
        if self.confidence <= _UNSTABLE:
            return f"uncertain: {said}"
        # No rival comes near it in the resamples: ties of its images, or images elsewhere that it fits, make the doubt.
        return f"uncertain for this reason, though {said}" if self.note else f"uncertain, though {said}"

    @property
    def text(self) -> str | None:
        """The best label, or None."""
        return self.labels[0].text if self.labels else None

    def as_json(self) -> dict[str, object]:
        """Return the object that `csp-index label --json` prints, one per line."""
        return {
            "neuron": str(self.neuron),
            "method": self.method,
            "state": self.state,
            "labels": [{"text": s.text, "score": s.number, "low": s.low, "high": s.high} for s in self.labels],
            "activating": [pair.image_id for pair in self.pairs],
            "contrastive": [pair.contrast_id for pair in self.pairs],
            "note": self.note,
            "crop": self.cropped,
            "confidence": self.confidence,
            "uncertain": self.uncertain,
            "rivals": [{"text": s.text, "share": s.share} for s in self.rivals],
            "probability": self.probability,
            "null_percentile": self.null_percentile,
            "prediction_set": [{"text": s.text, "share": s.share} for s in self.prediction_set],
            "terms": [asdict(term) for term in self.terms],
            "bias": None if self.weighted is None else self.weighted.bias,
        }
