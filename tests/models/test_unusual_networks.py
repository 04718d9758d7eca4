"""Networks of an unusual build: what a layer means in them is said, read rightly, or refused with the cause."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import transforms

from csp_index.errors import ModelError
from csp_index.models.networks import LayerOutput, LoadedNetwork, list_layers, load_network

TO_TENSOR = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])


class Function(nn.Module):
    """A layer without weights."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, values: Tensor) -> Tensor:
        return self.function(values)


class Chain(nn.Module):
    """A convolution, and after it the layers of the test."""

    preprocess = staticmethod(TO_TENSOR)

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 8, stride=8)
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, pixels: Tensor) -> Tensor:
        values = self.conv(pixels)
        for name, layer in self.named_children():
            values = values if name == "conv" else layer(values)
        return values


class Attends(Chain):
    """Tokens [B, L, M] or [L, B, M] through torch's own attention, perhaps causal."""

    def __init__(self, batch_first: bool = True, mask: Tensor | None = None, **options: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(12, 3, batch_first=batch_first, **options)
        self.mask = mask

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.conv(pixels).flatten(2).permute(*((0, 2, 1) if self.attn.batch_first else (2, 0, 1)))
        value = tokens[..., : self.attn.vdim]
        result: Tensor = self.attn(tokens, tokens, value, attn_mask=self.mask, need_weights=self.mask is None)[0]
        return result


def offered(make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> str:
    def seeded() -> nn.Module:
        torch.manual_seed(0)
        return make()

    module = ModuleType("unusual")
    module.made = seeded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unusual", module)
    return "python:unusual:made"


def loaded(make: Callable[[], nn.Module], layer: str, monkeypatch: pytest.MonkeyPatch) -> LoadedNetwork:
    return load_network(offered(make, monkeypatch), layers=[layer])


def listed(make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> dict[str, LayerOutput]:
    return {layer.name: layer for layer in list_layers(offered(make, monkeypatch))}


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Function(torch.fft.rfft2), "gives complex numbers"),
        (Function(lambda x: x.mean((2, 3)).to_sparse()), "gives a sparse tensor"),
        (Function(lambda x: x.mean((1, 2, 3))), "gives one number per image, and no axis of neurons"),
        (Function(lambda x: x.permute(2, 3, 0, 1)), "[4, 4, 2, 12] for 2 images, so its first axis is not the batch"),
        (Function(lambda x: x[:, :, :2].mean(3).permute(2, 0, 1)), "gives [2, 1, 12] for 1 image, so its first axis"),
        (Function(lambda x: x[:, :, :2, :2].permute(2, 3, 0, 1)), "gives [2, 2, 1, 12] for 1 image, so its first"),
        (Function(lambda x: torch.stack([x.mean((2, 3))] * 2)), "gives [2, 1, 12] for 1 image, so its first axis"),
    ],
)
def test_outputs_that_have_no_activations_per_image_are_refused_and_not_listed(
    layer: nn.Module, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError) as caught:
        loaded(lambda: Chain(odd=layer), "odd", monkeypatch)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert list(listed(lambda: Chain(odd=layer), monkeypatch)) == ["conv"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chain(fc=nn.LazyLinear(3)), "has lazy parameters (fc.weight): run it once on a batch"),
        (
            lambda: Chain(fc=nn.Linear(4, 3, device="meta")),
            "has parameters on the device 'meta' (fc.weight)",
        ),
    ],
)
def test_weights_that_are_not_there_yet_are_refused(
    make: Callable[[], nn.Module], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for work in (lambda: loaded(make, "conv", monkeypatch), lambda: listed(make, monkeypatch)):
        with pytest.raises(ModelError) as caught:
            work()
        assert message in str(caught.value)


def test_a_layer_that_runs_twice_is_said_to(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Twice(Chain):
        def forward(self, pixels: Tensor) -> Tensor:
            result: Tensor = self.relu(self.relu(self.conv(pixels)) - 0.1)
            return result

    network = loaded(lambda: Twice(relu=nn.ReLU()), "relu", monkeypatch)
    assert "layer relu of made: it runs 2 times for an image, and its last output is read" in caplog.text
    module, pixels = network._loaded.module, torch.rand(3, 3, 32, 32)
    expected = (module.conv(pixels).relu() - 0.1).relu().mean((2, 3))
    torch.testing.assert_close(network.activations(pixels)["relu"], expected)
    assert (
        listed(lambda: Twice(relu=nn.ReLU()), monkeypatch)["relu"].note == "runs 2 times for an image, the last counts"
    )


def test_a_shared_part_has_both_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = nn.Conv2d(12, 12, 1)
    network = loaded(lambda: Chain(one=shared, act=nn.ReLU(), two=shared), "two", monkeypatch)
    assert network.layers["two"].neurons == 12


def test_a_layer_that_some_images_pass_by_is_an_error_of_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Exits(Chain):
        def forward(self, pixels: Tensor) -> Tensor:
            values: Tensor = self.conv(pixels)
            return values if float(pixels.max()) < 0.1 else self.deep(values)

    network = loaded(lambda: Exits(deep=nn.Conv2d(12, 5, 1)), "deep", monkeypatch)
    assert network.activations(torch.rand(1, 3, 32, 32))["deep"].shape == (1, 5)
    with pytest.raises(ModelError, match="layer 'deep' of made gave no tensor for these images"):
        network.activations(torch.zeros(1, 3, 32, 32))


def test_a_draw_that_is_rare_is_named_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = Function(lambda x: x + torch.randn_like(x))
    with pytest.raises(ModelError, match=r"draws random numbers \(randn_like\) in odd \(Function\); change"):
        loaded(lambda: Chain(odd=noise), "odd", monkeypatch)
    count = [0]

    def third(values: Tensor) -> Tensor:  # the passes over both images agree
        count[0] += 1
        return nn.functional.dropout(values, 0.5 if count[0] > 3 else 0.0, training=True)

    with pytest.raises(ModelError, match="a dropout stays on in evaluation mode"):
        loaded(lambda: Chain(odd=Function(third)), "odd", monkeypatch)


MASK = torch.triu(torch.ones(16, 16, dtype=torch.bool), 1)


@pytest.mark.parametrize(
    "make",
    [
        Attends,
        lambda: Attends(batch_first=False),
        lambda: Attends(mask=MASK),
        lambda: Attends(mask=torch.zeros(16, 16).masked_fill(MASK, -torch.inf)),
        lambda: Attends(kdim=12, vdim=7),
    ],
)
def test_the_heads_of_torchs_attention_add_up_to_its_output(
    make: Callable[[], Attends], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network(
        offered(make, monkeypatch), layers=[f"attn.head-{number}" for number in range(3)], pool="token-mean"
    )
    pixels = torch.rand(4, 3, 32, 32)
    module = network._loaded.module
    with torch.no_grad():
        tokens = module(pixels)
        expected = tokens.mean(1) if module.attn.batch_first else tokens.mean(0)
    heads = network.activations(pixels)
    joined = torch.cat([heads[f"attn.head-{number}"] for number in range(3)], dim=1)
    mixed = nn.functional.linear(joined, module.attn.out_proj.weight, module.attn.out_proj.bias)
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-5)
    assert network.layers["attn.head-0"].shape == (16, 4)


def test_heads_of_an_attention_with_another_formula_give_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(nn.MultiheadAttention):
        def forward(self, *args: Tensor, **options: bool) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
            result, weights = super().forward(*args, **options)
            return result * 2, weights

    class Own(Attends):
        def __init__(self) -> None:
            super().__init__()
            self.attn = Scaled(12, 3, batch_first=True)

    with pytest.raises(ModelError, match=r"layer 'attn\.head-0' of made gives no tensor"):
        loaded(Own, "attn.head-0", monkeypatch)
    with pytest.raises(ModelError, match=r"attn uses its weights without calling it, so choose attn, or one head"):
        loaded(Own, "attn.out_proj", monkeypatch)


def test_tokens_that_are_no_patches_are_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Queries(Chain):
        """As a detector: its head reads five tokens, the first of which is no class token."""

        def __init__(self) -> None:
            super().__init__(fc=nn.Linear(12, 2))
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 12))

        def forward(self, pixels: Tensor) -> Tensor:
            result: Tensor = self.fc(self.conv(pixels).flatten(2).transpose(1, 2)[:, -5:])
            return result

    with caplog.at_level(logging.WARNING):
        network = loaded(Queries, "fc", monkeypatch)
    assert network.layers["fc"].pool == "cls"
    assert "its 5 tokens are not the 16 patches with 1 in front" in caplog.text


