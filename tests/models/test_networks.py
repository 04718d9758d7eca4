"""Networks of every library, loaded offline; hooks, pooling, names and errors."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models.layers.pooling import choose_pool, pooled
from csp_index.models.networks import LoadedNetwork, list_layers, load_network

BATCH = 3
GREY = Image.new("RGB", (40, 60), "grey")


def pixels_of(network: LoadedNetwork, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    images = [Image.fromarray(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)) for _ in range(BATCH)]
    return torch.stack([network.preprocess(image) for image in images])


def forward_to(module: nn.Module, pixels: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = module(pixels)
        return found


class Odd(nn.Module):
    """A network with every kind of output a hook may meet."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 4, 3)
        self.spoiler = nn.ReLU(inplace=True)
        self.last = ChannelsLast()
        self.pair = Pair()
        self.record = Record()
        self.turned = Turned()
        self.unused = nn.Linear(2, 2)
        self.text = Text()
        self.volume = Volume()

    def preprocess(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.asarray(image.resize((12, 12))).copy()).permute(2, 0, 1).float() / 255

    def forward(self, pixels: Tensor) -> Tensor:
        maps: Tensor = self.spoiler(self.maps(pixels))
        self.last(maps)
        self.record(maps)
        self.turned(maps)
        self.text()
        self.volume(maps)
        return self.pair(maps)[0].flatten(1).mean(1, keepdim=True)


