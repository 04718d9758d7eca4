"""How neurons and labels compare with the others of their layer: one meaning or several, similar or distinct.

Pure tensors and texts; knows nothing about storage or models. M neurons, K images each, N images, C candidates, D
embedding width. What cannot be computed for a neuron is NaN, and the docstring says when. Clarity, polysemanticity and
redundancy are from SemanticLens (arXiv 2501.05398); its published code normalizes vectors and centers, as done here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import embedding_bag, normalize

from csp_index.errors import EvaluationError

_BLOCK_BYTES = 256 * 2**20
_CACHE_BYTES = 4 * 2**20  # for steps that read a block repeatedly
_RESTARTS = 16  # starts of one neuron's 2-means, of which the best result counts
_ROUNDS = 50  # of Lloyd's steps, at most
_ROUNDING = 1e-6  # of a float32 correlation or cosine


@dataclass(frozen=True, slots=True)
class Consistency:
    """How similar the labels of near-identical neurons are, one value per neuron [M]; NaN without labeled twins."""

    twins: torch.Tensor  # int64, the number of other labeled neurons that fire alike
    same_label: torch.Tensor  # share of the twins with the same label, in [0, 1]
    text_cosine: torch.Tensor  # mean cosine of the label's text with its twins' texts, in [-1, 1]


def clarity(vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the clarity of each neuron's n images, (|mean v|^2 - 1/n) n / (n - 1), [M] in [-1/(n-1), 1].

    `vectors` [I, D] are unit vectors and `rows` [M, K] each neuron's rows of them; -1 is absent. This is the mean
    cosine of two different images of the neuron: 1 where all are one picture. NaN for n < 2.
    """
    n = (rows >= 0).sum(1)
    squared = _sums(vectors, rows).double().square().sum(1)
    return torch.where(n >= 2, (squared / n.clamp(min=1) - 1) / (n - 1).clamp(min=1), torch.nan).float()


def polysemanticity(vectors: torch.Tensor, rows: torch.Tensor, restarts: int = _RESTARTS) -> torch.Tensor:
    """Return 1 - clarity of the two centers of a 2-means over each neuron's images, [M] in [0, 2].

    The centers are scaled to unit length, as in SemanticLens's code, so this is 1 - cos(center, center): 0 for one
    meaning, near 1 for two unrelated ones. Unlike in that code, a cluster of one image counts like any other (there, it
    takes the mean over ten pairs). NaN for fewer than 2 images, and where a center is the zero vector. The starts are
    seeded and the same for each neuron, so a value does not depend on the other neurons. Among images without clear
    halves the value depends on the clustering; this one finds lower sums of squares than ten runs of scikit-learn's
    Lloyd's algorithm. `rows` [M, K] are each neuron's rows of `vectors`; -1 is absent.
    """
    result = torch.full((len(rows),), torch.nan)
    width = rows.shape[1]
    if width < 2:
        return result
    for pick in _blocks(len(rows), 4 * width * (vectors.shape[1] + 2 * width + 4 * restarts)):
        present = rows[pick] >= 0
        points = vectors[rows[pick].clamp(min=0)] * present[..., None]
        gram = points @ points.transpose(1, 2)
        second = _two_means(gram, present, restarts)
        centers = torch.stack([present & ~second, present & second], 1).to(gram.dtype)
        products = (centers @ gram @ centers.transpose(1, 2)).double()
        lengths = products.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
        cosine = products[:, 0, 1] / lengths.prod(1)
        cosine = torch.where(second.any(1), cosine.clamp(-1, 1), 1.0)  # a single picture is both centers
        known = (present.sum(1) >= 2) & (~second.any(1) | (lengths > _ROUNDING).all(1))
        result[pick] = torch.where(known, 1 - cosine, torch.nan).float()
    return result


def redundancy(concept_vectors: torch.Tensor) -> torch.Tensor:
    """Return the greatest cosine of each concept vector [M, D] with another neuron's, [M] in [-1, 1].

    A zero or non-finite vector (a dead neuron) gets NaN and is no neuron's neighbor; a neuron without any other gets
    NaN as well.
    """
    live = concept_vectors.isfinite().all(1) & (concept_vectors != 0).any(1)
    result = torch.full((len(live),), torch.nan)
    rows = live.nonzero()[:, 0]
    if len(rows) < 2:
        return result
    units = normalize(concept_vectors[rows], dim=1)
    for pick in _blocks(len(rows), 4 * len(rows)):
        cosines = units[pick] @ units.T
        cosines.diagonal(pick.start).fill_(-torch.inf)
        result[rows[pick]] = cosines.amax(1).clamp(-1, 1)
    return result


