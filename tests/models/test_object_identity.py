"""What tells modules and preprocessing of the caller apart: weights, source, settings."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from own_modules import TO_TENSOR, Net, net
from PIL import Image
from torch import nn
from torchvision import transforms

import csp_index
from csp_index.models.object_identity import preprocessing_repr, source_of
from csp_index.models.objects import Network


def test_identity_is_weights_source_and_preprocessing() -> None:
    def identity(module: nn.Module, preprocess=TO_TENSOR) -> dict[str, str]:
        return Network(module, ["second"], preprocess=preprocess, name="n").hooked("cpu").identity

    class Doubles(Net):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return super().forward(pixels) * 2

    torch.manual_seed(0)
    doubles = Doubles()
    base = identity(net())
    assert identity(net()) == base
    assert identity(net().train().requires_grad_(False)) == base
    changed = {name for name, value in identity(doubles).items() if value != base[name]}
    assert changed == {"source", "class"}
    assert {n for n, v in identity(net(1)).items() if v != base[n]} == {"weights"}
    other = transforms.Compose([transforms.Resize((18, 18)), transforms.ToTensor()])
    assert {n for n, v in identity(net(), other).items() if v != base[n]} == {"preprocessing"}


def test_functions_are_told_apart_by_their_source() -> None:
    def bright(image: Image.Image) -> torch.Tensor:
        return TO_TENSOR(image) + 1

    def dark(image: Image.Image) -> torch.Tensor:
        return TO_TENSOR(image) - 1

    dark.__qualname__ = bright.__qualname__
    assert preprocessing_repr(bright) != preprocessing_repr(dark)
    assert "0x" not in preprocessing_repr(partial(bright))


def test_a_class_without_a_file_has_a_source() -> None:
    def made(body: str) -> object:
        space: dict[str, object] = {"__name__": "__main__"}
        exec(f"class Typed:\n    def forward(self, x):\n        return {body}", space)
        return space["Typed"]()

    assert source_of(made("x + 1")) == source_of(made("x + 1")) != source_of(made("x + 2"))


def test_weights_that_were_trained_on_are_seen() -> None:
    module = net()
    network = Network(module, ["second"], preprocess=TO_TENSOR)
    before = network.hooked("cpu").identity["weights"]
    assert network.hooked("cpu").identity["weights"] == before
    with torch.no_grad():
        module.first.weight.add_(1)
    assert network.hooked("cpu").identity["weights"] != before


def test_weights_changed_through_data_are_seen() -> None:
    module = net()
    network = Network(module, ["second"], preprocess=TO_TENSOR)
    before = network.hooked("cpu").identity["weights"]
    module.first.weight.data.mul_(2)
    assert network.hooked("cpu").identity["weights"] != before


class Scaled(nn.Module):
    """A convolution times a plain attribute, which counts its runs."""

    def __init__(self, scale: object, kind: object = "a", function: object = torch.relu) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.k, self._hidden, self.function, self.runs = nn.Conv2d(3, 4, 3), scale, kind, function, 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        return self.conv(pixels) * self.runs


def source(module: nn.Module, layer: str = "conv") -> str:
    return Network(module, [layer], preprocess=TO_TENSOR, name="n").hooked("cpu").identity["source"]


def conv_then(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), activation)


@pytest.mark.parametrize(
    ("one", "other", "layer"),
    [
        (lambda: conv_then(nn.ReLU()), lambda: conv_then(nn.LeakyReLU(5.0)), "1"),
        (lambda: conv_then(nn.LeakyReLU(0.1)), lambda: conv_then(nn.LeakyReLU(5.0)), "1"),
        (lambda: Scaled(1), lambda: Scaled(100), "conv"),
        (lambda: Scaled(1, "a"), lambda: Scaled(1, "b"), "conv"),
        (lambda: Scaled({"k": [1, None]}), lambda: Scaled({"k": [2, None]}), "conv"),
        (lambda: Scaled({1, 2}), lambda: Scaled({1, 3}), "conv"),
        (lambda: Scaled(1, "a", torch.relu), lambda: Scaled(1, "a", torch.tanh), "conv"),
        (lambda: nn.Sequential(Scaled(1)), lambda: nn.Sequential(Scaled(2)), "0.conv"),
    ],
)
def test_what_a_module_is_set_to_is_part_of_its_source(one, other, layer) -> None:
    assert source(one(), layer) == source(one(), layer) != source(other(), layer)


def test_modes_hooks_and_counters_are_no_settings() -> None:
    module = Scaled(1)
    before = source(module)
    module.eval()
    module.conv.register_full_backward_hook(lambda *_: None)
    network = Network(module, ["conv"], preprocess=TO_TENSOR, name="n")
    first = network.hooked("cpu").identity["source"]
    module(torch.ones(1, 3, 8, 8))
    assert network.hooked("cpu").identity["source"] == first == before
    module.k = 2
    assert network.hooked("cpu").identity["source"] != before


@pytest.mark.slow
def test_a_source_is_the_same_in_every_process() -> None:
    script = (
        "import torch; from torch import nn; from csp_index.models.object_identity import *\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.a = {'x', 'y', 'z'}; self.f = torch.relu; self.g = nn.functional.relu\n"
        "def outer(k): return lambda image: image * k\n"
        "print(source_of(Net()), preprocessing_repr(outer({'p', 'q', 'r'})), preprocessing_repr(outer(object())))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(csp_index.__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def times(k: object, inner: object = None):
    def scaled(image: Image.Image) -> torch.Tensor:
        return TO_TENSOR(image) * (k if inner is None else inner(k))

    return scaled


class Setting:
    def __init__(self, value: float) -> None:
        self.value = value

    def apply(self, image: Image.Image) -> torch.Tensor:
        return TO_TENSOR(image) * self.value


def defaulted(value: object):
    def scaled(image: Image.Image, k: object = value) -> torch.Tensor:
        return TO_TENSOR(image) * k

    return scaled


def named_default(value: object):
    def scaled(image: Image.Image, *, k: object = value) -> torch.Tensor:
        return TO_TENSOR(image) * k

    return scaled


@pytest.mark.parametrize(
    "make",
    [
        times,
        defaulted,
        named_default,
        lambda k: times(1, times(k)),
        lambda k: times(Setting(k)),
        lambda k: times(torch.tensor(k)),
        lambda k: Setting(k).apply,
        lambda k: partial(times(k)),
        lambda k: partial(defaulted(0), k=k),
    ],
)
def test_functions_differ_by_what_they_close_over_and_by_defaults(make) -> None:
    assert preprocessing_repr(make(1)) == preprocessing_repr(make(1)) != preprocessing_repr(make(100))


def test_a_function_that_calls_itself_is_known() -> None:
    def halve(image: Image.Image) -> Image.Image:
        return image if image.width < 9 else halve(image.reduce(2))

    assert preprocessing_repr(halve).startswith(halve.__qualname__)
