"""Whether a network is a function of its image: two passes over the same images, together and alone, must agree.

A network that masks at random, a dropout that never ends, a random crop left in the preprocessing, and a normalization
by the other images of the batch would give other activations at each run, and labels of nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from csp_index.errors import ModelError

Values = Mapping[str, Tensor]  # [B, M] by layer

_SIDE = 256
REPEATED = 1e-4  # of a layer's largest value, by which two passes may differ
_ALONE = 1e-2  # the same for an image alone: other batch sizes have other kernels, which round differently
_SAME = 1e-5  # of a layer's largest value
_COARSE = 10  # times as much in half precision
_NO_DRAWS = "it draws no random numbers of torch, so it draws others, or keeps something from one pass to the next"
_DROPOUTS = ("dropout", "bernoulli")
_DRAWS = ("rand", "uniform", "normal", "multinomial", "exponential", "geometric", "poisson", "cauchy", "log_normal")


def trial_images() -> list[Image.Image]:
    """Return two different pictures, always the same ones."""
    generator = np.random.default_rng(0)
    pictures = []
    for _ in range(2):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((_SIDE, _SIDE))
        noise = generator.integers(-20, 21, (_SIDE, _SIDE, 3))
        pictures.append(Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)))
    return pictures


@contextmanager
def spare_random_numbers(device: torch.device) -> Iterator[None]:
    """Leave the random numbers of the caller as they were, of torch, NumPy and Python."""
    state, numbers = random.getstate(), np.random.get_state()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)


def why_not_repeated(
    activations: Callable[[Tensor], Values],
    preprocess: Callable[[Image.Image], Tensor],
    module: nn.Module,
    pixels: Tensor,
) -> str | None:
    """Return why the activations are no function of the image, None if they are; ``pixels`` are of the trial images."""
    for image in trial_images():
        if not torch.equal(preprocess(image), preprocess(image)):
            return "its preprocessing gives another input for the same picture each time: take random transforms out"
    once, twice = activations(pixels.clone()), activations(pixels.clone())
    precision = _COARSE if any(tensor.dtype in (torch.half, torch.bfloat16) for tensor in module.parameters()) else 1
    layer = differing(once, twice, REPEATED * precision)
    if layer is not None:
        return f"two passes over the same images differ at layer {layer!r}: {_random_part(activations, module, pixels)}"
    try:
        alone = [activations(one[None].clone()) for one in pixels]
    except ValueError as exc:  # torch's batch norm in training mode refuses a single image
        return f"it cannot take one image alone ({exc}): {_by_batch(module)}"
    for name, rows in alone[0].items():
        if len(rows) != 1:
            raise ModelError(
                f"layer {name!r} gives {len(rows)} rows for one image, so its first axis is not the batch: choose "
                "another layer"
            )
    separate = {name: torch.cat([values[name] for values in alone]) for name in once}
    layer = differing(once, separate, _ALONE * precision)
    if layer is not None:
        rare = _random_part(activations, module, pixels)
        if rare != _NO_DRAWS:
            return f"passes over the same images may differ at layer {layer!r}: {rare}"
        return f"layer {layer!r} gives other values for an image alone than beside another: {_by_batch(module)}"
    return None


def constant_layers(values: Values) -> list[str]:
    """Return the layers in which no neuron differs between the trial images, given their activations [2, M]."""
    return [
        layer
        for layer, rows in values.items()
        if bool(rows.isfinite().all()) and bool((rows[0] - rows[1]).abs().max() <= _SAME * rows.abs().max())
    ]


def differing(one: Values, two: Values, tolerance: float) -> str | None:
    """Return the first layer whose values differ by more than a share of the largest one, or None."""
    for name, values in one.items():
        other = two[name]
        if values.shape != other.shape:
            return name
        finite = values.isfinite() & other.isfinite()
        scale = float(values[finite].abs().max()) if bool(finite.any()) else 0.0
        wrong = (values - other).abs()[finite] > tolerance * scale
        if bool(wrong.any()) or not torch.equal(values.isfinite(), other.isfinite()):
            return name
    return None


def _random_part(activations: Callable[[Tensor], Values], module: nn.Module, pixels: Tensor) -> str:
    """Return which part of a network draws random numbers, and what for."""
    inside: list[str] = []
    draws: list[tuple[str, str]] = []

    def enter(name: str, part: nn.Module, inputs: object) -> None:
        inside.append(name)

    def leave(name: str, part: nn.Module, inputs: object, output: object) -> None:
        inside.pop()

    named = {n: part for n, part in module.named_modules() if not isinstance(part, torch.jit.ScriptModule)}
    handles = [part.register_forward_pre_hook(partial(enter, name)) for name, part in named.items()]
    handles += [part.register_forward_hook(partial(leave, name)) for name, part in named.items()]
    try:
        with _Draws(lambda operation: draws.append((operation, inside[-1] if inside else ""))):
            activations(pixels.clone())
    finally:
        for handle in handles:
            handle.remove()
    if not draws:
        return _NO_DRAWS
    operation, name = draws[0]
    place = f"{name} ({type(named[name]).__name__})" if name else type(module).__name__
    if any(word in operation for word in _DROPOUTS):
        return f"a dropout stays on in evaluation mode, in {place}"
    masks = "normal" not in operation and not operation.startswith("randn")
    masking = ", as random masking does: set its share of masked patches to 0" if masks else ""
    return f"it draws random numbers ({operation}) in {place}{masking}"


class _Draws(TorchDispatchMode):
    """Report each operation that draws random numbers."""

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._report = report

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        operation = func.overloadpacket.__name__ if hasattr(func, "overloadpacket") else str(func)
        idle = operation.endswith("dropout") and not any(part is True for part in args)  # a dropout in evaluation mode
        if not idle and (operation.strip("_").startswith(_DRAWS) or any(word in operation for word in _DROPOUTS)):
            self._report(operation.strip("_"))
        return func(*args, **(kwargs or {}))


def _by_batch(module: nn.Module) -> str:
    """Return which parts may let an image's values depend on the other images of its batch."""
    norms = [
        name
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._NormBase)
        and (part.training or part.running_mean is None)
        and not isinstance(part, nn.modules.instancenorm._InstanceNorm)
    ]
    if norms:
        more = f" and {len(norms) - 1} more" if len(norms) > 1 else ""
        return f"{norms[0]}{more} normalizes by the images of the batch, not by stored statistics"
    return "something in it mixes the images of a batch"
