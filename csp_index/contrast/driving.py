"""Pictures of an index, opened at their addresses, with the map of what drives a neuron in each: `saliency` by id."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image

from csp_index.contrast.edits import reduced
from csp_index.contrast.saliency import driving_maps
from csp_index.images.decode import ImageFailure, same_file
from csp_index.images.footprint import Box, footprint, middle_square
from csp_index.images.loader import stacked
from csp_index.models.layers.coarse_maps import as_levels, coarse_heat
from csp_index.models.networks import LoadedNetwork
from csp_index.originals import read_originals
from csp_index.store import schema
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import Frame, NeuronMaps

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


def stored_heat(maps: NeuronMaps | None, image: int, size: tuple[int, int]) -> tuple[torch.Tensor, Box] | None:
    """Return what `driven` gives for a picture of (width, height), from stored maps; None where they lack it.

    The heat is a share of the largest value, above the map's median. None also for a map without a peak, and where the
    part of the picture that maps cover is unknown.
    """
    shares = None if maps is None else maps.of(image)
    part = None if maps is None else maps.frame.box(size)
    if shares is None or part is None:
        return None
    heat = torch.from_numpy(shares)
    heat = (heat - heat.median()).clamp(min=0)
    if not heat.any():  # it fires nowhere, or everywhere alike
        return None
    box = (part[0] * size[0], part[1] * size[1], part[2] * size[0], part[3] * size[1])
    return heat, box


def driven(
    network: LoadedNetwork, layer: str, pictures: Sequence[Image.Image], neurons: Sequence[int]
) -> Iterator[tuple[torch.Tensor, Box]]:
    """Yield for each picture the map of what drives its neuron, and the part of the picture that the map covers."""
    boxes: dict[tuple[int, int], Box] = {}
    for start in range(0, len(pictures), network.batch_size):
        part = slice(start, start + network.batch_size)
        some, own = pictures[part], neurons[part]
        pixels = stacked([network.preprocess(picture) for picture in some])
        heats = driving_maps(network, layer, pixels, torch.tensor(own))
        for picture, heat in zip(some, heats, strict=True):
            if picture.size not in boxes:
                boxes[picture.size] = footprint(network.preprocess, picture.size)
            yield heat, boxes[picture.size]


def computed_maps(
    store: Store, network: LoadedNetwork, layer: str, neuron: int, images: Sequence[int]
) -> NeuronMaps | None:
    """Return coarse maps of what drives a neuron in indexed images, made by its network now; None without pictures.

    As `driving_maps` makes them: of a layer without places gradient x input. So the scale is no activation. Images that
    cannot be opened are left out, with a warning. Raises SourceError for an address in no place the user named.
    """
    lost: dict[int, str] = {}
    pictures = open_pictures(store, images, lost)
    if lost:
        _log.warning("%d of %d images have no map: %s", len(lost), len(images), next(iter(lost.values())))
    shown = [image for image in images if image in pictures]
    if not shown:
        return None
    heats = driven(network, layer, [pictures[image] for image in shown], [neuron] * len(shown))
    levels, scales = as_levels(torch.stack([coarse_heat(heat) for heat, _ in heats]))
    frame = Frame(levels.shape[1], levels.shape[2], middle_square(network.preprocess))
    return NeuronMaps(frame, np.array(shown), scales.numpy(), levels.numpy())
