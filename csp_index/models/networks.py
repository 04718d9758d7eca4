"""Networks: the vision model under study, from images to the activations of its neurons.

Knows how to run, hook and pool any module, and nothing about the libraries they come from (``zoo.py`` does). A
network is named by its library: ``torchvision:resnet50/IMAGENET1K_V2``, ``timm:resnet50.a1_in1k``,
``timm:/local/directory``, ``transformers:google/vit-base-patch16-224``, ``python:package.module:factory``. ``/none``
after a torchvision or timm name means random weights, the same every time. Layers are named as in ``named_modules()``;
``+sae:LAYER=FILE`` after a name adds those of a sparse autoencoder (``sparse_autoencoders.py``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.errors import ModelError, one_line
from csp_index.models.borrowing import borrowed, running
from csp_index.models.pooling import Pool, as_maps, choose_pool, first_tensor, fits, neurons_of, pooled
from csp_index.models.sparse_autoencoders import SparseAutoencoder, settled
from csp_index.models.weights import batch_size_for, hash_weights, near_matches, put, resolve_device, undo_channels_last
from csp_index.models.zoo import Loaded, default_name, load_module
from csp_index.regular_files import user_path


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """A layer's output for one image: its shape, its pool, and the number of neurons that results.

    ``kind`` is the class of the module; ``understood`` says what a sparse autoencoder was read as.
    """

    name: str
    neurons: int
    pool: Pool
    shape: tuple[int, ...]
    kind: str = ""
    understood: str = ""


def load_network(
    spec: str,
    *,
    layers: Sequence[str],
    pool: str | None = None,
    weights: str | Path | None = None,
    name: str | None = None,
    device: str = "auto",
) -> LoadedNetwork:
    """Return the network that ``spec`` names, in evaluation mode, ready to give the activations of ``layers``.

    ``weights`` is a file that replaces the network's own weights. ``pool`` applies to all layers; by default each gets
    the usual one for its shape. ``name`` is the first part of a neuron's address; by default it comes from ``spec``.
    Raises ModelError, with near matches for an unknown network or layer.
    """
    selected = default_name(spec) if name is None else name
    if not re.fullmatch(r"[^/\s]+", selected):
        raise ModelError(f"{selected!r} cannot name a network in model/layer/index: no slash, no space, not empty")
    if not layers:
        raise ModelError(f"no layer of {spec} was named: csp-index layers {spec} lists them")
    where = resolve_device(device)
    spec = settled(spec)
    network = LoadedNetwork(
        load_module(spec, weights), spec=spec, name=selected, layers=layers, pool=pool, device=where
    )
    network.weights = None if weights is None else str(user_path(weights).resolve())
    return network


def list_layers(spec: str, weights: str | Path | None = None) -> list[LayerOutput]:
    """Return every layer of a network that can be indexed, in the order of the modules, with its usual pool."""
    loaded = load_module(spec, weights)
    loaded.module.requires_grad_(False).eval()
    return layers_of(loaded, torch.device("cpu"), spec)


def layers_of(loaded: Loaded, device: torch.device, spec: str) -> list[LayerOutput]:
    """Return the same for a loaded network; ``spec`` names it in errors."""
    modules = loaded.layers()
    result = _try_out(loaded, modules, device, spec)
    outputs = []
    for layer, module in modules.items():
        shape = result.get(layer, ())
        if shape[:1] == (2,) and fits(shape[1:]):
            outputs.append(_describe(layer, module, shape[1:], None, loaded))
    return outputs


class LoadedNetwork:
    """A network with hooks on the layers under study.

    ``name`` is the first part of every neuron's address; ``layers`` has for each layer its shape, pool and number
    of neurons M; ``identity`` has the keys spec, weights, preprocessing, library and pool.
    """

    def __init__(
        self, loaded: Loaded, *, spec: str, name: str, layers: Sequence[str], pool: str | None, device: torch.device
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
        self._modules = {layer: _module_called(layer, loaded, spec, name) for layer in layers}
        try:
            shapes = _try_out(loaded, self._modules, device, spec)
        except ModelError:
            if not loaded.owned:
                raise
            undo_channels_last(loaded.module)
            shapes = _try_out(loaded, self._modules, device, spec)
        self.layers = {layer: self._describe(layer, shapes.get(layer), pool) for layer in layers}
        self.identity = {
            "spec": spec,
            "weights": weights,
            "preprocessing": loaded.preprocessing,
            "library": loaded.library,
            "pool": json.dumps({layer: output.pool for layer, output in self.layers.items()}),
            **loaded.traits,
        }

    def identity_of(self, layer: str) -> dict[str, str]:
        """Return what one layer's activations depend on: the network's identity without what is about other layers."""
        identity = {trait: value for trait, value in self.identity.items() if trait != "pool"}
        read = self._loaded.attached.get(layer)
        return identity if read is None else {**identity, "sparse": read.identity}

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        """The function that makes one RGB image the network's input [C, H, W]; several threads may call it."""
        return self._loaded.preprocess

    def in_use(self) -> AbstractContextManager[None]:
        """Keep a module of the caller ready to run while the context lasts, so that not every call prepares it."""
        return nullcontext() if self._loaded.owned else borrowed([self._loaded.module], self.device)

    def activations(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the pooled activations [B, M] of each layer, float32 on the CPU, for a stack of preprocessed images.

        If a layer runs several times in one pass, the last time counts. The network runs in its own precision,
        without autocast, so that the order of the images does not depend on rounding.
        """
        results: dict[str, Tensor] = {}

        def keep(layer: str, output: Tensor | None) -> None:
            if output is not None:
                # Pooled at once: what follows may change the output in place, and the maps of a whole batch are large.
                results[layer] = pooled(output, self.layers[layer].pool, self._loaded.prefix_tokens).cpu()

        with _running(self._loaded, self.device), _hooks(self._modules, keep):
            self._loaded.forward(pixels.to(self.device))
        return {layer: results[layer] for layer in self.layers}

    def maps(self, pixels: Tensor, layer: str, neurons: Tensor) -> Tensor | None:
        """Return the map [B, h, w] of one neuron per image (``neurons`` [B]) before pooling, float32 on the CPU.

        None if the layer's neurons have no positions in the image: vectors, and the class token.
        """
        results: dict[str, Tensor] = {}
        output, rows = self.layers[layer], torch.arange(len(pixels))

        def keep(name: str, output_of_layer: Tensor | None) -> None:
            maps = (
                None if output_of_layer is None else as_maps(output_of_layer, output.pool, self._loaded.prefix_tokens)
            )
            if maps is not None:
                results[name] = maps[rows.to(maps.device), neurons.to(maps.device)].float().cpu()

        with _running(self._loaded, self.device), _hooks({layer: self._modules[layer]}, keep):
            self._loaded.forward(pixels.to(self.device))
        return results[layer].clone() if layer in results else None

    def gradients(self, pixels: Tensor, layer: str, neurons: Tensor) -> Tensor:
        """Return the gradient of one neuron's pooled activation per image (``neurons`` [B]) by its input, on the CPU.

        It has the shape of ``pixels``. Raises ModelError if no gradient passes through the network.
        """
        results: dict[str, Tensor] = {}
        output = self.layers[layer]

        def keep(name: str, output_of_layer: Tensor | None) -> None:
            if output_of_layer is not None:
                # A copy, because what follows may change the output in place.
                results[name] = pooled(output_of_layer.clone(), output.pool, self._loaded.prefix_tokens, gradient=True)

        try:
            with _running(self._loaded, self.device, gradient=True), _hooks({layer: self._modules[layer]}, keep):
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

    def _describe(self, layer: str, shape: tuple[int, ...] | None, pool: str | None) -> LayerOutput:
        if shape is None:
            raise ModelError(
                f"layer {layer!r} of {self.name} gives no tensor when an image goes through: choose another layer"
            )
        if shape[:1] != (2,):
            raise ModelError(
                f"layer {layer!r} of {self.name} gives {list(shape)} for 2 images, so its first axis is not the batch: "
                "choose another layer"
            )
        try:
            return _describe(layer, self._modules[layer], shape[1:], pool, self._loaded)
        except ModelError as exc:
            raise ModelError(f"layer {layer!r} of {self.name}: {exc}") from exc


# layers


def _describe(layer: str, module: nn.Module, shape: tuple[int, ...], pool: str | None, loaded: Loaded) -> LayerOutput:
    selected = choose_pool(shape, pool, loaded.has_class_token)
    understood = module.understood if isinstance(module, SparseAutoencoder) else ""
    return LayerOutput(layer, neurons_of(shape, selected), selected, shape, type(module).__name__, understood)


def _module_called(layer: str, loaded: Loaded, spec: str, name: str) -> nn.Module:
    modules = loaded.layers()
    if layer in modules:
        return modules[layer]
    top = [child for child, _ in loaded.module.named_children()]
    near = [known for known in near_matches(layer, modules) if known not in top]
    raise ModelError(
        f"layer {layer!r} is not in {name} (has: {', '.join([*near, *top, '...'])}): csp-index layers {spec} lists all"
    )


def _try_out(
    loaded: Loaded, modules: dict[str, nn.Module], device: torch.device, spec: str
) -> dict[str, tuple[int, ...]]:
    """Return the shape of each module's output for two gray images; modules that return no tensor are left out."""
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(layer: str, output: Tensor | None) -> None:
        if output is not None:
            shapes[layer] = tuple(output.shape)

    try:
        pixels = loaded.preprocess(Image.new("RGB", (256, 256), "grey"))
        with _running(loaded, device), _hooks(modules, keep):
            loaded.forward(torch.stack([pixels, pixels]).to(device))
    except ModelError:
        raise
    except Exception as exc:  # whatever the network's own code raises
        raise ModelError(f"{spec} fails on two gray images: {type(exc).__name__}: {one_line(exc)}") from exc
    return shapes


def _running(loaded: Loaded, device: torch.device, *, gradient: bool = False) -> AbstractContextManager[None]:
    parts = [loaded.module, *loaded.attached.values()]
    return running(parts, device, owned=loaded.owned, gradient=gradient)


@contextmanager
def _hooks(modules: dict[str, nn.Module], keep: Callable[[str, Tensor | None], None]) -> Iterator[None]:
    """Call ``keep`` with each module's first output tensor while the context lasts, and always remove the hooks."""

    def listen(layer: str, module: nn.Module, inputs: object, output: object) -> None:
        keep(layer, first_tensor(output))

    handles = [module.register_forward_hook(partial(listen, layer)) for layer, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
