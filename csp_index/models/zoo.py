"""The zoo: networks by name, from the libraries that have them.

The file that knows torchvision, timm, and transformers' vision models; each library is imported with its first network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models.plugins import call_factory, load_plugins
from csp_index.models.remote_code import NEVER, cannot_load
from csp_index.models.sparse_autoencoders import SparseAutoencoder, attach, split_spec
from csp_index.models.weights import (
    OBJECT,
    load_weights,
    local_directory,
    near_matches,
    objects_are_missing,
    stable_repr,
    stable_settings,
)

_RANDOM = "none"
_SEED = 0
_CLASS_TOKENS = frozenset({"cls_token", "class_token", "class_embedding", "class_embed"})


@dataclass(frozen=True, slots=True)
class Loaded:
    """A network from its library: how to prepare an image for it and how to run it.

    ``prefix_tokens`` counts class and register tokens; ``reads_class_token`` is False if the network was trained
    to average instead. ``attached`` holds the sparse autoencoders that read its layers, by the names of their own.
    ``owned`` is False for a module of the caller, which is left as it was; ``traits`` extend the identity that a named
    network has.
    """

    module: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    forward: Callable[[Tensor], object]
    preprocessing: str
    library: str
    prefix_tokens: int = 0
    reads_class_token: bool = False
    attached: Mapping[str, SparseAutoencoder] = field(default_factory=dict)
    owned: bool = True
    traits: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_class_token(self) -> bool:
        """Whether the first of a layer's tokens is the one to read."""
        return self.prefix_tokens > 0 and self.reads_class_token

    def layers(self) -> dict[str, nn.Module]:
        """Return every layer by its name: the modules, then the sparse autoencoders."""
        return {**{name: module for name, module in self.module.named_modules() if name}, **self.attached}


def load_module(spec: str, weights: str | Path | None) -> Loaded:
    """Return the network that ``spec`` names, with a file's weights in place of its own if one is given.

    Raises ModelError, with near matches for an unknown name and for a path that does not exist.
    """
    load_plugins()
    base, added = split_spec(spec)
    load, name = _library(base)
    try:
        loaded = load(name, weights is not None)
    except ModelError:
        raise
    except Exception as exc:  # the libraries raise whatever their parts raise: hub, JSON, torch
        raise cannot_load(f"the network {spec}", exc) from exc
    if weights is not None:
        load_weights(loaded.module, weights)
    if not added:
        return loaded
    token = loaded.has_class_token
    read = attach(loaded.module, added, prefix_tokens=loaded.prefix_tokens, has_class_token=token)
    return replace(loaded, attached=read)


def default_name(spec: str) -> str:
    """Return the name a network gets from its spec. Raises ModelError for a spec without library.

    >>> [default_name(spec) for spec in ("torchvision:resnet50/IMAGENET1K_V2", "timm:vit/none", "python:a.b:net")]
    ['resnet50', 'vit', 'net']
    """
    base, _ = split_spec(spec)
    _library(base)
    library, _, name = base.partition(":")
    if library == "python":
        return name.rpartition(":")[2]
    if library == "torchvision":
        return name.partition("/")[0]
    return name.removesuffix("/" + _RANDOM).rstrip("/").rpartition("/")[2]


def _library(spec: str) -> tuple[Callable[[str, bool], Loaded], str]:
    """Return the function that loads a library's networks, and the network's name in it."""
    loaders = {
        "torchvision": _load_torchvision,
        "timm": _load_timm,
        "transformers": _load_transformers,
        "python": _load_python,
    }
    library, _, name = spec.partition(":")
    if library == OBJECT:
        raise ModelError(objects_are_missing({name: "network"}))
    if library not in loaders or not name:
        raise ModelError(
            f"network {spec!r} names no library: write torchvision:resnet50/IMAGENET1K_V2, timm:NAME, "
            "transformers:ORG/NAME or python:package.module:factory"
        )
    return loaders[library], name


