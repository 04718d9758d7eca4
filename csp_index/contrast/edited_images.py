"""Contrastive images by editing: regions of activating images that drive the neuron are edited until it is silent.

The region comes from `driving`, the edits from `edits`. Each edit is tried in rising strength until the activation
falls below the neuron's threshold, all edits of several images in one pass of the network. Of the sufficient edits, the
one most similar to the original by the encoder is stored as a derived image and becomes its partner, one per image. If
no edit silences the neuron, the nearest attempt is stored, so that it is not tried again.

Measured on the demo (biased set, 10 activating images): the most similar edit gives `csp` .33 of the single concepts
and .35 of the pairs; the least similar .13 and .40; without `recolour` .27 and .05, because every other edit that
silences a neuron for a colour removes the shape as well. With all sufficient edits of an image at once
`contrastive-pmi` gives .33 and .90, with the most similar alone .67 and .95.
These regions were as fine as the network's input; as coarse as stored maps, `csp` stays at .33 and .35, and
`contrastive-pmi` goes to .73 and .90.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import numpy as np
import torch
from PIL import Image

from csp_index import settings
from csp_index.contrast.context import DerivedRequest
from csp_index.contrast.edits import STRENGTHS, Edit, as_stored, edited, encoded, usable_edits
from csp_index.contrast.places.driving import MapMaker, Shown, heats, open_pictures
from csp_index.contrast.places.saliency import region
from csp_index.errors import SourceError
from csp_index.images.footprint import Box
from csp_index.images.loader import stacked
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.index_models import Models
from csp_index.models.networks import LoadedNetwork
from csp_index.records import DerivedKind
from csp_index.store.catalog import LayerInfo
from csp_index.store.runs import settings_hash
from csp_index.store.tables import Store
from csp_index.store.values import streams
from csp_index.store.values.activation_maps import read_maps
from csp_index.store.values.derived_images import DerivedImage, append_derived, find_derived

_log = logging.getLogger(__name__)

KIND: Final[DerivedKind] = "perturbation"
_VERSION = 2  # of regions and edits: another version makes the images again
_ROWS = 128  # derived images per commit: the most that Ctrl-C or a kill can lose
_AT_ONCE = 16  # images that are edited together

Tell = Callable[[int, int, str], None]
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Task:
    """An activating image to edit until the neuron is below the threshold."""

    neuron: int
    origin: int
    rank: int
    threshold: float


@dataclass(frozen=True, slots=True)
class Attempt:
    """An edited picture and the neuron's activation on it."""

    edit: Edit
    strength: float
    box: tuple[int, int, int, int]  # left, top, right, bottom around the region
    picture: Image.Image
    stored_bytes: bytes  # the picture as it will be stored, where that is settled already
    activation: float = float("nan")


@dataclass(slots=True)
class _Search:
    """A task in progress: its picture, the map that drives the neuron, and the attempts so far."""

    task: Task
    picture: Image.Image
    heat: torch.Tensor
    box: Box
    successes: dict[Edit, Attempt] = field(default_factory=dict)  # below the threshold, each at its smallest strength
    nearest: Attempt | None = None

    @property
    def outcome(self) -> list[Attempt]:
        """The attempts that may be stored: all sufficient ones, or else the nearest one."""
        return list(self.successes.values()) or ([] if self.nearest is None else [self.nearest])


def perturb(store: Store, models: Models, tell: Tell, request: DerivedRequest) -> str:
    """Make and store the requested edited images that are missing; return the hash they are stored under.

    Models are loaded only if an image is missing. An interrupted run keeps finished images. Raises LabelError if the
    network, encoder or images are not at hand, or nothing may be stored.
    """
    selection = request.selection
    hashed = settings_hash(_describe(request))
    tasks = _missing(store, request, hashed)
    if not tasks:
        return hashed
    request.check(KIND, "edited", f"{len(tasks)} edited images")
    network, encoder = models.held_network(selection.target), models.held_encoder(selection.source)
    pending: list[DerivedImage] = []
    maker = MapMaker(network, selection.target.key.layer)
    read = done = 0
    lost: dict[int, str] = {}
    try:
        for some in _slices(tasks, _AT_ONCE):
            searches = _opened(store, selection.target, some, maker, lost)
            _search(searches, usable_edits(settings.PERTURBATION_EDITS.value()), network, selection.target.key.layer)
            originals = streams.embeddings_of(store, selection.source, np.array([one.task.origin for one in searches]))
            pending += _derived(searches, originals, encoder, request, hashed)
            read, done = read + len(searches), done + len(some)
            if len(pending) >= _ROWS:
                append_derived(store, selection.source, pending)
                pending = []
            tell(done, len(tasks), "images edited")
    finally:
        append_derived(store, selection.source, pending)
    if not read:
        raise SourceError(
            f"none of the {len(tasks)} activating images can be read any more ({next(iter(lost.values()))}): restore "
            "them where they were indexed, or choose another contrast than perturbation"
        )
    if lost:
        _log.warning(
            "%d images were not edited and have no partner, first reason: %s; put back, they are edited by "
            "`csp-index label --recompute`",
            len(lost),
            next(iter(lost.values())),
        )
    return hashed


def editing() -> dict[str, object]:
    """Return the settings of editing: the edits and strengths to try, in order."""
    return {
        "version": _VERSION,
        "edits": usable_edits(settings.PERTURBATION_EDITS.value()),
        "strengths": STRENGTHS,
    }


