"""Labels against activations on the judging images: simulation, detection, contrast and reach, a block of neurons at a
time.

The encoder that judges may differ from the one that labels. Memory: the judging images' embeddings, and the activations
of one block of neurons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from csp_index.contrast.examples import Examples
from csp_index.contrast.selection import pool_embeddings, pool_tiles
from csp_index.evaluation.metrics.calibration import TextCalibration, fit_sigmoid
from csp_index.evaluation.metrics.collisions import label_discrimination
from csp_index.evaluation.metrics.detection import DETECTION, detection, pearson
from csp_index.evaluation.metrics.structure import label_images
from csp_index.records import Progress
from csp_index.store import streams
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store

_BLOCK = 2**22  # activations of a block of neurons
FITTED = 5_000  # choosing images that the calibrations use at most


@dataclass(frozen=True, slots=True)
class JudgingImages:
    """The images that judge and those that calibrate, as the judging encoder embeds them; masks are over N images."""

    store: Store
    source: EncoderInfo
    target: LayerInfo
    neurons: np.ndarray
    choosing: torch.Tensor
    judging: torch.Tensor
    fit_embeddings: torch.Tensor  # [n1, D]
    embeddings: torch.Tensor  # [n2, D]
    alpha: float

    def blocks(self) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """Yield a slice of neurons with their activations on the choosing [b, n1] and judging images [b, n2]."""
        both = self.choosing | self.judging
        choosing = self.choosing[both]
        size = max(1, _BLOCK // max(1, len(choosing)))
        for start in range(0, len(self.neurons), size):
            pick = slice(start, start + size)
            values = torch.cat(list(pool_tiles(self.store, self.target, self.neurons[pick], both)), 1)
            yield pick, values[:, choosing], values[:, ~choosing]


@dataclass(frozen=True, slots=True)
class LabelTexts:
    """The T distinct labels to evaluate, at least one: unit vectors [T, D] of the judging encoder, and presence.

    `presence` [T, n2] says which judging images show the label's concept, where `known` [T]; None without metadata.
    """

    texts: tuple[str, ...]
    vectors: torch.Tensor
    presence: torch.Tensor | None = None
    known: torch.Tensor | None = None

    def rows(self, labels: list[str | None]) -> torch.Tensor:
        """Return each neuron's row [M]; -1 for a neuron without a label."""
        row_of = {text: row for row, text in enumerate(self.texts)}
        return torch.tensor([-1 if label is None else row_of[label] for label in labels], dtype=torch.int64)


def read_judging_images(
    store: Store,
    source: EncoderInfo,
    target: LayerInfo,
    neurons: np.ndarray,
    choosing: torch.Tensor,
    judging: torch.Tensor,
    alpha: float,
) -> JudgingImages:
    """Read the embeddings of the images; `choosing` and `judging` are already thinned."""
    fit_embeddings = torch.cat(list(pool_embeddings(store, source, choosing)))
    embeddings = torch.cat(list(pool_embeddings(store, source, judging)))
    return JudgingImages(store, source, target, neurons, choosing, judging, fit_embeddings, embeddings, alpha)


def activation_metrics(
    images: JudgingImages, label_texts: LabelTexts, labels: list[str | None], progress: Progress
) -> dict[str, torch.Tensor]:
    """Return metric -> values [M], for one label per neuron; NaN where undefined.

    Metrics: simulation, simulation-calibrated, those of DETECTION, label-images.
    """
    rows = label_texts.rows(labels)
    calibration = TextCalibration.fit(label_texts.vectors @ images.fit_embeddings.T)
    names = ("simulation", "simulation-calibrated", *DETECTION, "label-images")
    values_of = {name: torch.full((len(images.neurons),), torch.nan, dtype=torch.float64) for name in names}
    for pick, fitting, activations in images.blocks():
        part = _block_metrics(images, label_texts, calibration, rows[pick], fitting, activations)
        for name, values in part.items():
            values_of[name][pick] = values.double().masked_fill(rows[pick] < 0, torch.nan)
        progress(min(pick.stop, len(images.neurons)), len(images.neurons), "neurons evaluated")
    return values_of


