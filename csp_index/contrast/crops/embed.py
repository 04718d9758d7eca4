"""Crops of indexed images, cut from their original pictures and embedded by the index's encoder, once.

What is finished is kept at checkpoints, so an interrupted command goes on where it stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch
from PIL import Image

from csp_index.contrast.context import CropRequest, EmbeddedCrops
from csp_index.images.decode import ImageFailure, same_file
from csp_index.images.loader import stacked
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.index_models import Models
from csp_index.records import Progress
from csp_index.store import schema
from csp_index.store.originals import read_originals
from csp_index.store.tables import Store
from csp_index.store.values.crops import append_crops

_log = logging.getLogger(__name__)

_ROWS: Final = 512  # crops per checkpoint: the most that Ctrl-C or a kill can lose


def embed_crops(store: Store, models: Callable[[], Models], progress: Progress, request: CropRequest) -> EmbeddedCrops:
    """Return the embeddings of crops, stored if the request keeps them; images that cannot be opened are told apart.

    Errors: LabelError where the encoder came as arrays, SourceError for an address in no place that the user named.
    """
    request.check()
    encoder = models().held_encoder(request.source)
    result = EmbeddedCrops(np.full((len(request.crops), request.source.width), np.nan, np.float32), {})
    order = np.argsort(request.crops[:, 0], kind="stable")
    pending = _Pending(store, encoder, request, result.vectors)
    try:
        for done, (place, picture) in enumerate(_pictures(store, request, order, result.lost), 1):
            if picture is not None:
                pending.add(place, picture)
            progress(done, len(order), "crops embedded")
        pending.embed()
    finally:
        pending.keep()
    return result


def cut(picture: Image.Image, box: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Return the part `box` (in pixels of the full `size`) of a picture, with margins of its mean color made square."""
    scale = picture.width / size[0], picture.height / size[1]  # a JPEG may be decoded reduced
    left, top, right, bottom = (round(float(edge) * scale[place % 2]) for place, edge in enumerate(box))
    right, bottom = max(right, left + 1), max(bottom, top + 1)
    part = picture.crop((left, top, right, bottom))
    if part.width == part.height:
        return part
    side = max(part.size)
    mean = np.asarray(part, np.float32).mean((0, 1))
    canvas = Image.new("RGB", (side, side), tuple(int(value) for value in np.rint(mean)))
    canvas.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return canvas


def _pictures(
    store: Store, request: CropRequest, order: np.ndarray, lost: dict[int, str]
) -> Iterator[tuple[int, Image.Image | None]]:
    """Yield the place of each crop, in the order of images, with its picture; None, and a reason, where it is lost."""
    ids = np.unique(request.crops[:, 0])
    where = f"image_id IN ({','.join(map(str, ids.tolist()))})"
    rows = store.read(schema.IMAGES, ["image_id", "uri", "sha256"], where).sort_by("image_id").to_pylist()
    places = np.split(order, np.flatnonzero(np.diff(request.crops[order, 0])) + 1)
    items = read_originals(store, [row["uri"] for row in rows])
    for row, item, some in zip(rows, items, places, strict=True):
        read = same_file(item, row["sha256"])
        if isinstance(read, ImageFailure):
            lost[row["image_id"]] = f"{read.uri}: {read.reason}"
        for place in some.tolist():
            if isinstance(read, ImageFailure):
                yield place, None
            else:
                yield place, cut(read.image, request.crops[place, 1:], (read.width, read.height))


@dataclass(slots=True)
class _Pending:
    """Crops on their way: cut, to be embedded as one batch; then embedded, to be stored at one checkpoint."""

    store: Store
    encoder: LoadedEncoder
    request: CropRequest
    vectors: np.ndarray
    cut: list[tuple[int, torch.Tensor]] = field(default_factory=list)
    embedded: list[int] = field(default_factory=list)

    def add(self, place: int, picture: Image.Image) -> None:
        self.cut.append((place, self.encoder.preprocess(picture)))
        if len(self.cut) >= self.encoder.batch_size:
            self.embed()
        if len(self.embedded) >= _ROWS:
            self.keep()

    def embed(self) -> None:
        if self.cut:
            places = [place for place, _ in self.cut]
            self.vectors[places] = self.encoder.embed_images(stacked([pixels for _, pixels in self.cut])).numpy()
            self.embedded += places
            self.cut = []

    def keep(self) -> None:
        if self.request.keep:
            request, places = self.request, self.embedded
            append_crops(self.store, request.source, request.crops[places], self.vectors[places], request.run_id)
        self.embedded = []
