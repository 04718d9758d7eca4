"""Networks that are no function of their image are found when they are loaded, with the cause."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

from csp_index.errors import ModelError
from csp_index.models.networks import load_network

RESIZE = transforms.Compose([transforms.Resize((8, 8)), transforms.ToTensor()])


class Base(nn.Module):
    preprocess = staticmethod(RESIZE)

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out = nn.Conv2d(3, 6, 3), nn.Linear(6, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        values: Tensor = self.out(self.conv(pixels).mean((2, 3)))
        return values


class Drops(Base):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def train(self, mode: bool = True) -> Drops:
        super().train(mode)
        self.drop.training = True  # Monte Carlo
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        values: Tensor = self.out(self.drop(self.conv(pixels).mean((2, 3))))
        return values


class Masks(Base):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels * (torch.rand(pixels.shape) > 0.7))


class Numpy(Base):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels * float(np.random.rand()))


class Counts(Base):
    def forward(self, pixels: Tensor) -> Tensor:
        self.calls = getattr(self, "calls", 0) + 1
        return super().forward(pixels * self.calls)


class ByBatch(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)

    def forward(self, pixels: Tensor) -> Tensor:
        values: Tensor = self.out(self.norm(self.conv(pixels)).square().mean((2, 3)))
        return values


class Alone(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def forward(self, pixels: Tensor) -> Tensor:
        values: Tensor = self.out(self.norm(self.conv(pixels).mean((2, 3))))
        return values


class Mixes(Base):
    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels - pixels.mean(0, keepdim=True))


class Crops(Base):
    preprocess = staticmethod(transforms.Compose([transforms.RandomResizedCrop(8), transforms.ToTensor()]))


def drops() -> nn.Module:
    return Drops()


def masks() -> nn.Module:
    return Masks()


def with_numpy() -> nn.Module:
    return Numpy()


def counts() -> nn.Module:
    return Counts()


def by_batch() -> nn.Module:
    return ByBatch()


def alone() -> nn.Module:
    return Alone()


def mixes() -> nn.Module:
    return Mixes()


def crops() -> nn.Module:
    return Crops()


@pytest.mark.parametrize(
    ("factory", "cause"),
    [
        ("drops", r"differ at layer 'out': a dropout stays on in evaluation mode, in drop \(Dropout\)"),
        ("masks", r"it draws random numbers \(rand\) in Masks, as random masking does"),
        ("with_numpy", "it draws no random numbers of torch"),
        ("counts", "keeps something from one pass to the next"),
        ("by_batch", r"beside another: norm normalizes by the images of the batch"),
        ("alone", "cannot take one image alone .*: norm normalizes by the images of the batch"),
        ("mixes", "something in it mixes the images of a batch"),
        ("crops", "its preprocessing gives another input for the same picture each time"),
    ],
)
def test_the_cause_is_named_and_the_network_refused_unless_allowed(
    factory: str, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    spec = f"python:{__name__}:{factory}"
    with pytest.raises(ModelError, match=f"no function of its image: .*{cause}.*--allow-random") as error:
        load_network(spec, layers=["out"], device="cpu")
    assert "\n" not in str(error.value)
    network = load_network(spec, layers=["out"], allow_random=True, device="cpu")
    assert network.identity["random"] == "allowed" and "which was allowed" in caplog.text


def test_layers_before_the_random_part_are_sound() -> None:
    network = load_network(f"python:{__name__}:drops", layers=["conv"], device="cpu")
    assert "random" not in network.identity


def test_the_callers_random_numbers_stay() -> None:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    load_network(f"python:{__name__}:masks", layers=["conv"], allow_random=True, device="cpu")
    load_network(f"python:{__name__}:with_numpy", layers=["out"], allow_random=True, device="cpu")
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


def test_a_preprocessing_that_returns_a_dictionary_or_an_array() -> None:
    from csp_index.models.layers.inputs import Prepared

    picture = Image.new("RGB", (9, 9), "red")
    pixels = RESIZE(picture)
    for result in ({"pixel_values": pixels[None]}, pixels.numpy(), {"image": pixels}, [pixels], pixels[None]):
        assert torch.equal(Prepared(lambda image, result=result: result, "mine")(picture), pixels)  # type: ignore[misc]
    for wrong, message in (({"x": pixels}, "a dictionary of x: expected"), (picture, "returns Image: expected")):
        with pytest.raises(ModelError, match=message):
            Prepared(lambda image, wrong=wrong: wrong, "mine")(picture)  # type: ignore[misc]