def _block_metrics(
    images: JudgingImages,
    label_texts: LabelTexts,
    calibration: TextCalibration,
    rows: torch.Tensor,
    fitting: torch.Tensor,
    activations: torch.Tensor,
) -> dict[str, torch.Tensor]:
    text_rows = rows.clamp(min=0)
    vectors = label_texts.vectors[text_rows]
    cosines = vectors @ images.embeddings.T
    sigmoid = fit_sigmoid(vectors @ images.fit_embeddings.T, fitting)
    probabilities = calibration.apply(cosines, text_rows)
    if label_texts.presence is None or label_texts.known is None:
        detection_values = detection(activations, probabilities, alpha=images.alpha)
    else:
        detection_values = detection(
            activations,
            label_texts.presence,
            rows=rows.masked_fill(~label_texts.known[text_rows], -1),
            alpha=images.alpha,
        )
    # A neuron with constant activation detects nothing; its precision would be the share of images the label fits.
    constant = activations.amin(1) == activations.amax(1)
    return {
        "simulation": pearson(activations, cosines),
        "simulation-calibrated": pearson(activations, sigmoid.apply(cosines)),
        **{name: values.masked_fill(constant, torch.nan) for name, values in detection_values.items()},
        "label-images": label_images(probabilities),
    }


def relatives_simulation(images: JudgingImages, vectors: torch.Tensor, relatives: torch.Tensor) -> torch.Tensor:
    """Return the simulation correlation of each neuron's R relatives, [M, R].

    `relatives` [M, R] are rows of `vectors` [T, D]; -1 pads.
    """
    correlations = torch.full(relatives.shape, torch.nan)
    for pick, _, activations in images.blocks():
        for column in range(relatives.shape[1]):
            rows = relatives[pick, column]
            values = pearson(activations, vectors[rows.clamp(min=0)] @ images.embeddings.T)
            correlations[pick, column] = values.float().masked_fill(rows < 0, torch.nan)
    return correlations


def discrimination(
    images: JudgingImages, label_texts: LabelTexts, labels: list[str | None], examples: Examples
) -> torch.Tensor:
    """Return the AUROC [M] of each label's cosine for activating against contrastive images of its neuron.

    Ties count one half. NaN for a neuron without label, activating or contrastive images.
    """
    ids = torch.cat([examples.activating.flatten(), examples.contrastive.flatten()])
    used = ids[ids >= 0].unique()
    vectors = streams.embeddings_of(images.store, images.source, used.numpy())
    rows = label_texts.rows(labels)
    result = torch.full((len(rows),), torch.nan)
    for start in range(0, len(rows), 256):
        pick = slice(start, start + 256)
        texts = label_texts.vectors[rows[pick].clamp(min=0)]
        sides = []
        for image_ids in (examples.activating[pick], examples.contrastive[pick].flatten(1)):
            positions = torch.searchsorted(used, image_ids.clamp(min=0)).clamp(max=max(0, len(used) - 1))
            cosines = (
                torch.einsum("mkd,md->mk", vectors[positions], texts) if len(used) else torch.zeros(image_ids.shape)
            )
            sides.append((cosines, image_ids >= 0))
        (activating, has_activating), (contrastive, has_contrastive) = sides
        gap = activating[:, :, None] - contrastive[:, None, :]
        pairs = has_activating[:, :, None] & has_contrastive[:, None, :]
        wins = ((gap > 0).float() + 0.5 * (gap == 0).float()) * pairs
        total = pairs.sum((1, 2))
        share = wins.sum((1, 2)) / total.clamp(min=1)
        result[pick] = share.masked_fill((total == 0) | (rows[pick] < 0), torch.nan)
    return result


def neurons_told_apart(
    images: JudgingImages, label_texts: LabelTexts, labels: list[str | None], examples: Examples
) -> torch.Tensor:
    """Return the AUROC [M] of each label's cosine for its neuron's activating images against those of its rivals.

    The rivals are other neurons of the same label, or else of the nearest one; NaN where `label_discrimination` says.
    The activating images are judging ones.
    """
    place = images.judging.cumsum(0) - 1
    ids = examples.activating
    rows = place[ids.clamp(min=0)].masked_fill(ids < 0, -1)
    return label_discrimination(images.embeddings, rows, label_texts.vectors, label_texts.rows(labels))
