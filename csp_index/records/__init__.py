"""Frozen values that cross module borders. Knows nothing about storage, models or tensors."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Final, Literal, get_args

from csp_index.errors import AddressError, SettingError
from csp_index.printable import printable
from csp_index.records.assurance import NullRank, stability
from csp_index.records.weighted_labels import LabelTerm, WeightedLabel

ContrastKind = Literal["nearest", "falcon", "perturbation", "synthetic", "random"]
DerivedKind = Literal["perturbation", "synthetic"]  # contrast kinds whose images are made
LabelState = Literal["labelled", "dead", "constant", "no-contrast", "no-candidates"]
Progress = Callable[[int, int, str], None]  # done, to do, what is going on
_RIVALS = 5
_UNSTABLE = 0.985  # share of the resamples, at most, in which a label comes first whose lead is inside the noise
PREDICTED_SHARE = 0.9  # of the resamples, in which some label of a prediction set comes first
_LARGEST = 1.7e308  # of finite numbers


@dataclass(frozen=True, slots=True, order=True)
class LayerKey:
    """A layer of a network under study, written `model/layer`."""

    model: str
    layer: str

    @classmethod
    def parse(cls, text: str) -> LayerKey:
        """Return the key of `model/layer`.

        >>> LayerKey.parse("resnet50/layer4")
        LayerKey(model='resnet50', layer='layer4')
        """
        model, slash, layer = text.partition("/")
        if not (model and slash and layer) or "/" in layer or text != text.strip():
            raise AddressError(f"layer {text!r} is not an address: write MODEL/LAYER, for example resnet50/layer4")
        return cls(model, layer)

    def __str__(self) -> str:
        return f"{self.model}/{self.layer}"


@dataclass(frozen=True, slots=True, order=True)
class NeuronKey:
    """A neuron's address, written `model/layer/index` everywhere: command line, Python, URL, SQL."""

    model: str
    layer: str
    neuron: int

    @classmethod
    def parse(cls, text: str) -> NeuronKey:
        """Return the key of `model/layer/index`.

        >>> NeuronKey.parse("resnet50/layer4/77")
        NeuronKey(model='resnet50', layer='layer4', neuron=77)
        """
        path, _, index = text.rpartition("/")
        if path.count("/") != 1 or not index.isascii() or not index.isdigit() or len(index) > 18:
            raise AddressError(
                f"neuron {text!r} is not an address: write MODEL/LAYER/INDEX, for example resnet50/layer4/77"
            )
        key = LayerKey.parse(path)
        return cls(key.model, key.layer, int(index))

    @property
    def layer_key(self) -> LayerKey:
        """The layer the neuron belongs to."""
        return LayerKey(self.model, self.layer)

    def __str__(self) -> str:
        return f"{self.model}/{self.layer}/{self.neuron}"


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
        rivals = ", ".join(f"{rival.text} {rival.share:.2f}" for rival in self.rivals)
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


BOUNDS: dict[str, tuple[int, int]] = {
    "examples": (1, 1_000_000),
    "neighbours": (1, 10_000),
    "variants": (1, 10_000),
    "bootstrap": (0, 100_000),
    "seed": (-(2**63), 2**63 - 1),
    "generator_seed": (-(2**63), 2**63 - 1),
}
"""The least and the most of the whole numbers among the options of labels."""


STUDY_SEEDS: Final = (0, 2**32 - 1)
"""The least and the highest seed of a study, which NumPy draws with."""


def check_seed(seed: int) -> None:
    """Raise SettingError for what is no seed of a study."""
    least, most = STUDY_SEEDS
    if not isinstance(seed, int) or not least <= seed <= most:
        raise SettingError(f"seed is {seed!r}: expected a whole number from {least} to {most}")


