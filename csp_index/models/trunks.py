"""Networks of transformers and towers of open_clip: a trunk that gives features, and what is built upon it.

A checkpoint of transformers names its class. The trunk alone is loaded as ever, so that an index knows it again; the
whole class is loaded where a layer outside the trunk is asked for, such as the head of a classifier.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models.layers.loaded import Loaded, Wish, loaded_module, seeded
from csp_index.models.remote_code import NEVER
from csp_index.models.weights import hash_weights, local_directory, near_matches, stable_repr, stable_settings

_log = logging.getLogger(__name__)

_RANDOM = "/none"


def load_transformers(name: str, wish: Wish) -> Loaded:
    """Return a network of transformers: the trunk, or the whole class its checkpoint names, for layers outside it."""
    import transformers

    random = name.endswith(_RANDOM)
    name = name.removesuffix(_RANDOM)
    directory = local_directory(name, ModelError)
    place = name if directory is None else str(directory)
    config = transformers.AutoConfig.from_pretrained(place, **NEVER)
    here = directory is not None and wish.names_only  # weights that are here already cost no download
    trained = not random and (wish.weights or here)
    module, missing, unused = _made(transformers.AutoModel, config, place, trained=trained)
    trunk_weights, inside = None, ""
    kind = _named_class(config, type(module))
    if kind is not None and (wish.names_only or wish.whole or not _all_inside(wish.layers, module)):
        trunk_names = {trunk for trunk, _ in module.named_modules() if trunk}
        if wish.layers and any(layer.partition("[")[0] in trunk_names for layer in wish.layers):
            trunk_weights = hash_weights(module)
        trunk_missing = missing
        module, missing, unused = _made(kind, config, place, trained=trained)
        prefix = getattr(module, "base_model_prefix", "")
        inside = f"{prefix}." if prefix and isinstance(getattr(module, prefix, None), nn.Module) else ""
        if wish.names_only:  # a part of the trunk alone, such as a pooler, can be indexed too
            missing = (*missing, *(f"{inside}{part}" for part in trunk_missing))
    processor = _processor(place)
    # A model of images and texts needs both inputs; only its image half runs.
    run = getattr(module, "get_image_features", module)
    library = f"transformers {transformers.__version__}"
    loaded = loaded_module(
        module,
        partial(processed, processor),
        stable_settings(processor),
        library,
        lambda pixels: run(pixel_values=pixels),
    )
    classes = {} if random else class_names_in(config)
    return loaded.extended(inside=inside, trunk_weights=trunk_weights, missing=missing, unused=unused, classes=classes)


@contextmanager
def _without_report() -> Iterator[None]:
    """Keep the library's table of weights that were missing or not used off stderr: which of them matter is said here.

    A layer that depends on a missing one is refused by name.
    """
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _processor(place: str) -> Any:
    import transformers

    try:
        return transformers.AutoImageProcessor.from_pretrained(place, **NEVER)
    except Exception as exc:
        if "preprocessor_config.json" not in str(exc) or not os.path.isdir(place):
            raise
        raise ModelError(
            f"{place} has no preprocessor_config.json, so nothing says how an image becomes its input: copy that file "
            "from the model it was made from"
        ) from exc


def _made(kind: Any, config: Any, place: str, *, trained: bool) -> tuple[Any, tuple[str, ...], tuple[str, ...]]:
    """Return a model, the weights that its checkpoint lacks or has in another shape, and those that it has besides."""
    with seeded():  # parts that the checkpoint lacks, such as a pooler, must be the same at every load
        if not trained:
            build = getattr(kind, "from_config", None) or kind._from_config
            return build(config, dtype=torch.float32), (), ()
        # Weights of another shape, such as those of a head with other classes, are random then, as missing ones are.
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True, **NEVER}
        with _without_report():
            module, report = kind.from_pretrained(place, dtype=torch.float32, **options)
    other_shapes = {str(key[0]) if isinstance(key, tuple) else str(key) for key in report["mismatched_keys"]}
    return module, tuple(sorted({*report["missing_keys"], *other_shapes})), tuple(sorted(report["unexpected_keys"]))


def _named_class(config: Any, trunk: type) -> Any:
    """Return the class that a checkpoint names, None if that is the trunk's own or the library does not have it."""
    import transformers

    names = getattr(config, "architectures", None) or ()
    kind = getattr(transformers, names[0], None) if names else None
    if names and kind is None:
        _log.warning("transformers has no class %s, which the checkpoint names: its trunk alone is read", names[0])
    return kind if isinstance(kind, type) and issubclass(kind, nn.Module) and kind is not trunk else None


def _all_inside(layers: tuple[str, ...], module: nn.Module) -> bool:
    names = {name for name, _ in module.named_modules()}
    return all(layer.partition(".head-")[0].partition(".sae-")[0].partition("[")[0] in names for layer in layers)


def class_names_in(config: Any) -> Mapping[int, str]:
    """Return what a classifier's outputs are called by its settings, nothing where the names are only numbers."""
    names = {int(number): str(name) for number, name in (getattr(config, "id2label", None) or {}).items()}
    return {} if all(name == f"LABEL_{number}" for number, name in names.items()) else names


def processed(processor: Any, image: Image.Image) -> Tensor:
    """Return a picture as prepared by an image processor of transformers, [C, H, W]."""
    pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
    return pixels


# open_clip


def load_open_clip(name: str, wish: Wish) -> Loaded:
    """Return the image tower of a model of open_clip as a network; `/none` after an architecture: random weights."""
    import open_clip

    from csp_index.models.towers import open_clip_model

    architecture, _, tag = name.partition("/")
    if tag == "none" or (not wish.weights and architecture in open_clip.list_models()):
        if architecture not in open_clip.list_models():
            near = near_matches(architecture, open_clip.list_models())
            raise ModelError(f"open_clip has no architecture {architecture!r} (near: {', '.join(near) or 'none'})")
        with seeded():
            model, _, transform = open_clip.create_model_and_transforms(architecture, pretrained=None, device="cpu")
    else:
        model, transform = open_clip_model(name)[:2]
    tower = model.visual
    loaded = loaded_module(tower, transform, stable_repr(transform), f"open_clip {open_clip.__version__}")
    reads = getattr(tower, "pool_type", "tok") == "tok" and not hasattr(tower, "trunk")
    trunk = getattr(tower, "trunk", None)
    if trunk is not None:
        inner = loaded_module(trunk, transform, "", "")
        return loaded.extended(prefix_tokens=inner.prefix_tokens, reads_class_token=inner.reads_class_token)
    return loaded.extended(reads_class_token=reads)
