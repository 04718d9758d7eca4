"""Labels of neurons by contrast within a class of lesions, and across classes.

*Within* a class both the activating and the contrastive images are of the class: the label says what sets apart, among
melanomas say, those that fire the neuron. *Across* classes the activating images are of the class and the contrastive
ones of the others: what it sees of the class that similar lesions of other classes lack. Where both labels are the
same, the neuron needs no class; an artefact that leaks a class shows up in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch

from csp_index import Index
from csp_index.contrast.pool import draw_pool
from csp_index.contrast.selection import Pool, Selection
from csp_index.evaluation.choose_labels import Chooser
from csp_index.evaluation.options import MethodChoice
from csp_index.labelling.candidates import vocabulary_texts
from csp_index.labelling.texts.candidate_names import TextSpace
from csp_index.labelling.vocabularies import Vocabulary
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.studies.classes.image_classes import ImageClasses

FEWEST: Final = 20  # images of a class that is looked at


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """The labels of a neuron on one class: None where too few images fire it, or none is silent."""

    neuron: int
    class_name: str
    images: int
    within: str | None
    across: str | None


@dataclass(frozen=True, slots=True)
class Subject:
    """What is labeled: neurons (sorted) of a layer, by an encoder, among texts, by a method."""

    index: Index
    source: EncoderInfo
    target: LayerInfo
    neurons: np.ndarray
    space: TextSpace
    vocabulary: Vocabulary
    method: str


def class_labels(subject: Subject, classes: ImageClasses) -> tuple[list[ClassLabel], list[str]]:
    """Return the labels on each class with `FEWEST` images or more, and the names of the other classes."""
    members = [classes.images[start:end] for start, end in zip(classes.offsets[:-1], classes.offsets[1:], strict=True)]
    classed = _mask(classes.present, classes.total)
    rows: list[ClassLabel] = []
    few: list[str] = []
    for name, own in zip(classes.names, members, strict=True):
        if len(own) < FEWEST:
            few.append(name)
            continue
        inside = _mask(own, classes.total)
        within = _with_mean_of_all(subject, draw_pool(subject.index.store, subject.target, subject.neurons, inside))
        across = replace(within, mask=classed & ~inside)
        labels = [_labels(subject, pool) for pool in (within, across)]
        rows += [
            ClassLabel(neuron, name, len(own), *pair)
            for neuron, *pair in zip(subject.neurons.tolist(), *labels, strict=True)
        ]
    return rows, few


def _mask(images: np.ndarray, total: int) -> torch.Tensor:
    mask = torch.zeros(total, dtype=torch.bool)
    mask[torch.from_numpy(images)] = True
    return mask


def _with_mean_of_all(subject: Subject, pool: Pool) -> Pool:
    """Return the pool, with the means over all images: what is below them is silent, as it is without classes.

    Below the mean of a class that fires the neuron often would be images that fire it, too.
    """
    every = catalog.neuron_rows(subject.index.store, subject.target, subject.neurons.tolist())
    place = pool.rows.schema.get_field_index("mean")
    return replace(pool, rows=pool.rows.set_column(place, pool.rows.schema.field(place), every["mean"]))


def _labels(subject: Subject, pool: Pool) -> Sequence[str | None]:
    selection = Selection(subject.source, subject.target, subject.neurons, pool)
    texts = vocabulary_texts(subject.space, subject.vocabulary)
    chooser = Chooser(subject.index.store, selection, texts, subject.index.device, {"bootstrap": 0})
    return chooser.choose(MethodChoice.parse(subject.method)).labels
