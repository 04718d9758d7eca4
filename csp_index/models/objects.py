"""Models that are objects of the caller: a module with its preprocessing, an encoder with its two halves.

They are used and left as they were. In the index such a model is called ``object:NAME``; its identity consists of its
weights, its source (code and settings) and its preprocessing, and only the same object can add to what it indexed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.errors import CspIndexError, ModelError, one_line
from csp_index.models import encoders, networks
from csp_index.models.borrowing import device_for
from csp_index.models.encoders import TwoTowers
from csp_index.models.layers.inputs import Prepared, cast
from csp_index.models.layers.loaded import Loaded, check_kind, loaded_module
from csp_index.models.networks import LayerOutput, layers_of
from csp_index.models.object_identity import (
    class_of,
    library_of,
    modules_of,
    preprocessing_repr,
    settings_of,
    source_of,
    weights_of,
)
from csp_index.models.towers import Towers, transformers_towers
from csp_index.models.trunks import class_names_in, processed
from csp_index.models.weights import OBJECT
from csp_index.models.zoo import timm_transform

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class Network:
    """A network of the caller: any `nn.Module`, its layers to index, and how an image becomes its input.

    `preprocess` is a transform of torchvision or timm, an image processor of transformers, or any function of a PIL
    image that returns a tensor [C, H, W]. It is optional for timm's models, which have their own, and for a module with
    a method `preprocess`. `layers` are named as in `named_modules()`; `Index.layers` lists them. `name` is the
    first part of a neuron's address, by default the class; `pool`, `axis` and `allow_random` as for networks named by
    a spec.

    Raises ModelError if no preprocessing is known or the name is not allowed.
    """

    def __init__(
        self,
        module: nn.Module,
        layers: str | Sequence[str] = (),
        *,
        preprocess: Any = None,
        name: str | None = None,
        pool: str | None = None,
        axis: int | Sequence[int] | None = None,
        allow_random: bool = False,
    ) -> None:
        """Refer to the module; nothing of it runs yet."""
        if not isinstance(module, nn.Module):
            raise ModelError(f"a network is a torch.nn.Module, not {type(module).__name__}: pass the module itself")
        self.module = _unwrapped(module)
        check_kind(self.module, type(self.module).__name__)
        self.layers = (layers,) if isinstance(layers, str) else tuple(layers)
        self.name = _checked_name(type(self.module).__name__ if name is None else name)
        self.pool, self.allow_random = pool, allow_random
        self.axis = (axis,) if isinstance(axis, int) else tuple(axis or ())
        self.preprocess, self._preprocessing = _preprocessing_of(self.module, preprocess)
        self._traits = _Traits(self.module)

    def __repr__(self) -> str:
        return f"Network({type(self.module).__name__}, layers={list(self.layers)}, name={self.name!r})"

    @property
    def spec(self) -> str:
        """The name of the network in the index."""
        return f"{OBJECT}:{self.name}"

    def named(self, name: str) -> Network:
        """Return the same network under another name."""
        renamed = copy(self)
        renamed.name = _checked_name(name)
        return renamed

    def choosing(
        self,
        layers: Sequence[str],
        pool: str | None,
        name: str | None = None,
        *,
        axis: Sequence[int] = (),
        allow_random: bool = False,
    ) -> Network:
        """Return the same network with other layers to index, and perhaps under another name."""
        selected = self.named(self.name if name is None else name)
        selected.axis, selected.allow_random = tuple(axis) or self.axis, allow_random or self.allow_random
        selected.layers, selected.pool = tuple(layers), pool or self.pool
        return selected

    def hooked(
        self,
        device: str,
        layers: Sequence[str] = (),
        *,
        pool: Mapping[str, str] | None = None,
        name: str | None = None,
        allow_random: bool = False,
    ) -> networks.LoadedNetwork:
        """Return the network ready to run on a device, with hooks on its layers, or on `layers`."""
        selected = tuple(layers) or self.layers
        if not selected:
            raise ModelError(
                f"no layer of {self.name} was named: give layers=[...], csp_index.network_layers(module) lists them"
            )
        where = device_for([self.module], device)
        with self._traits.trial():
            network = networks.LoadedNetwork(
                self._loaded(),
                spec=self.spec,
                name=name or self.name,
                layers=selected,
                reading=networks.Reading(
                    pool or self.pool, () if pool else self.axis, allow_random or self.allow_random
                ),
                device=where,
            )
        network.identity["source"] = self._traits.source()
        return network

    def all_layers(self, device: str) -> list[LayerOutput]:
        """Return every layer that can be indexed, in the order of the modules, with its usual pool."""
        return layers_of(self._loaded(), device_for([self.module], device), self.name)

    def _loaded(self) -> Loaded:
        module, library = self.module, library_of(self.module)
        forward = partial(_forward, module, library.startswith("transformers"))
        loaded = loaded_module(module, self.preprocess, self._preprocessing, library, forward)
        classes = class_names_in(getattr(module, "config", None))
        return replace(loaded, owned=False, traits=self._traits.read(), classes=classes)


def list_layers(
    network: str | nn.Module | Network,
    device: str,
    *,
    preprocess: Any = None,
    input_shape: Sequence[int] | None = None,
) -> list[dict[str, object]]:
    """Return the layers of a network that can be indexed: layer, kind, shape of one image's output, neurons, note.

    A module whose preprocessing is not known gets a gray input of `input_shape`, by default (3, 224, 224).
    """
    if isinstance(network, str):
        outputs = networks.list_layers(network)
    elif isinstance(network, Network):
        outputs = network.all_layers(device)
    else:
        outputs = _layers_of_module(network, device, preprocess, input_shape)
    notes = ["; ".join(filter(None, (o.understood, o.note))) for o in outputs]
    return [
        {"layer": o.name, "kind": o.kind, "shape": list(o.shape), "neurons": o.neurons or None, "note": note}
        for o, note in zip(outputs, notes, strict=True)
    ]


def _layers_of_module(
    module: nn.Module, device: str, preprocess: Any, input_shape: Sequence[int] | None
) -> list[LayerOutput]:
    if preprocess is None and input_shape is None:
        with suppress(ModelError):
            return Network(module).all_layers(device)
    shape = (3, 224, 224) if input_shape is None else tuple(input_shape)
    function = partial(_gray, shape) if preprocess is None else preprocess
    try:
        return Network(module, preprocess=function).all_layers(device)
    except ModelError as exc:
        if preprocess is not None:
            raise
        raise ModelError(f"{exc}; tried an input of {list(shape)}: give input_shape=(C, H, W), or preprocess=") from exc


def _gray(shape: tuple[int, ...], image: Image.Image) -> Tensor:
    return torch.full(shape, 0.5)


class Encoder:
    """An encoder of the caller, which puts images and texts into one space.

    `model` is one of open_clip with its `preprocess` and `tokenizer`; one of transformers (CLIP, SigLIP) with its
    processor as `preprocess`; or any object with `encode_image(pixels)`, given a stack [B, C, H, W], and
    `encode_text(texts)`, given a list of texts, or what `tokenizer` makes of it. Both return [B, D]. `logit_scale`
    multiplies a cosine before a softmax; by default it is the exponential of the model's own `logit_scale`.

    Raises ModelError if a half or the preprocessing is missing.
    """

    def __init__(
        self,
        model: Any,
        preprocess: Any = None,
        tokenizer: Any = None,
        *,
        name: str | None = None,
        logit_scale: float | None = None,
    ) -> None:
        """Refer to the model; nothing of it runs yet."""
        self.model = _unwrapped(model) if isinstance(model, nn.Module) else model
        self.name = _checked_name(type(self.model).__name__ if name is None else name)
        halves = [("get_image_features", "get_text_features"), ("encode_image", "encode_text")]
        if not any(all(callable(getattr(self.model, half, None)) for half in pair) for pair in halves):
            raise ModelError(
                f"{type(model).__name__} is no encoder of images and texts: expected encode_image and encode_text, "
                "or a CLIP or SigLIP of transformers"
            )
        self._scale = logit_scale
        self._traits = _Traits(self.model)
        self._towers = self._made(preprocess, tokenizer)
        self._ready: tuple[object, TwoTowers] | None = None

    def __repr__(self) -> str:
        return f"Encoder({type(self.model).__name__}, name={self.name!r})"

    @property
    def spec(self) -> str:
        """The name of the encoder in the index."""
        return f"{OBJECT}:{self.name}"

    def named(self, name: str) -> Encoder:
        """Return the same encoder under another name."""
        renamed = copy(self)
        renamed.name, renamed._ready = _checked_name(name), None
        return renamed

    def ready(self, device: str) -> encoders.LoadedEncoder:
        """Return the encoder ready to run on a device."""
        traits = self._traits.read()
        where = device_for([self._towers.module], device)
        if self._ready is not None and self._ready[0] == (where, traits):
            return self._ready[1]
        with self._traits.trial():
            ready = self._tried(traits, where)
        traits["source"] = ready.identity["source"] = self._traits.source()
        self._ready = (where, traits), ready
        return ready

    def _tried(self, traits: dict[str, str], where: torch.device) -> TwoTowers:
        try:
            ready = TwoTowers(self.spec, replace(self._towers, traits=traits, logit_scale=self._logit_scale()), where)
            ready.embed_texts(["a word"])
        except CspIndexError:
            raise
        except Exception as exc:  # it is the caller's code
            raise ModelError(
                f"the encoder {self.name} fails on a gray image or on a word: {type(exc).__name__}: {one_line(exc)}; "
                "check its preprocess and its tokenizer"
            ) from exc
        return ready

    def _logit_scale(self) -> float | None:
        scale = getattr(self.model, "logit_scale", None)
        if self._scale is None and isinstance(scale, Tensor):
            return float(scale.detach().float().exp().mean())
        return self._scale

    def _made(self, preprocess: Any, tokenizer: Any) -> Towers:
        model: Any = self.model
        if hasattr(model, "get_image_features"):
            images = getattr(preprocess, "image_processor", preprocess)
            words = getattr(preprocess, "tokenizer", None) if tokenizer is None else tokenizer
            if images is None or words is None:
                raise ModelError(
                    f"{type(model).__name__} needs its processor: Encoder(model, processor), or an image processor and "
                    "a tokenizer"
                )
            return replace(transformers_towers(model, images, words), owned=False)
        selected = getattr(model, "preprocess", None) if preprocess is None else preprocess
        if not callable(selected):
            raise ModelError(
                f"{type(model).__name__} needs to know how an image becomes its input: give preprocess=, the transform "
                "that came with it"
            )
        if tokenizer is None and library_of(model).startswith("open_clip"):
            raise ModelError(f"{type(model).__name__} reads tokens: give tokenizer=open_clip.get_tokenizer(NAME)")
        module = model if isinstance(model, nn.Module) else nn.ModuleList(modules_of(model))
        return Towers(
            module=module,
            preprocess=Prepared(selected, self.name),
            image_features=lambda pixels: _tensor(model.encode_image(cast(module, pixels))),
            tokenise=partial(_tokens, tokenizer),
            text_features=lambda tokens: _tensor(model.encode_text(tokens["text"])),
            preprocessing=preprocessing_repr(selected),
            library=library_of(model),
            owned=False,
        )


class _Traits:
    """The traits that identify an object of the caller, without settings that a run changes, such as counters."""

    def __init__(self, value: object) -> None:
        self._value = value
        self._varying: frozenset[str] = frozenset()

    def read(self) -> dict[str, str]:
        """Return the current traits; the weights are hashed, because no cheaper check finds every change."""
        device_for(modules_of(self._value), "cpu")  # refuses lazy and empty parameters, which have no hash
        return {"weights": weights_of(self._value), "source": self.source(), "class": class_of(self._value)}

    def source(self) -> str:
        return source_of(self._value, self._varying)

    @contextmanager
    def trial(self) -> Iterator[None]:
        """Watch which settings a run changes."""
        before = settings_of(self._value)
        yield
        self._varying |= {name for name, _ in before.items() ^ settings_of(self._value).items()}


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[^/\s:]+", name):
        raise ModelError(f"{name!r} cannot name a model: no slash, colon or space, not empty")
    return name


def _unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside wrappers that copy it to several devices or compile it: hooks need the module."""
    while True:
        if isinstance(module, _WRAPPERS):
            module = module.module
        elif isinstance(inner := getattr(module, "_orig_mod", None), nn.Module):
            module = inner
        else:
            return module