def consistency(
    activations: torch.Tensor,
    label_vectors: torch.Tensor,
    texts: Sequence[str | None],
    threshold: float = 0.9,
) -> Consistency:
    """Compare each neuron's label with those of its twins, whose activations [M, N] correlate by at least `threshold`.

    `label_vectors` [M, D] are the labels' text embeddings and `texts` the labels, None for a neuron without a label,
    which has no twins and is no twin. Neither is a neuron with constant or non-finite activations.
    """
    _same_length(len(activations), label_vectors=len(label_vectors), texts=len(texts))
    units, spread = _standardized(activations)
    rows = (spread & torch.tensor([text is not None for text in texts], dtype=torch.bool)).nonzero()[:, 0]
    units, words = units[rows], normalize(label_vectors[rows], dim=1)
    codes = _codes([texts[row] for row in rows.tolist()])
    twins = torch.zeros(len(activations), dtype=torch.int64)
    same, cosine = torch.full((2, len(activations)), torch.nan).unbind()
    for pick in _blocks(len(rows), 10 * len(rows)):
        alike = units[pick] @ units.T >= threshold - _ROUNDING
        alike.diagonal(pick.start).fill_(False)
        count = alike.sum(1)
        has = count > 0
        where, number = rows[pick][has], count[has]
        twins[where] = number
        same[where] = (alike & (codes[pick, None] == codes))[has].sum(1) / number
        cosine[where] = ((alike[has].to(words.dtype) @ words) * words[pick][has]).sum(1) / number
    return Consistency(twins, same, cosine.clamp(-1, 1))


def label_images(probabilities: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    """Return the share of images that each neuron's label fits, from calibrated probabilities [M, N]; [M] in [0, 1].

    Lower is more specific. NaN where a row has NaN, and without images.
    """
    share = (probabilities >= threshold).float().mean(1) if probabilities.shape[1] else torch.zeros(len(probabilities))
    known = ~probabilities.isnan().any(1) & (probabilities.shape[1] > 0)
    return torch.where(known, share, torch.nan)


def label_sharing(texts: Sequence[str | None]) -> torch.Tensor:
    """Return how many neurons carry each neuron's label, including itself, [M]; NaN for a neuron without label.

    >>> label_sharing(["red", None, "red", "star"])
    tensor([2., nan, 2., 1.])
    """
    counts = Counter(text for text in texts if text is not None)
    return torch.tensor([torch.nan if text is None else float(counts[text]) for text in texts], dtype=torch.float32)


def lead(scores: torch.Tensor) -> torch.Tensor:
    """Return (best - runner-up) / std of each neuron's candidate scores [M, C], [M] >= 0.

    The standard deviation is over the neuron's candidates (divided by C); non-finite entries are not candidates. NaN
    with fewer than two candidates or where all score the same.
    """
    if scores.shape[1] < 2:
        return torch.full((len(scores),), torch.nan)
    result = torch.empty(len(scores))
    for pick in _blocks(len(scores), 12 * scores.shape[1], _CACHE_BYTES):
        part = scores[pick]
        absent = ~part.isfinite()
        number = (~absent).sum(1)
        best = part.masked_fill(absent, -torch.inf).topk(2, dim=1).values
        # Relative to the best score, so that a constant row has a spread of exactly 0.
        offset = (part - best[:, :1]).masked_fill_(absent, 0.0)
        mean = offset.sum(1, dtype=torch.float64) / number.clamp(min=1)
        squares = (offset - mean[:, None].to(part.dtype)).masked_fill_(absent, 0.0).square_()
        spread = (squares.sum(1, dtype=torch.float64) / number.clamp(min=1)).sqrt()
        known = (number >= 2) & (spread > 0)
        result[pick] = torch.where(known, (best[:, 0] - best[:, 1]) / spread, torch.nan).float()
    return result


def broader_narrower_lead(simulation: torch.Tensor, relatives: torch.Tensor) -> torch.Tensor:
    """Return by how much each label's simulation correlation [M] exceeds that of its best relative, [M] in [-2, 2].

    `relatives` [M, R] are the correlations of the label's parents and children in a hierarchy; NaN pads a row. Negative
    where a broader or narrower word describes the neuron better. NaN without relatives or without the label's own.
    """
    best = torch.full((len(simulation),), -torch.inf)
    if relatives.shape[1]:
        best = relatives.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).amax(1)
    return torch.where(best.isfinite() & ~simulation.isnan(), simulation - best, torch.nan)


