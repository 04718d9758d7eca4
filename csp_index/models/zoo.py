"""The zoo: networks by name, from the libraries that have them.

The file that knows torchvision and timm, whose networks it loads, and which other file knows the rest; each library is
imported with its first network.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models.checkpoints import load_weights
from csp_index.models.hub import kept_files_if_alone
from csp_index.models.layers.inputs import Prepared, cast
from csp_index.models.layers.loaded import Loaded, Wish, check_kind, loaded_module, seeded
from csp_index.models.plugins import call_factory, load_plugins
from csp_index.models.redrawn import redrawn_network
from csp_index.models.remote_code import cannot_load
from csp_index.models.sparse_autoencoders import attach, split_spec
from csp_index.models.specs import network_spec, split_redrawn
from csp_index.models.trunks import class_names_in, load_open_clip, load_transformers
from csp_index.models.weights import OBJECT, local_directory, near_matches, objects_are_missing, stable_repr

_RANDOM = "none"
_OF_IMAGENET = re.compile(r"(^|_)in\d+k$")  # the end of a timm tag: what the weights were trained on last


def load_module(
    spec: str,
    weights: str | Path | None,
    *,
    layers: Sequence[str] = (),
    allow_missing: bool = False,
    names_only: bool = False,
    whole: bool = False,
) -> Loaded:
    """Return the network that ``spec`` names, with a file's weights in place of its own if one is given.

    ``weights`` may also be ``redrawn:SEED`` or ``redrawn:SEED:FILE`` (``redrawn.py``). ``layers`` are those to be
    read: a part beside the trunk, such as a classifier's head, is loaded if they name it, or with ``whole``. With
    ``names_only`` nothing is downloaded but settings, and weights that are not here are random. Raises ModelError,
    with near matches for an unknown name and for a path that does not exist.
    """
    load_plugins()
    base, added = split_spec(spec)
    load, name = _library(base)
    redrawing, file = (None, "") if weights is None else split_redrawn(str(weights))
    wish = Wish(not file and not names_only, tuple(layers), names_only, whole)
    try:
        with kept_files_if_alone(name) if _is_from_hub(base) else nullcontext():
            loaded = load(name, wish)
    except ModelError:
        raise
    except Exception as exc:  # the libraries raise whatever their parts raise: hub, JSON, torch
        raise cannot_load(f"the network {spec}", exc) from exc
    check_kind(loaded.module, spec)
    if file:
        missing = load_weights(loaded.module, file, allow_missing=allow_missing)
        loaded = replace(loaded, missing=tuple(map(loaded.layer_name, missing)))
    if added:
        token = loaded.has_class_token
        read = attach(loaded.module, added, prefix_tokens=loaded.prefix_tokens, has_class_token=token)
        loaded = replace(loaded, attached=read)
    return loaded if redrawing is None else redrawn_network(loaded, redrawing, spec)


def default_name(spec: str, weights: str | Path | None = None) -> str:
    """Return the name a network gets from its spec, which says if its weights are redrawn.

    Raises ModelError for a spec without library.

    >>> [default_name(spec) for spec in ("torchvision:resnet50/IMAGENET1K_V2", "timm:vit/none", "python:a.b:net")]
    ['resnet50', 'vit', 'net']
    >>> default_name("timm:vit", "redrawn:1")
    'vit~redrawn-1'
    """
    redrawing, _ = (None, "") if weights is None else split_redrawn(str(weights))
    return _short_name(spec) + ("" if redrawing is None else redrawing.mark)


def _short_name(spec: str) -> str:
    base, _ = split_spec(spec)
    _library(base)
    library, _, name = base.partition(":")
    if library == "python":
        return name.rpartition(":")[2]
    if library == "torchvision" or (library == "open_clip" and not name.startswith(("/", ".", "~", "hf-hub:"))):
        return name.partition("/")[0]
    return name.removesuffix("/" + _RANDOM).rstrip("/").rpartition("/")[2]


def _library(spec: str) -> tuple[Callable[[str, Wish], Loaded], str]:
    """Return the function that loads a library's networks, and the network's name in it."""
    loaders = {
        "torchvision": _load_torchvision,
        "timm": _load_timm,
        "transformers": load_transformers,
        "open_clip": load_open_clip,
        "python": _load_python,
    }
    library, _, name = spec.partition(":")
    if library == OBJECT:
        raise ModelError(objects_are_missing({name: "network"}))
    network_spec(spec)  # raises for a library that is not among them
    return loaders[library], name


def _is_from_hub(spec: str) -> bool:
    return spec.startswith(("timm:", "transformers:", "open_clip:")) and not spec.endswith("/" + _RANDOM)


def _load_torchvision(name: str, wish: Wish) -> Loaded:
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
    chosen = weights if wish.weights and weights_name != _RANDOM else None
    builder = torchvision.models.get_model_builder(model_name)
    # Without weights of its own a detector would download those of its backbone.
    takes_backbone = chosen is None and "weights_backbone" in inspect.signature(builder).parameters
    with seeded():
        module = builder(weights=chosen, **({"weights_backbone": None} if takes_backbone else {}))
    transform = weights.transforms()
    loaded = loaded_module(module, transform, stable_repr(transform), f"torchvision {torchvision.__version__}")
    named = weights_name != _RANDOM and (wish.weights or wish.names_only)
    return replace(loaded, classes=dict(enumerate(weights.meta.get("categories", ()))) if named else {})


def _load_timm(name: str, wish: Wish) -> Loaded:
    import timm

    random = name.endswith("/" + _RANDOM)
    place = name.removesuffix("/" + _RANDOM)
    if place.startswith("hf_hub:"):  # the older spelling
        place = place.replace("hf_hub:", "hf-hub:", 1)
    if place.startswith("timm/") and timm.is_model(place.removeprefix("timm/").partition(".")[0]):
        place = place.removeprefix("timm/")  # the hub's name of one of the library's own
    if not place.startswith("hf-hub:"):
        directory = local_directory(place, ModelError)
        architecture = place.partition(".")[0]
        if directory is not None:
            place = f"local-dir:{directory}"
        elif not timm.is_model(architecture):
            near = near_matches(architecture, timm.list_models()) or ["resnet50", "vit_base_patch16_224"]
            raise ModelError(f"timm has no model {architecture!r} (near: {', '.join(near)})")
    with seeded():
        module = timm.create_model(place, pretrained=not random and wish.weights)
    transform = timm_transform(module)
    loaded = loaded_module(module, transform, stable_repr(transform), f"timm {timm.__version__}")
    named = not random and (wish.weights or wish.names_only)
    return replace(loaded, classes=_timm_classes(module) if named else {})


def _timm_classes(module: Any) -> Mapping[int, str]:
    """Return what the outputs of a timm model are called: by its own settings, or as classes of ImageNet by its tag."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    settings = getattr(module, "pretrained_cfg", None) or {}
    own = settings.get("label_names")
    if own:
        described = settings.get("label_descriptions") or {}
        return {number: str(described.get(name, name)) for number, name in enumerate(own)}
    subset = infer_imagenet_subset(module)
    if subset is None or not _OF_IMAGENET.search(str(settings.get("tag") or "")):
        return {}
    return dict(enumerate(ImageNetInfo(subset).label_descriptions()))