def _preprocessing_of(module: nn.Module, transform: Any) -> tuple[Callable[[Image.Image], Tensor], str]:
    """Return the function that makes an image the module's input, and the text that identifies it."""
    name = type(module).__name__
    if transform is None and hasattr(module, "pretrained_cfg"):
        transform = timm_transform(module)
    if transform is None:
        transform = getattr(module, "preprocess", None)
    if transform is None:
        advice = "preprocess=weights.transforms() for torchvision's models, a processor for those of transformers"
        raise ModelError(f"{name} does not say how an image becomes its input: give {advice}, or any function")
    images = getattr(transform, "image_processor", transform)
    if hasattr(images, "to_dict") and callable(images):
        return partial(processed, images), preprocessing_repr(images)
    if not callable(transform):
        raise ModelError(f"preprocess is a {type(transform).__name__}: expected a function of a PIL image")
    return Prepared(transform, name), preprocessing_repr(transform)


def _forward(module: Any, transformers: bool, pixels: Tensor) -> object:
    pixels = cast(module, pixels)
    if not transformers:
        return module(pixels)
    # A model of images and texts needs both inputs; only its image half runs.
    return getattr(module, "get_image_features", module)(pixel_values=pixels)


def _tokens(tokenizer: Any, texts: list[str]) -> dict[str, Any]:
    return {"text": texts if tokenizer is None else tokenizer(texts)}


def _tensor(features: Any) -> Tensor:
    return features if isinstance(features, Tensor) else torch.as_tensor(np.asarray(features))
