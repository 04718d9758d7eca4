"""Labels that are a sum of texts: `LabelTerm`, `WeightedLabel`. Knows nothing of neurons."""

from __future__ import annotations

import math
from dataclasses import dataclass

from csp_index.errors import SettingError


@dataclass(frozen=True, slots=True)
class LabelTerm:
    """A text of a weighted label: on an image it counts `weight` times the text's presence there, which is in [0, 1].

    The presence is sigmoid(slope (e(x).T + shift)), with the unit embeddings e(x) of the image and T of the text; None
    for a label whose calibration is not known.
    """

    text: str
    weight: float = 1.0
    slope: float | None = None
    shift: float | None = None


@dataclass(frozen=True, slots=True)
class WeightedLabel:
    """A label as a sum: on an image it predicts the activation `bias` + the sum of its terms' weights and presences.

    Terms are in the order of their weights, the largest first. A label of one text is one term of weight 1. Errors:
    SettingError without a term, for a text that is there twice, for a weight that is no finite number.
    """

    terms: tuple[LabelTerm, ...]
    bias: float = 0.0

    def __post_init__(self) -> None:
        texts = [term.text for term in self.terms]
        if not texts or len(set(texts)) < len(texts):
            raise SettingError(f"a weighted label has the texts {', '.join(texts) or 'none'}: expected each once")
        wrong = [weight for weight in (self.bias, *(term.weight for term in self.terms)) if not math.isfinite(weight)]
        if wrong:
            raise SettingError(f"a weighted label has the weight or bias {wrong[0]}: expected a finite number")
        object.__setattr__(self, "terms", tuple(sorted(self.terms, key=lambda term: -term.weight)))

    @property
    def is_sum(self) -> bool:
        """Whether its weights matter: a single text with a positive weight ranks images as that text does."""
        return len(self.terms) > 1 or self.terms[0].weight <= 0

    @property
    def text(self) -> str:
        """How the label is written: the text itself, or the sum with its weights to two digits.

        >>> WeightedLabel((LabelTerm("grass", 0.314), LabelTerm("dog", 0.62), LabelTerm("water", -0.1))).text
        '0.62 dog + 0.31 grass - 0.1 water'
        >>> WeightedLabel((LabelTerm("dog", 0.62),)).text
        'dog'
        """
        if not self.is_sum:
            return self.terms[0].text
        written = ""
        for term in self.terms:
            sign = "-" if term.weight < 0 else "+" if written else ""
            written += (f" {sign} " if written else sign) + f"{float(f'{abs(term.weight):.2g}'):g} {term.text}"
        return written
