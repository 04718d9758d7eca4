"""Encoders: a CLIP-like model that puts images and texts into one space of unit vectors.

The only file that knows open_clip, and transformers' models of this kind; both are imported when one is loaded. An
encoder is named by its library: ``open_clip:ViT-B-32/laion2b_s34b_b79k``,
``open_clip:ViT-B-32//path/to/checkpoint.pt``, ``open_clip:hf-hub:ORG/NAME``, ``open_clip:/local/directory``,
``transformers:google/siglip2-base-patch16-224``, ``transformers:/local/directory``,
``python:package.module:factory``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.files.regular_files import user_path
from csp_index.models.borrowing import borrowed, running
from csp_index.models.hub import kept_files_if_alone
from csp_index.models.plugins import call_factory, load_plugins
from csp_index.models.prompt_templates import TEMPLATE_SETS, fill, templates
from csp_index.models.remote_code import NEVER, cannot_load, no_questions, safe_tokenizer
from csp_index.models.specs import encoder_spec
from csp_index.models.weights import (
    OBJECT,
    batch_size_for,
    hash_weights,
    local_directory,
    near_matches,
    objects_are_missing,
    put,
    resolve_device,
    stable_repr,
    stable_settings,
    undo_channels_last,
)

__all__ = ["TEMPLATE_SETS", "LoadedEncoder", "load_encoder", "templates"]

_HUB = "hf-hub:"
_TEXTS_PER_IMAGE = 4  # a text is that much cheaper than an image


class LoadedEncoder(Protocol):
    """What the index needs from an encoder; ``python:`` factories return one.

    ``width`` is D. ``logit_scale`` multiplies a cosine before a softmax; it may be None. ``identity`` has the keys
    spec, weights, preprocessing and library: encoders with equal weights, preprocessing and library give equal vectors.
    """

    spec: str
    width: int
    logit_scale: float | None
    identity: dict[str, str]
    device: torch.device
    batch_size: int

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        """The function that makes one RGB image the model's input [C, H, W]; several threads may call it.

        Decoding in other processes pickles it: best a function, or a method of an object other than the model.
        """
        ...

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Return unit vectors [B, D], float32 on the CPU, of a stack of preprocessed images."""
        ...

    def embed_texts(self, texts: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Return the mean over the templates of unit vectors [C, D], float32 on the CPU, not renormalized."""
        ...


def load_encoder(spec: str, *, device: str = "auto") -> LoadedEncoder:
    """Return the encoder that ``spec`` names, in evaluation mode on a device.

    Raises ModelError with near matches for an unknown name, and for a path that does not exist.
    """
    load_plugins()
    spec = encoder_spec(spec)
    library, _, name = spec.partition(":")
    if library == OBJECT:
        raise ModelError(objects_are_missing({name: "encoder"}))
    if library == "python":
        return _checked(call_factory(name, ModelError), spec, device)
    where = resolve_device(device)
    load = _load_open_clip if library == "open_clip" else _load_transformers
    try:
        with no_questions(), kept_files_if_alone(name):
            towers = load(name)
    except ModelError:
        raise
    except Exception as exc:  # the libraries raise whatever their parts raise: hub, JSON, torch
        raise cannot_load(f"the encoder {spec}", exc) from exc
    return TwoTowers(spec, towers, where)


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


class TwoTowers:
    """A :class:`LoadedEncoder` made of a model with an image and a text half."""

    def __init__(self, spec: str, towers: Towers, device: torch.device) -> None:
        self.spec = spec
        self.device = device
        self.batch_size = batch_size_for(device)
        self.identity = {
            "spec": spec,
            "weights": towers.traits.get("weights") or hash_weights(towers.module),
            "preprocessing": towers.preprocessing,
            "library": towers.library,
            **towers.traits,
        }
        scale = getattr(towers.module, "logit_scale", None)
        own = float(scale.detach().float().exp().mean()) if isinstance(scale, Tensor) else None
        self.logit_scale = own if towers.logit_scale is None else towers.logit_scale
        self._towers = towers
        if towers.owned:
            put(towers.module, device)
        grey = self.preprocess(Image.new("RGB", (64, 64), "grey"))[None]
        try:
            self.width = self.embed_images(grey).shape[1]
        except RuntimeError:  # torch's own
            if not towers.owned:
                raise
            undo_channels_last(towers.module)
            self.width = self.embed_images(grey).shape[1]

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        """The function that makes one RGB image the model's input: [C, H, W], or NaFlex patches with mask and grid."""
        return self._towers.preprocess

    def in_use(self) -> AbstractContextManager[None]:
        """Keep a model of the caller ready to run while the context lasts, so that not every call prepares it."""
        return nullcontext() if self._towers.owned else borrowed([self._towers.module], self.device)

    def embed_images(self, pixels: Tensor) -> Tensor:
        """Return unit vectors [B, D], float32 on the CPU.

        On CUDA the model runs in half precision; a batch that overflows it is computed again in float32. Raises
        ModelError if a vector is zero or not finite.
        """
        pixels = pixels.to(self.device)
        features = self._run(partial(self._towers.image_features, pixels))
        return _unit(features, f"{self.spec} on a batch of {len(pixels)} images")

    def embed_texts(self, texts: Sequence[str], templates: Sequence[str] = ("{}",)) -> Tensor:
        """Return for each text the mean over the templates of its unit vectors: [C, D], float32 on the CPU.

        The mean is not renormalized, so with several templates it is shorter than 1: METHODS.md, section 2, scores with
        either form, and the caller chooses. Each pair of a text and a template is embedded as one row.
        """
        sums = torch.zeros(len(texts), self.width)
        prompts = ((row, fill(template, text)) for row, text in enumerate(texts) for template in templates)
        for batch in _batches(prompts, self.batch_size * _TEXTS_PER_IMAGE):
            tokens = self._towers.tokenise([prompt for _, prompt in batch])
            tokens = {name: part.to(self.device) if isinstance(part, Tensor) else part for name, part in tokens.items()}
            features = self._run(partial(self._towers.text_features, tokens))
            vectors = _unit(features, f"{self.spec} on texts like {batch[0][1]!r}")
            if vectors.shape[1] != self.width:
                raise ModelError(
                    f"{self.spec} gives {self.width} values for an image and {vectors.shape[1]} for a text"
                )
            sums.index_add_(0, torch.tensor([row for row, _ in batch]), vectors)
        return sums / max(1, len(templates))

    def tokens(self, texts: list[str]) -> dict[str, Any]:
        """Return the model's input for texts, cut or padded to its context."""
        return self._towers.tokenise(texts)

    def _run(self, forward: Callable[[], Tensor]) -> Tensor:
        with running([self._towers.module], self.device, owned=self._towers.owned):
            if self.device.type != "cuda":
                return forward().float().cpu()
            with torch.autocast("cuda", dtype=torch.float16):
                features = forward().float().cpu()
            return features if features.isfinite().all() else forward().float().cpu()


def _batches(items: Iterator[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    batch: list[tuple[int, str]] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _unit(features: Tensor, what: str) -> Tensor:
    """Return the rows of float32 features [B, D] scaled to length 1."""
    length = features.norm(dim=1, keepdim=True)
    wrong = int((~length.isfinite() | (length == 0)).sum())
    if wrong:
        raise ModelError(
            f"{what}: {wrong} of {len(features)} vectors are zero or not finite, so the weights may be damaged"
        )
    unit: Tensor = features / length
    return unit


def _checked(result: object, spec: str, device: str) -> LoadedEncoder:
    ready = getattr(result, "ready", None)  # of `csp_index.Encoder`, which has no device yet
    result = ready(device) if callable(ready) else result
    needed = ("width", "logit_scale", "identity", "device", "batch_size", "preprocess", "embed_images", "embed_texts")
    missing = [name for name in needed if not hasattr(result, name)]
    if missing:
        raise ModelError(
            f"{spec} returned {type(result).__name__}, which lacks {', '.join(missing)} (see LoadedEncoder)"
        )
    encoder: Any = result
    encoder.spec = spec
    return encoder  # type: ignore[no-any-return]


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


def _load_open_clip(name: str) -> Towers:
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


def _load_transformers(name: str) -> Towers:
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
    images = transformers.AutoImageProcessor.from_pretrained(place, **NEVER)  # type: ignore[no-untyped-call]
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
