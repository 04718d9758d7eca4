"""Evidence in which crops stand in for whole activating images: what of each picture drives the neuron.

The regions come from the stored maps, the embeddings from the store, or from the encoder where one is missing.
Contrastive images stay whole; they were chosen for the whole activating images.
"""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from csp_index import settings
from csp_index.contrast.context import ComputeContext, CropRequest, EmbeddedCrops
from csp_index.contrast.crops.regions import region_boxes
from csp_index.contrast.examples import Examples
from csp_index.contrast.selection import Selection
from csp_index.errors import LabelError, SourceError
from csp_index.labelling.evidence import Evidence
from csp_index.store import schema
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import read_maps
from csp_index.store.values.crops import crop_rows, crop_vectors
from csp_index.store.values.derived_images import FIRST
from csp_index.tensors.library import torch

_log = logging.getLogger(__name__)

_IDS: Final = FIRST << 10
"""Where crops are counted from among the images behind evidence: no indexed or derived image has such an id."""
_NEURONS: Final = 256  # whose maps are in memory at once


@dataclass(frozen=True, slots=True, eq=False)
class _Pairs:
    """Activating images that a crop stands in for, P of them: `rows` and `ranks` in [M, K], `crops` [P, 5]."""

    rows: np.ndarray
    ranks: np.ndarray
    crops: np.ndarray  # image id, then left, top, right, bottom in pixels


