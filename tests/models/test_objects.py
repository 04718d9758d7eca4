"""Modules and encoders of the caller: how they are recognized, run and left behind."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from types import ModuleType

import pytest
import timm
import tiny_models
import torch
import torchvision
from own_modules import TO_TENSOR, Net, net
from PIL import Image
from torch import nn
from torchvision import transforms

import csp_index
from csp_index.errors import ModelError, SettingError
from csp_index.models.encoders import load_encoder
from csp_index.models.index_models import Models
from csp_index.models.networks import load_network
from csp_index.models.objects import Encoder, Network, list_layers

CLIP = Path(csp_index.__file__).parent / "demo" / "models" / "clip"
PICTURE = Image.effect_noise((40, 30), 90).convert("RGB")


def pixels(network, count: int = 3) -> torch.Tensor:
    return torch.stack([network.preprocess(PICTURE)] * count)


def test_a_module_is_left_as_it_was() -> None:
    module = net().train()
    module.norm.eval()  # frozen, as in fine-tuning
    calls: list[int] = []
    module.first.register_forward_hook(lambda *_: calls.append(1))
    before = {name: (tensor.clone(), tensor.data_ptr()) for name, tensor in module.state_dict().items()}
    modes = {name: part.training for name, part in module.named_modules()}
    hooks = {name: len(part._forward_hooks) for name, part in module.named_modules()}
    network = Network(module, ["second"], preprocess=TO_TENSOR).hooked("cpu")
    values = network.activations(pixels(network))["second"]
    network.gradients(pixels(network), "second", torch.tensor([0, 1, 2]))
    assert network.maps(pixels(network), "second", torch.tensor([0, 1, 2])).shape == (3, 12, 12)
    assert {name: part.training for name, part in module.named_modules()} == modes
    assert {name: len(part._forward_hooks) for name, part in module.named_modules()} == hooks
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name][0]) and tensor.data_ptr() == before[name][1], name
    assert calls and not values.requires_grad
    module(pixels(network)).sum().backward()  # and it can be trained on
    assert module.first.weight.grad is not None


def test_a_module_that_wants_more_than_images_is_to_be_wrapped() -> None:
    class Wants(Net):
        def forward(self, pixels: torch.Tensor, task: str) -> torch.Tensor:  # type: ignore[override]
            return pixels

    with pytest.raises(ModelError, match=r"'task'; it is called with the images alone: wrap it in a module whose"):
        Network(Wants(), ["first"], preprocess=TO_TENSOR, name="Wants").hooked("cpu")


def test_an_error_leaves_the_module_as_it_was() -> None:
    class Breaks(Net):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            raise ValueError("wrong shape")

    module = Breaks().train()
    with pytest.raises(ModelError, match="Breaks fails on two trial images: ValueError: wrong shape"):
        Network(module, ["first"], preprocess=TO_TENSOR, name="Breaks").hooked("cpu")
    assert module.training and not module.first._forward_hooks


def test_batch_norm_runs_in_evaluation_mode() -> None:
    module = net().train()
    network = Network(module, ["norm"], preprocess=TO_TENSOR).hooked("cpu")
    given = pixels(network)
    expected = copy.deepcopy(module).eval()
    with torch.no_grad():
        norm = expected.norm(expected.first(given)).mean((2, 3))
    assert torch.allclose(network.activations(given)["norm"], norm, atol=1e-6)


def test_tuples_and_repeated_layers() -> None:
    module = net().eval()
    network = Network(module, ["pair", "act"], preprocess=TO_TENSOR).hooked("cpu")
    assert {name: layer.neurons for name, layer in network.layers.items()} == {"pair": 5, "act": 5}
    with torch.no_grad():
        assert torch.allclose(network.activations(pixels(network))["pair"], module(pixels(network)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_input_is_in_the_precision_of_the_weights(dtype) -> None:
    module = net().to(dtype)
    network = Network(module, ["second"], preprocess=TO_TENSOR).hooked("cpu")
    assert network.activations(pixels(network))["second"].dtype == torch.float32
    assert network.gradients(pixels(network), "second", torch.tensor([0, 1, 2])).shape == (3, 3, 16, 16)
    assert module.first.weight.dtype == dtype


def test_a_module_in_data_parallel_has_the_layers_of_the_module() -> None:
    inner = net()
    wrapped = Network(nn.DataParallel(inner), ["second"], preprocess=TO_TENSOR, name="x").hooked("cpu")
    assert wrapped.identity == Network(inner, ["second"], preprocess=TO_TENSOR, name="x").hooked("cpu").identity


def test_tied_weights_stay_tied() -> None:
    module = net()
    module.norm.weight = module.norm.bias
    Network(module, ["second"], preprocess=TO_TENSOR).hooked("cpu")
    assert module.norm.weight is module.norm.bias


def test_preprocessing_is_recognised(tmp_path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", pretrained=False)
    assert Network(model, ["layer4"]).hooked("cpu").layers["layer4"].neurons == 512
    resnet = torchvision.models.resnet18(weights=None)
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    assert Network(resnet, ["fc"], preprocess=weights.transforms()).hooked("cpu").layers["fc"].neurons == 1000
    import transformers

    directory = tiny_models.save_vit(tmp_path / "vit")
    vit = transformers.AutoModel.from_pretrained(directory)
    processor = transformers.AutoImageProcessor.from_pretrained(directory)
    network = Network(vit, ["encoder.layer.1"] if hasattr(vit, "encoder") else ["layers.1"], preprocess=processor)
    named = load_network(f"transformers:{directory}", layers=network.layers, device="cpu")
    own = network.hooked("cpu")
    layer = network.layers[0]
    assert torch.allclose(own.activations(pixels(own))[layer], named.activations(pixels(named))[layer], atol=1e-5)
    assert own.identity["preprocessing"] == named.identity["preprocessing"]
    assert own.identity["weights"] == named.identity["weights"]

    module = net()
    module.preprocess = TO_TENSOR
    assert Network(module, ["second"]).hooked("cpu").preprocess(PICTURE).shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Network(net(), ["first"]), "does not say how an image becomes its input"),
        (lambda: Network("resnet50", ["first"]), r"is a torch.nn.Module, not str"),
        (lambda: Network(net(), preprocess=TO_TENSOR).hooked("cpu"), "csp_index.network_layers"),
        (lambda: Network(net(), ["frist"], preprocess=TO_TENSOR).hooked("cpu"), r"layer 'frist' is not in Net .*first"),
        (lambda: Network(net(), ["first"], preprocess=TO_TENSOR, name="a/b"), "'a/b' cannot name a model"),
        (lambda: Network(net(), ["first"], preprocess=transforms.Resize(8)).hooked("cpu"), "add torchvision.*ToTensor"),
        (lambda: Network(net(), ["first"], preprocess=7), "preprocess is a int"),
        (lambda: Network(nn.LazyLinear(3), ["x"], preprocess=TO_TENSOR).hooked("cpu"), "run it once on a batch"),
        (lambda: Network(net().to("meta"), ["first"], preprocess=TO_TENSOR).hooked("cpu"), "device 'meta'"),
        (lambda: Encoder(net(), TO_TENSOR), "expected encode_image and encode_text"),
        (lambda: Encoder(Words()), "give preprocess="),
        (lambda: Encoder(Words(text=5), TO_TENSOR).ready("cpu"), "gives 4 values for an image and 5 for a text"),
        (lambda: Encoder(Words(), transforms.Resize(8)).ready("cpu"), "add torchvision.*ToTensor"),
        (lambda: Encoder(Words(), TO_TENSOR, tokenizer=lambda texts: 1 / 0).ready("cpu"), "check its .* tokenizer"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(make, message) -> None:
    with pytest.raises((ModelError, ModelError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_layers_of_a_module_are_listed() -> None:
    listed = {row["layer"]: row for row in list_layers(net(), "cpu")}
    assert listed["second"] == {"layer": "second", "kind": "Conv2d", "shape": [5, 220, 220], "neurons": 5, "note": ""}
    assert list(listed) == ["first", "second", "norm", "act", "pair"]
    assert list_layers(net(), "cpu", input_shape=(3, 9, 9))[0]["shape"] == [4, 7, 7]
    assert list_layers(net(), "cpu", preprocess=TO_TENSOR)[0]["shape"] == [4, 14, 14]
    grey = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(ModelError, match=r"tried an input of \[3, 224, 224\]: give input_shape=\(C, H, W\)"):
        list_layers(grey, "cpu")
    assert list_layers(grey, "cpu", input_shape=(1, 9, 9))[0]["neurons"] == 2


class Words:
    """An encoder that is no module: the mean colour, and the length of a text."""

    def __init__(self, text: int = 4) -> None:
        self.matrix, self.text, self.seen = torch.eye(3, 4), text, list[object]()

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.mean((2, 3)) @ self.matrix + 1

    def encode_text(self, texts: list[str]) -> list[list[float]]:
        self.seen.append(texts)
        return [[float(len(text))] * self.text for text in texts]


def open_clip_parts():
    import open_clip

    from csp_index.models.plugins import load_plugins
    from csp_index.models.towers import _tokenizer_options

    load_plugins()
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{CLIP}")
    text = open_clip.get_model_config(f"local-dir:{CLIP}")["text_cfg"]
    return model, preprocess, open_clip.get_tokenizer(f"local-dir:{CLIP}", **_tokenizer_options(CLIP, text))


def test_an_open_clip_model_gives_what_its_spec_gives() -> None:
    model, preprocess, tokenizer = open_clip_parts()
    model.train()
    own = Encoder(model, preprocess, tokenizer, name="mine").ready("cpu")
    named = load_encoder(f"open_clip:{CLIP}", device="cpu")
    assert own.spec == "object:mine"
    for trait in ("weights", "preprocessing", "library"):
        assert own.identity[trait] == named.identity[trait]
    assert own.logit_scale == pytest.approx(named.logit_scale)
    texts, templates = ["red star", "dotted"], ("a {}", "{} here")
    assert torch.allclose(own.embed_texts(texts, templates), named.embed_texts(texts, templates), atol=1e-6)
    assert torch.allclose(own.embed_images(pixels(own)), named.embed_images(pixels(named)), atol=1e-5)
    assert model.training
    with pytest.raises(ModelError, match="give tokenizer="):
        Encoder(model, preprocess)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_a_transformers_model_gives_what_its_spec_gives(tmp_path, kind) -> None:
    import transformers

    directory = tiny_models.save_transformers(tmp_path / kind, kind)
    model = transformers.AutoModel.from_pretrained(directory)
    images = transformers.AutoImageProcessor.from_pretrained(directory)
    words = transformers.AutoTokenizer.from_pretrained(directory)
    own, named = Encoder(model, images, words).ready("cpu"), load_encoder(f"transformers:{directory}", device="cpu")
    assert torch.allclose(own.embed_texts(["red star"]), named.embed_texts(["red star"]), atol=1e-6)
    assert torch.allclose(own.embed_images(pixels(own)), named.embed_images(pixels(named)), atol=1e-5)
    with pytest.raises(ModelError, match="needs its processor"):
        Encoder(model, images)


def test_any_object_with_two_halves_is_an_encoder() -> None:
    words = Words()
    encoder = Encoder(words, TO_TENSOR, logit_scale=50.0).ready("cpu")
    assert (encoder.width, encoder.logit_scale) == (4, 50.0)
    assert encoder.embed_texts(["abc"], ("{}", "a {}")).shape == (1, 4)
    assert words.seen[-1] == ["abc", "a abc"]
    before = encoder.identity["weights"]
    words.matrix = words.matrix * 2
    assert Encoder(words, TO_TENSOR).ready("cpu").identity["weights"] != before


def test_encoders_differ_by_their_plain_attributes() -> None:
    def identity(power: int) -> dict[str, str]:
        words = Words()
        words.pw = power
        return Encoder(words, TO_TENSOR).ready("cpu").identity

    assert identity(1) == identity(1)
    assert {name for name, value in identity(3).items() if value != identity(1)[name]} == {"source"}


def test_a_factory_may_return_an_encoder(monkeypatch) -> None:
    module = ModuleType("own_encoders")
    module.make = lambda: Encoder(Words(), TO_TENSOR)
    monkeypatch.setitem(sys.modules, "own_encoders", module)
    encoder = load_encoder("python:own_encoders:make", device="cpu")
    assert (encoder.spec, encoder.width) == ("python:own_encoders:make", 4)


def test_models_take_objects_by_name_and_nothing_else() -> None:
    encoder = Encoder(Words(), TO_TENSOR)
    models = Models("cpu", {"mine": encoder, "object:other": encoder})
    assert models.encoder("object:mine").spec == "object:mine"
    assert models.encoder("object:other").spec == "object:other"
    assert models.encoder("object:mine") is models.encoder("object:mine")
    with pytest.raises(ModelError, match=r"'third' is a Python object .*models=\{'third': csp_index.Encoder"):
        models.encoder("object:third")
    with pytest.raises(
        SettingError, match=r"models is a list: expected a mapping of names to csp_index.Network or csp"
    ):
        Models("cpu", [encoder])  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"models\['x'\] is a Net: expected csp_index.Network"):
        Models("cpu", {"x": net()})
    both = {"CLIP": encoder, "object:CLIP": Network(net(), preprocess=TO_TENSOR)}
    with pytest.raises(SettingError, match="object name 'CLIP' is used for an encoder and a network"):
        Models("cpu", both)
