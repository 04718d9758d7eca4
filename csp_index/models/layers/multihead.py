"""What a single head of torch's `nn.MultiheadAttention` gives, computed from the module's inputs and weights.

The module mixes its heads in one function, without a part that a hook could listen to. The sum of all heads, projected,
must be what the module itself returned; where it is not (a subclass with a formula of its own), the heads give nothing.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

_NAMES: Final = (
    *("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights", "is_causal"),
)
_SAME = 1e-3  # of the largest value; half precision is compared a hundred times as coarsely
_COARSE = 100


class SplitAttention:
    """The heads of one attention; whether they add up to its output is tried with its first call."""

    def __init__(self, module: nn.MultiheadAttention) -> None:
        """Refer to the attention."""
        self.module = module
        self._adds_up: bool | None = None

    def head(self, number: int, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> Tensor | None:
        """Return what a head gave in a call of the module, [B, L, D]; None where its formula is another."""
        call = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
        if self._adds_up is None:
            self._adds_up = self._check(call, output)
        return self._head(number, call) if self._adds_up else None

    def _check(self, call: dict[str, Any], output: object) -> bool:
        module, given = self.module, output[0] if isinstance(output, tuple) else output
        heads = [self._head(number, call) for number in range(module.num_heads)]
        if not isinstance(given, Tensor) or any(head is None for head in heads):
            return False
        joined = torch.cat([head for head in heads if head is not None], dim=-1)
        mixed = functional.linear(
            joined, module.out_proj.weight, module.out_proj.bias
        )  # no call, which hooks would see
        expected = given if module.batch_first else given.transpose(0, 1)
        precision = _COARSE if mixed.dtype in (torch.half, torch.bfloat16) else 1
        error = (mixed - expected).abs().max() if mixed.shape == expected.shape else torch.tensor(torch.inf)
        return bool(error <= _SAME * precision * expected.abs().max())

    def _head(self, number: int, call: dict[str, Any]) -> Tensor | None:
        module, inputs = self.module, [call.get(name) for name in _NAMES[:3]]
        if call.get("key_padding_mask") is not None or module.bias_k is not None or module.add_zero_attn:
            return None
        if any(not isinstance(part, Tensor) or part.dim() != 3 for part in inputs):
            return None
        rows = slice(number * module.head_dim, (number + 1) * module.head_dim)
        biases = [None] * 3 if module.in_proj_bias is None else module.in_proj_bias.chunk(3)
        weights = (
            module.in_proj_weight.chunk(3)
            if module.in_proj_weight is not None
            else (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        )
        projected = [
            functional.linear(
                part if module.batch_first else part.transpose(0, 1), weight[rows], None if bias is None else bias[rows]
            )
            for part, weight, bias in zip(inputs, weights, biases, strict=True)
            if isinstance(part, Tensor) and weight is not None
        ]
        mask = call.get("attn_mask")
        if len(projected) < 3 or (mask is None and call.get("is_causal")):
            return None
        if isinstance(mask, Tensor):
            mask = mask.unflatten(0, (-1, module.num_heads))[:, number] if mask.dim() == 3 else mask
            mask = ~mask if mask.dtype == torch.bool else mask
        query, key, value = projected
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
