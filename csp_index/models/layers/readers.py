"""Layers that are no module of their own: one head of an attention, one of several tensors that a module returns.

``blocks.3.attn.head-2`` is what head 2 of an attention gives to the projection that mixes the heads: [B, L, D].
``fpn[1]`` is the second tensor in the output of ``fpn``, ``fpn[pool]`` that of a key. Nothing is added to the network;
such a layer only says which module to listen to and what to take.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from csp_index.models.layers.multihead import SplitAttention
from csp_index.models.layers.pooling import first_tensor, tensors_in

_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "heads", "n_head")
_PROJECTIONS: tuple[str, ...] = (
    "proj",
    "out_proj",
    "o_proj",
    "c_proj",
    "to_out",
    "to_out.0",
    "wo",
    "dense",
    "out",
    "output.dense",
)
_PROJECTIONS += ("projection",)
_PART = re.compile(r"(.+)\[([^\[\]]+)\]")

Listener = Callable[[Tensor | None], None]


class Reader(nn.Module, ABC):
    """A layer that is read from another module."""

    @abstractmethod
    def listen(self, listener: Listener) -> RemovableHandle:
        """Call ``listener`` with the layer's tensor, or None, at each pass until the handle is removed."""


class AttentionHead(Reader):
    """One head of an attention, before the projection that mixes them."""

    def __init__(self, number: int, heads: int, projection: nn.Linear) -> None:
        """Refer to the projection without making it a part of this module."""
        super().__init__()
        self.number, self.heads = number, heads
        self.out_features = projection.in_features // heads
        self._projection = (projection,)

    @property
    def projection(self) -> nn.Linear:
        """The linear layer that mixes the heads."""
        return self._projection[0]

    def fits(self, joined: Tensor) -> bool:
        """Return whether what the projection reads is that of all heads."""
        return joined.shape[-1] == self.heads * self.out_features

    def part(self, joined: Tensor) -> Tensor:
        """Return the part of the head, [B, L, D], in what the projection reads: a view."""
        part: Tensor = joined.unflatten(-1, (self.heads, -1))[..., self.number, :]
        return part

    def listen(self, listener: Listener) -> RemovableHandle:
        """Call ``listener`` with what the head gives, [B, L, D]."""

        def hook(module: nn.Module, inputs: tuple[object, ...]) -> None:
            joined = first_tensor(inputs)
            listener(self.part(joined) if joined is not None and self.fits(joined) else None)

        return self.projection.register_forward_pre_hook(hook)


class MultiheadHead(Reader):
    """One head of torch's `nn.MultiheadAttention`."""

    def __init__(self, number: int, attention: SplitAttention) -> None:
        """Refer to the attention without making it a part of this module."""
        super().__init__()
        self.number = number
        self.out_features = int(attention.module.head_dim)
        self._attention = (attention,)

    def listen(self, listener: Listener) -> RemovableHandle:
        """Call ``listener`` with what the head gives, [B, L, D]."""

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
            listener(self._attention[0].head(self.number, args, kwargs, output))

        return self._attention[0].module.register_forward_hook(hook, with_kwargs=True)


class OutputPart(Reader):
    """One of several tensors that a module returns."""

    def __init__(self, module: nn.Module, key: str) -> None:
        """Refer to the module without making it a part of this one."""
        super().__init__()
        self.key = key
        self._module = (module,)

    @property
    def whole(self) -> nn.Module:
        """The module that returns the tensor among others."""
        return self._module[0]

    def read(self, output: object) -> Tensor | None:
        """Return the tensor in the module's output, None if that has none of the name."""
        if isinstance(output, Mapping) and self.key in output:
            return first_tensor(output[self.key])
        tensors = tensors_in(output)
        return tensors[int(self.key)] if self.key.isdecimal() and int(self.key) < len(tensors) else None

    def listen(self, listener: Listener) -> RemovableHandle:
        """Call ``listener`` with the tensor, None if the output has none of the name."""
        return self.whole.register_forward_hook(lambda part, inputs, output: listener(self.read(output)))


def listen(module: nn.Module, listener: Listener) -> RemovableHandle:
    """Call ``listener`` with the first tensor that a layer gives at each pass, until the handle is removed."""
    if isinstance(module, Reader):
        return module.listen(listener)
    return module.register_forward_hook(lambda part, inputs, output: listener(first_tensor(output)))


def heads_of(module: nn.Module) -> dict[str, Reader]:
    """Return the single heads of every attention in a module whose projection is a part of its own, and of torch's."""
    known = dict(module.named_modules())
    results: dict[str, Reader] = {}
    for name, part in known.items():
        if isinstance(part, nn.MultiheadAttention):
            split = SplitAttention(part)
            if name and part.num_heads > 1:
                results |= {f"{name}.head-{number}": MultiheadHead(number, split) for number in range(part.num_heads)}
            continue
        count = next((size for word in _COUNTS if isinstance(size := getattr(part, word, None), int)), 0)
        projection = _projection(name, part, known) if name and count > 1 else None
        if projection is not None and projection.in_features % count == 0:
            for number in range(count):
                results[f"{name}.head-{number}"] = AttentionHead(number, count, projection)
    return results


def _projection(name: str, part: nn.Module, known: Mapping[str, nn.Module]) -> nn.Linear | None:
    """Return the linear layer that mixes an attention's heads: inside it, or beside it as in transformers."""
    places = [f"{name}.{word}" for word in _PROJECTIONS]
    above = name.rpartition(".")[0]
    places += [f"{above}.output.dense"] if above else []
    linear = [module for place in places if isinstance(module := known.get(place), nn.Linear)]
    return linear[0] if linear else None


def part_called(layer: str, modules: Mapping[str, nn.Module]) -> OutputPart | None:
    """Return the layer that names one of the tensors of another, ``LAYER[KEY]``; None if the name is no such."""
    named = _PART.fullmatch(layer)
    return OutputPart(modules[named[1]], named[2]) if named and named[1] in modules else None
