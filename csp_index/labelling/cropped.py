"""Evidence in which crops stand in for whole images: what of each activating picture drives the neuron.

The regions come from the stored maps, the embeddings from the store, or from the encoder where one is missing.
Contrastive images were chosen for the whole activating images; of each the part is taken that lies where the region of
its activating image does, so that both sides are parts. Measured in `images-and-models.md`, Labels from crops.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
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
from csp_index.labelling.kept.crop_labels import cropped_examples
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


@dataclass(frozen=True, slots=True, eq=False)
class PartnerCrops:
    """Contrastive images that a crop stands in for, Q of them: `places` in [M, K, m] and `crops` [Q, 5]."""

    places: tuple[np.ndarray, np.ndarray, np.ndarray]
    crops: np.ndarray

    @classmethod
    def of(cls, store: Store, contrastive: np.ndarray, pairs: _Pairs) -> PartnerCrops:
        """Return the partners [M, K, m] (ids) of cropped images, without those made by editing, which have no file.

        Each part has the place and size of the region of its activating image, as shares of middle and short side.
        """
        of_pairs = contrastive[pairs.rows, pairs.ranks]
        owner, slot = np.nonzero((of_pairs >= 0) & (of_pairs < FIRST))
        ids, boxes = of_pairs[owner, slot], pairs.crops[owner, 1:]
        known = _Sizes.of(store, np.unique(np.concatenate([ids, pairs.crops[:, 0]])))
        own, sizes = known.at(pairs.crops[owner, 0]), known.at(ids)
        usable = sizes.min(1, initial=np.iinfo(np.int64).max) > 0
        owner, slot, ids, boxes, own, sizes = (column[usable] for column in (owner, slot, ids, boxes, own, sizes))
        scale = sizes.min(1) / own.min(1)
        crops = np.empty((len(ids), 5), np.int64)
        crops[:, 0] = ids
        for axis in (0, 1):
            low, high, size = boxes[:, axis], boxes[:, axis + 2], sizes[:, axis]
            length = np.clip(np.rint(scale * (high - low)), 1, size)
            start = np.clip(np.rint((low + high) / (2 * own[:, axis]) * size - length / 2), 0, size - length)
            crops[:, 1 + axis], crops[:, 3 + axis] = start, start + length
        return cls((pairs.rows[owner], pairs.ranks[owner], slot), crops)


def with_crops(
    store: Store, selection: Selection, examples: Examples, evidence: Evidence, context: ComputeContext
) -> tuple[Examples, Evidence]:
    """Return example sets that count the images that stay whole, and the evidence with crops in their place.

    A region that is all of a picture keeps its embedding. So does a picture that is lost, which is counted in a warning
    and in the notes of the labels. Where crops cannot be made here, partners without a stored one stay whole, and the
    notes count them. Errors: LabelError where maps are missing, or crops of activating images that cannot be made here;
    SourceError where all pictures are lost.
    """
    pairs = _cropped_pairs(store, selection, examples, context)
    partners = PartnerCrops.of(store, examples.contrastive.numpy(), pairs)
    distinct, inverse = np.unique(np.concatenate([pairs.crops, partners.crops]), axis=0, return_inverse=True)
    of_pairs, of_partners = np.split(inverse.reshape(-1), [len(pairs.crops)])
    rows = crop_rows(store, selection.source, distinct)
    missing, made = np.flatnonzero(rows < 0), None
    if context.crops is None and len(missing):
        _check_stored(store, selection, pairs, rows[of_pairs] < 0)
    elif context.crops is not None and len(missing):
        request = CropRequest(selection.source, distinct[missing], context.keep, context.run_id)
        made = _made(context.crops, request, alone=not (rows[of_pairs] >= 0).any())
    usable = rows >= 0
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
    shown, seen = usable[of_pairs], usable[of_partners]
    context.tell(
        f"activating images: crops stand in for {int(shown.sum()):,} of {int((examples.activating >= 0).sum()):,}, "
        f"and for {int(seen.sum()):,} of {int((examples.contrastive >= 0).sum()):,} partners"
    )
    activating, contrastive = evidence.activating.clone(), evidence.contrastive.clone()
    _put(activating, (pairs.rows, pairs.ranks), shown, len(evidence.vectors) + places[of_pairs])
    _put(contrastive, partners.places, seen, len(evidence.vectors) + places[of_partners])
    count = len(examples.neurons)
    uncropped = torch.from_numpy(np.bincount(pairs.rows[~shown], minlength=count))
    whole_partners = torch.from_numpy(np.bincount(partners.places[0][~seen], minlength=count))
    images = evidence.images
    if images is not None:
        images = torch.cat([images, _IDS + torch.arange(int(usable.sum()))])
    return replace(examples, uncropped=uncropped, whole_partners=whole_partners), replace(
        evidence,
        vectors=torch.from_numpy(vectors),
        activating=activating,
        contrastive=contrastive,
        images=images,
        similarities=None,
    )


def _put(table: torch.Tensor, places: tuple[np.ndarray, ...], usable: np.ndarray, values: np.ndarray) -> None:
    """Write values at those places of a table that are usable."""
    table[tuple(torch.from_numpy(axis[usable]) for axis in places)] = torch.from_numpy(values[usable])


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
        lost = "" if lacking == count else " (pictures that cannot be opened have none)"
        raise LabelError(
            f"crop needs maps to lay over the {count:,} activating images of {selection.target.key}, and {some} are "
            f"stored: csp-index index DB --maps makes those of each neuron's {settings.MAP_IMAGES.value()} highest "
            "images (setting map_images), if its neurons have places in the image, else csp-index maps DB --layer "
            f"{selection.target.key}{lost}; or leave out crop"
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
    shapes = sizes.at(images)
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

    def at(self, images: np.ndarray) -> np.ndarray:
        """Return the sizes [n, 2] of some of the images [n]."""
        found: np.ndarray = self.sizes[np.searchsorted(self.images, images)]
        return found


def _check_stored(store: Store, selection: Selection, pairs: _Pairs, missing: np.ndarray) -> None:
    """Refuse crops that cannot be made here, of the P pairs those `missing`, but of lost pictures.

    Those are pictures of which labels stand stored that asked for the same crop: they stay whole, as there.
    """
    asked = cropped_examples(store, selection)[pairs.rows] > pairs.ranks
    if count := int((missing & ~asked).sum()):
        raise LabelError(
            f"{count:,} crops that this label needs are not stored, and cannot be made here: label the layer by "
            "csp-index label --crop first, or leave out crop"
        )


def _made(crops: Callable[[CropRequest], EmbeddedCrops], request: CropRequest, *, alone: bool) -> EmbeddedCrops:
    """Return the embeddings of crops that are not stored; if these stand `alone`, they may not all be lost."""
    made = crops(request)
    if made.lost:
        images, reason = len(np.unique(request.crops[:, 0])), next(iter(made.lost.values()))
        if alone and len(made.lost) == images:
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