@dataclass(frozen=True, slots=True)
class ExampleOptions:
    """How activating and contrastive images are chosen (METHODS: CSP, section 3 of arXiv 2604.22477)."""

    examples: int = 30  # activating images a neuron, at most
    contrast: str = "nearest"  # a ContrastKind, or several joined by +: each gives every activating image partners
    neighbours: int = 1  # contrastive images of each kind an activating image
    threshold: str = "mean"  # low activation: "mean", "quantile:Q" or "max:F" (a fraction of the neuron's maximum)
    floor: float = 0.0  # an image activates the neuron only above this, 0 or more
    reuse: bool = True  # the same contrastive image may serve several activating ones
    min_similarity: float = -1.0  # pairs below this cosine are dropped
    near_duplicate: float = (
        1.01  # images above this cosine are the same picture and no contrast; 0.99 switches the filter on
    )
    seed: int = 0  # of the random kind
    generator: str | None = None  # synthetic: what makes variants of the activating images, by its spec
    variants: int = 8  # synthetic: of each activating image, made before the silent ones are looked for
    generator_seed: int = 0  # synthetic: of the variants
    caption_column: str | None = None  # synthetic: the metadata column that describes an image, for the prompt
    variant_prompt: str = "{caption}"  # synthetic: the prompt around the caption

    def __post_init__(self) -> None:
        _check_numbers(
            self,
            whole=("examples", "neighbours", "seed", "variants", "generator_seed"),
            real=("floor", "min_similarity", "near_duplicate"),
        )
        if not isinstance(self.threshold, str):
            raise SettingError(f"threshold is {self.threshold!r}: expected mean, quantile:Q or max:F")
        _check_kinds(self, flags=("reuse",), texts=("generator", "caption_column"))
        for name, ok, expected in (
            (
                "variant_prompt",
                isinstance(self.variant_prompt, str) and "{caption}" in self.variant_prompt,
                "a text with {caption} in it",
            ),
            ("contrast", _are_kinds(self.contrast), f"{', '.join(get_args(ContrastKind))}, or several joined by +"),
            ("floor", self.floor >= 0, "0 or more (an activation of 0 or less has no weight)"),
        ):
            if not ok:
                raise SettingError(f"{name} is {getattr(self, name)!r}: expected {expected}")

    @property
    def kinds(self) -> tuple[ContrastKind, ...]:
        """The kinds of contrastive images, in the order in which an activating image's partners stand.

        >>> ExampleOptions(contrast="nearest+perturbation").kinds
        ('nearest', 'perturbation')
        """
        named = self.contrast.split("+")
        kinds: tuple[ContrastKind, ...] = get_args(ContrastKind)
        return tuple(sorted((kind for kind in kinds if kind in named), key=named.index))


@dataclass(frozen=True, slots=True)
class ScoringOptions:
    """What the scoring formulas take besides examples and texts (METHODS, section 2)."""

    gamma: float = 1.0  # how much of the contrastive direction CSP removes
    alpha: float = 0.5  # contrastive-pmi: the contrastive set's share of the prior
    logit_scale: float | None = None  # the encoder's own multiplier of the cosine; pmi and contrastive-pmi need it
    prior: Literal["neurons", "images"] = "neurons"  # clip-dissect, wpmi: the prior runs over these
    prior_weight: float | None = None  # their lambda; by default the method's own: clip-dissect 1, wpmi 0.6
    renormalise_text: bool = True  # False: the mean over templates keeps its length, and the score is a dot product
    subtract_empty: bool = False  # semanticlens: subtract the embedding of the empty template
    bootstrap: int = 100  # resamples of the activating images that say how stable a label is; 0 leaves them out
    seed: int = 0  # of random-label and of the resamples

    def __post_init__(self) -> None:
        override = [name for name in ("logit_scale", "prior_weight") if getattr(self, name) is not None]
        _check_numbers(self, whole=("bootstrap", "seed"), real=("gamma", "alpha", *override))
        _check_kinds(self, flags=("renormalise_text", "subtract_empty"))
        if not 0.0 <= self.gamma <= 1.0:
            raise SettingError(f"gamma is {self.gamma}: expected a number from 0 (no contrast) to 1")
        if not 0.0 <= self.alpha <= 1.0:
            raise SettingError(f"alpha is {self.alpha}: expected a number from 0 to 1")
        if self.logit_scale is not None and not self.logit_scale > 0:
            raise SettingError(f"logit scale is {self.logit_scale}: expected a positive number, for example 100")
        if self.prior not in ("neurons", "images"):
            raise SettingError(f"prior is {self.prior!r}: expected neurons or images")


def _are_kinds(text: object) -> bool:
    """Return whether a text names contrastive kinds, each once."""
    named = text.split("+") if isinstance(text, str) else []
    return bool(named) and len(set(named)) == len(named) and set(named) <= set(get_args(ContrastKind))


def _check_numbers(options: object, whole: Sequence[str] = (), real: Sequence[str] = ()) -> None:
    for name in (*whole, *real):
        value = getattr(options, name)
        fits = isinstance(value, int if name in whole else int | float) and not isinstance(value, bool)
        if not fits or not -_LARGEST <= value <= _LARGEST:
            kind = "a whole number" if name in whole else "a finite number"
            raise SettingError(f"{name.replace('_', ' ')} is {_shown(value)}: expected {kind}")
        least, most = BOUNDS.get(name, (value, value))
        if name in whole and not least <= value <= most:
            raise SettingError(f"{name.replace('_', ' ')} is {value}: expected at least {least} and at most {most}")


def _check_kinds(options: object, flags: Sequence[str] = (), texts: Sequence[str] = ()) -> None:
    for name in flags:
        if not isinstance(value := getattr(options, name), bool):
            raise SettingError(f"{name.replace('_', ' ')} is {_shown(value)}: expected true or false")
    for name in texts:
        if not isinstance(value := getattr(options, name), str | None):
            raise SettingError(f"{name.replace('_', ' ')} is {_shown(value)}: expected a text")


def _shown(value: object) -> str:
    """Return a value for a message: Python refuses to write out the longest numbers."""
    return "a number of thousands of digits" if isinstance(value, int) and abs(value) > 10**4000 else repr(value)
