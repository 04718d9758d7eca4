"""Encoders: a CLIP-like model that puts images and texts into one space of unit vectors.

An encoder is named by its library: ``open_clip:ViT-B-32/laion2b_s34b_b79k``,
``open_clip:ViT-B-32//path/to/checkpoint.pt``, ``open_clip:hf-hub:ORG/NAME``, ``open_clip:/local/directory``,
``transformers:google/siglip2-base-patch16-224``, ``transformers:/local/directory``,
``python:package.module:factory``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from csp_index.errors import ModelError
from csp_index.models.borrowing import borrowed, running
from csp_index.models.hub import kept_files_if_alone
from csp_index.models.plugins import call_factory, load_plugins
from csp_index.models.prompt_templates import TEMPLATE_SETS, fill, templates
from csp_index.models.remote_code import cannot_load, no_questions
from csp_index.models.specs import encoder_spec
from csp_index.models.towers import Towers, load_open_clip, load_transformers
from csp_index.models.weights import (
    OBJECT,
    batch_size_for,
    hash_weights,
    objects_are_missing,
    put,
    resolve_device,
    undo_channels_last,
)

__all__ = ["TEMPLATE_SETS", "LoadedEncoder", "load_encoder", "templates"]

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
    load = load_open_clip if library == "open_clip" else load_transformers
    try:
        with no_questions(), kept_files_if_alone(name):
            towers = load(name)
    except ModelError:
        raise
    except Exception as exc:  # the libraries raise whatever their parts raise: hub, JSON, torch
        raise cannot_load(f"the encoder {spec}", exc) from exc
    return TwoTowers(spec, towers, where)


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
