"""What an audit looks at, gathered from an index: correlations over all images, shard by shard, and likenesses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csc_array

from csp_index.records import Label, Progress
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store
from csp_index.store.values.arrays import embedding_blocks, embedding_rows, fetch_tiles
from csp_index.store.values.derived_images import is_derived
from csp_index.studies.auditing.carried import MomentSums, PairedSums, unneeded_look
from csp_index.studies.auditing.columns import Factors
from csp_index.studies.auditing.findings import AuditArrays, candidates_of
from csp_index.studies.classes.image_classes import ImageClasses

_SAMPLE = 2_000  # images that stand for all where a look is compared with theirs


@dataclass(frozen=True, slots=True)
class AuditInputs:
    """What the arrays of an audit are made of: M neurons, C classes, N images.

    `labels` and `plain` [M] are made with and without contrast; `vectors` has the unit embedding [D] of each text that
    is a label. Neurons that `least` bars cannot have a finding and are not looked at.
    """

    target: LayerInfo
    source: EncoderInfo
    classes: ImageClasses
    factors: Factors
    effects: np.ndarray  # [M, C]
    labels: Sequence[Label]
    plain: Sequence[Label]
    vectors: Mapping[str, np.ndarray]
    least: float

    @property
    def images(self) -> int:
        """N."""
        return self.classes.total

    def classed(self) -> np.ndarray:
        """Return which images [N] have a class: the others count nowhere."""
        mask = np.zeros(self.images, dtype=bool)
        mask[self.classes.present] = True
        return mask

    def members(self, name: str) -> np.ndarray:
        """Return which images [N] are of a class."""
        place = self.classes.names.index(name)
        mask = np.zeros(self.images, dtype=bool)
        mask[self.classes.images[self.classes.offsets[place] : self.classes.offsets[place + 1]]] = True
        return mask


def gather_arrays(store: Store, inputs: AuditInputs, progress: Progress) -> AuditArrays:
    """Return the arrays of an audit; neurons that cannot have a finding have zeros, and no label."""
    neurons = candidates_of(inputs.effects, inputs.least)
    pairs = _labeled(inputs, inputs.labels, neurons), _labeled(inputs, inputs.plain, neurons)
    owners, texts = (np.array([*pairs[0], *pairs[1]], np.int64), [*pairs[0].values(), *pairs[1].values()])
    count, classes, values = len(inputs.effects), len(inputs.classes.names), len(inputs.factors.values)
    own, tied = np.zeros((count, classes)), np.zeros((count, values))
    looks = np.zeros(count)
    sums, classed = MomentSums(len(neurons), classes + values), inputs.classed()
    likeness = _Likeness(store, inputs, np.searchsorted(neurons, owners), texts)
    members = _memberships(inputs.classes)
    for first, activations in _blocks(store, inputs, neurons):
        part = slice(first, first + activations.shape[1])
        counted, activations = classed[part], activations[:, classed[part]]
        inside = members[:, part].toarray()[:, counted]
        sums.add(activations, np.concatenate([inside, inputs.factors.rows[:, part][:, counted].astype(np.float32)]))
        likeness.add(counted, activations, inside)
        progress(min(part.stop, inputs.images), inputs.images, "images")
    found = sums.correlations()
    own[neurons], tied[neurons] = found.tied[:, :classes], found.tied[:, classes:]
    ties = likeness.correlations()
    label_tied, label_joint = _spread(ties, owners, slice(0, len(pairs[0])), count)
    plain_tied, plain_joint = _spread(ties, owners, slice(len(pairs[0]), None), count)
    for neuron in neurons.tolist():
        looks[neuron] = _look(store, inputs, inputs.labels[neuron], inputs.plain[neuron].text)
    return AuditArrays(
        inputs.classes.names,
        inputs.factors.values,
        found.images,
        inputs.effects,
        own,
        tied,
        found.joint[classes:, :classes],
        [pairs[0].get(neuron) for neuron in range(count)],
        label_tied,
        label_joint,
        [pairs[1].get(neuron) for neuron in range(count)],
        plain_tied,
        plain_joint,
        looks,
    )


def _labeled(inputs: AuditInputs, labels: Sequence[Label], neurons: np.ndarray) -> dict[int, str]:
    """Return the labels of neurons that have one with a vector."""
    texts = {neuron: labels[neuron].text for neuron in neurons.tolist()}
    return {neuron: text for neuron, text in texts.items() if text is not None and text in inputs.vectors}


def _spread(
    ties: tuple[np.ndarray, np.ndarray], owners: np.ndarray, some: slice, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return correlations [L] and [L, C] of some labels at the places of their neurons: [M] and [M, C]."""
    tied, joint = np.zeros(count), np.zeros((count, ties[1].shape[1]))
    tied[owners[some]], joint[owners[some]] = ties[0][some], ties[1][some]
    return tied, joint


