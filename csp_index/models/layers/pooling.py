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
mean@A,        any                 over all other axes; A names the axis of the neurons, from 1 as in the
max@A                              output of one image, or several axes: ``mean@2,3`` of tokens x heads x
                                   width has one neuron for each head and width
=============  ==================  ==============================================================

Which axis has the neurons is not decided here (see ``layers/axes.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod

from torch import Tensor

from csp_index.errors import ModelError
from csp_index.models.specs import BY_AXES, check_pool

Pool = str  # one of the table's names, or mean@A or max@A
Grid = tuple[int, int]  # rows and columns of patches

_FITTING: dict[int, tuple[Pool, ...]] = {
    3: ("mean", "max", "mean-last", "max-last"),
    2: ("cls", "token-mean", "token-max"),
    1: ("none",),
}


def fits(shape: tuple[int, ...]) -> tuple[Pool, ...]:
    """Return the pools that fit one image's output without a word about its axes; none for four axes or more.

    >>> fits((197, 768))
    ('cls', 'token-mean', 'token-max')
    """
    return _FITTING.get(len(shape), ()) if all(shape) else ()


def axes_in(pool: Pool) -> tuple[int, ...]:
    """Return the axes that a pool names, none if it names none.

    >>> axes_in("mean@2,3"), axes_in("token-mean")
    ((2, 3), ())
    """
    named = BY_AXES.fullmatch(pool)
    return tuple(map(int, named[2].split(","))) if named else ()


def choose_pool(shape: tuple[int, ...], requested: str | None, has_class_token: bool) -> Pool:
    """Return the pool for one image's output where only its shape is known: ``requested``, if it fits, else the usual.

    Usual is the mean of a map; for tokens the class token if the network was trained to use one, else their mean.
    ``mean`` and ``max`` become ``mean-last`` and ``max-last`` where height and width are equal only in that order.
    Raises a ModelError that says which pools fit.
    """
    check_pool(requested)
    if requested is not None and axes_in(requested):
        return pool_at(shape, axes_in(requested), requested.partition("@")[0], False)
    fitting = fits(shape)
    if not fitting:
        raise ModelError(
            f"an output of shape {list(shape)} cannot be pooled: choose a layer with one to three axes per image, or "
            "say which axis has the neurons (--axis)"
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


def choose_exact(shape: tuple[int, ...], pool: str | None, has_class_token: bool) -> Pool:
    """Return a pool that says itself which axis it means, as an index stores it. Raises ModelError if it cannot fit."""
    chosen = choose_pool(shape, pool, has_class_token)
    return pool if pool in ("mean", "max") else chosen


def pool_at(shape: tuple[int, ...], axes: Sequence[int], requested: str | None, has_class_token: bool) -> Pool:
    """Return the pool for one image's output whose neurons are at ``axes``, from 1; negative ones count from the end.

    ``requested`` is a pool, or None for the usual one. Raises a ModelError where the axes or the pool do not fit.

    >>> pool_at((7, 4, 192), [-1], None, False), pool_at((16, 4, 8), [2, 3], "max", False)
    ('mean-last', 'max@2,3')
    """
    check_pool(requested)
    count = len(shape)
    places = tuple(axis if axis > 0 else count + 1 + axis for axis in axes)
    if not places or len(set(places)) < len(places) or not all(0 < place <= min(count, 9) for place in places):
        raise ModelError(
            f"axis {','.join(map(str, axes))} is not in an output of shape {list(shape)}: its axes are 1 to {count}"
        )
    places = tuple(sorted(places))
    named = {**_NAMED.get((count, places), {})}
    if count == 2 and places == (2,):
        named[None] = "cls" if has_class_token else "token-mean"
    if not named:
        text = ",".join(map(str, places))
        named = {None: f"mean@{text}", "mean": f"mean@{text}", "max": f"max@{text}"}
    if requested is not None and axes_in(requested):
        if axes_in(requested) != places:
            raise ModelError(f"pool {requested!r} names other axes than --axis {','.join(map(str, axes))}: give one")
        requested = requested.partition("@")[0]
    if requested not in named:
        fitting = ", ".join(name for name in named if name)
        where = f" with its neurons at axis {','.join(map(str, places))}" if count > 1 else ""
        raise ModelError(f"pool {requested!r} does not fit an output of shape {list(shape)}{where} (fit: {fitting})")
    return named[requested]


_NAMED: dict[tuple[int, tuple[int, ...]], dict[str | None, Pool]] = {  # by number of axes and axes of the neurons
    (1, (1,)): {None: "none", "none": "none"},
    (2, (2,)): {"cls": "cls", "token-mean": "token-mean", "token-max": "token-max"},
    (3, (1,)): {None: "mean", "mean": "mean", "max": "max"},
    (3, (3,)): {
        **{None: "mean-last", "mean": "mean-last", "max": "max-last"},
        **{"mean-last": "mean-last", "max-last": "max-last"},
    },
}


def neurons_of(shape: tuple[int, ...], pool: Pool) -> int:
    """Return M, the number of neurons, of one image's output.

    >>> neurons_of((64, 7, 7), "mean"), neurons_of((7, 7, 64), "mean-last"), neurons_of((50, 4, 8), "mean@2,3")
    (64, 64, 32)
    """
    return prod(shape[axis - 1] for axis in neuron_axes(shape, pool))


def neuron_axes(shape: tuple[int, ...], pool: Pool) -> tuple[int, ...]:
    """Return the axes of the neurons in one image's output, counted from 1.

    >>> neuron_axes((64, 7, 7), "mean"), neuron_axes((197, 768), "cls"), neuron_axes((50, 4, 8), "mean@2,3")
    ((1,), (2,), (2, 3))
    """
    return axes_in(pool) or ((1,) if pool in ("mean", "max") else (len(shape),))


def neuron_place(
    shape: tuple[int, ...], pool: Pool, neuron: int, prefix_tokens: int = 0, grid: Grid | None = None
) -> tuple[int | slice, ...]:
    """Return the index of what a pool reads for one neuron in one image's output: all that its activation comes from.

    >>> neuron_place((64, 7, 7), "mean", 3), neuron_place((197, 768), "cls", 3)
    ((3, slice(None, None, None), slice(None, None, None)), (0, 3))
    >>> neuron_place((197, 768), "token-max", 3, prefix_tokens=1)
    (slice(1, None, None), 3)
    """
    axes = neuron_axes(shape, pool)
    sizes = [shape[axis - 1] for axis in axes]
    place: list[int | slice] = [slice(None)] * len(shape)
    for axis, size in zip(reversed(axes), reversed(sizes), strict=True):
        neuron, number = divmod(neuron, size)
        place[axis - 1] = number
    rest = [axis for axis in range(len(shape)) if isinstance(place[axis], slice)]
    if pool == "cls":
        place[0] = 0
    elif len(rest) == 1 and (axes_in(pool) or pool in ("token-mean", "token-max")):
        place[rest[0]] = slice(prefix_in(shape[rest[0]], prefix_tokens, grid), None)
    return tuple(place)


def pooled(
    output: Tensor, pool: Pool, prefix_tokens: int = 0, *, grid: Grid | None = None, gradient: bool = False
) -> Tensor:
    """Return one number per neuron: [B, M], float32, sharing no memory with ``output``.

    ``prefix_tokens`` is the number of class and register tokens that come before the others, ``grid`` the patches of an
    image, if known. Gradients flow back only with ``gradient``.
    """
    values = output.float() if gradient else output.detach().float()
    if axes := axes_in(pool):
        values = _neurons_first(values, axes, prefix_tokens, grid)
        values = values.flatten(2) if values.dim() > 2 else values.unsqueeze(2)
        return values.mean(2) if pool.startswith("mean") else values.amax(2)
    if pool in ("mean", "max"):
        values = values.flatten(2)
        return values.mean(2) if pool == "mean" else values.amax(2)
    if pool in ("mean-last", "max-last"):
        values = values.flatten(1, 2)
        return values.mean(1) if pool == "mean-last" else values.amax(1)
    if pool in ("token-mean", "token-max"):
        values = values[:, prefix_in(values.shape[1], prefix_tokens, grid) :]
        return values.mean(1) if pool == "token-mean" else values.amax(1)
    # A copy: the network may still change its output in place.
    return values[:, 0].clone() if pool == "cls" else values.clone()


def as_maps(output: Tensor, pool: Pool, prefix_tokens: int = 0, grid: Grid | None = None) -> Tensor | None:
    """Return the maps [B, M, H, W] that are pooled, a view of ``output``; None if the neurons have no positions.

    None for vectors, for the class token, for a single position, and for tokens that form neither ``grid`` nor a
    square.
    """
    maps = None
    if axes := axes_in(pool):
        values = _neurons_first(output, axes, prefix_tokens, grid)
        maps = values if values.dim() == 4 else _on_grid(values, grid) if values.dim() == 3 else None
    elif pool in ("mean", "max"):
        maps = output
    elif pool in ("mean-last", "max-last"):
        maps = output.movedim(-1, 1)
    elif pool in ("token-mean", "token-max"):
        tokens = output[:, prefix_in(output.shape[1], prefix_tokens, grid) :]
        maps = _on_grid(tokens.transpose(1, 2), grid)
    return maps if maps is not None and maps.shape[2] * maps.shape[3] > 1 else None


def _neurons_first(values: Tensor, axes: tuple[int, ...], prefix_tokens: int, grid: Grid | None) -> Tensor:
    """Return [B, M, ...rest]; where one axis is left, its class and register tokens are cut off."""
    values = values.movedim(axes, tuple(range(1, 1 + len(axes)))).flatten(1, len(axes))
    return values[:, :, prefix_in(values.shape[2], prefix_tokens, grid) :] if values.dim() == 3 else values


def _on_grid(tokens: Tensor, grid: Grid | None) -> Tensor | None:
    """Return tokens [B, M, L] at their places [B, M, H, W]; None where those are not known."""
    length = tokens.shape[2]
    side = isqrt(length)
    places = grid if grid is not None and prod(grid) == length else (side, side) if side**2 == length else None
    return None if places is None else tokens.unflatten(2, places)


def prefix_in(length: int, prefix_tokens: int, grid: Grid | None = None) -> int:
    """Return how many of a layer's tokens are class and register tokens: all the network has, or none.

    A layer may come before they are added or after they are removed: the patches of the image say so, if they are
    known. Else its length is then a square, and without them would not be.

    >>> prefix_in(197, 1), prefix_in(196, 1), prefix_in(201, 5), prefix_in(98, 1, (14, 7))
    (1, 0, 5, 0)
    """
    if not prefix_tokens:
        return 0
    if grid is not None and length - prod(grid) in (0, prefix_tokens, prefix_tokens + 1):  # one for distillation
        return length - prod(grid)
    rest = length - prefix_tokens
    if rest <= 0 or (isqrt(length) ** 2 == length and isqrt(rest) ** 2 != rest):
        return 0
    return prefix_tokens


def first_tensor(output: object) -> Tensor | None:
    """Return the first tensor of floats in a module's output, or else the first of any kind; None if it has none."""
    tensors = tensors_in(output)
    return next((tensor for tensor in tensors if tensor.is_floating_point()), tensors[0] if tensors else None)


def tensors_in(output: object) -> list[Tensor]:
    """Return the tensors in a module's output, in order: in tuples, mappings (ModelOutput) and dataclasses."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, dict):
        parts: list[object] = list(output.values())
    elif isinstance(output, (tuple, list)):
        parts = list(output)
    elif hasattr(output, "__dataclass_fields__"):
        parts = [getattr(output, field) for field in output.__dataclass_fields__]
    else:
        return []
    return [tensor for part in parts for tensor in tensors_in(part)]