def timm_transform(module: nn.Module) -> Any:
    """Return the preprocessing that a timm model was evaluated with."""
    import timm

    data: Any = timm.data
    return data.create_transform(**data.resolve_model_data_config(module), is_training=False)


def _load_python(name: str, wish: Wish) -> Loaded:
    with seeded():
        module = call_factory(name, ModelError)
    if not isinstance(module, nn.Module):
        raise ModelError(f"the factory {name} returned {type(module).__name__}: it must return a torch.nn.Module")
    check_kind(module, f"python:{name}")
    # What torch.compile makes runs its own code without the hooks; the module inside it is the same.
    inner = getattr(module, "_orig_mod", module)
    forward = partial(_run, inner)
    own = getattr(module, "preprocess", None)
    if callable(own):
        prepare, text = Prepared(own, name), f"{type(module).__name__}.preprocess"
    else:
        from torchvision.models import ResNet50_Weights

        prepare = ResNet50_Weights.IMAGENET1K_V1.transforms()  # the usual one: the short side to 256, its middle 224
        text = stable_repr(prepare)
    loaded = loaded_module(module, prepare, text, f"torch {torch.__version__}", forward)
    return replace(loaded, classes=class_names_in(getattr(inner, "config", None)))


def _run(module: nn.Module, pixels: Tensor) -> object:
    return module(cast(module, pixels))
