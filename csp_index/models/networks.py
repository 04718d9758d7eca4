"""Networks: the vision model under study, from images to the activations of its neurons.

Knows how to run, hook and pool any module, and nothing about the libraries they come from (``zoo.py`` does). A
network is named by its library: ``torchvision:resnet50/IMAGENET1K_V2``, ``timm:resnet50.a1_in1k``,
``timm:/local/directory``, ``transformers:google/vit-base-patch16-224``, ``python:package.module:factory``. ``/none``
after a torchvision or timm name means random weights, the same every time. Layers are named as in ``named_modules()``;
``+sae:LAYER=FILE`` after a name adds those of a sparse autoencoder (``sparse_autoencoders.py``).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.errors import ModelError, one_line
from csp_index.models.borrowing import borrowed
from csp_index.models.layers.coarse_maps import Watch, map_grid
from csp_index.models.layers.hooks import hooks, running_loaded
from csp_index.models.layers.loaded import Loaded
from csp_index.models.layers.opened import OpenLayer
from csp_index.models.layers.pooling import Grid, Pool, as_maps, axes_in, choose_exact, neurons_of, pool_at, pooled
from csp_index.models.layers.repeats import constant_layers, spare_random_numbers, why_not_repeated
from csp_index.models.layers.trial import Trial, try_out
from csp_index.models.sparse_autoencoders import SparseAutoencoder, images_at_once, settled
from csp_index.models.specs import check_pool, network_spec
from csp_index.models.weights import (
    batch_size_for,
    hash_weights,
    lasting_weights,
    put,
    resolve_device,
    undo_channels_last,
)
from csp_index.models.zoo import default_name, load_module

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """A layer's output for one image: its shape, its pool, and the number of neurons that results.

    ``kind`` is the class of the module; ``understood`` says what a sparse autoencoder was read as. ``neurons`` is 0
    where nothing says which axis has them; ``note`` says what else one should know.
    """

    name: str
    neurons: int
    pool: Pool
    shape: tuple[int, ...]
    kind: str = ""
    understood: str = ""
    note: str = ""
    classes: tuple[str, ...] = ()  # what the neurons are called, where they are the outputs of a classifier


def load_network(
    spec: str,
    *,
    layers: Sequence[str],
    pool: str | Mapping[str, str] | None = None,
    axis: Sequence[int] | None = None,
    weights: str | Path | None = None,
    name: str | None = None,
    device: str = "auto",
    allow_random: bool = False,
    allow_missing: bool = False,
    whole: bool = False,
) -> LoadedNetwork:
    """Return the network that ``spec`` names, in evaluation mode, ready to give the activations of ``layers``.

    ``weights`` is a file that replaces the network's own weights, or redraws them (``redrawn.py``). ``pool``
    applies to all layers, or is the exact pool of each; by default each gets the usual one for its shape. ``axis``
    has the neurons, counted from 1 in the output of one image, where the layers do not say it themselves. ``name``
    is the first part of a neuron's address; by default it comes from ``spec``. Raises ModelError, with near matches
    for an unknown network or layer; for a network that is no function of its image, unless ``allow_random``; and
    for layers that depend on weights which the checkpoint lacks, unless ``allow_missing``. ``whole`` is that of
    `load_module`.
    """
    spec = network_spec(spec)
    selected = default_name(spec, weights) if name is None else name
    if not re.fullmatch(r"[^/\s]+", selected):
        raise ModelError(f"{selected!r} cannot name a network in model/layer/index: no slash, no space, not empty")
    if not layers:
        raise ModelError(f"no layer of {spec} was named: csp-index layers {spec} lists them")
    where = resolve_device(device)
    spec = settled(spec)
    reading = Reading(pool, tuple(axis or ()), allow_random, allow_missing)
    network = LoadedNetwork(
        load_module(spec, weights, layers=layers, allow_missing=allow_missing, whole=whole),
        spec=spec,
        name=selected,
        layers=layers,
        reading=reading,
        device=where,
    )
    network.weights = None if weights is None else lasting_weights(str(weights))
    return network


def list_layers(spec: str, weights: str | Path | None = None) -> list[LayerOutput]:
    """Return every layer of a network that can be indexed, in the order of the modules, with its usual pool."""
    spec = network_spec(spec)
    loaded = load_module(spec, weights, names_only=weights is None)
    loaded.module.requires_grad_(False).eval()
    return layers_of(loaded, torch.device("cpu"), spec)


def layers_of(loaded: Loaded, device: torch.device, spec: str) -> list[LayerOutput]:
    """Return the same for a loaded network; ``spec`` names it in errors."""
    modules = loaded.layers()
    trial = try_out(loaded, modules, device, spec)
    names = [name for name in trial.trace.shapes if name in modules and trial.is_readable(name)]
    axes = trial.axes(names)
    outputs = []
    for layer, module in modules.items():
        if layer not in axes:
            continue
        shape, axis = trial.trace.shapes[layer][1:], axes[layer]
        note = _note(layer, trial, loaded)
        if axis is None:
            note = "; ".join([f"axis of the neurons unknown: --axis 1 to {len(shape)}", *([note] if note else [])])
            outputs.append(LayerOutput(layer, 0, "", shape, _kind(module), _understood(module), note))
            continue
        pool = pool_at(shape, [axis], None, trial.reads_class_token(shape))
        count = neurons_of(shape, pool)
        classes = trial.class_names(layer, count)
        outputs.append(LayerOutput(layer, count, pool, shape, _kind(module), _understood(module), note, classes))
    return outputs


@dataclass(frozen=True, slots=True)
class Reading:
    """How a user wants the layers of a network read, and what is allowed.

    ``pool`` is one for all layers, to be fitted to each, or the exact one of each layer.
    """

    pool: str | Mapping[str, str] | None = None
    axis: tuple[int, ...] = ()
    allow_random: bool = False
    allow_missing: bool = False


class LoadedNetwork:
    """A network with hooks on the layers under study.

    ``name`` is the first part of every neuron's address; ``layers`` has for each layer its shape, pool and number
    of neurons M; ``identity`` has the keys spec, weights, preprocessing, library and pool, and ``random`` where random
    values were allowed.
    """

    def __init__(
        self,
        loaded: Loaded,
        *,
        spec: str,
        name: str,
        layers: Sequence[str],
        reading: Reading,
        device: torch.device,
    ) -> None:
        self.spec = spec
        self.name = name
        self.device = device
        self.batch_size = batch_size_for(device)
        self.weights: str | None = None  # the weight file loaded into the network, if there is one
        self._loaded = loaded
        weights = loaded.traits.get("weights") or hash_weights(loaded.module)
        for part in (loaded.module, *loaded.attached.values()) if loaded.owned else ():
            put(part, device)
        self._modules = {layer: loaded.module_called(layer, spec, name) for layer in layers}
        tried = {**loaded.layers(), **self._modules}
        try:
            trial = try_out(loaded, tried, device, spec)
        except ModelError:
            if not loaded.owned:
                raise
            undo_channels_last(loaded.module)
            trial = try_out(loaded, tried, device, spec)
        self._grid = trial.trace.grid
        self.layers = self._described(trial, reading)
        maps = (output.shape for layer, output in self.layers.items() if layer in loaded.attached)
        self.batch_size = images_at_once(self.batch_size, maps, device)
        trial.check_weights(layers, name, allowed=reading.allow_missing)
        self.identity = {
            "spec": spec,
            "weights": weights,
            "preprocessing": loaded.preprocessing,
            "library": loaded.library,
            "pool": json.dumps({layer: output.pool for layer, output in self.layers.items()}),
            **loaded.traits,
        }
        cause = self._why_not_repeated(trial)
        if cause is not None and not reading.allow_random:
            raise ModelError(
                f"{spec} is no function of its image: {cause}; change the network, or index what it gives once with "
                "--allow-random (allow_random=True)"
            )
        if cause is not None:
            _log.warning("%s is no function of its image, which was allowed: %s", spec, cause)
            self.identity["random"] = "allowed"

    def identity_of(self, layer: str) -> dict[str, str]:
        """Return what one layer's activations depend on: the network's identity without what is about other layers."""
        identity = {trait: value for trait, value in self.identity.items() if trait != "pool"}
        loaded = self._loaded
        if loaded.trunk_weights is not None and loaded.is_inside(layer):
            identity["weights"] = loaded.trunk_weights  # as where the trunk alone is loaded
        read = self._loaded.attached.get(layer)
        return identity if read is None else {**identity, "sparse": read.identity}

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        """The function that makes one RGB image the network's input [C, H, W]; several threads may call it."""
        return self._loaded.preprocess

    def share_input(self, other: LoadedNetwork) -> None:
        """Prepare images by the function of another network of the same spec: a pass calls it once for both."""
        if (self.spec, self._loaded.preprocessing) == (other.spec, other._loaded.preprocessing):
            self._loaded = replace(self._loaded, preprocess=other.preprocess)

    def in_use(self) -> AbstractContextManager[None]:
        """Keep a module of the caller ready to run while the context lasts, so that not every call prepares it."""
        return nullcontext() if self._loaded.owned else borrowed([self._loaded.module], self.device)

    def activations(self, pixels: Tensor, watch: Watch | None = None) -> dict[str, Tensor]:
        """Return the pooled activations [B, M] of each layer, float32 on the CPU, for a stack of preprocessed images.

        If a layer runs several times in one pass, the last time counts. The network runs in its own precision,
        without autocast, so that the order of the images does not depend on rounding. `watch` sees the layers' maps.
        """
        results: dict[str, Tensor] = {}

        def keep(layer: str, output: Tensor | None) -> None:
            if output is not None:
                # Pooled at once: what follows may change the output in place, and the maps of a whole batch are large.
                results[layer] = self._pooled(output, layer)  # not yet moved: the network would wait at every layer
                if watch is not None:
                    watch(layer, results[layer], self._as_maps(output, layer))

        with running_loaded(self._loaded, self.device), hooks(self._modules, keep):
            self._loaded.forward(pixels.to(self.device))
        silent = next((layer for layer in self.layers if layer not in results), None)
        if silent is not None:
            raise ModelError(
                f"layer {silent!r} of {self.name} gave no tensor for these images, as where a network takes another "
                "way: choose a layer that every image passes"
            )
        return {layer: results[layer].cpu() for layer in self.layers}

    def map_grid(self, layer: str) -> Grid | None:
        """Return the rows and columns of a layer's maps; None where its neurons have no places in the image."""
        output = self.layers[layer]
        return map_grid(output.shape, output.pool, self._loaded.prefix_tokens, self._grid)

    def maps(self, pixels: Tensor, layer: str, neurons: Tensor) -> Tensor | None:
        """Return the map [B, h, w] of one neuron per image (``neurons`` [B]) before pooling, float32 on the CPU.

        None if the layer's neurons have no positions in the image: vectors, and the class token.
        """
        results, rows = dict[str, Tensor](), torch.arange(len(pixels))

        def keep(name: str, output: Tensor | None) -> None:
            maps = None if output is None else self._as_maps(output, layer)
            if maps is not None:
                results[name] = maps[rows.to(maps.device), neurons.to(maps.device)].float().cpu()

        with running_loaded(self._loaded, self.device), hooks({layer: self._modules[layer]}, keep):
            self._loaded.forward(pixels.to(self.device))
        return results[layer].clone() if layer in results else None

    def gradients(self, pixels: Tensor, layer: str, neurons: Tensor) -> Tensor:
        """Return the gradient of one neuron's pooled activation per image (``neurons`` [B]) by its input, on the CPU.

        It has the shape of ``pixels``. Raises ModelError if no gradient passes through the network.
        """
        results: dict[str, Tensor] = {}

        def keep(name: str, output_of_layer: Tensor | None) -> None:
            if output_of_layer is not None:
                # A copy, because what follows may change the output in place.
                results[name] = self._pooled(output_of_layer.clone(), layer, gradient=True)

        try:
            with running_loaded(self._loaded, self.device, gradient=True), hooks({layer: self._modules[layer]}, keep):
                inputs = pixels.to(self.device).clone().requires_grad_(True)
                self._loaded.forward(inputs.clone())
                driven = results[layer].gather(1, neurons.to(self.device)[:, None]).sum()
                (gradient,) = torch.autograd.grad(driven, inputs)
        except RuntimeError as exc:
            raise ModelError(
                f"no gradient of layer {layer!r} of {self.name} by its input can be had ({one_line(exc)}): "
                "choose another contrast than perturbation"
            ) from exc
        return gradient.cpu()

    def opened(self, layer: str) -> OpenLayer:
        """Return one of the layers inside the network, for what changes it while the network runs."""
        output, module = self.layers[layer], self._modules[layer]
        place = (output.shape, output.pool, self._grid, self._loaded, self.device, self.batch_size)
        return OpenLayer(self.name, layer, module, *place)

    def _why_not_repeated(self, trial: Trial) -> str | None:
        loaded = self._loaded
        try:
            with spare_random_numbers(self.device), running_loaded(loaded, self.device):
                for layer in constant_layers(self.activations(trial.pixels.clone())):
                    _log.warning(
                        "layer %s with pool %s gives two different pictures the same values, as the mean of attention "
                        "patterns does: try another pool",
                        *(layer, self.layers[layer].pool),
                    )
                return why_not_repeated(self.activations, loaded.preprocess, loaded.module, trial.pixels)
        except ModelError:
            raise
        except Exception as exc:  # whatever the network's own code raises
            message = f"{type(exc).__name__}: {one_line(exc)}"
            raise ModelError(f"{self.spec} fails on trial images that it took before: {message}") from exc

    def _pooled(self, output: Tensor, layer: str, *, gradient: bool = False) -> Tensor:
        pool, prefix = self.layers[layer].pool, self._loaded.prefix_tokens
        return pooled(output, pool, prefix, grid=self._grid, gradient=gradient)

    def _as_maps(self, output: Tensor, layer: str) -> Tensor | None:
        return as_maps(output, self.layers[layer].pool, self._loaded.prefix_tokens, self._grid)

    def _described(self, trial: Trial, reading: Reading) -> dict[str, LayerOutput]:
        shapes = {layer: trial.shape(layer, self.name) for layer in self._modules}
        exact = isinstance(reading.pool, Mapping)
        axes = {} if exact else trial.axes(list(shapes))
        outputs = {}
        for layer, shape in shapes.items():
            pool = requested = reading.pool[layer] if isinstance(reading.pool, Mapping) else reading.pool
            token = trial.reads_class_token(shape)
            try:
                if exact or (not reading.axis and pool in _SETTLING) or (pool is not None and axes_in(pool)):
                    pool = choose_exact(shape, pool, token)
                else:
                    axis = reading.axis or axes[layer]
                    if axis is None:
                        check_pool(pool)
                        raise ModelError(_ask(shape))
                    pool = pool_at(shape, axis if isinstance(axis, tuple) else [axis], pool, token)
                trial.check_tokens(layer, pool)
            except ModelError as exc:
                raise ModelError(f"layer {layer!r} of {self.name}: {exc}") from exc
            for remark in trial.remarks(layer, pool, requested, None if exact else axes[layer]):
                _log.warning("layer %s of %s: %s", layer, self.name, remark)
            module = self._modules[layer]
            count = neurons_of(shape, pool)
            names = trial.class_names(layer, count)
            kind, understood = _kind(module), _understood(module)
            outputs[layer] = LayerOutput(layer, count, pool, shape, kind, understood, classes=names)
        return outputs


# layers


_SETTLING = ("mean-last", "max-last", "cls", "token-mean", "token-max")  # pools that say which axis they mean


def _ask(shape: tuple[int, ...]) -> str:
    axes = ", ".join(f"{axis} ({size})" for axis, size in enumerate(shape, 1))
    return (
        f"nothing says which axis of its output {list(shape)} has the neurons: give --axis (axis=), one of {axes}, or "
        "several with commas for one neuron each"
    )


def _kind(module: nn.Module) -> str:
    return type(module).__name__


def _understood(module: nn.Module) -> str:
    return module.understood if isinstance(module, SparseAutoencoder) else ""


def _note(layer: str, trial: Trial, loaded: Loaded) -> str:
    notes = []
    if count := trial.trace.several.get(layer):
        notes.append(f"the first of {count} tensors; {layer}[1] is the second")
    if (runs := trial.trace.runs[layer]) > 1:
        notes.append(f"runs {runs} times for an image, the last counts")
    if lacking := trial.lacking(layer):
        notes.append(f"random: the checkpoint lacks {lacking[0]}")
    return "; ".join(notes)