def _memberships(classes: ImageClasses) -> csc_array:
    """Return which images are in which classes, [C, N]."""
    owners = np.repeat(np.arange(len(classes.names)), classes.sizes)
    ones = np.ones(len(owners), np.float32)
    return csc_array((ones, (owners, classes.images)), shape=(len(classes.names), classes.total))


def _blocks(store: Store, inputs: AuditInputs, neurons: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the activations of neurons [M, n] shard by shard, each with its first image."""
    marks = catalog.covered(store, inputs.target.what, inputs.images)
    for mark, tile in zip(marks, fetch_tiles(store, inputs.target, marks, neurons), strict=True):
        yield mark.first_image, tile


class _Likeness:
    """How activations and classes go along with the likeness of images to the neurons' labels, over all images."""

    def __init__(self, store: Store, inputs: AuditInputs, rows: np.ndarray, texts: Sequence[str]) -> None:
        """Take the places `rows` [L] of neurons among the activations that will be added, and their labels [L]."""
        self._names = list(dict.fromkeys(texts))
        self._places = np.array([self._names.index(text) for text in texts], np.int64)
        self._rows = rows
        width = inputs.source.width
        self._vectors = np.stack([inputs.vectors[text] for text in self._names]) if texts else np.zeros((0, width))
        marks = catalog.covered(store, inputs.source.what, inputs.images)
        self._embeddings = _Rows(embedding_blocks(store, inputs.source, marks))
        self._with_classes = MomentSums(len(self._names), len(inputs.classes.names))
        self._with_neurons = PairedSums(len(texts))

    def add(self, counted: np.ndarray, activations: np.ndarray, inside: np.ndarray) -> None:
        """Add those of the next n images that are `counted` [n]."""
        if not self._names:
            return
        likeness = self._vectors.astype(np.float32) @ self._embeddings.take(len(counted))[counted].T
        self._with_classes.add(likeness, inside)
        self._with_neurons.add(activations[self._rows], likeness[self._places])

    def correlations(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the correlations of neurons with their labels [L], and of the labels with the classes [L, C]."""
        return self._with_neurons.correlations(), self._with_classes.correlations().tied[self._places]


class _Rows:
    """Rows of blocks [n, D], taken in other portions than they come in."""

    def __init__(self, blocks: Iterator[np.ndarray]) -> None:
        self._blocks, self._rest = blocks, np.zeros((0, 0), np.float32)

    def take(self, count: int) -> np.ndarray:
        """Return the next `count` rows."""
        parts = [self._rest] if len(self._rest) else []
        while sum(map(len, parts)) < count:
            parts.append(next(self._blocks))
        rows = np.concatenate(parts)
        self._rest = rows[count:]
        return rows[:count]


def _look(store: Store, inputs: AuditInputs, label: Label, plain: str | None) -> float:
    """Return how far a neuron does not need the look that its label without contrast names, in [0, 1]."""
    vector = inputs.vectors.get(plain or "")
    if vector is None or label.text is None:
        return 0.0
    activating = sorted({pair.image_id for pair in label.pairs})
    partners = sorted({pair.contrast_id for pair in label.pairs if pair.contrast_id is not None})
    partners = [image for image in partners if not is_derived(image)]
    if not activating or not partners:
        return 0.0
    shown, silent = (embedding_rows(store, inputs.source, np.array(ids)) @ vector for ids in (activating, partners))
    return unneeded_look(shown, silent, _sample(store, inputs) @ vector)


def _sample(store: Store, inputs: AuditInputs) -> np.ndarray:
    """Return the embeddings of a seeded sample of all images."""

    def read() -> np.ndarray:
        ids = np.sort(np.random.default_rng(0).permutation(inputs.images)[:_SAMPLE])
        return embedding_rows(store, inputs.source, ids)

    return store.memo(inputs.source.table, ("audit sample", inputs.images), read)
