"""The layers that are looked at first, of networks as they are built, and of made-up ones."""

from __future__ import annotations

import pytest
from few import few

from csp_index.errors import ModelError
from csp_index.models.layers.stages import last_stages
from csp_index.models.networks import LayerOutput, list_layers


def outputs(*layers: tuple[str, int, tuple[int, ...]]) -> list[LayerOutput]:
    return [LayerOutput(name, neurons, "mean", shape) for name, neurons, shape in layers]


@pytest.mark.parametrize(
    ("network", "stages"),
    few(
        [
            ("torchvision:resnet18/none", ("layer3", "layer4")),
            ("timm:vit_tiny_patch16_224/none", ("blocks.11",)),
            ("timm:efficientnet_b0/none", ("blocks.4", "blocks.6")),
            ("torchvision:vgg11/none", ("features.19", "avgpool")),
        ],
        2,
    ),
)
def test_the_ends_of_the_last_stages(network, stages):
    assert last_stages(list_layers(network)) == stages


def test_a_block_with_a_letter_behind_its_number_is_one_of_its_stage():
    names = ("3a", "3b", "4a", "4b", "5a")
    sizes = dict(zip(names, (28, 28, 14, 14, 7), strict=True))
    made = outputs(*((f"mixed{n}{end}", 8, (8, sizes[n], sizes[n])) for n in names for end in ("", ".branch")))
    assert last_stages(made) == ("mixed4b", "mixed5a")
    assert last_stages(made, 3) == ("mixed3b", "mixed4b", "mixed5a")


def test_without_maps_it_is_the_layer_before_the_output():
    assert last_stages(outputs(("hidden", 8, (8,)), ("act", 8, (8,)), ("out", 2, (2,)))) == ("act",)
    assert last_stages(outputs(("out", 2, (2,)))) == ("out",)
    with pytest.raises(ModelError, match="no layer that can be indexed: name one"):
        last_stages([])
