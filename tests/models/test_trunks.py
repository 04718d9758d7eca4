"""Heads of transformers' classifiers, towers of open_clip, attention heads, and parts that a checkpoint lacks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from csp_index.errors import ModelError
from csp_index.models.encoders import load_encoder
from csp_index.models.networks import list_layers, load_network
from csp_index.models.remote_code import cannot_load

CLASSES = {0: "tench", 1: "goldfish", 2: "shark"}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_classifier(tmp_path_factory.mktemp("vit"), CLASSES)


def pictures() -> Tensor:
    return torch.rand(2, 3, tiny_models.IMAGE_SIZE, tiny_models.IMAGE_SIZE, generator=torch.Generator().manual_seed(1))


def test_the_head_of_a_classifier_is_a_layer_and_its_neurons_have_names(classifier: Path) -> None:
    import transformers

    spec = f"transformers:{classifier}"
    whole: Any = transformers.ViTForImageClassification.from_pretrained(classifier).eval()
    network = load_network(spec, layers=["classifier"], device="cpu")
    with torch.inference_mode():
        assert torch.allclose(network.activations(pictures())["classifier"], whole(pictures()).logits, atol=1e-5)
    layers = {layer.name: layer for layer in list_layers(spec)}
    assert layers["classifier"].classes == ("tench", "goldfish", "shark")
    assert network.layers["classifier"].classes == ("tench", "goldfish", "shark")
    assert [name for name, layer in layers.items() if layer.classes] == ["classifier"]
    assert not load_network(f"{spec}/none", layers=["classifier"], device="cpu").layers["classifier"].classes
    assert "layers.1" in layers and "vit.layers.1" not in layers


def test_a_layer_of_the_trunk_is_the_same_with_the_head_and_without(classifier: Path) -> None:
    spec = f"transformers:{classifier}"
    alone = load_network(spec, layers=["layernorm"], device="cpu")
    both = load_network(spec, layers=["layernorm", "classifier"], device="cpu")
    assert both.identity_of("layernorm")["weights"] == alone.identity_of("layernorm")["weights"]
    assert both.identity_of("classifier")["weights"] != alone.identity_of("layernorm")["weights"]
    values = [network.activations(pictures())["layernorm"] for network in (alone, both)]
    assert torch.allclose(*values, atol=1e-6)


def test_layers_that_depend_on_weights_the_checkpoint_lacks_are_refused_by_name(classifier: Path) -> None:
    spec = f"transformers:{classifier}"
    with pytest.raises(
        ModelError, match=r"'pooler' .* random weights, .* lacks pooler.dense.bias, pooler.dense.weight"
    ):
        load_network(spec, layers=["pooler"], device="cpu")
    assert load_network(spec, layers=["pooler"], allow_missing=True, device="cpu").layers["pooler"].neurons == 8


def test_a_weight_file_without_the_head_serves_the_layers_before_it(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(3)
    table = timm.create_model("test_resnet").state_dict()
    torch.save({n: t for n, t in table.items() if not n.startswith("fc")}, tmp_path / "body.pth")
    network = load_network("timm:test_resnet", layers=["layer4"], weights=tmp_path / "body.pth", device="cpu")
    assert network.layers["layer4"].pool == "mean"
    with pytest.raises(ModelError, match=r"'fc' .* lacks fc.weight, fc.bias"):
        load_network("timm:test_resnet", layers=["fc"], weights=tmp_path / "body.pth", device="cpu")


@pytest.mark.parametrize(("kind", "layer"), [("timm", "blocks.1.attn"), ("transformers", "layers.1.attention")])
def test_a_single_head_is_what_the_projection_gets_of_it(kind: str, layer: str, classifier: Path) -> None:
    spec = "timm:test_vit/none" if kind == "timm" else f"transformers:{classifier}"
    network = load_network(spec, layers=[f"{layer}.head-1"], pool="token-mean", device="cpu")
    module = network._loaded.module
    projection = module.get_submodule(f"{layer}.{'proj' if kind == 'timm' else 'o_proj'}")
    size = tiny_models.IMAGE_SIZE if kind == "transformers" else 160
    pixels = torch.rand(2, 3, size, size)
    kept = []
    handle = projection.register_forward_pre_hook(lambda part, inputs: kept.append(inputs[0]))
    found = network.activations(pixels)[f"{layer}.head-1"]
    handle.remove()
    width = found.shape[1]
    assert torch.allclose(found, kept[0][:, 1:, width : 2 * width].mean(1), atol=1e-5)
    with pytest.raises(ModelError, match="is not in"):
        load_network(spec, layers=[f"{layer}.head-99"], device="cpu")


def test_the_image_tower_of_open_clip_is_a_network(tmp_path: Path) -> None:
    import open_clip

    folder = tiny_models.save_open_clip(tmp_path / "clip")
    for spec in (f"open_clip:{folder}", str(folder)):
        network = load_network(spec, layers=["transformer.resblocks.0", "ln_post"], device="cpu")
        assert network.spec == f"open_clip:{folder.resolve()}" and network.name == "clip"
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    tower: Any = model.visual
    kept = []
    tower.transformer.resblocks[0].register_forward_hook(lambda part, inputs, output: kept.append(output))
    with torch.inference_mode():
        tower.eval()(pictures())
    assert torch.allclose(network.activations(pictures())["transformer.resblocks.0"], kept[0][:, 0], atol=1e-5)


def test_an_encoder_whose_checkpoint_lacks_weights_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_models.save_transformers(tmp_path / "clip", "clip")
    table = load_file(folder / "model.safetensors")
    save_file(
        {n: t for n, t in table.items() if n != "visual_projection.weight"},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    with pytest.raises(ModelError, match=r"lacks visual_projection.weight, which would be random"):
        load_encoder(f"transformers:{folder}", device="cpu")


def test_a_local_directory_is_an_encoder_without_its_library(tmp_path: Path) -> None:
    folder = tiny_models.save_open_clip(tmp_path / "clip")
    assert load_encoder(str(folder), device="cpu").spec == f"open_clip:{folder.resolve()}"
    folder = tiny_models.save_transformers(tmp_path / "siglip", "siglip")
    assert load_encoder(str(folder), device="cpu").spec == f"transformers:{folder.resolve()}"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="is a directory without the configuration of a model"):
        load_encoder(str(tmp_path / "empty"), device="cpu")


def test_without_a_connection_the_ways_on_are_named() -> None:
    message = "We couldn't connect to 'https://huggingface.co' to load the files"
    error = str(cannot_load("the network timm:resnet50", OSError(message)))
    assert "--weights FILE" in error and "local directory" in error and "NAME/none" in error


def quantized() -> nn.Module:
    return torch.ao.nn.quantized.Linear(3, 2)


def halved() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU()).half()


@pytest.mark.filterwarnings("ignore")
def test_unusual_modules() -> None:
    with pytest.raises(ModelError, match=r"is quantized .*: give the network in floating point"):
        load_network(f"python:{__name__}:quantized", layers=["x"], device="cpu")
    network = load_network(f"python:{__name__}:halved", layers=["1"], device="cpu")
    found = network.activations(torch.rand(2, 3, 224, 224))["1"]
    assert found.dtype == torch.float32 and bool(found.isfinite().all())


def test_names_are_listed_without_weights(tmp_path: Path, classifier: Path) -> None:
    import shutil

    bare = tmp_path / "bare"
    shutil.copytree(classifier, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    names = [layer.name for layer in list_layers(f"transformers:{bare}/none")]
    assert {"layernorm", "classifier"} <= set(names)
    first = next(layer.name for layer in list_layers("timm:test_resnet.r160_in1k"))
    assert first == "conv1", "nothing is downloaded"


def changed(classifier: Path, folder: Path, change: Callable[[Path], object]) -> str:
    shutil.copytree(classifier, folder)
    change(folder)
    return f"transformers:{folder}"


def weights_changed(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})

    return write


def test_a_head_of_other_classes_than_its_settings_is_refused_and_the_trunk_is_read(
    classifier: Path, tmp_path: Path
) -> None:
    other = {"classifier.weight": torch.ones(7, 32), "classifier.bias": torch.ones(7)}
    spec = changed(classifier, tmp_path / "vit", weights_changed(lambda table: table | other))
    with pytest.raises(ModelError, match=r"'classifier' of vit would have random weights, .* classifier.bias, classif"):
        load_network(spec, layers=["classifier"], device="cpu")
    same = load_network(f"transformers:{classifier}", layers=["layernorm"], device="cpu").activations(pictures())
    both = load_network(spec, layers=["layernorm", "classifier"], device="cpu", allow_missing=True)
    torch.testing.assert_close(both.activations(pictures())["layernorm"], same["layernorm"])


def test_names_with_another_prefix_are_shown(classifier: Path, tmp_path: Path) -> None:
    prefixed = weights_changed(lambda table: {f"model.{name}": tensor for name, tensor in table.items()})
    with pytest.raises(
        ModelError, match=r"lacks embeddings\.cls_token, .* \(it has model\.vit\.embeddings\.cls_token\)"
    ):
        load_network(changed(classifier, tmp_path / "vit", prefixed), layers=["layernorm"], device="cpu")


def test_a_directory_without_settings_of_its_images_is_refused(classifier: Path, tmp_path: Path) -> None:
    def remove(folder: Path) -> None:
        for name in ("preprocessor_config.json", "processor_config.json"):
            (folder / name).unlink(missing_ok=True)

    with pytest.raises(ModelError, match=r"has no preprocessor_config\.json, so nothing says how an image becomes"):
        load_network(changed(classifier, tmp_path / "vit", remove), layers=["layernorm"], device="cpu")


def test_a_class_that_transformers_does_not_have_is_said(
    classifier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def rename(folder: Path) -> None:
        settings = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**settings, "architectures": ["OwnViT"]}))

    load_network(changed(classifier, tmp_path / "vit", rename), layers=["layernorm"], device="cpu")
    assert "transformers has no class OwnViT, which the checkpoint names: its trunk alone is read" in caplog.text


def test_the_librarys_report_of_missing_weights_does_not_reach_stderr(
    classifier: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import transformers

    before = transformers.utils.logging.get_verbosity()
    load_network(f"transformers:{classifier}", layers=["layernorm"], device="cpu")
    assert "LOAD REPORT" not in capfd.readouterr().err
    assert transformers.utils.logging.get_verbosity() == before