def with_crops(
    store: Store, selection: Selection, examples: Examples, evidence: Evidence, context: ComputeContext
) -> tuple[Examples, Evidence]:
    """Return example sets that count the images that stay whole, and the evidence with crops in their place.

    A region that is all of a picture keeps its embedding. So does a picture that is lost, which is counted in a warning
    and in the notes of the labels. Errors: LabelError where maps are missing, or crops that cannot be made here;
    SourceError where all pictures are lost.
    """
    pairs = _cropped_pairs(store, selection, examples, context)
    distinct, inverse = np.unique(pairs.crops, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    rows = crop_rows(store, selection.source, distinct)
    missing, made = np.flatnonzero(rows < 0), None
    if len(missing):
        made = _made(context, CropRequest(selection.source, distinct[missing], context.keep, context.run_id))
    usable = np.ones(len(distinct), dtype=bool)
    if made is not None:
        usable[missing] = np.isfinite(made.vectors).all(1)
    places = np.cumsum(usable) - 1
    vectors = _room(len(evidence.vectors) + int(usable.sum()), selection.source.width)
    vectors[: len(evidence.vectors)] = evidence.vectors.numpy()
    own = vectors[len(evidence.vectors) :]
    stored, at = rows >= 0, 0
    for block in crop_vectors(store, selection.source, rows[stored]):
        own[places[stored][at : at + len(block)]] = block
        at += len(block)
    if made is not None:
        kept = usable[missing]
        own[places[missing][kept]] = made.vectors[kept]
    whole = ~usable[inverse]
    context.tell(
        f"activating images: crops stand in for {int((~whole).sum()):,} of {int((examples.activating >= 0).sum()):,}"
    )
    activating = evidence.activating.clone()
    shown = torch.from_numpy(pairs.rows[~whole]), torch.from_numpy(pairs.ranks[~whole])
    activating[shown] = torch.from_numpy(len(evidence.vectors) + places[inverse[~whole]])
    uncropped = torch.from_numpy(np.bincount(pairs.rows[whole], minlength=len(examples.neurons)))
    images = evidence.images
    if images is not None:
        images = torch.cat([images, _IDS + torch.arange(int(usable.sum()))])
    return replace(examples, uncropped=uncropped), replace(
        evidence, vectors=torch.from_numpy(vectors), activating=activating, images=images, similarities=None
    )


def _cropped_pairs(store: Store, selection: Selection, examples: Examples, context: ComputeContext) -> _Pairs:
    """Return the activating images whose regions are less than the whole picture. LabelError where maps are missing."""
    ids = examples.activating.numpy()
    sizes = _Sizes.of(store, np.unique(ids[ids >= 0]))
    parts, lacking = [], 0
    for start in range(0, len(ids), _NEURONS):
        pairs, lack = _of_neurons(store, selection, ids[start : start + _NEURONS], start, sizes)
        parts.append(pairs)
        lacking += lack
        context.check()
    count = int((ids >= 0).sum())
    if lacking:
        some = "none" if lacking == count else f"{count - lacking:,}"
        raise LabelError(
            f"crop needs maps to lay over the {count:,} activating images of {selection.target.key}, and {some} are "
            f"stored: csp-index index DB --maps makes those of each neuron's {settings.MAP_IMAGES.value()} highest "
            "images (setting map_images), if its neurons have places in the image; else leave out crop"
        )
    return _Pairs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _of_neurons(
    store: Store, selection: Selection, ids: np.ndarray, first: int, sizes: _Sizes
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], int]:
    """Return rows (from `first` on), ranks and crops of neurons' images [m, K], and how many lack maps."""
    numbers = selection.neurons[first : first + len(ids)].tolist()
    stored = read_maps(store, selection.target, numbers)
    rows, ranks = np.nonzero(ids >= 0)
    images = ids[rows, ranks]
    frame = next(iter(stored.values())).frame if stored else None
    if frame is None or frame.side is None:
        empty = np.zeros(0, np.int64)
        return (empty, empty, np.zeros((0, 5), np.int64)), len(images)
    maps = np.zeros((len(images), frame.height, frame.width), np.uint8)
    mapped = np.zeros(len(images), dtype=bool)
    for row in np.unique(rows).tolist():
        own = np.flatnonzero(rows == row)
        if (known := stored.get(numbers[row])) is not None:
            order = np.argsort(known.images)
            place = np.minimum(np.searchsorted(known.images, images[own], sorter=order), len(order) - 1)
            there = known.images[order[place]] == images[own]
            maps[own[there]] = known.maps[order[place[there]]]
            mapped[own[there]] = True
    shapes = sizes.sizes[np.searchsorted(sizes.images, images)]
    mapped &= shapes.min(1, initial=np.iinfo(np.int64).max) > 0
    shapes = shapes[mapped]
    parts = np.array([frame.box((int(width), int(height))) for width, height in shapes], float).reshape(-1, 4)
    boxes = region_boxes(maps[mapped], parts, shapes).astype(np.int64)
    less = (boxes[:, :2] > 0).any(1) | (boxes[:, 2:] < shapes).any(1)
    crops = np.concatenate([images[mapped][:, None], boxes], 1)
    return (rows[mapped][less] + first, ranks[mapped][less], crops[less]), int((~mapped).sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Sizes:
    """Widths and heights [n, 2] of images [n], ids in order; 0 where they are unknown."""

    images: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, store: Store, images: np.ndarray) -> _Sizes:
        rows = store.read(schema.IMAGES, ["image_id", "width", "height"]).sort_by("image_id")
        known = rows["image_id"].to_numpy()
        at = np.searchsorted(known, images)
        sizes = np.stack([rows[name].fill_null(0).to_numpy()[at] for name in ("width", "height")], 1)
        return cls(images, sizes.astype(np.int64))


def _made(context: ComputeContext, request: CropRequest) -> EmbeddedCrops:
    """Return the embeddings of crops that are not stored."""
    if context.crops is None:
        raise LabelError(
            f"{len(request.crops):,} crops that this label needs are not stored, and cannot be made here: label the "
            "layer by csp-index label --crop first, or leave out crop"
        )
    made = context.crops(request)
    if made.lost:
        images, reason = len(np.unique(request.crops[:, 0])), next(iter(made.lost.values()))
        if len(made.lost) == images:
            raise SourceError(
                f"none of the {images:,} pictures to crop can be opened ({reason}): put them back, or leave out crop"
            )
        _log.warning(
            "%d of %d pictures cannot be cropped and stay whole, first reason: %s; put back, they are cropped by "
            "`csp-index label --crop --recompute`",
            *(len(made.lost), images, reason),
        )
    return made


def _room(rows: int, width: int) -> np.ndarray:
    """Return an array [rows, width] float32; one too large to stay in memory is in a temporary file without a name."""
    if rows and 4 * rows * width > settings.HELD_BYTES.value():
        with tempfile.TemporaryFile() as file:
            file.truncate(4 * rows * width)
            return np.memmap(file, np.float32, "r+", shape=(rows, width))
    return np.empty((rows, width), np.float32)
