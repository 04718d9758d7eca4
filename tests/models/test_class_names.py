"""What the outputs of a classifier are called, where that came with its weights; a layer of that width is no output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from csp_index.models import zoo
from csp_index.models.layers.loaded import Wish
from csp_index.models.networks import list_layers, load_network


def named(spec: str, **options: Any) -> dict[str, tuple[str, ...]]:
    return {layer.name: layer.classes for layer in list_layers(spec, **options) if layer.classes}


def test_torchvision_names_its_outputs_unless_the_weights_are_random_or_ones_own(tmp_path: Path) -> None:
    layers = named("torchvision:squeezenet1_1/IMAGENET1K_V1")
    assert set(layers) == {"classifier", "classifier.3"}, "the convolution before gives maps"
    assert layers["classifier"][:2] == ("tench", "goldfish") and len(layers["classifier"]) == 1000
    assert named("torchvision:squeezenet1_1/none") == {}
    import torchvision

    module = torchvision.models.squeezenet1_1(weights=None)
    torch.save(module.state_dict(), tmp_path / "own.pth")
    assert named("torchvision:squeezenet1_1", weights=tmp_path / "own.pth") == {}


def test_timm_names_the_classes_of_its_tag_or_of_its_settings(tmp_path: Path) -> None:
    import timm

    assert named("timm:test_resnet.r160_in1k")["fc"][0].startswith("tench")
    assert named("timm:test_resnet/none") == {}
    folder = tmp_path / "own"
    module = timm.create_model("test_resnet", num_classes=3)
    names = {"label_names": ["a", "b", "c"], "label_descriptions": {"a": "apple"}}
    timm.models.save_for_hf(module, folder, model_config=names)
    assert named(f"timm:{folder}")["fc"] == ("apple", "b", "c")
    assert load_network(f"timm:{folder}", layers=["fc"], device="cpu").layers["fc"].classes == ("apple", "b", "c")
    config = json.loads((folder / "config.json").read_text())
    del config["label_names"]
    (folder / "config.json").write_text(json.dumps(config))
    assert named(f"timm:{folder}") == {}


def test_a_network_of_ones_own_names_its_outputs_by_id2label() -> None:
    from csp_index.demo.network import NETWORK_WEIGHTS
    from csp_index.demo.world import ATTRIBUTES

    spec = "python:csp_index.demo.network:planted_cnn"
    assert named(spec, weights=str(NETWORK_WEIGHTS)) == {"head": ATTRIBUTES["shape"]}


class Twin(nn.Module):
    """Two layers as wide as the number of classes, of which the second is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.hidden(pixels.mean((2, 3))))
        return result


def test_a_hidden_layer_of_the_same_width_has_no_class_names(monkeypatch: pytest.MonkeyPatch) -> None:
    real = zoo._load_python

    def load(name: str, wish: Wish) -> Any:
        return real(name, wish).extended(classes={0: "a", 1: "b", 2: "c"})

    monkeypatch.setattr(zoo, "_load_python", load)
    assert named(f"python:{__name__}:Twin") == {"out": ("a", "b", "c")}
