"""Networks: the vision model under study, from images to the activations of its neurons.

The file that knows torchvision, timm, and transformers' vision models; each is imported when a network of it is
loaded. A network is named by its library: ``torchvision:resnet50/IMAGENET1K_V2``, ``timm:resnet50.a1_in1k``,
``timm:/local/directory``, ``transformers:google/vit-base-patch16-224``, ``python:package.module:factory``. Behind a
torchvision or timm name, ``/none`` stands for random weights, the same every time. Layers are called as in
``named_modules()``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.containers import one_line
from csp_index.errors import NetworkError
from csp_index.plugins import call_factory, load_plugins
from csp_index.pooling import Pool, choose_pool, fits, neurons_of, pooled
from csp_index.weights import (
    batch_size_for,
    hash_weights,
    load_weights,
    local_directory,
    near_matches,
    resolve_device,
)

_RANDOM = "none"
_SEED = 0
_CLASS_TOKENS = frozenset({"cls_token", "class_token", "class_embedding", "class_embed"})


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """What a layer gives for one image: its shape, how it is pooled, and how many neurons that makes.

    ``kind`` is the class of the module.
    """

    name: str
    neurons: int
    pool: Pool
    shape: tuple[int, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network as its library gives it: how to prepare an image for it and how to run it.

    ``prefix_tokens`` counts class and register tokens; ``reads_class_token`` is False where the network was trained
    to average instead.
    """

    module: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    forward: Callable[[Tensor], object]
    preprocessing: str
    library: str
    prefix_tokens: int = 0
    reads_class_token: bool = False


def load_network(
    spec: str,
    *,
    layers: Sequence[str],
    pool: str | None = None,
    weights: str | Path | None = None,
    name: str | None = None,
    device: str = "auto",
) -> Network:
    """Return the network that ``spec`` names, in evaluation mode, ready to give the activations of ``layers``.

    ``weights`` is a file put into the network in place of its own weights. ``pool`` holds for all layers; without it
    each gets the usual one for its shape. ``name`` is the first part of a neuron's address; it comes from ``spec`` if
    it is not given. Raises NetworkError, with near matches for an unknown network or layer.
    """
    _library(spec)
    chosen = _default_name(spec) if name is None else name
    if not re.fullmatch(r"[^/\s]+", chosen):
        raise NetworkError(f"{chosen!r} cannot name a network in model/layer/index: no slash, no space, not empty")
    if not layers:
        raise NetworkError(f"no layer of {spec} was named: csp-index layers {spec} lists them")
    where = resolve_device(device, NetworkError)
    network = Network(_load(spec, weights), spec=spec, name=chosen, layers=layers, pool=pool, device=where)
    network.weights = None if weights is None else str(Path(weights).expanduser().resolve())
    return network


def list_layers(spec: str, weights: str | Path | None = None) -> list[LayerOutput]:
    """Return every layer of a network that can be indexed, in the order of the modules, with its usual pool."""
    loaded = _load(spec, weights)
    loaded.module.requires_grad_(False).eval()
    modules = {layer: module for layer, module in loaded.module.named_modules() if layer}
    found = _try_out(loaded, modules, torch.device("cpu"), spec)
    outputs = []
    for layer, module in modules.items():
        shape = found.get(layer, ())
        if shape[:1] == (2,) and fits(shape[1:]):
            outputs.append(_describe(layer, module, shape[1:], None, loaded))
    return outputs


