"""Effects computed and stored: the half of `effects` that runs the network."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from csp_index.errors import ModelError, SettingError, SourceError
from csp_index.images.loader import stacked
from csp_index.models.index_models import Models
from csp_index.models.layers.changes import change
from csp_index.models.layers.opened import Logits, OpenLayer, find_logits
from csp_index.models.layers.repeats import trial_images
from csp_index.models.layers.replay import Replays
from csp_index.models.networks import LoadedNetwork
from csp_index.records import Progress
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.study_tables import EFFECT_CLASSES, EFFECTS
from csp_index.store.tables import Store
from csp_index.store.values.class_names import class_names
from csp_index.studies.effects.ablated_effects import ablated_effects, look
from csp_index.studies.effects.image_sample import ImageSample, sampled
from csp_index.studies.effects.layer_effects import EffectOptions
from csp_index.studies.effects.linear_effects import CHECKED, LinearHead, linear_effects, linear_head
from csp_index.studies.effects.logit_classes import classes_of_images
from csp_index.studies.effects.stored_effects import EffectBy, LayerEffects, class_rows, effect_rows, read_effects

_log = logging.getLogger(__name__)

Described = Mapping[EffectBy, Mapping[str, object]]


def make_effects(
    store: Store,
    target: LayerInfo,
    neurons: np.ndarray,
    options: EffectOptions,
    described: Described,
    models: Models,
    names: Sequence[str],
    *,
    recompute: bool,
    tell: Progress,
) -> LayerEffects:
    """Return the effects of neurons, those computed that are not stored; `described` is what each kind depends on."""
    store.check_writable()  # before the network's code runs
    network = models.whole_network(target)
    with network.in_use():
        opened = network.opened(target.key.layer)
        logits = find_logits(opened, options.head)
        called = _names(store, target, logits, names)
        images = int(catalog.neuron_rows(store, target)["images"][0].as_py())
        given = None if options.column is None else classes_of_images(store, options.column, images, called)
        pool = np.arange(images) if given is None else np.flatnonzero(given >= 0)
        ids = sampled(pool, options.sample, options.seed)
        head = _head(store, network, opened, logits, ids) if "linear" in described else ""
        by = _chosen(options.by, head)
        if by != "linear":
            _check_changeable(opened)
        work = _Work(store, target, network, Replays(opened, logits), called, given, ids, tell)
        return work.done(neurons, by, described[by], head, recompute=recompute, seed=options.seed)


def _names(store: Store, target: LayerInfo, logits: Logits, names: Sequence[str]) -> tuple[str | None, ...]:
    """Return what the classes are called: as the user says, as the weights say, or as the index knows of the head."""
    if names and len(names) != logits.classes:
        raise SettingError(
            f"{len(names):,} class names are given, and {logits.head or target.key.model} has {logits.classes:,} "
            "logits: expected one name per logit, in their order (an empty one where it has no name)"
        )
    if names:
        return tuple(name or None for name in names)
    if logits.names:
        return tuple(name or None for name in logits.names)
    for info in catalog.layers(store):
        if info.key.model == target.key.model and info.neurons == logits.classes:
            stored = class_names(store, info.key)
            if stored:
                return tuple(stored.get(number) for number in range(logits.classes))
    return (None,) * logits.classes


def _head(store: Store, network: LoadedNetwork, opened: OpenLayer, logits: Logits, ids: np.ndarray) -> LinearHead | str:
    """Return the linear head that reads the layer, or why there is none; tried on images, or on made-up pictures."""
    few = ids[:: max(1, len(ids) // CHECKED)][:CHECKED]
    try:
        some, pixels = next(ImageSample(store, few, network).batches())
    except SourceError as exc:
        _log.warning("the sum check is on two made-up pictures, because no image can be read: %s", exc)
        some, pixels = few[:0], stacked([network.preprocess(image) for image in trial_images()])
    return linear_head(opened, logits, some, pixels)


def _chosen(by: EffectBy | None, head: LinearHead | str) -> EffectBy:
    if by is None and isinstance(head, str):
        _log.warning("not exact, so neurons are set to their means (--by mean): %s", head)
        return "mean"
    if by == "linear" and isinstance(head, str):
        raise ModelError(f"the effects are not linear: {head}; choose --by mean or --by zero, which run the network")
    return by or "linear"


def _check_changeable(opened: OpenLayer) -> None:
    """Refuse a layer that cannot be changed, before a run is recorded."""
    change(opened.layer, opened.module, torch.clone).remove()


@dataclass(slots=True)
class _Work:
    """Effects of one layer, under way; `given` is each image's class, `ids` the images of the sample."""

    store: Store
    target: LayerInfo
    network: LoadedNetwork
    replays: Replays
    names: tuple[str | None, ...]
    given: np.ndarray | None
    ids: np.ndarray
    tell: Progress

    def done(
        self,
        neurons: np.ndarray,
        by: EffectBy,
        described: Mapping[str, object],
        head: LinearHead | str,
        *,
        recompute: bool,
        seed: int,
    ) -> LayerEffects:
        """Compute and store what is not stored; return the effects of all these neurons."""
        store, key, hashed = self.store, self.target.key, settings_hash(described)
        with store.write_lock():
            kept = None if recompute else read_effects(store, key, neurons.tolist(), settings_hash=hashed)
            missing = neurons if kept is None else np.setdiff1d(neurons, kept.neurons)
            with record_run(store, "effects", described, {self.target.what: self.target.identity}, seed) as run:
                if kept is not None:
                    self.names = tuple(name or one.name for name, one in zip(self.names, kept.classes, strict=True))
                    named = zip(kept.classes, self.names, strict=True)
                    classes = tuple(replace(one, name=name) for one, name in named)
                    self._write_classes(replace(kept, classes=classes), run.run_id)
                if len(missing) and isinstance(head, LinearHead) and by == "linear":
                    self._write(self._linear(head, missing), hashed, run.run_id)
                elif len(missing) and by != "linear":
                    sample = ImageSample(store, self.ids, self.network)
                    found = look(self.replays, sample, self.given, by, self.tell)
                    place = (self.names, key, self.tell)
                    for effects in ablated_effects(self.replays, sample, found, missing, by, *place):
                        self._write(effects, hashed, run.run_id)
        result = read_effects(store, key, neurons.tolist(), settings_hash=hashed)
        if result is None:
            raise ModelError(f"no effect of {key} was stored: this is a fault of the program, please report it")
        return result

    def _linear(self, head: LinearHead, neurons: np.ndarray) -> LayerEffects:
        place = (self.given, self.names, self.tell)
        return linear_effects(self.store, self.target, head, neurons, *place)

    def _write(self, effects: LayerEffects, hashed: str, run_id: str) -> None:
        effects = replace(effects, settings_hash=hashed)
        self._write_classes(effects, run_id)
        numbers = ",".join(map(str, effects.neurons.tolist()))
        same = f"settings_hash = {catalog.sql_text(hashed)} AND {catalog.layer_filter(self.target)}"
        self.store.delete(EFFECTS, f"{same} AND neuron IN ({numbers})")
        self.store.append(EFFECTS, effect_rows(effects, run_id))
        self.store.checkpoint()

    def _write_classes(self, effects: LayerEffects, run_id: str) -> None:
        same = f"settings_hash = {catalog.sql_text(effects.settings_hash)} AND {catalog.layer_filter(self.target)}"
        self.store.delete(EFFECT_CLASSES, same)
        self.store.append(EFFECT_CLASSES, class_rows(effects, run_id))
