"""Perturbed copies of images: do a label, and the neuron itself, survive noise, blur, compression, a darker exposure?

Each copy runs through encoder and network, so both its embedding and its activations are its own.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Literal

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter

from csp_index.errors import SourceError
from csp_index.images.decode import ImageFailure
from csp_index.labelling import scoring
from csp_index.labelling.pipeline import NeuronScores
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.networks import LoadedNetwork
from csp_index.records import Progress
from csp_index.store import schema
from csp_index.store.originals import read_originals
from csp_index.store.tables import Store

Perturbation = Literal["noise", "blur", "jpeg", "dark"]
PERTURBATIONS: Final[tuple[Perturbation, ...]] = ("noise", "blur", "jpeg", "dark")
_NOISE = 10.0  # gray levels
_BLUR = 1 / 64  # of the shorter side
_QUALITY = 40  # of JPEG
_EXPOSURE = 0.75  # of the brightness
LOW_STRENGTH: Final = 0.5  # of these, in copies that show what the image shows beyond doubt


@dataclass(frozen=True, slots=True)
class Copies:
    """Perturbed copies of images: sorted ids [I], unit embeddings [I, D], activations [I, M] of the neurons."""

    ids: torch.Tensor
    embeddings: torch.Tensor
    activations: torch.Tensor


def perturb(image: Image.Image, kind: Perturbation, seed: int, strength: float = 1.0) -> Image.Image:
    """Return a copy of an RGB image: noisy, blurred, compressed or darker; at strength 0 it is hardly changed."""
    if kind == "noise":
        noise = np.random.default_rng(seed).normal(0, strength * _NOISE, (image.height, image.width, 3))
        return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(strength * _BLUR * min(image.size)))
    if kind == "dark":
        return ImageEnhance.Brightness(image).enhance(1 - strength * (1 - _EXPOSURE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=round(100 - strength * (100 - _QUALITY)))
    return Image.open(buffer, formats=["JPEG"]).convert("RGB")


def perturbed_copies(
    store: Store,
    ids: torch.Tensor,
    kind: Perturbation,
    encoder: LoadedEncoder,
    network: LoadedNetwork,
    pick: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    progress: Progress,
) -> Copies:
    """Run perturbed copies of images (sorted ids [I]) through encoder and network; `pick` takes the neurons' columns.

    Raises SourceError for an image that can no longer be read.
    """
    vectors, values = [], []
    done = 0
    for batch in _batches(store, ids, kind, 1.0, encoder.batch_size):
        vectors.append(encoder.embed_images(torch.stack([encoder.preprocess(image) for image in batch])).cpu())
        values.append(pick(network.activations(torch.stack([network.preprocess(image) for image in batch]))))
        done += len(batch)
        progress(done, len(ids), f"images with {kind}")
    return Copies(ids, torch.cat(vectors), torch.cat(values))


def copies_that_fire(
    store: Store,
    ids: torch.Tensor,
    thresholds: torch.Tensor,
    network: LoadedNetwork,
    pick: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    progress: Progress,
) -> torch.Tensor:
    """Return the share of four copies at low strength of each image (sorted ids [I]) that fire each neuron, [I, M].

    A neuron fires above its threshold [M]; `pick` takes the neurons' columns. Raises SourceError for an image that can
    no longer be read.
    """
    shares = torch.zeros(len(ids), len(thresholds))
    for kind in PERTURBATIONS:
        done = 0
        for batch in _batches(store, ids, kind, LOW_STRENGTH, network.batch_size):
            values = pick(network.activations(torch.stack([network.preprocess(image) for image in batch])))
            shares[done : done + len(batch)] += (values > thresholds) / len(PERTURBATIONS)
            done += len(batch)
            progress(done, len(ids), f"images with a little {kind}")
    return shares


def _batches(
    store: Store, ids: torch.Tensor, kind: Perturbation, strength: float, size: int
) -> Iterator[list[Image.Image]]:
    where = f"image_id IN ({','.join(map(str, ids.tolist()))})"
    uris = store.read(schema.IMAGES, ["image_id", "uri"], where).sort_by("image_id")["uri"].to_pylist()

    def copies() -> Iterator[Image.Image]:
        for number, item in zip(ids.tolist(), read_originals(store, uris), strict=True):
            if isinstance(item, ImageFailure):
                raise SourceError(
                    f"the image {item.uri} can no longer be read ({item.reason}): restore it, or leave perturbation out"
                )
            yield perturb(item.image, kind, number, strength)

    stream = copies()
    while batch := list(islice(stream, size)):
        yield batch


def rescored(original: NeuronScores, copies: Copies) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scores [M, C] with every example image replaced by its copy, and which neurons still fire [M].

    A copy that leaves the neuron silent is no example. The neurons are those of the copies' columns, in order.
    """
    old = original.evidence
    ids = torch.cat([original.examples.activating.flatten(), original.examples.contrastive.flatten()])
    used = ids[ids >= 0].unique()
    rows = torch.searchsorted(copies.ids, used)
    activating = torch.searchsorted(copies.ids, original.examples.activating.clamp(min=0))
    values = copies.activations.T.gather(1, activating)
    silent = (original.examples.activating < 0) | (values <= 0)
    order = values.masked_fill(silent, -torch.inf).argsort(dim=1, descending=True, stable=True)
    contrastive = old.contrastive.masked_fill(silent[..., None], -1)
    evidence = replace(
        old,
        vectors=copies.embeddings[rows] if len(used) else old.vectors,
        activating=old.activating.masked_fill(silent, -1).gather(1, order),
        activations=values.masked_fill(silent, 0.0).gather(1, order),
        contrastive=contrastive.gather(1, order[..., None].expand(contrastive.shape)),
        similarities=None,
    )
    scores = scoring.score(original.request.method, evidence, original.request.scoring).scores
    return scores, (~silent).any(1)