@pytest.mark.parametrize("options", [{"pool": "mean-last"}, {"axis": [3]}, {"pool": "max", "axis": [-1]}])
def test_an_axis_that_the_layer_contradicts_is_taken_and_said(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = load_network(offered(Chain, monkeypatch), layers=["conv"], **options)
    assert network.layers["conv"].neurons == 4
    assert (
        "its neurons are read from axis 3 of [12, 4, 4] as you say, though its kind and weights say axis 1"
        in caplog.text
    )


def test_a_tensor_that_a_layer_does_not_give_is_refused_with_those_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"conv gives 1 tensor, so choose conv\[0\] to conv\[0\]"):
        loaded(Chain, "conv[1]", monkeypatch)


def test_a_detector_without_weights_downloads_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*parts: object, **options: object) -> None:
        raise AssertionError("weights were downloaded")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    assert load_network("torchvision:lraspp_mobilenet_v3_large/none", layers=["classifier"]).layers


@pytest.mark.parametrize("name", ["register_tokens", "reg_token"])
def test_register_tokens_of_any_vision_transformer_are_left_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Registers(Chain):
        """As DINOv2's own code: class token, three registers, patches; no settings that count them."""

        def __init__(self) -> None:
            super().__init__(norm=nn.LayerNorm(12))
            self.cls_token = nn.Parameter(torch.ones(1, 1, 12))
            self.register_parameter(name, nn.Parameter(torch.ones(1, 3, 12)))

        def forward(self, pixels: Tensor) -> Tensor:
            patches = self.conv(pixels).flatten(2).transpose(1, 2)
            added = torch.cat([self.cls_token, getattr(self, name)], dim=1).expand(len(pixels), -1, -1)
            result: Tensor = self.norm(torch.cat([added, patches], dim=1))
            return result

    network = load_network(offered(Registers, monkeypatch), layers=["norm"], pool="token-mean")
    pixels = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = network._loaded.module(pixels)[:, 4:].mean(1)
    torch.testing.assert_close(network.activations(pixels)["norm"], expected)
    assert network._loaded.prefix_tokens == 4


