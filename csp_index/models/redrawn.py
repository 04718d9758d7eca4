"""Networks with redrawn weights: what a network of the same shape says that has learned nothing.

Each weight tensor is drawn again from a normal distribution with the tensor's own mean and standard deviation
(`redrawn`), or around 0 where it has several axes (`centered`): a mean below 0 silences layers that end in a ReLU. What
the images alone bring about stays, and what the network learned is gone.

Only parameters are redrawn. Buffers stay as they are but for the running statistics of batch normalization: those of
the trained weights do not fit redrawn ones, whose neurons would hardly tell images apart. They are estimated on
pictures of noise, so that the weights do not depend on the images of an index.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.errors import ModelError, one_line
from csp_index.models.layers.loaded import Loaded
from csp_index.models.sparse_autoencoders import SparseAutoencoder
from csp_index.models.specs import MOST_SEED, Redrawing
from csp_index.models.weights import hash_weights

_log = logging.getLogger(__name__)
_announced: set[str] = set()
_LEARNED = ("encoder", "bias", "centre", "gain", "offset")  # of an autoencoder; its other tensors are settings
_PICTURES, _SIDE = 16, 256


@dataclass(frozen=True, slots=True)
class Redrawn:
    """How many tensors were redrawn, and which stayed, as they hold one value everywhere or no floating point."""

    tensors: int
    constant: tuple[str, ...]
    whole: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.tensors:,} weight tensors redrawn"]
        parts += [f"{len(self.constant):,} of one value kept ({self.constant[0]}, ...)"] if self.constant else []
        parts += [f"{len(self.whole):,} without floating point kept ({self.whole[0]}, ...)"] if self.whole else []
        return "; ".join(parts)


def redrawn(module: nn.Module, seed: int, *, centered: bool = False) -> nn.Module:
    """Return a copy of a module whose weight tensors are redrawn, each with its own mean and standard deviation.

    With `centered`, tensors of several axes are drawn around 0. Tensors that are tied stay tied; one that holds a
    single value everywhere stays, and so do buffers: the running statistics of batch normalization are the module's
    own. Raises ModelError for a seed that is none, for weights that are not finite, and for a module without weights.

    >>> import torch
    >>> layer = torch.nn.Linear(64, 64)
    >>> other = redrawn(layer, seed=1)
    >>> bool((other.weight.std() - layer.weight.std()).abs() < 0.01), torch.equal(other.weight, layer.weight)
    (True, False)
    """
    result = copy.deepcopy(module)
    redraw(result, Redrawing(seed, centered))
    return result


def redraw(module: nn.Module, redrawing: Redrawing, inside: str = "") -> Redrawn:
    """Redraw the parameters of a module in place; errors as `redrawn`.

    `inside` is left out of their names, on which their random numbers depend: a trunk alone gets the same weights as
    inside a model.
    """
    named = ((name.removeprefix(inside), parameter) for name, parameter in module.named_parameters())
    return _redraw(named, redrawing, type(module).__name__)


def redrawn_network(loaded: Loaded, redrawing: Redrawing, spec: str) -> Loaded:
    """Return a network that was just loaded with its weights redrawn, and those of the autoencoders that read it.

    Of an autoencoder, encoder, biases and magnitudes are redrawn; thresholds and constants of the input stay. The trait
    `redrawn` of the identity has the seed and the hash of the weights that were there before; `weights` is the hash of
    the redrawn ones before the statistics are estimated, which are the same on every machine but for rounding.
    """
    module, inside = loaded.module, loaded.inside
    before = hash_weights(module)
    report = str(redraw(module, redrawing, inside))
    for layer, autoencoder in loaded.attached.items():
        _redraw_autoencoder(autoencoder, layer, redrawing)
    traits = {"weights": hash_weights(module), "redrawn": f"{redrawing} of {before}"}
    trunk = loaded.trunk_weights and hash_weights(module.get_submodule(inside.rstrip(".")))
    report += f"; {len(loaded.attached)} autoencoders redrawn, too" if loaded.attached else ""
    if count := _estimate_statistics(module, loaded, spec):
        report += f"; statistics of {count} batch normalizations estimated on noise"
    if (message := f"{spec}, {redrawing}: {report}") not in _announced:
        _announced.add(message)
        _log.info("%s", message)
    return replace(loaded, traits={**loaded.traits, **traits}, trunk_weights=trunk, classes={})


def noise_pictures(count: int = _PICTURES, side: int = _SIDE) -> list[Image.Image]:
    """Return pictures of noise, the same every time, whose power falls with frequency as in photographs."""
    numbers = np.random.default_rng(0).standard_normal((count, side, side, 3))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    shape = 1 / np.maximum(frequency, 1 / side)[None, ..., None]
    waves = np.fft.ifft2(np.fft.fft2(numbers, axes=(1, 2)) * shape, axes=(1, 2)).real
    waves /= waves.std((1, 2, 3), keepdims=True)
    pixels = (255 * np.clip(0.5 + 0.25 * waves, 0, 1)).astype(np.uint8)
    return [Image.fromarray(one) for one in pixels]


def _estimate_statistics(module: nn.Module, loaded: Loaded, spec: str) -> int:
    """Estimate the running statistics of batch normalization on noise; return how many modules have such."""
    norms = [
        part
        for part in module.modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None
    ]
    if not norms:
        return 0
    momenta = [norm.momentum for norm in norms]
    pixels = torch.stack([loaded.preprocess(picture) for picture in noise_pictures()])
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all batches
        norm.train()
    try:
        with torch.no_grad():
            loaded.forward(pixels)
    except Exception as exc:  # whatever the network's own code raises
        raise ModelError(f"{spec} with redrawn weights fails on pictures of noise: {one_line(exc)}") from exc
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
    return len(norms)


def _redraw_autoencoder(autoencoder: SparseAutoencoder, layer: str, redrawing: Redrawing) -> None:
    tensors = ((name, getattr(autoencoder, name)) for name in _LEARNED)
    named = ((f"{layer}.{name}", tensor) for name, tensor in tensors if tensor is not None)
    _redraw(named, redrawing, f"the autoencoder of {layer}")
    autoencoder.weights_changed(str(redrawing))


def _redraw(named: Iterable[tuple[str, Tensor]], redrawing: Redrawing, owner: str) -> Redrawn:
    seed = redrawing.seed
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MOST_SEED:
        raise ModelError(f"seed {seed!r} cannot redraw weights: expected a whole number from 0 to {MOST_SEED}")
    count = 0
    constant: list[str] = []
    whole: list[str] = []
    seen: set[tuple[object, ...]] = set()
    for name, tensor in named:
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        if not tensor.numel() or place in seen:  # two names of one memory
            continue
        seen.add(place)
        if not tensor.is_floating_point():
            whole.append(name)
            continue
        values = tensor.detach().cpu().double()
        if not bool(values.isfinite().all()):
            raise ModelError(f"{owner} holds numbers in {name} that are not finite: its weights cannot be redrawn")
        mean, deviation = _rounded(values.mean()), _rounded(values.std(unbiased=False))
        if not deviation > 1e-7 * abs(mean):
            constant.append(name)
            continue
        drawn = torch.randn(values.shape, generator=_generator(name, seed), dtype=torch.float64)
        center = 0.0 if redrawing.centered and tensor.ndim > 1 else mean
        with torch.no_grad():
            tensor.copy_((drawn * deviation + center).to(tensor.dtype))
        count += 1
    if not count:
        raise ModelError(f"{owner} has no weights to redraw: expected parameters in floating point that vary")
    return Redrawn(count, tuple(constant), tuple(whole))


def _rounded(value: Tensor) -> float:
    """Return a number in single precision, for the order in which a machine adds numbers up must not matter."""
    return float(value.float())


def _generator(name: str, seed: int) -> torch.Generator:
    """Return random numbers for one tensor, which depend on its name and the seed alone, not on other tensors."""
    digest = hashlib.sha256(f"{seed}\n{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
