"""What drives a neuron in pictures of an index, opened at their addresses: from stored maps, or by the network.

Both give the same: coarse maps, a byte per place (`saliency.driving_maps`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import torch
from PIL import Image

from csp_index.concurrency import go_on
from csp_index.contrast.edits import reduced
from csp_index.contrast.places.saliency import driving_maps, middle, peaked
from csp_index.images.decode import ImageFailure, same_file
from csp_index.images.footprint import Box, footprint, middle_square
from csp_index.images.loader import stacked
from csp_index.models.networks import LoadedNetwork
from csp_index.store import schema
from csp_index.store.originals import read_originals
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import Frame, Made, MapPairs, NeuronMaps

_AT_ONCE: Final = 64  # pictures that are open together
_log = logging.getLogger(__name__)


def open_pictures(store: Store, images: Iterable[int], lost: dict[int, str]) -> dict[int, Image.Image]:
    """Return the pictures of indexed images by id, at most as large as edits take them; `lost` gets why others fail.

    Raises SourceError for an address that lies in no place the user named.
    """
    wanted = sorted(set(images))
    where = f"image_id IN ({','.join(map(str, wanted))})" if wanted else "false"
    rows = store.read(schema.IMAGES, ["image_id", "uri", "sha256"], where).sort_by("image_id")
    ids, hashes = rows["image_id"].to_pylist(), rows["sha256"].to_pylist()
    items = map(same_file, read_originals(store, rows["uri"].to_pylist()), hashes)
    pictures: dict[int, Image.Image] = {}
    for image, item in zip(ids, items, strict=True):
        if isinstance(item, ImageFailure):
            lost[image] = f"{item.uri}: {item.reason}"
        else:
            pictures[image] = reduced(item.image)
    return pictures


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture of an indexed image, and the neuron that it activates."""

    neuron: int
    image: int
    picture: Image.Image


class MapMaker:
    """Makes maps of what drives neurons of a layer in pictures by its network, as stored ones are made."""

    def __init__(self, network: LoadedNetwork, layer: str) -> None:
        """Look through a layer of the network."""
        self._network, self._layer = network, layer
        self.made: Made = "gradients" if network.map_grid(layer) is None else "activations"

    @cached_property
    def side(self) -> float | None:
        """The part of a picture that maps cover, as `Frame.side`: of the precision in which it is stored."""
        side = middle_square(self._network.preprocess)
        return None if side is None else float(np.float32(side))

    def frame(self, levels: torch.Tensor) -> Frame:
        """Return what maps [C, h, w] share."""
        return Frame(levels.shape[1], levels.shape[2], self.side, self.made)

    def maps(
        self, pictures: Sequence[Image.Image], neurons: Sequence[int], check: Callable[[], None] = go_on
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a coarse map per picture of its neuron, [C, h, w] uint8, and their scales [C]; C is not 0.

        `check` is called before each batch, and may raise an error to end the work.
        """
        levels, scales = [], []
        size = self._network.batch_size
        for start in range(0, len(pictures), size):
            check()
            pixels = stacked([self._network.preprocess(picture) for picture in pictures[start : start + size]])
            own = torch.tensor(neurons[start : start + size])
            some = driving_maps(self._network, self._layer, pixels, own)
            levels.append(some[0])
            scales.append(some[1])
        return torch.cat(levels), torch.cat(scales)

    def heats(self, shown: Sequence[Shown]) -> list[tuple[torch.Tensor, Box]]:
        """Return for each picture what `stored_heat` does; without a peak, the middle of what the network sees."""
        levels, _ = self.maps([one.picture for one in shown], [one.neuron for one in shown])
        frame, boxes = self.frame(levels), dict[tuple[int, int], Box]()
        for size in {one.picture.size for one in shown}:
            boxes[size] = _pixels(frame, size) or footprint(self._network.preprocess, size)
        return [
            (heat if (heat := peaked(own)) is not None else middle(*own.shape), boxes[one.picture.size])
            for one, own in zip(shown, levels, strict=True)
        ]


def heats(
    stored: Mapping[int, NeuronMaps], maker: Callable[[], MapMaker], shown: Sequence[Shown]
) -> list[tuple[torch.Tensor, Box]]:
    """Return for each picture the map of what drives its neuron, and the part of the picture that the map covers.

    Maps are those `stored`, by neuron; `maker` is called where some are missing, and makes these.
    """
    result = {
        place: stored_heat(stored.get(one.neuron), one.image, one.picture.size) for place, one in enumerate(shown)
    }
    lacking = [place for place, heat in result.items() if heat is None]
    if lacking:
        result |= dict(zip(lacking, maker().heats([shown[place] for place in lacking]), strict=True))
    return [heat for heat in result.values() if heat is not None]


def stored_heat(maps: NeuronMaps | None, image: int, size: tuple[int, int]) -> tuple[torch.Tensor, Box] | None:
    """Return the heat of an image with a picture of (width, height), from stored maps; None where they lack it.

    The heat is a share of the largest value, above the map's median. None also for a map without a peak, and where the
    part of the picture that maps cover is unknown.
    """
    levels = None if maps is None else maps.levels(image)
    box = None if maps is None else _pixels(maps.frame, size)
    heat = None if levels is None else peaked(torch.from_numpy(levels))
    return None if heat is None or box is None else (heat, box)


def _pixels(frame: Frame, size: tuple[int, int]) -> Box | None:
    """Return the part of a picture of (width, height) that maps cover, in its pixels; None if it is unknown."""
    part = frame.box(size)
    return None if part is None else (part[0] * size[0], part[1] * size[1], part[2] * size[0], part[3] * size[1])


def computed_maps(
    store: Store, maker: MapMaker, neurons: np.ndarray, images: np.ndarray, check: Callable[[], None] = go_on
) -> tuple[Frame, MapPairs] | None:
    """Return maps of pairs of a neuron [P] and an indexed image [P], made by the network now; None without pictures.

    Images that cannot be opened are left out, with a warning. Raises SourceError for an address in no place that the
    user named.
    """
    lost: dict[int, str] = {}
    levels, scales, kept = [], [], []
    for start in range(0, len(neurons), _AT_ONCE):
        places = np.arange(start, min(start + _AT_ONCE, len(neurons)))
        pictures = open_pictures(store, images[places].tolist(), lost)
        places = places[np.isin(images[places], list(pictures))]
        if len(places):
            shown = [pictures[image] for image in images[places].tolist()]
            some = maker.maps(shown, neurons[places].tolist(), check)
            levels.append(some[0])
            scales.append(some[1])
            kept.append(places)
    if lost:
        total = len(np.unique(images))
        _log.warning("%d of %d images have no map: %s", len(lost), total, next(iter(lost.values())))
    if not kept:
        return None
    own, all_levels = np.concatenate(kept), torch.cat(levels)
    pairs = MapPairs(neurons[own], images[own], torch.cat(scales).numpy(), all_levels.numpy())
    return maker.frame(all_levels), pairs