def test_a_class_token_at_the_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Last(Chain):
        def __init__(self) -> None:
            super().__init__(norm=nn.LayerNorm(12))
            self.cls_token = nn.Parameter(torch.ones(1, 1, 12))

        def forward(self, pixels: Tensor) -> Tensor:
            patches = self.conv(pixels).flatten(2).transpose(1, 2)
            result: Tensor = self.norm(torch.cat([patches, self.cls_token.expand(len(pixels), -1, -1)], dim=1))
            return result

    for pool in (None, "cls", "token-mean"):
        with pytest.raises(ModelError, match=r"layer 'norm' of made: the class token is the last of its 17 tokens"):
            load_network(offered(Last, monkeypatch), layers=["norm"], pool=pool)


class Gain(nn.Module):
    """A norm of somebody's own, which says nothing about its axis but the number of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.gain


@pytest.mark.parametrize("size", [None, 32])
def test_a_map_as_high_and_wide_as_it_has_channels_is_not_read_by_another_of_its_shape(
    size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Square(Chain):
        """[B, 4, 4, 4] with the channels first, then last; perhaps for images of one size only."""

        def __init__(self) -> None:
            super().__init__(last=Gain(), act=nn.GELU())
            self.conv = nn.Conv2d(3, 4, 8, stride=8)

        def forward(self, pixels: Tensor) -> Tensor:
            assert size is None or pixels.shape[-1] == size
            result: Tensor = self.act(self.last(self.conv(pixels).permute(0, 2, 3, 1)))
            return result

    if size is None:
        network = load_network(offered(Square, monkeypatch), layers=["last", "act"])
        assert [network.layers[name].pool for name in ("last", "act")] == ["mean-last", "mean-last"]
    else:
        with pytest.raises(ModelError, match="nothing says which axis"):
            loaded(Square, "last", monkeypatch)