def _two_means(gram: torch.Tensor, present: torch.Tensor, restarts: int) -> torch.Tensor:
    """Return which images [M, K] belong to the second of two clusters, from Gram matrices [M, K, K].

    Distances to a center need only the points' products, K^2 instead of K D operations per step. Lloyd's steps come
    first, then single moves that lower the sum of squared distances: these leave the many local optima in which Lloyd's
    algorithm ends on images without clear halves. Of all starts the smallest sum wins.
    """
    second = _starts(gram, present, restarts)
    for _ in range(_ROUNDS):
        first = present[:, None] & ~second
        moved = (_distance(gram, second) < _distance(gram, first)) & present[:, None]
        if torch.equal(moved, second):
            break
        second = moved
    for _ in range(2 * present.shape[1]):
        moved = _best_move(gram, present, second)
        if torch.equal(moved, second):
            break
        second = moved
    # The sum of squared distances is the sum of the points' squares minus this fit.
    fit = _fit(gram, second) + _fit(gram, present[:, None] & ~second)
    return second[torch.arange(len(second)), fit.argmax(1)]


def _best_move(gram: torch.Tensor, present: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the clusterings [M, R, K] after the move that lowers the sum of squared distances most, if any does.

    Leaving a cluster of n saves n / (n - 1) times the squared distance to its center; joining a cluster of n costs
    n / (n + 1) times that (Hartigan's rule).
    """
    norms = gram.diagonal(dim1=1, dim2=2)[:, None]
    first = present[:, None] & ~second
    n_first, n_second = first.sum(2, keepdim=True), second.sum(2, keepdim=True)
    to_first, to_second = norms + _distance(gram, first), norms + _distance(gram, second)
    size = torch.where(second, n_second, n_first)
    saved = torch.where(second, to_second, to_first) * size / (size - 1).clamp(min=1)
    cost = torch.where(second, to_first * n_first / (n_first + 1), to_second * n_second / (n_second + 1))
    gain = (saved - cost).masked_fill((size < 2) | ~present[:, None], -torch.inf)
    best, position = gain.max(2, keepdim=True)
    return second ^ ((torch.arange(second.shape[2]) == position) & (best > _ROUNDING))


def _starts(gram: torch.Tensor, present: torch.Tensor, restarts: int) -> torch.Tensor:
    """Return initial clusterings [M, R, K] around pairs of images: the farthest pair, then seeded random pairs."""
    neurons, width = present.shape
    generator = torch.Generator().manual_seed(0)
    keys = torch.rand(restarts, width, generator=generator)
    pairs = keys.masked_fill(~present[:, None], -1.0).topk(2, dim=2).indices
    norms = gram.diagonal(dim1=1, dim2=2)
    apart = norms[:, :, None] + norms[:, None, :] - 2 * gram
    both = present[:, :, None] & present[:, None, :]
    farthest = apart.masked_fill(~both, -1.0).flatten(1).argmax(1)
    pairs[:, 0] = torch.stack([farthest // width, farthest % width], 1)
    rows = apart.gather(1, pairs.flatten(1)[..., None].expand(-1, -1, width)).view(neurons, restarts, 2, width)
    return (rows[:, :, 1] < rows[:, :, 0]) & present[:, None]


def _distance(gram: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """Return |v - center|^2 - |v|^2 for every point and cluster [M, R, K]; infinite for an empty cluster."""
    weights = members.to(gram.dtype)
    weights = weights / weights.sum(2, keepdim=True).clamp(min=1)
    products = weights @ gram
    distance = (products * weights).sum(2, keepdim=True) - 2 * products
    return distance.masked_fill(~members.any(2, keepdim=True), torch.inf)


def _fit(gram: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """Return |sum of the cluster|^2 / size, [M, R]; 0 for an empty cluster."""
    weights = members.to(gram.dtype)
    return ((weights @ gram) * weights).sum(2) / weights.sum(2).clamp(min=1)


def _sums(vectors: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return the sum of each neuron's vectors [M, D]."""
    weights = (rows >= 0).to(vectors.dtype)
    return embedding_bag(rows.clamp(min=0), vectors, per_sample_weights=weights, mode="sum")


def _standardized(activations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of mean 0 and length 1, whose products are correlations, and which rows have any spread [M]."""
    spread = activations.isfinite().all(1) & (activations != activations[:, :1]).any(1)
    centered = torch.where(spread[:, None], activations, 0.0)
    centered = centered - centered.mean(1, dtype=torch.float64, keepdim=True).float()
    return normalize(centered, dim=1, eps=torch.finfo(torch.float32).tiny), spread


def _codes(texts: Sequence[str | None]) -> torch.Tensor:
    numbers: dict[str | None, int] = {}
    return torch.tensor([numbers.setdefault(text, len(numbers)) for text in texts], dtype=torch.int64)


def _blocks(rows: int, bytes_a_row: int, limit: int | None = None) -> Iterator[slice]:
    size = max(1, (limit or _BLOCK_BYTES) // max(1, bytes_a_row))
    for start in range(0, rows, size):
        yield slice(start, start + size)


def _same_length(neurons: int, **others: int) -> None:
    for name, length in others.items():
        if length != neurons:
            what = name.replace("_", " ")
            raise EvaluationError(f"{what} are {length}, activations of {neurons} neurons: expected one per neuron")
