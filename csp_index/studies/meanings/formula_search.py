"""The logical formula of a few concepts whose images are most nearly those that fire a neuron; NumPy alone.

A formula joins two concepts by AND, OR or AND NOT, and the result with a third one. Its quality is the IoU: images of
both over images of either. Among L concepts all formulas are compared, but those that a bound rules out: what is cut
down by a third concept keeps at most the fired images it has, and what is widened by one keeps the others it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

WORTH: Final = 0.02
"""How much IoU a further concept must add."""

PAIRS: Final = ("{a} OR {b}", "{a} AND {b}", "{a} AND NOT {b}")
TRIPLES: Final = ("({g}) OR {c}", "({g}) AND {c}", "({g}) AND NOT {c}", "{c} AND NOT ({g})")

_OR, _AND, _NOT = range(3)
_WIDENED, _CUT, _LESS, _RATHER = range(4)


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula over concepts: `places` of two or three, how the first two are joined, and how the third is added."""

    places: tuple[int, ...]
    pair: int  # of PAIRS
    triple: int = -1  # of TRIPLES; -1 with two concepts
    iou: float = 0.0

    def text(self, names: list[str]) -> str:
        """Return the formula in words, with the names of its concepts.

        >>> Formula((0, 1, 2), 2, 0).text(["red", "star", "moon"])
        '(red AND NOT star) OR moon'
        """
        joined = PAIRS[self.pair].format(a=names[0], b=names[1])
        return joined if self.triple < 0 else TRIPLES[self.triple].format(g=joined, c=names[2])

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Return the formula's images [N] from those of its concepts, bool [2 or 3, N]."""
        one, two = rows[0], rows[1]
        joined = one | two if self.pair == _OR else one & two if self.pair == _AND else one & ~two
        if self.triple < 0:
            return np.asarray(joined)
        three = rows[2]
        return np.asarray((joined | three, joined & three, joined & ~three, three & ~joined)[self.triple])


@dataclass(frozen=True, slots=True)
class _Counts:
    """How many images have a concept [L], two [L, L], among all and among those that fire; patterns of images behind.

    `rows` [L, U] are the concepts of the U different images, `weights` [2, U] how often each occurs, fires.
    """

    fired: float
    single: np.ndarray  # [2, L]
    double: np.ndarray  # [2, L, L]
    rows: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray, fired: np.ndarray) -> _Counts:
        """Count over images: concepts [L, N] and whether they fire [N], bool. Images that are alike count together."""
        packed = np.packbits(np.concatenate([rows, fired[None]]), axis=0)
        key = np.zeros(packed.shape[1], np.uint64)
        for part in packed:
            key = key << np.uint64(8) | part.astype(np.uint64)
        _, first, times = np.unique(key, return_index=True, return_counts=True)
        own = rows[:, first].astype(np.float32)
        weights = np.stack([times, times * fired[first]]).astype(np.float32)
        double = np.stack([(own * weight) @ own.T for weight in weights])
        return cls(float(weights[1].sum()), np.einsum("kll->kl", double).copy(), double, own, weights)

    def triples(self, pairs: np.ndarray) -> np.ndarray:
        """Return how many images have both concepts of each pair [P, 2] and a third one: [2, P, L]."""
        both = self.rows[pairs[:, 0]] * self.rows[pairs[:, 1]]
        return np.stack([(both * weight) @ self.rows.T for weight in self.weights])


def best_formula(rows: np.ndarray, fired: np.ndarray, owners: np.ndarray, single: float = 0.0) -> Formula | None:
    """Return the formula of highest IoU with the fired images [N], over concepts [L, N], bool, at most 62 of them.

    Concepts of one owner [L] (a text at several thresholds) are not joined. A third concept must add WORTH to the best
    pair, and a pair WORTH to `single`, the best IoU of a concept alone: else None. Of equals the first one counts.
    """
    if not fired.any() or len(rows) < 2:
        return None
    counts = _Counts.of(rows, fired)
    places, forms, both = _pairs(counts, owners)
    ious = _iou(both, counts.fired)
    if not len(ious):
        return None
    top = int(ious.argmax())
    best = Formula((int(places[top, 0]), int(places[top, 1])), int(forms[top]), iou=float(ious[top]))
    three = _best_triple(counts, places, forms, both, owners, max(best.iou, single) + WORTH)
    found = three or best
    return found if found.iou >= single + WORTH else None