def _load_torchvision(name: str, own_weights: bool) -> Loaded:
    import torchvision

    model_name, _, weights_name = name.partition("/")
    known = torchvision.models.list_models()
    if model_name.lower() not in known:
        near = near_matches(model_name, known) or known[:4]
        raise ModelError(f"torchvision has no model {model_name!r} (near: {', '.join(near)})")
    available = torchvision.models.get_model_weights(model_name)
    names = [kind.name for kind in available]
    if weights_name not in ("", _RANDOM, "DEFAULT") and weights_name not in available.__members__:
        raise ModelError(f"{model_name} has no weights {weights_name!r} (has: {', '.join([*names, _RANDOM])})")
    weights = available.DEFAULT if weights_name in ("", _RANDOM) else available[weights_name]
    with _seeded():
        module = torchvision.models.get_model(
            model_name, weights=None if own_weights or weights_name == _RANDOM else weights
        )
    transform = weights.transforms()
    return loaded_module(module, transform, stable_repr(transform), f"torchvision {torchvision.__version__}")


def _load_timm(name: str, own_weights: bool) -> Loaded:
    import timm

    random = name.endswith("/" + _RANDOM)
    place = name.removesuffix("/" + _RANDOM)
    if not place.startswith("hf-hub:"):
        directory = local_directory(place, ModelError)
        architecture = place.partition(".")[0]
        if directory is not None:
            place = f"local-dir:{directory}"
        elif not timm.is_model(architecture):
            near = near_matches(architecture, timm.list_models()) or ["resnet50", "vit_base_patch16_224"]
            raise ModelError(f"timm has no model {architecture!r} (near: {', '.join(near)})")
    with _seeded():
        module = timm.create_model(place, pretrained=not random and not own_weights)
    transform = timm_transform(module)
    return loaded_module(module, transform, stable_repr(transform), f"timm {timm.__version__}")


def timm_transform(module: nn.Module) -> Any:
    """Return the preprocessing that a timm model was evaluated with."""
    import timm

    data: Any = timm.data
    return data.create_transform(**data.resolve_model_data_config(module), is_training=False)


def _load_transformers(name: str, own_weights: bool) -> Loaded:
    import transformers

    directory = local_directory(name, ModelError)
    place = name if directory is None else str(directory)
    with _seeded():  # parts that the checkpoint lacks, such as a pooler, must be the same at every load
        module = transformers.AutoModel.from_pretrained(place, dtype=torch.float32, **NEVER)
    processor = transformers.AutoImageProcessor.from_pretrained(place, **NEVER)  # type: ignore[no-untyped-call]
    # A model of images and texts needs both inputs; only its image half runs.
    run = getattr(module, "get_image_features", module)
    library = f"transformers {transformers.__version__}"
    return loaded_module(
        module,
        partial(processed, processor),
        stable_settings(processor),
        library,
        lambda pixels: run(pixel_values=pixels),
    )


def processed(processor: Any, image: Image.Image) -> Tensor:
    """Return a picture as prepared by an image processor of transformers, [C, H, W]."""
    pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
    return pixels


def _load_python(name: str, own_weights: bool) -> Loaded:
    with _seeded():
        module = call_factory(name, ModelError)
    if not isinstance(module, nn.Module):
        raise ModelError(f"the factory {name} returned {type(module).__name__}: it must return a torch.nn.Module")
    own = getattr(module, "preprocess", None)
    if callable(own):
        return loaded_module(module, own, f"{type(module).__name__}.preprocess", f"torch {torch.__version__}")
    from torchvision.models import ResNet50_Weights

    transform = (
        ResNet50_Weights.IMAGENET1K_V1.transforms()
    )  # the usual one: the short side to 256, the middle 224 of it
    return loaded_module(module, transform, stable_repr(transform), f"torch {torch.__version__}")


def loaded_module(
    module: nn.Module,
    preprocess: Callable[[Image.Image], Tensor],
    preprocessing: str,
    library: str,
    forward: Callable[[Tensor], object] | None = None,
) -> Loaded:
    """Return a module with the facts about its tokens that its own attributes give."""
    prefix = _prefix_tokens(module)
    reads = getattr(module, "global_pool", None) not in ("avg", "avgmax", "max")  # timm's word for what the head reads
    return Loaded(module, preprocess, module if forward is None else forward, preprocessing, library, prefix, reads)


def _prefix_tokens(module: nn.Module) -> int:
    """Return the number of class and register tokens: from timm, else from parameters and configuration."""
    known = getattr(module, "num_prefix_tokens", None)
    if isinstance(known, int):
        return known
    if not any(name.rpartition(".")[2] in _CLASS_TOKENS for name, _ in module.named_parameters()):
        return 0
    config: Any = getattr(module, "config", None)
    return 1 + int(getattr(config, "num_register_tokens", 0) or 0)


@contextmanager
def _seeded() -> Iterator[None]:
    """Make random weights the same every time, without a change to the caller's random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        yield
