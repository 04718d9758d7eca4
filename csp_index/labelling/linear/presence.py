"""How present a text is in an image, in [0, 1], from their cosine: sigmoids fitted without any label.

Linear explanations (arXiv 2405.06855) need c(x) = sigmoid(a (e(x).T + b)) for each text T, with a and b fitted on known
concepts. Without such, a and b come from the text's own cosines over the images: with their mean m and standard
deviation s, a = 2 / s and b = -(m + 3 s), so an image is half present where it fits the text better than the usual
image by three deviations. Units and offsets of an encoder's cosines, which differ between texts, cancel.

The 2 and the 3 were chosen among 35 pairs on seed 0 of the drawn worlds of `scripts/method_search` (four families of
encoders, analytic and leaky neurons, bias 0 and .9): share of single concepts / of pairs that have the highest
correlation with their neuron .80 / .94, against .71 / .69 by the cosine itself, .73 / .79 by probabilities from the
valley of the cosines' density (`evaluation.metrics.calibration`), .49 / .79 by a softmax over the texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from csp_index.tensors.library import torch

SLOPE: Final = 2.0  # of the sigmoid, in standardized cosines
MIDDLE: Final = 3.0  # where it is one half
_LEAST = 1e-7  # deviation of cosines that vary


@dataclass(frozen=True, slots=True)
class PresenceSigmoids:
    """The sigmoids of T texts: presence = sigmoid(slope (cosine + shift)), [T] each, float32.

    A text with the same cosine for all images has slope 0: its presence is one half everywhere.
    """

    slope: torch.Tensor
    shift: torch.Tensor

    @classmethod
    def of_moments(cls, mean: torch.Tensor, deviation: torch.Tensor) -> PresenceSigmoids:
        """Return the sigmoids for the mean [T] and standard deviation [T] of the texts' cosines."""
        varies = deviation > _LEAST
        slope = torch.where(varies, SLOPE / deviation.clamp(min=_LEAST), 0.0)
        return cls(slope.float(), -(mean + MIDDLE * deviation).float())

    @classmethod
    def fit(cls, cosines: torch.Tensor) -> PresenceSigmoids:
        """Return the sigmoids for the cosines [T, N] of texts with images, N >= 1."""
        return cls.of_moments(cosines.mean(1), cosines.std(1, correction=0))

    def apply(self, cosines: torch.Tensor, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Return the presence [S, N] for cosines [S, N] of the texts `rows` [S]; the cosines are overwritten."""
        return cosines.add_(self.shift[rows, None]).mul_(self.slope[rows, None]).sigmoid_()
