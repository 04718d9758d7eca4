"""A seeded sample of the images of an index as inputs of a network, read from where they were indexed."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
import torch

from csp_index.errors import SourceError
from csp_index.images.decode import ImageFailure, same_file
from csp_index.images.loader import stacked
from csp_index.models.networks import LoadedNetwork
from csp_index.ordering import seeded_sample
from csp_index.store import schema
from csp_index.store.originals import read_originals
from csp_index.store.tables import Store

_log = logging.getLogger(__name__)

_HELD_BYTES = 2**29  # of inputs that stay in memory for the next pass


def sampled(ids: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return `count` of the image ids, by a seeded random draw, sorted; all if there are no more."""
    places = seeded_sample(torch.from_numpy(np.asarray(ids, dtype=np.int64)), count, seed).numpy()
    chosen: np.ndarray = np.sort(ids[places])
    return chosen


class ImageSample:
    """Images as batches of a network's input; images that cannot be read any more are left out, and counted."""

    def __init__(self, store: Store, ids: np.ndarray, network: LoadedNetwork) -> None:
        """Refer to images by their ids, sorted; nothing is read."""
        self._store, self._network = store, network
        self.ids = ids  # after the first pass those that could be read
        self._held: list[tuple[np.ndarray, torch.Tensor]] | None = None
        self._lost: dict[int, str] | None = None

    def batches(self) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """Yield ids [B] and inputs [B, ...], as many as go through the network at once.

        Raises SourceError if none can be read; some that cannot are told in a warning, once.
        """
        if self._held is not None:
            yield from self._held
            return
        held: list[tuple[np.ndarray, torch.Tensor]] | None = []
        size, lost = 0, dict[int, str]()
        for batch in self._read(lost):
            yield batch
            size += batch[1].nbytes
            held = None if held is None or size > _HELD_BYTES else [*held, batch]
        self._settle(lost)
        self._held = held

    def _read(self, lost: dict[int, str]) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        where = f"image_id IN ({','.join(map(str, self.ids.tolist()))})"
        rows = self._store.read(schema.IMAGES, ["image_id", "uri", "sha256"], where).sort_by("image_id")
        items = map(same_file, read_originals(self._store, rows["uri"].to_pylist()), rows["sha256"].to_pylist())
        ids, inputs = list[int](), list[torch.Tensor]()
        for image, item in zip(rows["image_id"].to_pylist(), items, strict=True):
            if isinstance(item, ImageFailure):
                lost[image] = f"{item.uri}: {item.reason}"
                continue
            ids.append(image)
            inputs.append(self._network.preprocess(item.image))
            if len(ids) == self._network.batch_size:
                yield np.array(ids), stacked(inputs)
                ids, inputs = [], []
        if ids:
            yield np.array(ids), stacked(inputs)

    def _settle(self, lost: dict[int, str]) -> None:
        if self._lost is not None:
            return
        self._lost = lost
        if not lost:
            return
        first = next(iter(lost.values()))
        if len(lost) == len(self.ids):
            raise SourceError(
                f"none of the {len(lost):,} images of the sample can be read any more ({first}): restore them where "
                "they were indexed, or name their folder by --images"
            )
        _log.warning(
            "%d of %d images of the sample cannot be read and are left out: %s", len(lost), len(self.ids), first
        )
        self.ids = np.setdiff1d(self.ids, list(lost))
