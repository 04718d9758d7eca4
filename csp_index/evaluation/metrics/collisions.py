"""How many neurons of a layer share a label, and whether a label tells its neuron from those it is shared with.

A label that fits many neurons explains none of them alone, and no metric that looks at one neuron sees that. The
measures are those of descriptive collision (arXiv 2605.12874), which compares labels without regard to case. They
depend on the neurons that are labeled together: compare layers and methods of about as many neurons only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log2, nan

import torch

_SCORES = 2**24  # cosines of images with labels in memory at once


@dataclass(frozen=True, slots=True)
class Collisions:
    """How the M labels of a layer collide.

    `reuse` >= 1 is the number of neurons per distinct label, `shared` in [0, 1] the share of neurons whose label
    another one carries, `bits` in [0, 1] the entropy of the labels over log2 M: the part of what it takes to name one
    neuron that its label tells. It is None for a single label. `most_common` labels `most_neurons` of them; among
    equals it is the first in alphabetical order.
    """

    labels: int
    distinct: int
    reuse: float
    shared: float
    bits: float | None
    most_common: str
    most_neurons: int


def collisions(labels: Sequence[str | None]) -> Collisions | None:
    """Return how the labels of a layer's neurons collide; None where no neuron has a label.

    >>> collisions(["red", "Red", "star", None, "moon"])
    Collisions(labels=4, distinct=3, reuse=1.3333333333333333, shared=0.5, bits=0.75, most_common='red', most_neurons=2)
    """
    counts = Counter(filter(None, _folded(labels)))
    total = counts.total()
    if not total:
        return None
    entropy = sum(count / total * log2(total / count) for count in counts.values())
    most_common = min(counts, key=lambda label: (-counts[label], label))
    return Collisions(
        total,
        len(counts),
        total / len(counts),
        sum(count for count in counts.values() if count > 1) / total,
        entropy / log2(total) if total > 1 else None,
        most_common,
        counts[most_common],
    )


def label_shared(labels: Sequence[str | None]) -> torch.Tensor:
    """Return 1 where another neuron carries a neuron's label, else 0, [M]; NaN without label. The mean is `shared`."""
    folded = _folded(labels)
    counts = Counter(folded)
    return torch.tensor([nan if label is None else float(counts[label] > 1) for label in folded], dtype=torch.float64)


def label_bits(labels: Sequence[str | None]) -> torch.Tensor:
    """Return the part of a neuron's identity that its label tells, -log2(share of the label) / log2 M, [M] in [0, 1].

    1 where no other neuron carries it, 0 where all do; the mean is `bits`. NaN without label, and for a single one.
    """
    folded = _folded(labels)
    counts = Counter(filter(None, folded))
    total = counts.total()
    if total < 2:
        return torch.full((len(labels),), nan, dtype=torch.float64)
    bits = {label: log2(total / count) / log2(total) for label, count in counts.items()}
    return torch.tensor([nan if label is None else bits[label] for label in folded], dtype=torch.float64)


def label_discrimination(
    vectors: torch.Tensor, rows: torch.Tensor, texts: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Return the AUROC of each label's cosine for its neuron's images against those of its rivals, [M] in [0, 1].

    This is the discrimination of descriptive collision, with a text encoder as the reader of the label. The rivals are
    the other neurons that carry the same label; where there are none, those that carry the label with the nearest text.
    Ties count one half, so an image that both sides have counts for neither. `vectors` [I, D] are unit vectors of
    images, `rows` [M, K] each neuron's rows of them (-1 absent), `texts` [T, D] unit vectors of labels and `labels` [M]
    each neuron's row of those (-1 none). NaN for a neuron without label or images, or without a rival.
    """
    result = torch.full((len(labels),), nan, dtype=torch.float64)
    live = (rows >= 0).any(1) & (labels >= 0)
    carriers = {text: (live & (labels == text)).nonzero()[:, 0] for text in labels[live].unique().tolist()}
    for block, nearest in _nearest(texts, sorted(carriers), max(1, _SCORES // max(1, len(vectors)))):
        cosines = texts[torch.tensor(block)] @ vectors.T
        for text, rival, scores in zip(block, nearest, cosines, strict=True):
            own = carriers[text]
            others = carriers[rival] if len(own) == 1 and rival >= 0 else own[:0]
            pool = torch.cat([own, others])
            if len(pool) > 1:
                result[own] = _against_the_rest(scores, rows[pool])[: len(own)]
    return result


def _folded(labels: Sequence[str | None]) -> list[str | None]:
    return [None if label is None else label.strip().casefold() or None for label in labels]


def _nearest(texts: torch.Tensor, used: list[int], size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yield blocks of the used texts with the nearest other used text of each, -1 for a single one."""
    places = torch.tensor(used, dtype=torch.int64)
    vectors = texts[places]
    for start in range(0, len(used), size):
        cosines = vectors[start : start + size] @ vectors.T
        cosines.diagonal(start).fill_(-torch.inf)
        nearest = places[cosines.argmax(1)] if len(used) > 1 else torch.full((1,), -1)
        yield used[start : start + size], nearest.tolist()


def _against_the_rest(scores: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the AUROC of each neuron's scores against those of all others [G], from scores [I] and rows [G, K].

    By Mann and Whitney's U, which needs the ranks among all neurons once.
    """
    present = rows >= 0
    _, place, counts = scores[rows[present]].unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0)
    ranks = torch.zeros(rows.shape, dtype=torch.float64)
    ranks[present] = (last - (counts - 1) / 2)[place].double()
    own = present.sum(1).double()
    return (ranks.sum(1) - own * (own + 1) / 2) / (own * (own.sum() - own))
