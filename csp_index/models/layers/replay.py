"""Passes over one batch of images that differ from the first in single neurons of one layer.

What ends before the layer gives its output does not depend on it, and is not computed again: the modules that ended by
then are not run, and give what they gave. If only the layer's own output matters for the logits, which is tried by
giving NaN for the others, nothing else is kept. Each batch is tried without a change first; a way that does not give
its logits again is given up, and in the end the whole network runs. A ResNet-50's last layer so costs a pooling and a
linear module per neuron, in place of 50 convolutions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from csp_index.errors import ModelError, one_line
from csp_index.models.layers.changes import change, map_tensors
from csp_index.models.layers.hooks import running_loaded
from csp_index.models.layers.opened import Logits, OpenLayer, is_logits
from csp_index.models.layers.pooling import first_tensor, neuron_place
from csp_index.models.layers.readers import listen

Way = Literal["layer alone", "recorded", "whole"]
WAYS: Final[tuple[Way, ...]] = ("layer alone", "recorded", "whole")
_SAME = 1e-4  # of the largest logit, by which a pass that changes nothing may differ
_COARSE = 10  # times as much in half precision


class Replays:
    """Makes replays of batches; what fails for one batch is not tried for the next."""

    def __init__(self, opened: OpenLayer, logits: Logits) -> None:
        """Refer to the layer and to where the logits come from."""
        self.opened, self.logits = opened, logits
        self.ways: list[Way] = list(WAYS)

    def of(self, pixels: Tensor) -> Replay:
        """Run the network on a batch of preprocessed images, and return what can be run again."""
        return Replay(self, pixels)


class Replay:
    """One pass over a batch: its `logits` [B, C], the layer's `tensor` [B, ...], and passes with changed neurons."""

    def __init__(self, replays: Replays, pixels: Tensor) -> None:
        """Run the network once. Raises ModelError if the layer gives nothing for these images."""
        self._replays, opened = replays, replays.opened
        self._pixels = pixels.to(opened.device)
        self._copies = max(1, opened.batch_size // len(pixels))
        self._recorder = self._recorded(values=replays.ways[0] == "recorded")
        if self._recorder.runs > 1:  # what it gave the last time does not stand for the times before
            replays.ways[:] = ["whole"]
        self._settled: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """What the layer gave."""
        return self._recorder.layer_tensor

    @property
    def logits(self) -> Tensor:
        """The logits [B, C] without a change, float32."""
        return self._recorder.logits

    def changed(self, neurons: Sequence[int], values: Sequence[float]) -> Tensor:
        """Return by how much the logits fall when each neuron alone is set to its value, [n, B, C] float32.

        A neuron is set at every place that its activation is read from: a channel at all places of its map, a value of
        the class token at that token alone, one of the other tokens at all of them.
        """
        unchanged = self._base()
        parts = []
        for start in range(0, len(neurons), self._copies):
            some = list(zip(neurons[start : start + self._copies], values[start : start + self._copies], strict=True))
            rows = self._pass(self._replays.ways[0], self._copies, some).unflatten(0, (self._copies, -1))
            parts.append(unchanged - rows[: len(some)])
        return torch.cat(parts)

    def _base(self) -> Tensor:
        """Return the logits of a pass that changes nothing, [1, B, C], by the first way that gives them again."""
        while self._settled is None:
            way = self._replays.ways[0]
            try:
                rows = self._pass(way, self._copies, []).unflatten(0, (self._copies, -1))
            except Exception as exc:  # whatever the network's own code raises on what it did not make
                if way == "whole":
                    raise ModelError(
                        f"{self._replays.opened.network} fails on images that it took before: {one_line(exc)}"
                    ) from exc
                rows = torch.full((1, 1, 1), torch.nan)
            if way == "whole" or self._again(rows):
                self._settled = rows[:1]
            else:
                self._replays.ways.pop(0)
                self._recorder.forget()
        return self._settled

    def _again(self, rows: Tensor) -> bool:
        expected = self.logits
        coarse = _COARSE if self.tensor.dtype in (torch.half, torch.bfloat16) else 1
        if rows.shape[1:] != expected.shape:
            return False
        return bool(((rows - expected).abs() <= _SAME * coarse * expected.abs().max()).all())  # never of NaN

    def _pass(self, way: Way, copies: int, changes: Sequence[tuple[int, float]]) -> Tensor:
        opened, images = self._replays.opened, len(self._pixels)
        prefix, grid = opened.loaded.prefix_tokens, opened.grid
        places = [neuron_place(opened.shape, opened.pool, neuron, prefix, grid) for neuron, _ in changes]

        def changer(actual: Tensor) -> Tensor:
            repeated = self._recorder.runs > 1
            tensor = actual.clone() if repeated else copied(self.tensor, copies, images)
            for number, (place, (_, value)) in enumerate(zip(places, changes, strict=True)):
                tensor[(slice(number * images, (number + 1) * images), *place)] = value
            return tensor

        pixels = copied(self._pixels, copies, images)
        with running_loaded(opened.loaded, opened.device), _giving(self._given(way, copies)):
            handle = change(opened.layer, opened.module, changer)
            try:
                return self._forward(pixels)
            finally:
                handle.remove()

    def _given(self, way: Way, copies: int) -> dict[nn.Module, Callable[[], object]]:
        """Return what stands in for the modules that are not run."""
        if way == "whole":
            return {}
        if way == "recorded" and not self._recorder.values:
            self._recorder = self._recorded(values=True)
        several = partial(map_tensors, function=partial(copied, copies=copies, images=len(self._pixels)))
        return {module: partial(several, output) for module, output in self._recorder.ended().items()}

    def _recorded(self, *, values: bool) -> _Recorder:
        opened = self._replays.opened
        recorder = _Recorder(values, opened.module)
        with running_loaded(opened.loaded, opened.device), recorder.listening(opened):
            recorder.logits = self._forward(self._pixels)
        if not recorder.runs:
            raise ModelError(
                f"layer {opened.layer!r} of {opened.network} gave no tensor for these images, as where a network takes "
                "another way: choose a layer that every image passes"
            )
        return recorder

    def _forward(self, pixels: Tensor) -> Tensor:
        """Return the logits of a pass, [B, C] float32, sharing no memory with what the network made."""
        logits, results = self._replays.logits, list[Tensor | None]()
        if logits.module is None:
            results.append(first_tensor(self._replays.opened.loaded.forward(pixels)))
        else:
            handle = listen(logits.module, lambda tensor: results.append(None if tensor is None else tensor.clone()))
            try:
                self._replays.opened.loaded.forward(pixels)
            finally:
                handle.remove()
        result = results[-1] if results else None
        if result is None or not is_logits(result, len(pixels)):
            raise ModelError(f"{logits.head or self._replays.opened.network} gave no logits for these images")
        return result.flatten(1).float().clone()


def copied(tensor: Tensor, copies: int, images: int) -> Tensor:
    """Return a tensor several times one after the other, if its first axis is that of the images; always a copy.

    A number that is spread over a shape stays spread.
    """
    batched = tensor.dim() > 0 and tensor.shape[0] == images
    if not any(tensor.stride()) and tensor.numel() > 1:
        shape = (copies * images, *tensor.shape[1:]) if batched else tensor.shape
        return tensor[(0,) * tensor.dim()].expand(shape)
    if copies == 1 or not batched:
        return tensor.clone()
    return tensor.repeat(copies, *(1 for _ in tensor.shape[1:]))


class _Recorder:
    """What a pass showed: the layer's tensor, and the modules that ended before it, with what they gave.

    Without `values` NaN of the same shape stands for what they gave, but for the layer's own module.
    """

    def __init__(self, values: bool, own: nn.Module) -> None:
        self.values, self.runs, self._own = values, 0, own
        self.logits: Tensor
        self.layer_tensor: Tensor
        self._inside: list[list[nn.Module]] = []  # of each module that has not ended, those that ended in it
        self._calls: Counter[nn.Module] = Counter()
        self._outputs: dict[nn.Module, Any] = {}

    def forget(self) -> None:
        """Let go of what the modules gave."""
        self._outputs.clear()

    def ended(self) -> dict[nn.Module, Any]:
        """Return the outermost modules that ran once and ended before the layer gave its tensor, with their outputs."""
        return {module: output for module, output in self._outputs.items() if self._calls[module] == 1}

    @contextmanager
    def listening(self, opened: OpenLayer) -> Iterator[None]:
        """Fill the record by hooks while the context lasts."""
        handles = []
        for module in dict.fromkeys(opened.modules().values()):
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave))
        handles.append(listen(opened.module, self._layer))  # behind the others: the layer's own module has ended
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, inputs: object) -> None:
        self._calls[module] += 1
        self._inside.append([])

    def _leave(self, module: nn.Module, inputs: object, output: object) -> None:
        parts = self._inside.pop()
        if self._inside:
            self._inside[-1].append(module)
        if not self.runs:
            keep = torch.clone if self.values or module is self._own else _placeholder
            self._outputs[module] = map_tensors(output, keep)
            for part in parts:  # which will not run
                self._outputs.pop(part, None)

    def _layer(self, tensor: Tensor | None) -> None:
        if tensor is not None:
            self.runs += 1
            self.layer_tensor = tensor.clone()


def _placeholder(tensor: Tensor) -> Tensor:
    """Return NaN of a tensor's shape that takes no memory; a copy of whole numbers, which have no NaN."""
    if not tensor.is_floating_point():
        return tensor.clone()
    return torch.full((), torch.nan, dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)


@contextmanager
def _giving(outputs: Mapping[nn.Module, Callable[[], object]]) -> Iterator[None]:
    """Let modules give outputs without being run while the context lasts; hooks on them are called."""
    own = {module: vars(module)["forward"] for module in outputs if "forward" in vars(module)}
    try:
        for module, give in outputs.items():
            vars(module)["forward"] = partial(_give, give)
        yield
    finally:
        for module in outputs:
            vars(module).pop("forward", None)
        for module, forward in own.items():
            vars(module)["forward"] = forward


def _give(give: Callable[[], object], *inputs: object, **options: object) -> object:
    return give()
