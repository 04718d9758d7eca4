"""Layers that are read from another module: the part of its output that they name, or None."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from csp_index.models.layers.readers import OutputPart, Reader, listen


class TwoTensors(nn.Module):
    def forward(self, values):
        return {"a": values, "b": 2 * values}


@pytest.mark.parametrize(("key", "factor"), [("b", 2), ("1", 2), ("2", None), ("c", None)])
def test_a_part_of_an_output_is_heard_by_its_key_or_number(key, factor) -> None:
    module, heard = TwoTensors(), []
    handle = listen(OutputPart(module, key), heard.append)
    module(torch.ones(2, 3))
    handle.remove()
    module(torch.ones(2, 3))
    (tensor,) = heard
    assert (tensor is None) if factor is None else torch.equal(tensor, factor * torch.ones(2, 3))


def test_a_layer_that_listens_to_nothing_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="listen"):
        type("Deaf", (Reader,), {})()
