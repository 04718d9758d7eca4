"""The two towers of a CLIP-like model, as its library loads it: images and texts to features.

The only file that knows open_clip's encoders, and transformers' models of this kind; both are imported when one is
loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.files.regular_files import user_path
from csp_index.models.remote_code import NEVER, safe_tokenizer
from csp_index.models.weights import (
    local_directory,
    near_matches,
    stable_repr,
    stable_settings,
)

_HUB = "hf-hub:"


@dataclass(frozen=True, slots=True)
class Towers:
    """The two halves of a model from its library: features of any length, on the device of the input.

    ``owned`` is False for a model of the caller, which is left as it was; ``traits`` extend or replace parts of the
    identity that a named encoder has.
    """

    module: nn.Module
    preprocess: Callable[[Image.Image], Tensor]
    image_features: Callable[[Tensor], Tensor]
    tokenise: Callable[[list[str]], dict[str, Any]]
    text_features: Callable[[dict[str, Any]], Tensor]
    preprocessing: str
    library: str
    owned: bool = True
    traits: Mapping[str, str] = field(default_factory=dict)
    logit_scale: float | None = None  # in place of the module's own


# open_clip


def open_clip_model(name: str) -> tuple[Any, Any, str, Path | None]:
    """Return a model of open_clip with its transform, its name in the library, and its directory if it has one."""
    import open_clip

    directory = None if name.startswith(_HUB) or _is_architecture(name) else local_directory(name, ModelError)
    pretrained, options = None, dict[str, Any]()
    if directory is not None:
        if not (directory / "open_clip_config.json").is_file():
            raise ModelError(f"{directory} is not an open_clip directory: it has no open_clip_config.json")
        model_name = f"local-dir:{directory}"
    elif name.startswith(_HUB):
        model_name = name
    else:
        model_name, pretrained = _architecture_and_weights(name)
        known = open_clip.get_pretrained_cfg(model_name, pretrained) or {}
        if known.get("quick_gelu"):
            # Without it the library only warns, and builds another activation function than in training.
            options["force_quick_gelu"] = True
    model, transform = open_clip.create_model_from_pretrained(model_name, pretrained, device="cpu", **options)
    return model, transform, model_name, directory


def load_open_clip(name: str) -> Towers:
    """Return the towers of a model of open_clip; ModelError, or what the library raises, where it cannot be loaded."""
    import open_clip

    model, transform, model_name, directory = open_clip_model(name)
    text = (open_clip.get_model_config(model_name) or {}).get("text_cfg", {})
    tokenizer = open_clip.get_tokenizer(model_name, **_tokenizer_options(directory, text), **safe_tokenizer(text))
    return Towers(
        module=model,
        preprocess=transform,
        image_features=model.encode_image,
        tokenise=lambda texts: {"text": tokenizer(texts)},
        text_features=lambda tokens: model.encode_text(tokens["text"]),
        preprocessing=stable_repr(transform),
        library=f"open_clip {open_clip.__version__}",
    )


def _is_architecture(name: str) -> bool:
    import open_clip

    return name.partition("/")[0] in open_clip.list_models()


def _architecture_and_weights(name: str) -> tuple[str, str]:
    """Return the architecture and its weights: a tag, or the path of a checkpoint."""
    import open_clip

    architecture, _, pretrained = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        near = near_matches(architecture, known) or known[:4]
        raise ModelError(
            f"open_clip has no architecture {architecture!r} (near: {', '.join(near)}); "
            "a directory is written with its full path"
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if open_clip.get_pretrained_cfg(architecture, pretrained):
        return architecture, pretrained
    file = user_path(pretrained)
    if pretrained and file.is_file():
        return architecture, os.fspath(file)
    if pretrained.startswith(("/", ".", "~")):
        raise ModelError(f"the checkpoint {pretrained} of {architecture} does not exist")
    listed = ", ".join(near_matches(pretrained, tags) or tags) or "none; give a checkpoint file"
    wrong = f"has no weights {pretrained!r}" if pretrained else "needs its weights named"
    raise ModelError(f"{architecture} {wrong}: write open_clip:{architecture}/TAG (has: {listed})")


def _tokenizer_options(directory: Path | None, text: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that make a merges file named in a directory's configuration relative to that directory."""
    merges = text.get("tokenizer_kwargs", {}).get("bpe_path")
    return {"bpe_path": str(directory / merges)} if directory is not None and merges else {}


