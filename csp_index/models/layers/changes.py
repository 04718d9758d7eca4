"""Put another tensor in the place of what a layer gives, while a network runs.

Knows where the tensor of each kind of layer is: in a module's output, in one of several tensors of an output, or in
what a projection reads, of which one head is a part. What is computed beside the modules cannot be changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from csp_index.errors import ModelError
from csp_index.models.layers.pooling import first_tensor
from csp_index.models.layers.readers import AttentionHead, OutputPart, Reader
from csp_index.models.sparse_autoencoders import SparseAutoencoder

Changer = Callable[[Tensor], Tensor]


def change(layer: str, module: nn.Module, changer: Changer) -> RemovableHandle:
    """Put what ``changer`` returns in place of a layer's tensor at each pass, until the handle is removed.

    ``changer`` gets the tensor and must not change it. Raises ModelError for a layer whose tensor the rest of the
    network does not read: the features of a sparse autoencoder, a head of torch's `nn.MultiheadAttention`.
    """
    if isinstance(module, AttentionHead):
        return module.projection.register_forward_pre_hook(_in_projection(module, changer))
    if isinstance(module, OutputPart):
        return module.whole.register_forward_hook(lambda part, inputs, output: _changed(output, module.read, changer))
    if isinstance(module, Reader | SparseAutoencoder):
        kind = "features of a sparse autoencoder" if isinstance(module, SparseAutoencoder) else "a head's values"
        raise ModelError(
            f"layer {layer!r} cannot be changed while the network runs: {kind} are computed beside it, and nothing of "
            "the network reads them; choose a layer of the network itself"
        )
    return module.register_forward_hook(lambda part, inputs, output: _changed(output, first_tensor, changer))


def _in_projection(head: AttentionHead, changer: Changer) -> Callable[[nn.Module, tuple[object, ...]], object]:
    def hook(module: nn.Module, inputs: tuple[object, ...]) -> object:
        joined = first_tensor(inputs)
        if joined is None or not head.fits(joined):
            return None
        mixed = joined.clone()
        head.part(mixed).copy_(changer(head.part(joined)))
        return map_tensors(inputs, lambda tensor: mixed if tensor is joined else tensor)

    return hook


def _changed(output: Any, read: Callable[[object], Tensor | None], changer: Changer) -> Any:
    tensor = read(output)
    if tensor is None:
        return output
    other = changer(tensor)
    return map_tensors(output, lambda part: other if part is tensor else part)


def map_tensors(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return a module's output, or its inputs, with each tensor replaced; the kinds of containers stay as they are.

    >>> import torch
    >>> map_tensors({"a": [torch.ones(2), "word"], "b": None}, lambda tensor: tensor + 1)
    {'a': [tensor([2., 2.]), 'word'], 'b': None}
    """
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):  # also ModelOutput, which is a record as well
        made: Any = copy(value)
        for name, part in value.items():
            made[name] = map_tensors(part, function)
        return made
    if isinstance(value, tuple | list):
        kind: Any = type(value)
        parts = [map_tensors(part, function) for part in value]
        return kind(*parts) if hasattr(value, "_fields") else kind(parts)
    if is_dataclass(value) and not isinstance(value, type):
        record = copy(value)
        for field in fields(value):
            object.__setattr__(record, field.name, map_tensors(getattr(value, field.name), function))
        return record
    return value
