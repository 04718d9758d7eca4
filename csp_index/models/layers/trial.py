"""The trial run of a network when it is loaded: what its layers give for two different pictures, and from what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

from csp_index.errors import ModelError, one_line
from csp_index.models.layers.axes import Shape, Trace, axes_of, resized_shapes, traced
from csp_index.models.layers.hooks import running_loaded
from csp_index.models.layers.loaded import Loaded
from csp_index.models.layers.pooling import first_tensor, neuron_axes, prefix_in
from csp_index.models.layers.repeats import spare_random_numbers, trial_images

_SHOWN = 3  # names in an error
_OF_TOKENS = ("cls", "token-mean", "token-max", "mean@2", "max@2")  # pools that count tokens from the first


@dataclass(frozen=True, slots=True)
class Trial:
    """What a pass over two pictures showed; ``pixels`` are the network's input, [2, ...]."""

    loaded: Loaded
    modules: Mapping[str, nn.Module]
    device: torch.device
    trace: Trace
    pixels: Tensor = field(repr=False)

    def shape(self, layer: str, network: str) -> Shape:
        """Return the shape of one image's output. Raises ModelError where the layer gives none."""
        shape = self.trace.shapes.get(layer)
        if shape is None:
            raise ModelError(
                f"layer {layer!r} of {network} gives no tensor when an image goes through: {self._instead_of(layer)}"
            )
        if shape[:1] != (2,) or layer in self.trace.unbatched:
            count, given = (2, shape) if layer not in self.trace.unbatched else (1, self.trace.unbatched[layer])
            raise ModelError(
                f"layer {layer!r} of {network} gives {list(given)} for {count} image{'s' if count > 1 else ''}, so its "
                "first axis is not the batch: choose another layer"
            )
        tensor = self.trace.outputs[layer]
        if tensor.is_complex() or tensor.layout != torch.strided:
            kind = "complex numbers" if tensor.is_complex() else "a sparse tensor"
            raise ModelError(
                f"layer {layer!r} of {network} gives {kind}, of which no activation is read: choose another"
            )
        if not all(shape):
            raise ModelError(f"layer {layer!r} of {network} gives an empty output, {list(shape)}: choose another layer")
        if len(shape) == 1:
            raise ModelError(
                f"layer {layer!r} of {network} gives one number per image, and no axis of neurons: choose the layer "
                "before it, or let it give [B, 1]"
            )
        return shape[1:]

    def _instead_of(self, layer: str) -> str:
        above, whole = layer.rpartition(".")[0], layer.partition("[")[0]
        if whole != layer and whole in self.trace.shapes:
            count = self.trace.several.get(whole, 1)
            return (
                f"{whole} gives {count} tensor{'' if count == 1 else 's'}, so choose {whole}[0] to {whole}[{count - 1}]"
            )
        if isinstance(self.modules.get(above), nn.MultiheadAttention):
            return f"{above} uses its weights without calling it, so choose {above}, or one head such as {above}.head-0"
        return "choose another layer"

    def is_readable(self, layer: str) -> bool:
        """Return whether a layer gives numbers for each image, so that `shape` does not raise."""
        shape, tensor = self.trace.shapes[layer], self.trace.outputs[layer]
        batched = shape[:1] == (2,) and len(shape) > 1 and layer not in self.trace.unbatched
        return batched and all(shape) and not tensor.is_complex() and tensor.layout == torch.strided

    def remarks(self, layer: str, pool: str, requested: str | None, axis: int | None) -> list[str]:
        """Return what a user should know about how a layer is read; ``axis`` is the one that the layer settles."""
        shape, trace, remarks = self.trace.shapes[layer][1:], self.trace, list[str]()
        if pool == "cls" and self.loaded.has_class_token and not self.reads_class_token(shape):
            remarks.append("pool cls reads its first patch, as the class token is not in front yet")
        if pool == "cls" and requested is None and (strange := self._strange_tokens(shape)):
            remarks.append(strange)
        read = neuron_axes(shape, pool)
        if axis is not None and read != (axis,) and shape[axis - 1] > 1:
            remarks.append(
                f"its neurons are read from axis {','.join(map(str, read))} of {list(shape)} as you say, though its "
                f"kind and weights say axis {axis}"
            )
        if trace.runs[layer] > 1:
            remarks.append(f"it runs {trace.runs[layer]} times for an image, and its last output is read")
        if count := trace.several.get(layer):
            remarks.append(f"it gives {count} tensors, and the first is read; {layer}[1] names the second")
        return remarks

    def check_tokens(self, layer: str, pool: str) -> None:
        """Refuse pools that read or leave out the first tokens of a layer whose class token comes last.

        Before the first attention a class token is the same for every image, which shows where it is.
        """
        grid, prefix, shape = self.trace.grid, self.loaded.prefix_tokens, self.trace.shapes[layer]
        if not prefix or grid is None or len(shape) != 3 or shape[1] != prod(grid) + prefix or pool not in _OF_TOKENS:
            return
        tokens = next((o for o in self.trace.outputs.values() if o.dim() == 3 and o.shape[1] == shape[1]), None)
        same = [] if tokens is None else (tokens[0] == tokens[1]).all(-1).tolist()
        if same and all(same[-prefix:]) and not any(same[:prefix]):
            raise ModelError(
                f"the class token is the last of its {shape[1]} tokens, and pool {pool} takes the first for it: "
                "expected it in front; choose a layer without it, or turn the tokens around in the network"
            )

    def _strange_tokens(self, shape: Shape) -> str:
        """Return what to know about tokens [L, M] that are neither the patches nor those with tokens in front."""
        grid, prefix = self.trace.grid, self.loaded.prefix_tokens
        if len(shape) != 2 or grid is None or not prefix or shape[0] - prod(grid) in (0, prefix, prefix + 1):
            return ""
        return (
            f"its {shape[0]} tokens are not the {prod(grid)} patches with {prefix} in front, and the first is read as "
            "the class token; --pool token-mean reads all of them"
        )

    def axes(self, layers: Sequence[str]) -> dict[str, int | None]:
        """Return the axis of the neurons of each layer, None where nothing settles it."""
        return axes_of(layers, self.modules, self.trace, self._resized)

    def _resized(self) -> dict[str, Shape]:
        with spare_random_numbers(self.device), running_loaded(self.loaded, self.device):
            return resized_shapes(self.loaded.forward, self.modules, self.pixels.to(self.device))

    def reads_class_token(self, shape: Shape) -> bool:
        """Return whether the first of a layer's tokens is a class token, and the one to read."""
        if not self.loaded.has_class_token or len(shape) != 2:
            return self.loaded.has_class_token
        grid = self.trace.grid
        return grid is None or prefix_in(shape[0], self.loaded.prefix_tokens, grid) > 0

    def lacking(self, layer: str) -> list[str]:
        """Return the weights that the checkpoint lacks and that were used before or in a layer."""
        trace = self.trace
        before = set(trace.entered[: trace.entered_before.get(layer, len(trace.entered))])
        ever = set(trace.entered)
        names = []
        for name in self.loaded.missing:
            owner = name.rpartition(".")[0]
            above = owner.rpartition(".")[0]
            # Some modules use the weights of a part without calling it.
            if not owner or owner in before or (owner not in ever and above and above in before):
                names.append(name)
        return names

    def class_names(self, layer: str, neurons: int) -> tuple[str, ...]:
        """Return what a layer's neurons are called: those of a layer that gives what the whole classifier gives.

        None are where the checkpoint lacks weights of the layer, so that its outputs stand for no class.
        """
        names, output, result = self.loaded.classes, self.trace.outputs.get(layer), self.trace.result
        if len(names) != neurons or output is None or result is None or output.numel() != result.numel():
            return ()
        if not torch.equal(output.flatten(), result.flatten()) or self.lacking(layer):
            return ()
        return tuple(names.get(number, "") for number in range(neurons))

    def check_weights(self, layers: Sequence[str], network: str, *, allowed: bool) -> None:
        """Refuse layers that depend on weights which the checkpoint lacks, and which are therefore random."""
        for layer in layers:
            names = self.lacking(layer)
            if names and not allowed:
                more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
                other = next((name for name in self.loaded.unused if name.endswith(f".{names[0]}")), None)
                more += f" (it has {other})" if other is not None else ""
                raise ModelError(
                    f"layer {layer!r} of {network} would have random weights, because the checkpoint lacks "
                    f"{', '.join(names[:_SHOWN])}{more}: choose another layer, or take random ones with "
                    "--allow-missing (allow_missing=True)"
                )