def _describe(request: DerivedRequest) -> dict[str, object]:
    """Return all that an edited image depends on, besides its original, which determines the seed of the noise."""
    selection = request.selection
    pool = None if selection.pool is None else settings_hash({"mask": selection.pool.mask.numpy().tobytes().hex()})
    return {
        "kind": KIND,
        **editing(),
        "threshold": request.options.threshold,
        "images": request.images,  # the threshold depends on them
        "pool": pool,
        "encoder": selection.source.identity,
        "layer": selection.target.identity,
        "pooling": selection.target.pool,
    }


def _missing(store: Store, request: DerivedRequest, hashed: str) -> list[Task]:
    """Return the activating images without a stored edit, neuron by neuron."""
    selection = request.selection
    rows = find_derived(store, selection.source, selection.target, selection.neurons.tolist(), KIND, hashed)
    stored = set(zip(rows["neuron"].to_pylist(), rows["origin"].to_pylist(), strict=True))
    tasks = []
    for neuron, ids, threshold in zip(
        selection.neurons.tolist(), request.activating.tolist(), request.thresholds.tolist(), strict=True
    ):
        tasks += [
            Task(neuron, image, rank, threshold)
            for rank, image in enumerate(ids)
            if image >= 0 and (neuron, image) not in stored
        ]
    return tasks


def _opened(
    store: Store, target: LayerInfo, tasks: Sequence[Task], maker: MapMaker, lost: dict[int, str]
) -> list[_Search]:
    """Return the tasks whose image can be read, each with the region that drives its neuron; `lost` gets the others."""
    pictures = open_pictures(store, (task.origin for task in tasks), lost)
    tasks = [task for task in tasks if task.origin in pictures]
    shown = [Shown(task.neuron, task.origin, pictures[task.origin]) for task in tasks]
    stored = read_maps(store, target, (task.neuron for task in tasks))
    regions = heats(stored, lambda: maker, shown)
    return [_Search(task, one.picture, heat, box) for task, one, (heat, box) in zip(tasks, shown, regions, strict=True)]


def _search(searches: Sequence[_Search], edits: Sequence[Edit], network: LoadedNetwork, layer: str) -> None:
    """Try rising strengths of every edit until it brings the activation below the threshold, or none is left."""
    for strength in STRENGTHS:
        tried = [(search, attempt) for search in searches for attempt in _attempts(search, edits, strength)]
        pictures = [attempt.picture for _, attempt in tried]
        values = _activations(network, layer, pictures, [search.task.neuron for search, _ in tried])
        for (search, attempt), value in zip(tried, values, strict=True):
            made = replace(attempt, activation=value)
            if value < search.task.threshold:
                search.successes[attempt.edit] = made
            elif search.nearest is None or value < search.nearest.activation:
                search.nearest = made


def _attempts(search: _Search, edits: Sequence[Edit], strength: float) -> Iterator[Attempt]:
    """Yield a picture, as it will be stored, for each edit that was not sufficient yet."""
    left = [edit for edit in edits if edit not in search.successes]
    if not left:
        return
    mask = region(search.heat, search.box, search.picture.size, strength)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    for edit in left:
        stored, picture = as_stored(edited(search.picture, edit, mask, strength, search.task.origin))
        yield Attempt(edit, strength, box, picture, stored)


def _activations(
    network: LoadedNetwork, layer: str, pictures: Sequence[Image.Image], neurons: Sequence[int]
) -> list[float]:
    """Return each picture's activation of its own neuron, by the same preprocessing and pooling as in the index."""
    values: list[float] = []
    for some, own in zip(_slices(pictures, network.batch_size), _slices(neurons, network.batch_size), strict=True):
        layer_values = network.activations(stacked([network.preprocess(picture) for picture in some]))[layer]
        values += layer_values[torch.arange(len(some)), torch.tensor(own)].tolist()
    return values


def _derived(
    searches: Sequence[_Search], originals: torch.Tensor, encoder: LoadedEncoder, request: DerivedRequest, hashed: str
) -> list[DerivedImage]:
    """Return the images of finished searches to store, given the originals' embeddings: the most similar edits."""
    tried = [(place, attempt) for place, search in enumerate(searches) for attempt in search.outcome]
    vectors: list[torch.Tensor] = []
    for some in _slices([attempt.picture for _, attempt in tried], encoder.batch_size):
        vectors += encoder.embed_images(stacked([encoder.preprocess(picture) for picture in some])).cpu()
    best: dict[int, tuple[float, Attempt, torch.Tensor]] = {}
    for (place, attempt), vector in zip(tried, vectors, strict=True):
        similarity = float(vector @ originals[place])
        if place not in best or similarity > best[place][0]:
            best[place] = similarity, attempt, vector
    return [
        DerivedImage(
            KIND,
            searches[place].task.origin,
            request.selection.key(searches[place].task.neuron),
            searches[place].task.rank,
            hashed,
            attempt.activation,
            vector.numpy(),
            attempt.stored_bytes or encoded(attempt.picture),
            {
                "edit": attempt.edit,
                "strength": attempt.strength,
                "region": attempt.box,
                "seed": searches[place].task.origin,
            },
            request.run_id,
        )
        for place, (_, attempt, vector) in best.items()
    ]


def _slices(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
