"""Which axis of a layer's output holds its neurons: read from the modules, never guessed from the numbers.

The axes of one image's output count from 1, as in the tensor with its batch in front. What settles the axis, in order:
the only axis longer than 1; the module's own kind (a convolution and a batch norm have their channels first, a linear
layer and a layer norm last); the number of weights of the modules inside it; the layer whose output it passes on, or
the one that reads its output; layers of the same shape; a second input of another size, which changes the positions and
not the neurons. If none does, the user must say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from csp_index.models.layers.pooling import Grid, first_tensor, tensors_in
from csp_index.models.layers.readers import Reader

Shape = tuple[int, ...]

_CONVOLUTIONS = (nn.modules.conv._ConvNd,)
_BATCH_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm)
_CHANNELS_FIRST = (  # kinds without weights that work on maps [B, C, H, W]
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.Upsample,
    nn.PixelShuffle,
    nn.PixelUnshuffle,
    nn.Dropout2d,
)


@dataclass(slots=True)
class Trace:
    """What one pass through a network showed: the shapes with the batch, and which module read which tensor.

    ``entered`` has the names of all modules as they were entered, ``grid`` the patches that the image was cut into,
    ``result`` the first tensor that the network gave.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    several: dict[str, int] = field(default_factory=dict)  # tensors in an output, where there are more than one
    outputs: dict[str, Tensor] = field(default_factory=dict)  # held, so that no other tensor gets the same id
    inputs: dict[str, Tensor] = field(default_factory=dict)
    runs: Counter[str] = field(default_factory=Counter)  # how many times each gave a tensor
    unbatched: Mapping[str, Shape] = field(default_factory=dict)  # for one image, where the first axis is not the batch
    entered: list[str] = field(default_factory=list)
    entered_before: dict[str, int] = field(default_factory=dict)  # by layer: modules entered before its output
    grid: Grid | None = None
    result: Tensor | None = None


