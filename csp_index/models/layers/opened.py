"""A layer inside its network, for those who change what it gives; where the network's logits come from.

The logits are what the network returns, or what the module gives that the user names. They have a linear head where
one linear module gives exactly them; whether that module reads the layer is decided by numbers, in `studies`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models.layers.axes import Shape, Trace, traced
from csp_index.models.layers.hooks import running_loaded
from csp_index.models.layers.loaded import Loaded
from csp_index.models.layers.pooling import Grid, Pool, first_tensor, pooled
from csp_index.models.layers.readers import Reader
from csp_index.models.layers.repeats import spare_random_numbers, trial_images
from csp_index.models.weights import near_matches


@dataclass(frozen=True, slots=True)
class OpenLayer:
    """A layer, its module and the network around it; `shape` is that of one image's output."""

    network: str
    layer: str
    module: nn.Module
    shape: Shape
    pool: Pool
    grid: Grid | None
    loaded: Loaded
    device: torch.device
    batch_size: int

    def modules(self) -> dict[str, nn.Module]:
        """Return the network's modules by name: no single heads, no sparse autoencoders."""
        layers = self.loaded.layers().items()
        return {name: module for name, module in layers if self._is_own(name) and not isinstance(module, Reader)}

    def _is_own(self, name: str) -> bool:
        return name not in self.loaded.attached

    def pooled(self, tensor: Tensor, *, mean: bool = False) -> Tensor:
        """Return the neurons' activations [B, M] in the layer's tensor, or with `mean` their means over its places."""
        pool = self.pool.replace("max", "mean") if mean else self.pool
        return pooled(tensor, pool, self.loaded.prefix_tokens, grid=self.grid)


@dataclass(frozen=True, slots=True)
class Logits:
    """Where a network's logits [B, C] come from.

    `module` gives them, None: the network itself, whose `head` is then "". `linear` is the module of one weight per
    input and class that gives them, None if there is none. `names` are what the weights call the classes, or empty.
    """

    head: str
    module: nn.Module | None
    linear: nn.Module | None
    classes: int
    names: tuple[str, ...] = ()

    def weights(self) -> tuple[Tensor, Tensor]:
        """Return the weights [C, F] and the bias [C] of the linear module, float64 on the CPU."""
        if self.linear is None:
            raise ModelError("these logits come from no linear module")
        weight, bias = self.linear.weight, self.linear.bias
        if not isinstance(weight, Tensor):
            raise ModelError(f"the weights of {self.head or 'the head'} are no tensor")
        flat = weight.detach().double().cpu().flatten(1)
        return flat, bias.detach().double().cpu() if isinstance(bias, Tensor) else flat.new_zeros(len(flat))


def find_logits(opened: OpenLayer, head: str | None) -> Logits:
    """Return where the logits come from, by a pass over two made-up pictures.

    Raises ModelError where the network returns no numbers [images, classes] and no `head` is named, or an unknown one.
    """
    modules, trace = opened.modules(), Trace()
    if head is not None and head not in modules:
        near = ", ".join(near_matches(head, modules)) or "none"
        raise ModelError(f"head {head!r} is no module of {opened.network} (near: {near})")
    with spare_random_numbers(opened.device):
        pixels = torch.stack([opened.loaded.preprocess(image) for image in trial_images()])
        with running_loaded(opened.loaded, opened.device), traced(modules, trace):
            result = first_tensor(opened.loaded.forward(pixels.to(opened.device)))
    given = result if head is None else trace.outputs.get(head)
    if given is None or not is_logits(given, len(pixels)):
        shape = "no tensor" if given is None else str(list(given.shape))
        raise ModelError(
            f"{head or opened.network} gives {shape} for two images, and logits are [images, classes]: name the module "
            "that gives them by --head (head=)"
        )
    flat = given.flatten(1)
    made = [name for name, output in trace.outputs.items() if _is_linear(modules[name]) and _same(output, flat)]
    linear = made[-1] if made else None
    known = opened.loaded.classes
    classes = flat.shape[1]
    names = tuple(known.get(number, "") for number in range(classes)) if len(known) == classes else ()
    if head is None:
        return Logits(linear or "", None, modules[linear] if linear else None, classes, names)
    return Logits(head, modules[head], modules[linear] if linear else None, classes, names)


def is_logits(tensor: Tensor, images: int) -> bool:
    """Return whether a tensor has one number per image and class."""
    return tensor.dim() > 1 and tensor.shape[0] == images and tensor[0].numel() == tensor.shape[1]


def _same(output: Tensor, logits: Tensor) -> bool:
    return output.numel() == logits.numel() and torch.equal(output.flatten(), logits.flatten())


def _is_linear(module: nn.Module) -> bool:
    """Return whether a module has one weight per input and output: a linear layer, or a convolution of one place."""
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)
