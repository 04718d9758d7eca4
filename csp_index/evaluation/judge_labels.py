"""Labels against activations on the judging images: simulation, detection, contrast and reach, a block of neurons at a
time. A label that is a weighted sum of texts predicts by that sum (`label_sums`).

The encoder that judges may differ from the one that labels. Memory: the judging images' embeddings, and the activations
of one block of neurons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from csp_index.contrast.examples import Examples
from csp_index.contrast.pool import pool_embeddings, pool_tiles
from csp_index.evaluation.label_sums import LabelSums, OfTexts
from csp_index.evaluation.metrics.calibration import TextCalibration, fit_sigmoid
from csp_index.evaluation.metrics.collisions import label_discrimination
from csp_index.evaluation.metrics.detection import DETECTION, THRESHOLD, detection, pearson
from csp_index.evaluation.metrics.structure import label_images
from csp_index.labelling.linear.presence import PresenceSigmoids
from csp_index.records import Progress
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.tables import Store
from csp_index.store.values import streams

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
    """The labels to evaluate, as `sums` of T distinct texts, at least one: unit vectors [T, D] of the judging encoder.

    `sigmoids` give a text's presence in an image, of which sums are made, and `calibration` the probability that an
    image shows it. `presence` [T, n2] says which judging images show the text's concept, where `known` [T]; None
    without metadata.
    """

    vectors: torch.Tensor
    sums: LabelSums
    sigmoids: PresenceSigmoids
    calibration: TextCalibration
    presence: torch.Tensor | None = None
    known: torch.Tensor | None = None

    def fitted(self, images: torch.Tensor) -> OfTexts:
        """Return the function from rows [S] of texts to their presence [S, n] in images [n, D]."""
        return lambda rows: self.sigmoids.apply(self.vectors[rows] @ images.T, rows)

    def probability(self, images: torch.Tensor) -> OfTexts:
        """Return the function from rows [S] of texts to the probabilities [S, n] that images [n, D] show them."""
        return lambda rows: self.calibration.apply(self.vectors[rows] @ images.T, rows)


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


def activation_metrics(images: JudgingImages, label_texts: LabelTexts, progress: Progress) -> dict[str, torch.Tensor]:
    """Return metric -> values [M], for one label per neuron; NaN where undefined.

    Metrics: simulation, simulation-calibrated, those of DETECTION, label-images.
    """
    names = ("simulation", "simulation-calibrated", *DETECTION, "label-images")
    values_of = {name: torch.full((len(images.neurons),), torch.nan, dtype=torch.float64) for name in names}
    for pick, fitting, activations in images.blocks():
        sums = label_texts.sums.of_neurons(pick)
        part = _block_metrics(images, label_texts, sums, fitting, activations)
        for name, values in part.items():
            values_of[name][pick] = values.double().masked_fill(sums.heads < 0, torch.nan)
        progress(min(pick.stop, len(images.neurons)), len(images.neurons), "neurons evaluated")
    return values_of


def _block_metrics(
    images: JudgingImages,
    label_texts: LabelTexts,
    sums: LabelSums,
    fitting: torch.Tensor,
    activations: torch.Tensor,
) -> dict[str, torch.Tensor]:
    text_rows = sums.heads.clamp(min=0)
    vectors = label_texts.vectors[text_rows]
    predicted, predicted_fit = vectors @ images.embeddings.T, vectors @ images.fit_embeddings.T
    probabilities = label_texts.calibration.apply(predicted, text_rows)
    weighted = sums.of_neurons(sums.is_sum)
    if len(weighted.rows):
        predicted[sums.is_sum] = weighted.predicted(label_texts.fitted(images.embeddings))
        predicted_fit[sums.is_sum] = weighted.predicted(label_texts.fitted(images.fit_embeddings))
        probabilities[sums.is_sum] = weighted.share(label_texts.probability(images.embeddings))
    presence, shown = probabilities, sums.heads >= 0
    if label_texts.presence is not None and label_texts.known is not None:
        shown = sums.known(label_texts.known)
        presence = label_texts.presence[text_rows]
        if len(weighted.rows):
            by_text = label_texts.presence
            presence[sums.is_sum] = weighted.share(lambda rows: by_text[rows].float()) >= THRESHOLD
    detection_values = detection(activations, presence, alpha=images.alpha)
    # A neuron with constant activation detects nothing; its precision would be the share of images the label fits.
    undefined = (activations.amin(1) == activations.amax(1)) | ~shown
    return {
        "simulation": pearson(activations, predicted),
        "simulation-calibrated": pearson(activations, fit_sigmoid(predicted_fit, fitting).apply(predicted)),
        **{name: values.masked_fill(undefined, torch.nan) for name, values in detection_values.items()},
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


def discrimination(images: JudgingImages, label_texts: LabelTexts, examples: Examples) -> torch.Tensor:
    """Return the AUROC [M] of each label's cosine for activating against contrastive images of its neuron.

    A weighted sum of texts has its predicted activation instead of a cosine. Ties count one half. NaN for a neuron
    without label, activating or contrastive images.
    """
    ids = torch.cat([examples.activating.flatten(), examples.contrastive.flatten()])
    used = ids[ids >= 0].unique()
    vectors = streams.embeddings_of(images.store, images.source, used.numpy())
    result = torch.full((len(label_texts.sums.rows),), torch.nan)
    for start in range(0, len(result), 256):
        pick = slice(start, start + 256)
        sums = label_texts.sums.of_neurons(pick)
        sides = []
        for image_ids in (examples.activating[pick], examples.contrastive[pick].flatten(1)):
            positions = torch.searchsorted(used, image_ids.clamp(min=0)).clamp(max=max(0, len(used) - 1))
            fits = _fits(label_texts, sums, vectors[positions]) if len(used) else torch.zeros(image_ids.shape)
            sides.append((fits, image_ids >= 0))
        (activating, has_activating), (contrastive, has_contrastive) = sides
        gap = activating[:, :, None] - contrastive[:, None, :]
        pairs = has_activating[:, :, None] & has_contrastive[:, None, :]
        wins = ((gap > 0).float() + 0.5 * (gap == 0).float()) * pairs
        total = pairs.sum((1, 2))
        share = wins.sum((1, 2)) / total.clamp(min=1)
        result[pick] = share.masked_fill((total == 0) | (sums.heads < 0), torch.nan)
    return result


def _fits(label_texts: LabelTexts, sums: LabelSums, vectors: torch.Tensor) -> torch.Tensor:
    """Return how well each label fits its own images [m, k, D], [m, k]."""
    result = torch.einsum("mkd,md->mk", vectors, label_texts.vectors[sums.heads.clamp(min=0)])
    for neuron in sums.is_sum.nonzero()[:, 0].tolist():
        label = sums.of_neurons(slice(neuron, neuron + 1))
        result[neuron] = label.predicted(label_texts.fitted(vectors[neuron]))[0]
    return result


def neurons_told_apart(images: JudgingImages, label_texts: LabelTexts, examples: Examples) -> torch.Tensor:
    """Return the AUROC [M] of each label's cosine for its neuron's activating images against those of its rivals.

    The rivals are other neurons of the same label, or else of the nearest one; NaN where `label_discrimination` says.
    The activating images are judging ones. A weighted sum of texts is the label of its neuron alone, and its cosine is
    that of its direction.
    """
    place = images.judging.cumsum(0) - 1
    ids = examples.activating
    rows = place[ids.clamp(min=0)].masked_fill(ids < 0, -1)
    sums, texts = label_texts.sums, label_texts.vectors
    labels = sums.heads.clone()
    labels[sums.is_sum] = torch.arange(len(texts), len(texts) + int(sums.is_sum.sum()))
    return label_discrimination(
        images.embeddings, rows, torch.cat([texts, sums.directions(texts)[sums.is_sum]]), labels
    )