@contextmanager
def traced(modules: Mapping[str, nn.Module], trace: Trace) -> Iterator[None]:
    """Fill the trace by hooks on every module while the context lasts."""

    def enter(name: str, module: nn.Module, inputs: tuple[object, ...]) -> None:
        trace.entered.append(name)
        tensor = first_tensor(inputs)
        if tensor is not None:
            trace.inputs[name] = tensor

    def leave(name: str, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        tensor = first_tensor(output)
        if tensor is None or tensor.is_nested:
            return
        trace.shapes[name], trace.outputs[name] = tuple(tensor.shape), tensor
        trace.runs[name] += 1
        trace.entered_before[name] = len(trace.entered)
        if (count := len(tensors_in(output))) > 1:
            trace.several[name] = count
        if trace.grid is None and isinstance(module, nn.Conv2d) and _cuts_patches(module) and tensor.dim() == 4:
            trace.grid = (tensor.shape[2], tensor.shape[3])

    def read(name: str, tensor: Tensor | None) -> None:
        if tensor is not None:
            leave(name, modules[name], (), tensor)

    handles = []
    for name, module in modules.items():
        if isinstance(module, Reader):
            handles.append(module.listen(partial(read, name)))
        else:
            handles.append(module.register_forward_pre_hook(partial(enter, name)))
            handles.append(module.register_forward_hook(partial(leave, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _cuts_patches(module: nn.Conv2d) -> bool:
    return module.in_channels in (1, 3, 4) and module.kernel_size == module.stride and module.kernel_size[0] > 1


def axes_of(
    layers: Sequence[str], modules: Mapping[str, nn.Module], trace: Trace, resized: Callable[[], Mapping[str, Shape]]
) -> dict[str, int | None]:
    """Return the axis of the neurons of each layer, None where nothing settles it.

    ``resized`` returns the shapes [B, ...] for an input of another size, as far as the network accepts one; it is
    called only if it is needed.
    """
    own = {name: _own_axis(modules[name], shape[1:]) for name, shape in trace.shapes.items()}
    results = {name: own.get(name) for name in layers}
    open_ones = [name for name in layers if results[name] is None and len(trace.shapes.get(name, ())) > 2]
    if not open_ones:
        return results
    passed_on = _passed_on(own, modules, trace)
    for name in open_ones:
        results[name] = passed_on.get(name) or _read_as(name, modules, trace) or _same_shape(name, passed_on, trace)
    open_ones = [name for name in open_ones if results[name] is None]
    other = resized() if open_ones else {}
    for name in open_ones:
        results[name] = _unchanged(trace.shapes[name], other.get(name))
    return results


def _own_axis(module: nn.Module, shape: Shape) -> int | None:
    """Return the axis that the shape, or the module's kind and weights, settle."""
    long = [axis for axis, size in enumerate(shape, 1) if size > 1]
    if not shape:
        return None
    if len(shape) == 1 or len(long) == 1:
        return long[0] if long else 1
    kind = _of_kind(module, shape)
    return kind if kind is not None else _by_weights(module, shape)


def _of_kind(module: nn.Module, shape: Shape) -> int | None:
    last = len(shape)
    if isinstance(module, (*_CONVOLUTIONS, *_BATCH_NORMS)):
        return 1 if shape[0] == _width(module) else None
    if isinstance(module, _CHANNELS_FIRST):
        return 1 if last == 3 else None
    width = _width(module)
    if width is None:
        return None
    fitting = [axis for axis, size in enumerate(shape, 1) if size == width]
    if len(fitting) == 1:
        return fitting[0]
    first = "2d" in type(module).__name__.lower()  # LayerNorm2d and the like turn the axes inside
    return None if not fitting else 1 if first and fitting[0] == 1 else last if fitting[-1] == last else None


def _width(module: nn.Module) -> int | None:
    """Return the number of values that the module's last axis, or its channels, must have by its kind."""
    for name in ("out_channels", "num_features", "num_channels", "out_features", "embedding_dim"):
        size = getattr(module, name, None)
        if isinstance(size, int) and not isinstance(size, bool) and not any(True for _ in module.children()):
            return size
    if isinstance(module, nn.MultiheadAttention):
        return int(module.embed_dim)
    weight = module._parameters.get("weight")
    norm = "norm" in type(module).__name__.lower()
    return weight.shape[0] if norm and weight is not None and weight.dim() == 1 else None


def _by_weights(module: nn.Module, shape: Shape) -> int | None:
    """Return the axis as long as the weights inside a module: of convolutions the first, of linear layers the last."""
    first, last, others = set[int | None](), set[int | None](), set[int]()
    for part in module.modules():
        if isinstance(part, (*_CONVOLUTIONS, *_BATCH_NORMS)):
            first.add(_width(part))
        elif (width := _width(part)) is not None:
            (first if "2d" in type(part).__name__.lower() else last).add(width)
        vectors = [*part._parameters.values(), *part._buffers.values()]
        others |= {vector.shape[0] for vector in vectors if vector is not None and vector.dim() == 1}
    is_first, is_last = shape[0] in first and len(shape) > 2, shape[-1] in last
    if is_first != is_last:
        return 1 if is_first else len(shape)
    if is_first:
        return None
    fitting = [axis for axis, size in enumerate(shape, 1) if size > 1 and size in first | last | others]
    return fitting[0] if len(fitting) == 1 else None


def _passed_on(own: Mapping[str, int | None], modules: Mapping[str, nn.Module], trace: Trace) -> dict[str, int]:
    """Return the axes of all layers, with those of modules that pass on what another layer gave."""
    axes: dict[str, int] = {}
    by_tensor: dict[int, int] = {}
    for name, tensor in trace.outputs.items():  # in the order of the last output of each
        axis, source = own.get(name), trace.inputs.get(name)
        if axis is None and source is not None and source.shape == tensor.shape and not _has_weights(modules[name]):
            axis = by_tensor.get(id(source))
        if axis is not None:
            axes[name] = axis
            by_tensor.setdefault(id(tensor), axis)
    return axes


def _has_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _read_as(name: str, modules: Mapping[str, nn.Module], trace: Trace) -> int | None:
    """Return the axis as which other modules read a layer's output."""
    output, axes = trace.outputs[name], set[int]()
    for reader, tensor in trace.inputs.items():
        if tensor is not output or reader == name:
            continue
        module, shape = modules[reader], tuple(output.shape[1:])
        if isinstance(module, (*_CONVOLUTIONS, *_BATCH_NORMS)):
            axes.add(1)
        elif isinstance(module, nn.Linear) or (_width(module) == shape[-1] and "norm" in type(module).__name__.lower()):
            axes.add(len(shape))
    return axes.pop() if len(axes) == 1 else None


def _same_shape(name: str, axes: Mapping[str, int], trace: Trace) -> int | None:
    """Return the axis of the layers with the same shape, if they agree, and no other axis is as long as it."""
    shape = trace.shapes[name]
    known = {axis for other, axis in axes.items() if trace.shapes[other] == shape}
    axis = known.pop() if len(known) == 1 else None
    return axis if axis is not None and shape[1:].count(shape[axis]) == 1 else None


def _unchanged(shape: Shape, other: Shape | None) -> int | None:
    """Return the axis that an input of another size leaves as long as it was, if it is the only one."""
    if other is None or len(other) != len(shape):
        return None
    same = [axis for axis in range(1, len(shape)) if shape[axis] == other[axis]]
    return same[0] if len(same) == 1 else None


def resized_shapes(
    forward: Callable[[Tensor], object], modules: Mapping[str, nn.Module], pixels: Tensor
) -> dict[str, Shape]:
    """Return the shapes of the outputs for an image twice as large; those before an error, if the network fails."""
    if pixels.dim() != 4:
        return {}
    trace = Trace()
    larger = torch.nn.functional.interpolate(pixels[:1].float(), scale_factor=2.0).to(pixels.dtype)
    with traced(modules, trace), suppress(Exception):  # many networks take images of one size only
        forward(larger)
    return trace.shapes