def _iou(counts: np.ndarray, fired: float) -> np.ndarray:
    """Return IoUs [..., n] of formulas from how many images they have [0], and how many of these fire [1]."""
    return np.asarray(counts[1] / np.maximum(counts[0] + fired - counts[1], 1))


def _pairs(counts: _Counts, owners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all formulas of two concepts: their places [P, 2], forms [P], and counts of images [2, P]."""
    different = owners[:, None] != owners
    ordered = np.argwhere(different)
    once = ordered[ordered[:, 0] < ordered[:, 1]]
    found = []
    for form, places in ((_OR, once), (_AND, once), (_NOT, ordered)):
        one, two = counts.single[:, places[:, 0]], counts.single[:, places[:, 1]]
        joint = counts.double[:, places[:, 0], places[:, 1]]
        sizes = one + two - joint if form == _OR else joint if form == _AND else one - joint
        found.append((places, np.full(len(places), form), sizes))
    return (
        np.concatenate([places for places, _, _ in found]),
        np.concatenate([forms for _, forms, _ in found]),
        np.concatenate([sizes for _, _, sizes in found], axis=1),
    )


def _best_triple(
    counts: _Counts, places: np.ndarray, forms: np.ndarray, both: np.ndarray, owners: np.ndarray, least: float
) -> Formula | None:
    """Return the best formula of three concepts with at least this IoU, None if there is none."""
    bounds = _bounds(both, counts.fired)
    order = np.argsort(-bounds.max(0), kind="stable")
    best: Formula | None = None
    for chosen in np.array_split(order, max(1, len(order) // 256)):
        chosen = chosen[bounds[:, chosen].max(0) >= least]
        if not len(chosen):
            break  # the rest has lower bounds
        for formula in _extended(counts, places[chosen], forms[chosen], both[:, chosen], owners, least):
            best, least = formula, formula.iou + 1e-9
    return best


def _bounds(both: np.ndarray, fired: float) -> np.ndarray:
    """Return what the IoU of pairs [2, P] with a third concept is at most, for each of TRIPLES: [4, P]."""
    size, hits = both
    widened = fired / np.maximum(fired + size - hits, 1)
    cut = hits / fired
    return np.stack([widened, cut, cut, (fired - hits) / fired])


def _extended(
    counts: _Counts, places: np.ndarray, forms: np.ndarray, both: np.ndarray, owners: np.ndarray, least: float
) -> Iterator[Formula]:
    """Yield the best formula that adds a third concept to some pairs, where its IoU is at least `least`."""
    one, two = places[:, 0], places[:, 1]
    all_three = counts.triples(places)
    shared = counts.double
    joint = np.where(
        (forms == _OR)[:, None],
        shared[:, one] + shared[:, two] - all_three,
        np.where((forms == _AND)[:, None], all_three, shared[:, one] - all_three),
    )  # [2, P, L]: images of the pair that have the third concept
    pair, third = both[..., None], counts.single[:, None]
    sizes = (pair + third - joint, joint, pair - joint, third - joint)
    ious = np.stack([_iou(part, counts.fired) for part in sizes])
    barred = (owners[one][:, None] == owners) | (owners[two][:, None] == owners)
    ious[:, barred] = -1
    top = int(ious.argmax())
    triple, row, place = np.unravel_index(top, ious.shape)
    if ious[triple, row, place] >= least:
        found = (int(one[row]), int(two[row]), int(place))
        yield Formula(found, int(forms[row]), int(triple), float(ious[triple, row, place]))
