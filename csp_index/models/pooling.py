"""Pooling: the output of a layer, of whatever shape, to one number for every neuron.

Pure tensor functions. B is the batch, M the neurons:

=============  ==================  ==============================================================
pool           one image's output  a neuron's activation
=============  ==================  ==============================================================
mean, max      [M, H, W]           over the positions of its map
mean-last,     [H, W, M]           the same where the channels come last (Swin, parts of ConvNeXt)
max-last
cls            [L, M]              at the first token
token-mean,    [L, M]              over the tokens, without class and register tokens
token-max
none           [M]                 unchanged
=============  ==================  ==============================================================

Channels count as last if height and width are equal only in that order: [7, 7, 768], but not [768, 7, 7] or [7, 7, 7].
"""

from __future__ import annotations

from math import isqrt
from typing import Literal, get_args

from torch import Tensor

from csp_index.errors import ModelError

Pool = Literal["mean", "max", "mean-last", "max-last", "cls", "token-mean", "token-max", "none"]

_FITTING: dict[int, tuple[Pool, ...]] = {
    3: ("mean", "max", "mean-last", "max-last"),
    2: ("cls", "token-mean", "token-max"),
    1: ("none",),
}


def fits(shape: tuple[int, ...]) -> tuple[Pool, ...]:
    """Return the pools that fit one image's output; none for shapes without one to three axes.

    >>> fits((197, 768))
    ('cls', 'token-mean', 'token-max')
    """
    return _FITTING.get(len(shape), ()) if all(shape) else ()


def choose_pool(shape: tuple[int, ...], requested: str | None, has_class_token: bool) -> Pool:
    """Return the pool for one image's output: ``requested``, if it fits, else the usual one for the shape.

    Usual is the mean of a map; for tokens the class token if the network was trained to use one, else their mean.
    ``mean`` and ``max`` become ``mean-last`` and ``max-last`` where the channels come last. Raises a ModelError that
    says which pools fit.
    """
    if requested is not None and requested not in get_args(Pool):
        raise ModelError(f"pool {requested!r} is unknown (has: {', '.join(get_args(Pool))})")
    fitting = fits(shape)
    if not fitting:
        raise ModelError(
            f"an output of shape {list(shape)} cannot be pooled: choose a layer with one to three axes per image"
        )
    if requested is not None and requested not in fitting:
        raise ModelError(
            f"pool {requested!r} does not fit an output of shape {list(shape)} (fit: {', '.join(fitting)})"
        )
    usual: dict[int, Pool] = {3: "mean", 2: "cls" if has_class_token else "token-mean", 1: "none"}
    pool = requested if requested is not None else usual[len(shape)]
    if pool in ("mean", "max") and shape[0] == shape[1] != shape[2]:
        return "mean-last" if pool == "mean" else "max-last"
    return pool


def neurons_of(shape: tuple[int, ...], pool: Pool) -> int:
    """Return M, the number of neurons, of one image's output.

    >>> neurons_of((64, 7, 7), "mean"), neurons_of((7, 7, 64), "mean-last"), neurons_of((50, 32), "cls")
    (64, 64, 32)
    """
    return shape[0] if pool in ("mean", "max") else shape[-1]


def pooled(output: Tensor, pool: Pool, prefix_tokens: int = 0, *, gradient: bool = False) -> Tensor:
    """Return one number per neuron: [B, M], float32, sharing no memory with ``output``.

    ``prefix_tokens`` is the number of class and register tokens that come before the others. Gradients flow back only
    with ``gradient``.
    """
    values = output.float() if gradient else output.detach().float()
    if pool in ("mean", "max"):
        values = values.flatten(2)
        return values.mean(2) if pool == "mean" else values.amax(2)
    if pool in ("mean-last", "max-last"):
        values = values.flatten(1, 2)
        return values.mean(1) if pool == "mean-last" else values.amax(1)
    if pool in ("token-mean", "token-max"):
        values = values[:, prefix_in(values.shape[1], prefix_tokens) :]
        return values.mean(1) if pool == "token-mean" else values.amax(1)
    # A copy: the network may still change its output in place.
    return values[:, 0].clone() if pool == "cls" else values.clone()


def as_maps(output: Tensor, pool: Pool, prefix_tokens: int = 0) -> Tensor | None:
    """Return the maps [B, M, H, W] that are pooled, a view of ``output``; None if the neurons have no positions.

    None for vectors, for the class token, for a single position, and for tokens that do not form a square.
    """
    maps = None
    if pool in ("mean", "max"):
        maps = output
    elif pool in ("mean-last", "max-last"):
        maps = output.movedim(-1, 1)
    elif pool in ("token-mean", "token-max"):
        tokens = output[:, prefix_in(output.shape[1], prefix_tokens) :]
        side = isqrt(tokens.shape[1])
        if side**2 == tokens.shape[1]:
            maps = tokens.transpose(1, 2).unflatten(2, (side, side))
    return maps if maps is not None and maps.shape[2] * maps.shape[3] > 1 else None


def prefix_in(length: int, prefix_tokens: int) -> int:
    """Return how many of a layer's tokens are class and register tokens: all the network has, or none.

    A layer may come before they are added or after they are removed: then its length is a square, and without them
    would not be.

    >>> prefix_in(197, 1), prefix_in(196, 1), prefix_in(201, 5)
    (1, 0, 5)
    """
    rest = length - prefix_tokens
    if rest <= 0 or (isqrt(length) ** 2 == length and isqrt(rest) ** 2 != rest):
        return 0
    return prefix_tokens


def first_tensor(output: object) -> Tensor | None:
    """Return the first tensor in a module's output: itself, or in a tuple, a mapping (ModelOutput) or a dataclass."""
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
    return next((tensor for part in parts if (tensor := first_tensor(part)) is not None), None)
