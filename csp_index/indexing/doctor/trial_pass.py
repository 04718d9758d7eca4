"""A pass over a handful of images that stores nothing: what each model gives for them, and how long that takes.

It runs what a real pass runs (`decoded`, `batches`, `outputs_of`), one model after the other, so that a model that
fails does not hide what is wrong with the next.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import torch

from csp_index.errors import CspIndexError
from csp_index.images.decode import ImageFailure, ImageRef
from csp_index.images.loader import Prepared, decoded
from csp_index.indexing.batches import batches
from csp_index.indexing.commit import value_rows
from csp_index.indexing.doctor.report import Input, LayerTrial, ModelTrial, PassTrial
from csp_index.indexing.model_columns import Part, columns_of, parts_of
from csp_index.indexing.model_outputs import check_preprocessing, outputs_of
from csp_index.models.encoders import LoadedEncoder, TwoTowers
from csp_index.models.layers.pooling import neuron_axes
from csp_index.models.layers.repeats import REPEATED, differing
from csp_index.models.networks import LayerOutput, LoadedNetwork
from csp_index.store.catalog import Column, EncoderInfo, LayerInfo, Shard

_COARSE = 10  # times the tolerance on CUDA, where encoders run in half precision
_ROWS = 64  # at least so many images are laid out to see what one takes in the index


def try_models(
    refs: Sequence[ImageRef], encoders: Sequence[LoadedEncoder], networks: Sequence[LoadedNetwork], dtype: str
) -> PassTrial:
    """Return what the models give for a few images; without images, only what is known of the models."""
    result = PassTrial(tried=len(refs))
    parts = parts_of(encoders, networks, columns_of(encoders, networks, dtype))
    result.models = [_described(part) for part in parts]
    if not refs:
        return result
    working = []
    with ExitStack() as ready:
        for part in parts:
            if isinstance(part.model, LoadedNetwork | TwoTowers):
                ready.enter_context(part.model.in_use())
        for part, trial in zip(parts, result.models, strict=True):
            try:
                _try_part(refs, part, trial, result)
            except CspIndexError as exc:
                result.problems.append(f"{trial.kind} {trial.name}: {exc}")
            else:
                working.append(part)
        _time(refs, working, result)
    return result


@dataclass(slots=True)
class _Once:
    """What one pass gave."""

    images: list[Prepared] = field(default_factory=list)
    unreadable: list[ImageFailure] = field(default_factory=list)
    failures: list[ImageFailure] = field(default_factory=list)  # of a model
    values: dict[str, torch.Tensor] = field(default_factory=dict)
    pixels: torch.Tensor | None = None  # of the first model


def _pass(refs: Sequence[ImageRef], parts: Sequence[Part]) -> _Once:
    once, values, pixels = _Once(), dict[str, list[torch.Tensor]](), []
    with closing(decoded(refs, [part.model.preprocess for part in parts], workers=0)) as images:
        for batch in batches(images, parts, [len(refs)]):
            proven = bool(once.images)
            check_preprocessing(len(batch.images), batch.failures, proven=proven)
            outputs = outputs_of(parts, [item.ref.uri for item in batch.images], batch.pixels, proven=proven)
            once.images += [batch.images[row] for row in outputs.rows]
            once.unreadable += [failure for failure in batch.failures if not failure.by_model]
            once.failures += [*(failure for failure in batch.failures if failure.by_model), *outputs.failures]
            pixels += [batch.pixels[0].float().cpu()] if batch.pixels else []
            for what, rows in outputs.values.items():
                values.setdefault(what, []).append(rows)
    once.values = {what: torch.cat(rows) for what, rows in values.items()}
    once.pixels = torch.cat(pixels) if pixels else None
    return once


def _try_part(refs: Sequence[ImageRef], part: Part, trial: ModelTrial, result: PassTrial) -> None:
    """Run one model twice over the images, and note what it gave."""
    first, second = _pass(refs, [part]), _pass(refs, [part])
    result.notes += [f"{trial.kind} {trial.name}: {line}" for line in _some(first.failures, "fails on", len(refs))]
    if first.pixels is None or not first.images:
        return
    trial.input = _input(first.pixels)
    tolerance = REPEATED * (_COARSE if part.model.device.type == "cuda" else 1)
    layer = differing(first.values, second.values, tolerance)
    trial.repeats = layer is None
    if layer is not None:
        same = second.pixels is not None and torch.equal(first.pixels, second.pixels)
        where = "two passes over the same images differ" if same else "its preprocessing draws random numbers"
        line = f"{trial.kind} {trial.name} gives other values for the same images each time: {where} ({layer})"
        allowed = "random" in part.model.identity
        (result.notes if allowed else result.problems).append(line if allowed else f"{line}; take what is random out")
    different = len({image.sha256 for image in first.images}) > 1
    for info in part.infos:
        _note_column(info, first.values[info.what], trial, result, different=different)
    trial.bytes_per_image = sum(_bytes(info, first.values[info.what]) for info in part.infos)


def _note_column(info: Column, values: torch.Tensor, trial: ModelTrial, result: PassTrial, *, different: bool) -> None:
    """Note the degenerate neurons of a layer, and refuse an encoder that does not tell images apart."""
    same = bool((values == values[:1]).all())
    if isinstance(info, EncoderInfo):
        if same and different:
            result.problems.append(
                f"encoder {trial.name} gives one and the same vector for {len(values)} different images: check its "
                "preprocessing and weights"
            )
        return
    place = next(number for number, one in enumerate(trial.layers) if one.layer == info.key.layer)
    trial.layers[place] = trial.layers[place].with_shares(values.amin(0).numpy(), values.amax(0).numpy())
    if same and different:
        result.notes.append(
            f"layer {info.key} gives the same activations for {len(values)} different images: its labels would mean "
            "nothing, unless other images differ"
        )


def _time(refs: Sequence[ImageRef], parts: Sequence[Part], result: PassTrial) -> None:
    """Measure a pass with all models that work; they ran before, so it is warm."""
    if not parts:
        once = _decode_alone(refs)
    else:
        started = time.perf_counter()
        try:
            once = _pass(refs, parts)
        except CspIndexError as exc:
            result.problems.append(f"the models together: {exc}")
            return
        if once.images:
            result.images_per_second = len(refs) / max(time.perf_counter() - started, 1e-9)
    result.read = len(refs) - len(once.unreadable)
    unreadable = _some(once.unreadable, "cannot read", len(refs))
    if unreadable and not result.read:
        result.problems.append(f"no image of those tried can be read, first {_first(once.unreadable)}")
    else:
        result.notes += unreadable
    if once.images:
        result.thumbnail_bytes = sum(len(image.thumbnail) for image in once.images) / len(once.images)


def _decode_alone(refs: Iterable[ImageRef]) -> _Once:
    once = _Once()
    with closing(decoded(refs, [], workers=0)) as images:
        for image in images:
            if isinstance(image, ImageFailure):
                once.unreadable.append(image)
            else:
                once.images.append(image)
    return once


def _described(part: Part) -> ModelTrial:
    model = part.model
    trial = ModelTrial("network", model.spec, "", str(model.device), model.identity.get("preprocessing", ""))
    if isinstance(model, LoadedNetwork):
        trial.name = model.name
        trial.layers = [_layer(output) for output in model.layers.values()]
    else:
        trial.kind, trial.name = "encoder", model.spec
        trial.width, trial.logit_scale = model.width, model.logit_scale
    return trial


def _layer(output: LayerOutput) -> LayerTrial:
    axes = neuron_axes(output.shape, output.pool)
    return LayerTrial(output.name, output.kind, output.shape, axes, output.pool, output.neurons, output.understood)


def _input(pixels: torch.Tensor) -> Input:
    least, most = map(float, pixels.aminmax())
    deviation = float(pixels.std(correction=0))
    return Input(tuple(pixels.shape[1:]), least, most, float(pixels.mean()), deviation)


def _bytes(info: Column, values: torch.Tensor) -> float:
    """Return what the values of one image take in the index, before compression."""
    many = values.repeat(-(-_ROWS // len(values)), 1)
    rows = value_rows(info, Shard(0, 0, len(many), ""), many)
    fixed = 8 * info.shard_rows if isinstance(info, LayerInfo) else 0  # the numbers of shard and neuron, per shard
    return float(rows.nbytes - fixed) / len(many)


def _some(failures: Sequence[ImageFailure], what: str, of: int) -> list[str]:
    return [f"{what} {len(failures)} of {of} images tried, first {_first(failures)}"] if failures else []


def _first(failures: Sequence[ImageFailure]) -> str:
    return f"{failures[0].uri}: {failures[0].reason}"
