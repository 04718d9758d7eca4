"""The quality of contrast: do the pairs look alike, and does the activation fall from one image to the other?

Pure numerics over example sets and stored pairs. Only the nearest partner of each kind counts: the one that is stored,
shown and used by most methods.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from csp_index import settings
from csp_index.records import ExamplePair

#: A contrast is poor where fewer activating images than this share have a partner,
FEW: Final = 0.5
#: where fewer of the pairs than this share are as similar as the floor,
FAR: Final = 0.5
#: or where the activation falls by less than this share of itself.
SMALL: Final = 0.25


@dataclass(frozen=True, slots=True)
class ContrastQuality:
    """The quality of M neurons' contrast, float64 [M] each; NaN if a neuron has no pair.

    `partnered`: share of the activating images with a partner, 0 to 1 (NaN without activating image). `similarity`:
    mean cosine of the pairs. `drop`: mean of (a(p) - a(n)) / a(p), at most 1 where activations are not negative; what
    the activation loses from the activating image p to its partner n. `near`: share of the pairs whose cosine is
    `floor` or more. `pairs` and `duplicates` are counts: of pairs, and of near duplicates dropped. Higher is better in
    all but the last.
    """

    pairs: np.ndarray
    partnered: np.ndarray
    similarity: np.ndarray
    drop: np.ndarray
    near: np.ndarray
    duplicates: np.ndarray
    floor: float

    @property
    def poor(self) -> np.ndarray:
        """Which neurons [M] have a poor contrast; False for those without pairs, whose state says so."""
        result: np.ndarray = (self.partnered < FEW) | (self.near < FAR) | (self.drop < SMALL)
        return result & (self.pairs > 0)

    def notes(self) -> list[str]:
        """Return for each neuron what is poor about its contrast, or ""."""
        notes = [""] * len(self.pairs)
        for row in self.poor.nonzero()[0].tolist():
            messages = []
            if self.partnered[row] < FEW:
                messages.append(f"only {self.partnered[row]:.0%} of the activating images have a partner")
            if self.near[row] < FAR:
                messages.append(f"{self.near[row]:.0%} of the pairs reach similarity {self.floor:g}")
            if self.drop[row] < SMALL:
                messages.append(f"the activation falls by {self.drop[row]:.0%} only")
            notes[row] = "poor contrast: " + ", ".join(messages)
        return notes

    def as_json(self, row: int = 0) -> dict[str, object]:
        """Return one neuron's quality as JSON values; None for values that are undefined."""
        results: dict[str, object] = {"pairs": int(self.pairs[row]), "floor": self.floor, "poor": bool(self.poor[row])}
        for name in ("partnered", "similarity", "drop", "near"):
            value = float(getattr(self, name)[row])
            results[name] = value if math.isfinite(value) else None
        return results

    def summary(self, row: int = 0) -> str:
        """Return one neuron's quality in a line, "" without pairs."""
        if not self.pairs[row]:
            return ""
        dropped = f", {self.duplicates[row]} near duplicates dropped" if self.duplicates[row] else ""
        return (
            f"contrast: {self.pairs[row]} pairs, similarity {self.similarity[row]:.3f} ({self.near[row]:.0%} reach "
            f"{self.floor:g}), activation falls by {self.drop[row]:.0%}{dropped}"
        )


def quality_of_pairs(pairs: Sequence[ExamplePair], floor: float | None = None) -> ContrastQuality:
    """Return the quality of one neuron's stored pairs, which do not record near duplicates."""
    ranks = {rank: row for row, rank in enumerate(sorted({pair.rank for pair in pairs}))}
    kinds = {kind: column for column, kind in enumerate(sorted({pair.kind for pair in pairs}))}
    table = np.full((3, 1, len(ranks), len(kinds)), np.nan)  # activations, those of the partners, cosines
    for pair in sorted(pairs, key=lambda pair: -pair.neighbour):  # the first partner of each kind is set last
        values = (np.nan, np.nan) if pair.contrast_id is None else (pair.contrast_activation, pair.similarity)
        table[:, 0, ranks[pair.rank], kinds[pair.kind]] = pair.activation, *values
    activations, contrast, similarities = table
    fired = np.array([len(ranks)])
    return quality_of_arrays(
        fired, activations, ~np.isnan(contrast), contrast, similarities, None, similarity_floor(floor)
    )


def similarity_floor(floor: float | None = None) -> float:
    """Return the smallest cosine of a near pair: `floor`, or the setting similarity_floor."""
    return settings.SIMILARITY_FLOOR.value(floor)


def quality_of_arrays(
    fired: np.ndarray,
    activations: np.ndarray,
    present: np.ndarray,
    contrast: np.ndarray,
    similarities: np.ndarray,
    duplicates: np.ndarray | None,
    floor: float,
) -> ContrastQuality:
    """Return the quality of pairs [M, K, k], those `present`, of neurons with `fired` [M] activating images."""
    pairs = present.sum((1, 2))
    partnered = present.any(2).sum(1)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.where(present, values, 0.0).sum((1, 2), dtype=np.float64)
        return np.where(pairs > 0, total / np.maximum(pairs, 1), np.nan)

    return ContrastQuality(
        pairs,
        np.where(fired > 0, partnered / np.maximum(fired, 1), np.nan),
        mean(similarities),
        mean(1.0 - contrast / np.where(activations > 0, activations, 1.0)),
        mean(similarities >= floor),
        np.zeros_like(pairs) if duplicates is None else duplicates,
        floor,
    )
