"""What speaks for a label besides its score, in values and in words: its stability, and where it stands in a null.

The one place that words them, for the command line, pages and notebooks.
"""

from __future__ import annotations

from dataclasses import dataclass

_MOST_EXCEEDED = 0.05


def stability(share: float) -> str:
    """Return in words how stable a label is: the one place where people read of a label's `confidence`.

    >>> stability(0.606)
    'stable in 61 of 100 resamples'
    """
    return f"stable in {round(100 * share)} of 100 resamples"


def likelihood(probability: float) -> str:
    """Return in words how likely a label is to be right: the one place where people read of its `probability`.

    >>> likelihood(0.826)
    'about 83 of 100 labels like it are right'
    """
    return f"about {of_hundred(probability)} labels like it are right"


def of_hundred(probability: float) -> str:
    """Return a probability as a count; no label is surely right or wrong.

    >>> of_hundred(0.826), of_hundred(1.0)
    ('83 of 100', '99 of 100')
    """
    return f"{min(99, max(1, round(100 * probability)))} of 100"


@dataclass(frozen=True, slots=True)
class NullRank:
    """Where a label stands among those of a null, a layer that has learned nothing: shares in [0, 1].

    `percentile` of its labels score lower (equal ones count one half), and `lead_percentile` have a smaller lead.
    `exceeded` is the share of its neurons that have a sure label with as high a score; `neurons` have a label.
    """

    percentile: float
    lead_percentile: float
    exceeded: float
    null: str
    neurons: int

    @property
    def passes(self) -> bool:
        """Whether a label may be sure: at most 5 % of the null's neurons have a sure label that scores as high."""
        return self.exceeded <= _MOST_EXCEEDED

    @property
    def doubt(self) -> str:
        """Why a label that does not pass is not sure."""
        return (
            f"{self.exceeded:.0%} of the neurons of {self.null}, which has learned nothing, are sure and score as high"
        )

    def __str__(self) -> str:
        return above_null(self.percentile)


def above_null(share: float) -> str:
    """Return in words where a label stands.

    >>> above_null(0.974)
    "scores higher than 97 % of a random network's neurons"
    """
    return f"scores higher than {100 * share:.0f} % of a random network's neurons"