class Network:
    """A network with hooks on the layers under study.

    ``name`` is the first part of every neuron's address; ``layers`` tells for each layer its shape, pool and number
    of neurons M; ``identity`` has the keys spec, weights, preprocessing, library and pool.
    """

    def __init__(
        self, loaded: Loaded, *, spec: str, name: str, layers: Sequence[str], pool: str | None, device: torch.device
    ) -> None:
        self.spec = spec
        self.name = name
        self.device = device
        self.batch_size = batch_size_for(device)
        self.weights: str | None = None  # the weight file put into the network, if there was one
        self._loaded = loaded
        weights = hash_weights(loaded.module)
        loaded.module.requires_grad_(False).eval().to(device)
        self._modules = {layer: _module_called(layer, loaded.module, spec, name) for layer in layers}
        shapes = _try_out(loaded, self._modules, device, spec)
        self.layers = {layer: self._describe(layer, shapes.get(layer), pool) for layer in layers}
        self.identity = {
            "spec": spec,
            "weights": weights,
            "preprocessing": loaded.preprocessing,
            "library": loaded.library,
            "pool": json.dumps({layer: output.pool for layer, output in self.layers.items()}),
        }

    def preprocess(self, image: Image.Image) -> Tensor:
        """Return the network's input for one RGB image, [C, H, W]; may be called from several threads."""
        return self._loaded.preprocess(image)

    def activations(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the pooled activations [B, M] of each layer, float32 on the CPU, for a stack of preprocessed images.

        Where a layer runs several times in one pass, the last time counts. The network runs in its own precision,
        without autocast, so that the order of the images does not hang on rounding.
        """
        found: dict[str, Tensor] = {}

        def keep(layer: str, output: Tensor | None) -> None:
            if output is None or output.shape[1:].numel() == 0:
                return
            # Pooled at once: what follows may change the output in place, and the unpooled maps of a batch are large.
            found[layer] = pooled(output, self.layers[layer].pool, self._loaded.prefix_tokens).cpu()

        with torch.inference_mode(), _hooks(self._modules, keep):
            self._loaded.forward(pixels.to(self.device))
        return {layer: found[layer] for layer in self.layers}

    def _describe(self, layer: str, shape: tuple[int, ...] | None, pool: str | None) -> LayerOutput:
        if shape is None:
            raise NetworkError(
                f"layer {layer!r} of {self.name} gives no tensor when an image goes through: choose another layer"
            )
        if shape[:1] != (2,):
            raise NetworkError(
                f"layer {layer!r} of {self.name} gives {list(shape)} for 2 images, so its first axis is not the batch: "
                "choose another layer"
            )
        try:
            return _describe(layer, self._modules[layer], shape[1:], pool, self._loaded)
        except NetworkError as exc:
            raise NetworkError(f"layer {layer!r} of {self.name}: {exc}") from exc


# layers


def _describe(layer: str, module: nn.Module, shape: tuple[int, ...], pool: str | None, loaded: Loaded) -> LayerOutput:
    chosen = choose_pool(shape, pool, loaded.prefix_tokens > 0 and loaded.reads_class_token)
    return LayerOutput(layer, neurons_of(shape, chosen), chosen, shape, type(module).__name__)


def _module_called(layer: str, module: nn.Module, spec: str, name: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(module.named_modules())
    if layer and layer in modules:
        return modules[layer]
    top = [child for child, _ in module.named_children()]
    near = [known for known in near_matches(layer, [known for known in modules if known]) if known not in top]
    raise NetworkError(
        f"layer {layer!r} is not in {name} (has: {', '.join([*near, *top, '...'])}): csp-index layers {spec} lists all"
    )


def _try_out(
    loaded: Loaded, modules: dict[str, nn.Module], device: torch.device, spec: str
) -> dict[str, tuple[int, ...]]:
    """Return the shape of what each module gives for two grey images; modules that give no tensor are left out."""
    shapes: dict[str, tuple[int, ...]] = {}

    def keep(layer: str, output: Tensor | None) -> None:
        if output is not None:
            shapes[layer] = tuple(output.shape)

    try:
        pixels = loaded.preprocess(Image.new("RGB", (256, 256), "grey"))
        with torch.inference_mode(), _hooks(modules, keep):
            loaded.forward(torch.stack([pixels, pixels]).to(device))
    except Exception as exc:  # whatever the network's own code raises
        raise NetworkError(f"{spec} fails on two grey images: {type(exc).__name__}: {one_line(exc)}") from exc
    return shapes


@contextmanager
def _hooks(modules: dict[str, nn.Module], keep: Callable[[str, Tensor | None], None]) -> Iterator[None]:
    """Call ``keep`` with each module's first output tensor while the context lasts; the hooks go whatever happens."""

    def listen(layer: str, module: nn.Module, inputs: object, output: object) -> None:
        keep(layer, _first_tensor(output))

    handles = [module.register_forward_hook(partial(listen, layer)) for layer, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(output: object) -> Tensor | None:
    """Return the first tensor in what a module gives: itself, or in a tuple, a mapping (ModelOutput) or a dataclass."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        parts: list[object] = list(output.values())
    elif isinstance(output, (tuple, list)):
        parts = list(output)
    elif hasattr(output, "__dataclass_fields__"):
        parts = [getattr(output, field) for field in output.__dataclass_fields__]
    else:
        return None
    return next((tensor for part in parts if (tensor := _first_tensor(part)) is not None), None)


# libraries


def _library(spec: str) -> tuple[Callable[[str, bool], Loaded], str]:
    """Return the function that loads a library's networks, and the network's name in it."""
    loaders = {
        "torchvision": _load_torchvision,
        "timm": _load_timm,
        "transformers": _load_transformers,
        "python": _load_python,
    }
    library, _, name = spec.partition(":")
    if library not in loaders or not name:
        raise NetworkError(
            f"network {spec!r} names no library: write torchvision:resnet50/IMAGENET1K_V2, timm:NAME, "
            "transformers:ORG/NAME or python:package.module:factory"
        )
    return loaders[library], name


def _load(spec: str, weights: str | Path | None) -> Loaded:
    load_plugins()
    load, name = _library(spec)
    try:
        loaded = load(name, weights is not None)
    except NetworkError:
        raise
    except Exception as exc:  # the libraries raise whatever their parts raise: hub, JSON, torch
        raise NetworkError(f"the network {spec} cannot be loaded: {one_line(exc)}") from exc
    if weights is not None:
        load_weights(loaded.module, weights, NetworkError)
    return loaded


def _default_name(spec: str) -> str:
    """Return the name a network gets from its spec.

    >>> [_default_name(spec) for spec in ("torchvision:resnet50/IMAGENET1K_V2", "timm:vit/none", "python:a.b:net")]
    ['resnet50', 'vit', 'net']
    """
    library, _, name = spec.partition(":")
    if library == "python":
        return name.rpartition(":")[2]
    if library == "torchvision":
        return name.partition("/")[0]
    return name.removesuffix("/" + _RANDOM).rstrip("/").rpartition("/")[2]


def _load_torchvision(name: str, own_weights: bool) -> Loaded:
    import torchvision

    model_name, _, wanted = name.partition("/")
    known = torchvision.models.list_models()
    if model_name.lower() not in known:
        near = near_matches(model_name, known) or known[:4]
        raise NetworkError(f"torchvision has no model {model_name!r} (near: {', '.join(near)})")
    available = torchvision.models.get_model_weights(model_name)
    if wanted not in ("", _RANDOM, "DEFAULT") and wanted not in available.__members__:
        raise NetworkError(
            f"{model_name} has no weights {wanted!r} (has: {', '.join([*(kind.name for kind in available), _RANDOM])})"
        )
    weights = available.DEFAULT if wanted in ("", _RANDOM) else available[wanted]
    with _seeded():
        module = torchvision.models.get_model(model_name, weights=None if own_weights or wanted == _RANDOM else weights)
    transform = weights.transforms()
    return _loaded(module, transform, _squeeze(repr(transform)), f"torchvision {torchvision.__version__}")


def _load_timm(name: str, own_weights: bool) -> Loaded:
    import timm

    random = name.endswith("/" + _RANDOM)
    place = name.removesuffix("/" + _RANDOM)
    if not place.startswith("hf-hub:"):
        directory = local_directory(place, NetworkError)
        architecture = place.partition(".")[0]
        if directory is not None:
            place = f"local-dir:{directory}"
        elif not timm.is_model(architecture):
            near = near_matches(architecture, timm.list_models()) or ["resnet50", "vit_base_patch16_224"]
            raise NetworkError(f"timm has no model {architecture!r} (near: {', '.join(near)})")
    with _seeded():
        module = timm.create_model(place, pretrained=not random and not own_weights)
    data: Any = timm.data
    transform = data.create_transform(**data.resolve_model_data_config(module), is_training=False)
    return _loaded(module, transform, _squeeze(repr(transform)), f"timm {timm.__version__}")


def _load_transformers(name: str, own_weights: bool) -> Loaded:
    import transformers

    directory = local_directory(name, NetworkError)
    place = name if directory is None else str(directory)
    module = transformers.AutoModel.from_pretrained(place, dtype=torch.float32)
    processor = transformers.AutoImageProcessor.from_pretrained(place)  # type: ignore[no-untyped-call]

    def preprocess(image: Image.Image) -> Tensor:
        pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels

    # A model of images and texts wants both; its image half runs alone.
    run = getattr(module, "get_image_features", module)
    settings = json.dumps(processor.to_dict(), sort_keys=True, default=str)
    library = f"transformers {transformers.__version__}"
    return _loaded(module, preprocess, settings, library, lambda pixels: run(pixel_values=pixels))


def _load_python(name: str, own_weights: bool) -> Loaded:
    with _seeded():
        module = call_factory(name, NetworkError)
    if not isinstance(module, nn.Module):
        raise NetworkError(f"the factory {name} returned {type(module).__name__}: it must return a torch.nn.Module")
    own = getattr(module, "preprocess", None)
    if callable(own):
        return _loaded(module, own, f"{type(module).__name__}.preprocess", f"torch {torch.__version__}")
    from torchvision.models import ResNet50_Weights

    transform = (
        ResNet50_Weights.IMAGENET1K_V1.transforms()
    )  # the usual one: 256 to the short side, the middle 224 of it
    return _loaded(module, transform, _squeeze(repr(transform)), f"torch {torch.__version__}")


def _loaded(
    module: nn.Module,
    preprocess: Callable[[Image.Image], Tensor],
    preprocessing: str,
    library: str,
    forward: Callable[[Tensor], object] | None = None,
) -> Loaded:
    prefix = _prefix_tokens(module)
    reads = getattr(module, "global_pool", None) not in ("avg", "avgmax", "max")  # timm's word for what the head reads
    return Loaded(module, preprocess, module if forward is None else forward, preprocessing, library, prefix, reads)


def _prefix_tokens(module: nn.Module) -> int:
    """Return the number of class and register tokens: timm tells it, else the parameters and the configuration do."""
    known = getattr(module, "num_prefix_tokens", None)
    if isinstance(known, int):
        return known
    if not any(name.rpartition(".")[2] in _CLASS_TOKENS for name, _ in module.named_parameters()):
        return 0
    config: Any = getattr(module, "config", None)
    return 1 + int(getattr(config, "num_register_tokens", 0) or 0)


@contextmanager
def _seeded() -> Iterator[None]:
    """Make random weights the same every time, and leave the caller's random numbers alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield


def _squeeze(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(text.split()))
