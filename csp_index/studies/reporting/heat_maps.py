"""Heat maps of the activating pictures of findings: from stored maps, else by the network when a report asks."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from functools import cache
from typing import Final

import numpy as np
import torch
from PIL import Image

from csp_index import settings
from csp_index.contrast.places.driving import MapMaker, Shown, heats, open_pictures
from csp_index.contrast.places.saliency import over_picture
from csp_index.errors import CspIndexError
from csp_index.images.footprint import Box
from csp_index.models.index_models import Models
from csp_index.printable import without_folders
from csp_index.records import Progress
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import read_maps
from csp_index.store.values.derived_images import is_derived
from csp_index.studies.auditing.stored_audits import StoredFinding
from csp_index.studies.reporting.pictures import HeatMaps

_AT_ONCE: Final = 64  # pictures that are open together
_FADED: Final = 225.0  # gray level towards which a picture fades where nothing drives the neuron
_LEFT: Final = 0.3  # of the picture's own gray that is left there


def make_heat_maps(
    store: Store,
    models: Callable[[], Models],
    target: LayerInfo,
    findings: Iterable[StoredFinding],
    progress: Progress,
) -> HeatMaps:
    """Return the heat maps of the activating images of findings' pairs; the note says why some, or all, are missing.

    Maps that the index stores are taken. For the others the network is loaded and run, if it is at hand. Both need the
    original pictures.
    """
    wanted = dict.fromkeys(
        (finding.neuron.neuron, pair["image"])
        for finding in findings
        for pair in finding.evidence["pairs"]
        if not is_derived(pair["image"])
    )
    made: dict[tuple[int, int], bytes] = {}
    lost: dict[int, str] = {}
    try:
        side, todo = settings.THUMBNAIL_SIZE.value(), list(wanted)
        stored = read_maps(store, target, (neuron for neuron, _ in wanted))
        maker = cache(lambda: MapMaker(models().held_network(target), target.key.layer))
        if wanted and not stored:
            maker()  # raises what keeps the network from loading, before a picture is opened
        for start in range(0, len(todo), _AT_ONCE):
            some = todo[start : start + _AT_ONCE]
            pictures = open_pictures(store, (image for _, image in some), lost)
            shown = [Shown(neuron, image, pictures[image]) for neuron, image in some if image in pictures]
            for one, (heat, box) in zip(shown, heats(stored, maker, shown), strict=True):
                made[one.neuron, one.image] = faded(one.picture, heat, box, side)
            progress(min(start + _AT_ONCE, len(todo)), len(todo), "heat maps")
    except CspIndexError as exc:
        return HeatMaps(made, f"Heat maps were not made, or not all: {without_folders(str(exc))}.")
    if not wanted:
        return HeatMaps(note="There are no heat maps: no finding above the threshold has pairs of images.")
    return HeatMaps(made, _missing(lost))


def faded(picture: Image.Image, heat: torch.Tensor, box: Box, side: int) -> bytes:
    """Return a picture as PNG, at most `side` pixels, that fades to gray the less a place drives the neuron.

    `heat` [h, w], not negative, covers the part `box` of the picture. The square root of a place's share of the
    hottest one is what is left of its color.
    """
    over = np.nan_to_num(over_picture(heat, box, picture.size), nan=0.0).clip(min=0)
    kept = np.sqrt(over / max(float(over.max()), 1e-12))[..., None]
    pixels = np.asarray(picture, dtype=np.float32)
    gray = _LEFT * pixels.mean(2, keepdims=True) + (1 - _LEFT) * _FADED
    small = Image.fromarray(np.rint(kept * pixels + (1 - kept) * gray).clip(0, 255).astype(np.uint8))
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "PNG")
    return buffer.getvalue()


def _missing(lost: dict[int, str]) -> str:
    """Return what is said of pictures that could not be opened."""
    if not lost:
        return ""
    first = without_folders(next(iter(lost.values())))
    return f"Pictures without a heat map, because they cannot be opened: {len(lost):,} (first: {first})."
