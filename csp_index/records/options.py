"""The options of labels: how examples are chosen and candidates scored; their bounds, and those of seeds of studies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from csp_index.errors import SettingError

ContrastKind = Literal["nearest", "falcon", "perturbation", "synthetic", "random"]
DerivedKind = Literal["perturbation", "synthetic"]  # contrast kinds whose images are made
_LARGEST = 1.7e308  # of finite numbers

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