class Viewed(nn.Module):
    """A network that looks at its maps as they lie in memory: channels last would break it."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.maps(pixels).view(len(pixels), -1)


def viewed() -> nn.Module:
    return Viewed()


class ChannelsLast(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1)


class Pair(nn.Module):
    def forward(self, maps: Tensor) -> tuple[Tensor, str]:
        return maps.flatten(2).transpose(1, 2), "tokens"


class Record(nn.Module):
    @dataclasses.dataclass
    class Output:
        nothing: None
        value: Tensor

    def forward(self, maps: Tensor) -> Record.Output:
        return Record.Output(None, maps.mean((2, 3)))


class Turned(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.transpose(0, 1)


class Text(nn.Module):
    def forward(self) -> str:
        return "no tensor"


class Volume(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps[:, None]


def odd() -> Odd:
    return Odd()


ODD = f"python:{__name__}:odd"


def test_torchvision_equals_a_direct_call() -> None:
    network = load_network(
        "torchvision:resnet18/none", layers=["layer4", "layer2.0.bn1", "avgpool", "fc"], device="cpu"
    )
    assert network.name == "resnet18"
    shapes = {name: (output.neurons, output.pool, output.shape) for name, output in network.layers.items()}
    assert shapes == {
        "layer4": (512, "mean", (512, 7, 7)),
        "layer2.0.bn1": (128, "mean", (128, 28, 28)),
        "avgpool": (512, "mean", (512, 1, 1)),
        "fc": (1000, "none", (1000,)),
    }
    pixels = pixels_of(network)
    found = network.activations(pixels)
    assert {name: tuple(values.shape) for name, values in found.items()} == {
        name: (BATCH, output.neurons) for name, output in network.layers.items()
    }
    assert all(values.dtype == torch.float32 and values.is_contiguous() for values in found.values())
    module: Any = network._loaded.module
    assert torch.allclose(found["fc"], forward_to(module, pixels), atol=1e-5)
    assert torch.allclose(found["layer4"], found["avgpool"], atol=1e-5)
    stem = module.layer1(module.maxpool(module.relu(module.bn1(module.conv1(pixels)))))
    before_relu = module.layer2[0].bn1(module.layer2[0].conv1(stem)).mean((2, 3))
    assert (before_relu < 0).any(), "else the next assertion would hold after the ReLU, too"
    assert torch.allclose(found["layer2.0.bn1"], before_relu, atol=1e-5), "kept before the in-place ReLU that follows"


def test_channels_lie_last_in_memory_and_results_stay() -> None:
    network = load_network("torchvision:resnet18/none", layers=["layer4", "fc"], device="cpu")
    module: Any = network._loaded.module
    assert module.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    pixels = pixels_of(network)
    found = network.activations(pixels)["fc"]
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous()
    assert torch.allclose(found, forward_to(module, pixels), atol=1e-4, rtol=1e-4)


def test_code_that_needs_the_usual_layout_gets_it() -> None:
    network = load_network(f"python:{__name__}:viewed", layers=["maps"], device="cpu")
    assert network._loaded.module.maps.weight.is_contiguous()  # type: ignore[union-attr,operator]
    assert network.activations(pixels_of(network))["maps"].shape == (BATCH, 4)


def test_random_weights_are_the_same_every_time_and_leave_the_seed_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    one, two = (load_network("timm:test_resnet/none", layers=["layer4"], device="cpu") for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert one.identity == two.identity
    assert torch.equal(one.activations(pixels_of(one))["layer4"], two.activations(pixels_of(two))["layer4"])
    assert set(one.identity) == {"spec", "weights", "preprocessing", "library", "pool"}
    assert one.identity["pool"] == '{"layer4": "mean"}'


def test_timm_vit_uses_the_class_token() -> None:
    spec = "timm:test_vit/none"
    network = load_network(spec, layers=["blocks.1", "norm"], device="cpu")
    assert {output.pool for output in network.layers.values()} == {"cls"}
    pixels = pixels_of(network)
    module: Any = network._loaded.module
    tokens = module.forward_features(pixels)
    assert torch.allclose(network.activations(pixels)["norm"], tokens[:, 0], atol=1e-5)
    for pool, expected in (("token-mean", tokens[:, 1:].mean(1)), ("token-max", tokens[:, 1:].amax(1))):
        again = load_network(spec, layers=["norm"], pool=pool, device="cpu")
        assert torch.allclose(again.activations(pixels)["norm"], expected, atol=1e-5), "without the class token"


def test_timm_local_directory_and_weights_file(tmp_path: Path) -> None:
    import json

    import timm
    from safetensors.torch import save_file

    torch.manual_seed(5)
    module = timm.create_model("test_resnet", pretrained=False, num_classes=7)
    (tmp_path / "tiny").mkdir()
    config = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": {"num_classes": 7}}
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config))
    save_file(module.state_dict(), tmp_path / "tiny" / "model.safetensors")
    network = load_network(f"timm:{tmp_path}/tiny", layers=["fc"], device="cpu")
    assert network.name == "tiny"
    pixels = pixels_of(network)
    assert torch.allclose(network.activations(pixels)["fc"], forward_to(module.eval(), pixels), atol=1e-5)

    torch.manual_seed(6)
    whole = timm.create_model("test_resnet", pretrained=False).eval()
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    torch.save({"state_dict": {f"module.{n}": t for n, t in whole.state_dict().items()}}, tmp_path / "whole.pth")
    for file in ("whole.safetensors", "whole.pth"):
        network = load_network("timm:test_resnet", layers=["fc"], weights=tmp_path / file, device="cpu")
        assert torch.allclose(network.activations(pixels)["fc"], forward_to(whole, pixels), atol=1e-5)
        assert network.weights == str(tmp_path.resolve() / file)
    with pytest.raises(ModelError, match=r"do not fit ResNet: fc.weight has shape \(7, .*fc.bias has shape"):
        load_network("timm:test_resnet", layers=["fc"], weights=tmp_path / "tiny" / "model.safetensors", device="cpu")


def test_pickled_code_in_a_weight_file_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"fc.weight": Evil()}))
    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    for file in ("evil.pth", "evil.pt"):
        with pytest.raises(ModelError, match=r"cannot be read as plain tensors|which is never run"):
            load_network(ODD, layers=["maps"], weights=tmp_path / file, device="cpu")
    assert not (tmp_path / "ran").exists()
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelError, match="holds no table of tensors"):
        load_network(ODD, layers=["maps"], weights=tmp_path / "list.pt", device="cpu")
    with pytest.raises(ModelError, match="does not exist"):
        load_network(ODD, layers=["maps"], weights=tmp_path / "none.pt", device="cpu")


def test_transformers_vit_and_the_image_half_of_clip(tmp_path: Path) -> None:
    import transformers

    directory = tiny_models.save_vit(tmp_path / "vit")
    network = load_network(f"transformers:{directory}", layers=["layernorm"], device="cpu")
    model: Any = transformers.AutoModel.from_pretrained(directory).eval()
    pixels = pixels_of(network)
    with torch.inference_mode():
        expected = model(pixel_values=pixels).last_hidden_state
    assert network.layers["layernorm"].pool == "cls"
    assert torch.equal(pickle.loads(pickle.dumps(network.preprocess))(GREY), network.preprocess(GREY))
    assert torch.allclose(network.activations(pixels)["layernorm"], expected[:, 0], atol=1e-5)
    names = {layer.name: layer for layer in list_layers(f"transformers:{directory}")}
    assert names["layernorm"].shape == (5, tiny_models.WIDTH)
    assert any("ViTLayer" in layer.kind for layer in names.values())

    directory = tiny_models.save_transformers(tmp_path / "clip", "clip")
    network = load_network(f"transformers:{directory}", layers=["vision_model.post_layernorm"], device="cpu")
    assert network.layers["vision_model.post_layernorm"].pool == "none"
    assert not any(layer.name.startswith("text_model") for layer in list_layers(f"transformers:{directory}"))


def test_outputs_of_every_form_are_understood() -> None:
    network = load_network(ODD, layers=["maps", "last", "pair", "record"], device="cpu")
    assert {name: (output.pool, output.neurons) for name, output in network.layers.items()} == {
        "maps": ("mean", 4),
        "last": ("mean-last", 4),
        "pair": ("token-mean", 4),
        "record": ("none", 4),
    }
    found = network.activations(pixels_of(network))
    for layer in ("last", "pair"):
        assert torch.allclose(found[layer], found["record"], atol=1e-6)
    assert not torch.allclose(found["maps"], found["record"]), "the in-place ReLU came later"


def test_hooks_are_gone_after_each_pass_and_after_an_error() -> None:
    network = load_network(ODD, layers=["maps"], device="cpu")
    network.activations(pixels_of(network))
    with pytest.raises(RuntimeError):
        network.activations(torch.zeros(1, 7, 3, 3))
    assert not any(module._forward_hooks for module in network._loaded.module.modules())


def test_a_network_may_have_a_name_of_its_own() -> None:
    assert load_network(ODD, layers=["maps"], name="mine", device="cpu").name == "mine"
    assert load_network(ODD, layers=["maps"], device="cpu").name == "odd"
    with pytest.raises(ModelError, match="'a/b' cannot name a network"):
        load_network(ODD, layers=["maps"], name="a/b", device="cpu")


def test_list_layers_gives_what_can_be_indexed() -> None:
    layers = {layer.name: layer for layer in list_layers(ODD)}
    assert list(layers) == ["maps", "spoiler", "last", "pair", "record", "volume"], "neither turned, unused nor text"
    assert (layers["volume"].neurons, layers["volume"].note[:14]) == (0, "axis of the ne")
    assert (layers["maps"].kind, layers["maps"].shape, layers["maps"].neurons) == ("Conv2d", (4, 10, 10), 4)


@pytest.mark.parametrize(
    ("layer", "pool", "message"),
    [
        ("turned", None, r"gives \[4, 2, 10, 10\] for 2 images, so its first axis is not the batch"),
        ("unused", None, "gives no tensor when an image goes through"),
        ("text", None, "gives no tensor"),
        ("volume", None, r"layer 'volume' of odd: nothing says which axis of its output \[1, 4, 10, 10\] has"),
        (
            "maps",
            "cls",
            r"'cls' does not fit an output of shape \[4, 10, 10\] \(fit: mean, max, mean-last, max-last\)",
        ),
        ("record", "mean", r"pool 'mean' does not fit an output of shape \[4\] \(fit: none\)"),
        ("pair", "average", r"pool 'average' is unknown \(has: mean, max"),
        ("map", None, r"layer 'map' is not in odd \(has: maps, spoiler, .*\): csp-index layers python:"),
        ("", None, "layer '' is not in odd"),
    ],
)
def test_layers_that_cannot_be_used_are_told(layer: str, pool: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        load_network(ODD, layers=[layer], pool=pool, device="cpu")
    assert "\n" not in str(error.value)


def test_unknown_layer_names_near_ones_first() -> None:
    with pytest.raises(ModelError, match=r"is not in resnet18 \(has: layer3.1.conv2, layer3.1.conv1, .*, conv1, bn1, "):
        load_network("torchvision:resnet18/none", layers=["layer3.1.conv"], device="cpu")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("resnet50", "names no library: write torchvision:resnet50"),
        ("torchvision:resnet51/none", r"no model 'resnet51' \(near: resnet50"),
        ("torchvision:resnet18/V2", r"resnet18 has no weights 'V2' \(has: IMAGENET1K_V1, none\)"),
        ("timm:resnet5o.a1_in1k", r"timm has no model 'resnet5o' \(near: resnet"),
        ("timm:./nothing", "the directory ./nothing does not exist"),
        ("transformers:/no/such", "does not exist"),
        ("python:json:dumps", "the factory json:dumps failed: TypeError"),
        ("python:builtins:dict", "returned dict: it must return a torch.nn.Module"),
    ],
)
def test_wrong_specs_are_told_in_one_line(wrong: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        load_network(wrong, layers=["layer4"], device="cpu")
    assert "\n" not in str(error.value)


def test_no_layer_is_told() -> None:
    with pytest.raises(ModelError, match=r"no layer of .* was named"):
        load_network(ODD, layers=[], device="cpu")


def test_pools_equal_numpy() -> None:
    maps = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    array = maps.numpy()
    assert np.allclose(pooled(maps, "mean"), array.mean((2, 3)), atol=1e-6)
    assert np.array_equal(pooled(maps, "max"), array.max((2, 3)))
    assert np.allclose(pooled(maps, "mean-last"), array.mean((1, 2)), atol=1e-6)
    assert np.array_equal(pooled(maps, "max-last"), array.max((1, 2)))
    assert pooled(maps.half(), "mean").dtype == torch.float32
    tokens = maps.flatten(2)
    assert pooled(tokens, "cls").data_ptr() != tokens.data_ptr(), "a copy"


def test_pool_is_chosen_by_shape() -> None:
    assert choose_pool((64, 7, 7), None, False) == "mean"
    assert choose_pool((7, 7, 64), None, False) == "mean-last"
    assert choose_pool((7, 7, 64), "max", False) == "max-last"
    assert choose_pool((7, 7, 7), None, False) == "mean"
    assert choose_pool((50, 64), None, True) == "cls"
    assert choose_pool((49, 64), None, False) == "token-mean"
    assert choose_pool((64,), None, True) == "none"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_equals_cpu() -> None:
    slow, fast = (load_network("timm:test_resnet/none", layers=["layer4"], device=d) for d in ("cpu", "cuda"))
    pixels = pixels_of(slow)
    assert torch.allclose(fast.activations(pixels)["layer4"], slow.activations(pixels)["layer4"], atol=1e-2)


def test_parts_a_checkpoint_lacks_come_out_the_same_at_every_load(tmp_path: Path) -> None:
    import transformers

    tiny_models.save_vit(tmp_path)  # the processor stays, the weights become a classifier's, which has no pooler
    config = transformers.ViTConfig.from_pretrained(tmp_path)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path)
    torch.manual_seed(1)
    first = load_network(f"transformers:{tmp_path}", layers=["layers.1"]).identity["weights"]
    torch.manual_seed(2)
    assert load_network(f"transformers:{tmp_path}", layers=["layers.1"]).identity["weights"] == first