# transformers


def load_transformers(name: str) -> Towers:
    """Return the towers of a model of transformers; errors as for `load_open_clip`."""
    import transformers

    directory = local_directory(name, ModelError)
    place = name if directory is None else str(directory)
    model, report = transformers.AutoModel.from_pretrained(
        place, dtype=torch.float32, output_loading_info=True, **NEVER
    )
    if report["missing_keys"]:
        lacking = sorted(report["missing_keys"])
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise ModelError(
            f"the checkpoint of {name} lacks {', '.join(lacking[:3])}{more}, which would be random: name a checkpoint "
            f"of the whole {type(model).__name__}"
        )
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ModelError(f"{name} is a {type(model).__name__}, which does not put images and texts into one space")
    images = transformers.AutoImageProcessor.from_pretrained(place, **NEVER)
    tokenizer = transformers.AutoTokenizer.from_pretrained(place, **NEVER)
    return transformers_towers(model, images, tokenizer)


def transformers_towers(model: Any, images: Any, tokenizer: Any) -> Towers:
    """Return the two halves of a model of transformers with its image processor and its tokenizer."""
    import transformers

    patches = model.config.model_type == "siglip2"  # NaFlex: a grid of patches (of fixed size, it is a "siglip")
    return Towers(
        module=model,
        preprocess=partial(_patches if patches else _picture, images),
        image_features=partial(_features_of_patches if patches else _features_of_pictures, model),
        tokenise=partial(_tokenise, tokenizer, model),
        text_features=lambda tokens: _tensor(model.get_text_features(**tokens)),
        preprocessing=stable_settings(images),
        library=f"transformers {transformers.__version__}",
    )


def _picture(processor: Any, image: Image.Image) -> Tensor:
    pixels: Tensor = processor(images=image, return_tensors="pt")["pixel_values"][0]
    return pixels


def _features_of_pictures(model: Any, pixels: Tensor) -> Tensor:
    return _tensor(model.get_image_features(pixel_values=pixels))


def _patches(processor: Any, image: Image.Image) -> Tensor:
    """Return patches [P, F], their mask and the grid's height and width as one tensor [P, F + 3], to be stacked."""
    result = processor(images=image, return_tensors="pt")
    values, mask = result["pixel_values"][0], result["pixel_attention_mask"][0]
    grid = result["spatial_shapes"][0].expand(len(values), 2)
    return torch.cat([values, mask[:, None].to(values), grid.to(values)], dim=1)


def _features_of_patches(model: Any, packed: Tensor) -> Tensor:
    values, mask, grid = packed[..., :-3], packed[..., -3], packed[:, 0, -2:]
    return _tensor(
        model.get_image_features(pixel_values=values, pixel_attention_mask=mask.long(), spatial_shapes=grid.long())
    )


def _tokenise(tokenizer: Any, model: Any, texts: list[str]) -> dict[str, Tensor]:
    """Return the tokens of texts, padded to the model's full length: SigLIP reads the last position."""
    siglip = str(model.config.model_type).startswith("siglip")
    length = min(model.config.text_config.max_position_embeddings, tokenizer.model_max_length)
    tokens = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids = ("input_ids",) if siglip else ("input_ids", "attention_mask")  # SigLIP was trained without a mask
    return {name: tokens[name] for name in ids if name in tokens}


def _tensor(result: Any) -> Tensor:
    """Return the features: some versions of the library return the tensor, others an output that has it."""
    features: Tensor = result if isinstance(result, Tensor) else result.pooler_output
    return features