def _unbatched(loaded: Loaded, modules: Mapping[str, nn.Module], trace: Trace, pixels: Tensor) -> dict[str, Shape]:
    """Return the shapes for one image of the layers whose first axis has two places for another reason than two images.

    Nothing, where the network takes no single image.
    """
    alone = Trace()
    with traced(modules, alone), suppress(Exception):
        loaded.forward(pixels)
    known = {name: shape for name, shape in alone.shapes.items() if trace.shapes.get(name, ())[:1] == (2,)}
    return {name: shape for name, shape in known.items() if shape[:1] != (1,)}


def try_out(loaded: Loaded, modules: Mapping[str, nn.Module], device: torch.device, spec: str) -> Trial:
    """Return what every module gives for two pictures. Raises ModelError where the network fails on them."""
    trace = Trace()
    try:
        with spare_random_numbers(device):
            pixels = torch.stack([loaded.preprocess(image) for image in trial_images()])
            with running_loaded(loaded, device), traced(modules, trace):
                trace.result = first_tensor(loaded.forward(pixels.to(device)))
            if any(shape[:2] == (2, 2) for shape in trace.shapes.values()):
                with running_loaded(loaded, device):
                    trace.unbatched = _unbatched(loaded, modules, trace, pixels[:1].to(device))
    except ModelError:
        raise
    except Exception as exc:  # whatever the network's own code raises
        alone = isinstance(exc, TypeError) and "positional argument" in str(exc)
        wrapped = "; it is called with the images alone: wrap it in a module whose forward(images) calls it"
        raise ModelError(
            f"{spec} fails on two trial images: {type(exc).__name__}: {one_line(exc)}{wrapped if alone else ''}"
        ) from exc
    return Trial(loaded, modules, device, trace, pixels)
