"""Options of an evaluation: which methods, which images choose and judge, and the evidence to evaluate by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from csp_index.errors import EvaluationError
from csp_index.labelling.elsewhere.given_labels import LabelsFile

#: The methods compared by default: the paper's, its parent, two that look at all images once at most, the
#: recommended one, and the floor.
DEFAULT_METHODS = (
    "csp",
    "semanticlens",
    "pmi",
    "contrastive-pmi",
    "firing-contrast",
    "random-contrast",
    "random-label",
)


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """A scoring method with its own options, written `csp:gamma=0.5,examples=20`."""

    text: str
    method: str
    options: dict[str, Any]

    @classmethod
    def parse(cls, text: str) -> MethodChoice:
        """Return the method and options that a text names.

        >>> MethodChoice.parse("csp:gamma=0.5,contrast=random").options
        {'gamma': 0.5, 'contrast': 'random'}
        """
        method, _, rest = text.partition(":")
        options: dict[str, Any] = {}
        for part in filter(None, rest.split(",")):
            name, equals, value = part.partition("=")
            if not equals or not name:
                raise EvaluationError(f"method {text!r} cannot be read at {part!r}: write csp:gamma=0.5,examples=20")
            key = name.strip().replace("-", "_")
            if key in options:
                raise EvaluationError(f"method {text!r} gives {key} twice: expected each option once")
            options[key] = _value(value.strip())
        return cls(text, method.strip(), options)


@dataclass(frozen=True, slots=True)
class EvaluationOptions:
    """How labels are evaluated. What is None is left out, and the report says so."""

    methods: tuple[MethodChoice, ...] = tuple(map(MethodChoice.parse, DEFAULT_METHODS))
    held_out: float = 0.5  # share of images that judge
    seed: int = 0  # of the split, the resamples, the generated images and the intervals
    choose_on: str | None = None  # a name in the images' own split column, instead of a drawn split
    judge_on: str | None = None
    judge: str | None = None  # the encoder that judges; by default the one that labels
    most_judging: int = 50_000  # held-out images used at most, which bounds memory
    logit_scale: float | None = None  # the encoder's multiplier of the cosine, if the index has none
    alpha: float = 0.05  # share of images that count as activating, where a metric needs a yes or no
    concepts: tuple[str, ...] | None = None  # metadata columns that name the concepts an image shows; () is all
    truth: Path | None = None  # a table neuron,label[,kind], or the class names of output neurons
    hierarchy: Path | None = None  # child,parent, or a WordNet-style file
    word_items: Path | None = None  # word,item: what each word is true of, for graded agreement instead of metadata
    generator: str | None = None  # the image generator that draws labels, for CoSy
    generated: int = 20  # images per label
    prompt: str = "{}"  # around a label, for the generator
    labels: tuple[LabelsFile, ...] = ()  # made elsewhere, judged beside the methods
    labels_layer: str | None = None  # what their tables call the layer, if it is not its own name
    drawings: Path | None = None  # a folder that keeps the drawn images, so that long work can resume
    controls: str | None = None  # control images; a sample of the held-out ones by default
    control_count: int = 500
    resamples: int = 0  # relabelings on half of the choosing images, and on other splits
    perturb: bool = False  # relabel on perturbed copies of the example images
    pairs: Path | None = None  # image_a,image_b,word: indexed images that differ in a word; they choose and judge none

    @property
    def label_defaults(self) -> dict[str, object]:
        """The label options of every method that does not name its own."""
        return {"seed": self.seed, "logit_scale": self.logit_scale}

    def __post_init__(self) -> None:
        texts = [choice.text for choice in self.methods]
        if not texts or len(set(texts)) < len(texts):
            raise EvaluationError(f"methods are {', '.join(texts) or 'none'}: name one or several, each once")
        if (self.choose_on is None) != (self.judge_on is None):
            raise EvaluationError(
                "choose_on and judge_on go together: name the split that chooses and the one that judges"
            )
        for name, least in (("generated", 1), ("control_count", 2), ("most_judging", 10)):
            if getattr(self, name) < least:
                raise EvaluationError(f"{name.replace('_', ' ')} is {getattr(self, name)}: expected at least {least}")
        if not 0 <= self.seed < 2**32:
            raise EvaluationError(f"seed is {self.seed}: expected a whole number from 0 to {2**32 - 1}")
        if self.generator is None and (self.controls is not None or self.drawings is not None):
            raise EvaluationError("controls and drawings go with an image generator: name one")
        if self.word_items is not None and self.truth is None:
            raise EvaluationError("a table of words and items grades the agreement with the truth: give the truth, too")
        if self.resamples < 0:
            raise EvaluationError(f"resamples is {self.resamples}: expected 0 (none) or more")
        if not 0.0 < self.alpha < 1.0:
            raise EvaluationError(f"alpha is {self.alpha}: expected a share of images between 0 and 1")


def with_labels(options: EvaluationOptions | None, labels: Sequence[str | Path]) -> EvaluationOptions:
    """Return the options with further files of labels, `FILE` or `NAME=FILE`."""
    options = options or EvaluationOptions()
    return replace(options, labels=(*options.labels, *map(LabelsFile.parse, labels)))


def parse_methods(texts: Sequence[str]) -> tuple[MethodChoice, ...]:
    """Return the methods that texts name; without a text, the default methods."""
    return tuple(map(MethodChoice.parse, texts or DEFAULT_METHODS))


def _value(text: str) -> Any:
    try:
        return json.loads(text.lower() if text.lower() in ("true", "false") else text)
    except (ValueError, RecursionError):  # a number or a list that is too long is refused by the option itself
        return text
