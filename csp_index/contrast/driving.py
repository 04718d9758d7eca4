"""Pictures of an index, opened at their addresses, with the map of what drives a neuron in each: `saliency` by id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from PIL import Image

from csp_index.contrast.edits import reduced
from csp_index.contrast.saliency import driving_maps
from csp_index.images.decode import ImageFailure, same_file
from csp_index.images.footprint import Box, footprint
from csp_index.images.loader import stacked
from csp_index.models.networks import LoadedNetwork
from csp_index.originals import read_originals
from csp_index.store import schema
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import NeuronMaps


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
