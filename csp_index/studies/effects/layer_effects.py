"""What a layer's neurons do to a network's logits: read if an earlier run stored it, else computed and stored.

Effects are stored under the hash of all that they depend on, a row for each neuron: an interrupted run keeps the blocks
of neurons that it finished, and the same command goes on from there. Loads no torch for what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from csp_index.concurrency import unseen
from csp_index.errors import ModelError, SettingError
from csp_index.records import Progress, check_seed
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.image_metadata import metadata_state
from csp_index.store.runs import settings_hash
from csp_index.store.tables import Store
from csp_index.studies.effects.logit_classes import read_names
from csp_index.studies.effects.stored_effects import EffectBy, LayerEffects, read_effects

if TYPE_CHECKING:
    from csp_index.models.index_models import Models

_VERSION = 1  # of the figures: another version computes them again
_SAMPLE = (2, 100_000)
_PREFERRED: tuple[EffectBy, ...] = ("linear", "mean")  # where nothing is said


@dataclass(frozen=True, slots=True)
class EffectOptions:
    """How effects are found.

    Without `by` they are exact where a linear head reads the layer, and by setting neurons to their means elsewhere.
    """

    by: EffectBy | None = None  # linear, zero or mean
    sample: int = 512  # images on which neurons are set to zero or their mean
    seed: int = 0  # of the draw of these images
    head: str | None = None  # the module that gives the logits, if the network's own output does not
    column: str | None = None  # of the metadata, with each image's class; by default the class that the network gives

    def __post_init__(self) -> None:
        if self.by is not None and self.by not in get_args(EffectBy):
            raise SettingError(f"by is {self.by!r}: expected {', '.join(get_args(EffectBy))}")
        if not isinstance(self.sample, int) or not _SAMPLE[0] <= self.sample <= _SAMPLE[1]:
            raise SettingError(f"sample is {self.sample!r}: expected {_SAMPLE[0]} to {_SAMPLE[1]:,} images")
        check_seed(self.seed)


def layer_effects(
    store: Store,
    target: LayerInfo,
    neurons: np.ndarray,
    options: EffectOptions,
    models: Callable[[], Models],
    *,
    class_names: Sequence[str] | str | Path | None = None,
    recompute: bool = False,
    progress: Progress | None = None,
) -> LayerEffects:
    """Return the effects of neurons (sorted) of a layer on the network's logits, read or computed and stored.

    `class_names` name the classes in the order of the logits: a list, or a file with one per line. Raises ModelError
    for a layer without a network, one that cannot be loaded or changed, and for `linear` where no linear head reads the
    layer; SourceError where no image of the sample can be read; NotFoundError for a column that no image has.
    """
    if target.is_imported:
        raise ModelError(
            f"layer {target.key} came as arrays: no network says what its neurons do; index the images with the network"
        )
    names = read_names(class_names)
    images = int(catalog.neuron_rows(store, target)["images"][0].as_py())
    described = {by: describe(store, target, options, by, images) for by in _wanted(options.by)}
    for settings in described.values() if not recompute else ():
        kept = read_effects(store, target.key, neurons.tolist(), settings_hash=settings_hash(settings))
        if kept is not None and len(kept) == len(neurons) and _are_named(kept, names):
            return kept
    from csp_index.studies.effects.make_effects import make_effects  # torch: effects that are read do not wait for it

    tell = progress or unseen
    return make_effects(store, target, neurons, options, described, models(), names, recompute=recompute, tell=tell)


def describe(store: Store, target: LayerInfo, options: EffectOptions, by: EffectBy, images: int) -> dict[str, object]:
    """Return all that effects depend on, over the first `images` images."""
    described: dict[str, object] = {
        "study": "effects",
        "version": _VERSION,
        "layer": str(target.key),
        "layer_identity": target.identity,
        "pooling": target.pool,
        "images": images,
        "by": by,
        "head": options.head,
        "column": options.column,
    }
    if by != "linear":
        described |= {"sample": options.sample, "seed": options.seed}
    return described | (metadata_state(store) if options.column is not None else {})


def _wanted(by: EffectBy | None) -> tuple[EffectBy, ...]:
    return _PREFERRED if by is None else (by,)


def _are_named(effects: LayerEffects, names: Sequence[str]) -> bool:
    known = [one.name for one in effects.classes]
    same = len(names) == len(known) and all(not name or name == other for name, other in zip(names, known, strict=True))
    return not names or same
