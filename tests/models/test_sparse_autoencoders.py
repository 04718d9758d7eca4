from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fakes import network as fake_network
from fakes import write_images
from safetensors.torch import save_file
from torch import Tensor

from csp_index import NetworkSource, open_index
from csp_index.cli import cli
from csp_index.errors import ModelError, SettingError
from csp_index.models.networks import list_layers, load_network
from csp_index.models.sparse_autoencoders import settled, split_spec

D, S = 6, 15  # the fake network's layer `conv` has 6 channels
FAKE = "python:fakes:network"


def _weights(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"W_enc": (D, S), "b_enc": (S,), "W_dec": (S, D), "b_dec": (D,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def _save(folder: Path, tensors: dict[str, Tensor], name: str = "sae", said: dict[str, str] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    said = said if said is not None or "k" in tensors else {"architecture": "standard"}
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / f"{name}.safetensors", said)
    return folder / f"{name}.safetensors"


def _oracle(x: np.ndarray, w: dict[str, Tensor], k: int | None = None, centre: str | None = "b_dec") -> np.ndarray:
    """z = ReLU(W_enc (x - b_pre) + b_enc), the k largest of each row kept."""
    parts = {name: tensor.numpy().astype(np.float64) for name, tensor in w.items()}
    z = np.maximum((x - (parts[centre] if centre else 0)) @ parts["W_enc"] + parts["b_enc"], 0)
    if k is not None:
        z = np.where(np.argsort(np.argsort(-z, axis=-1, kind="stable"), axis=-1) < k, z, 0)
    return z


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 4


def _features(spec: str, pixels: Tensor, **options: Any) -> Tensor:
    added = split_spec(spec)[1][-1].added
    return load_network(spec, layers=[added], device="cpu", **options).activations(pixels)[added]


def _maps(pixels: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return fake_network().conv(pixels).double().numpy()


@pytest.mark.parametrize("k", [None, 1, 4, S])
def test_features_equal_the_formula_on_the_pooled_layer(tmp_path: Path, pixels: Tensor, k: int | None) -> None:
    file = _save(tmp_path, _weights())
    found = _features(f"{FAKE}+sae:conv={file}" + (f":topk={k}" if k else ""), pixels)
    np.testing.assert_allclose(found, _oracle(_maps(pixels).mean((2, 3)), _weights(), k), rtol=1e-4, atol=1e-5)
    if k:
        assert ((found > 0).sum(1) <= k).all() and (found > 0).any()


@pytest.mark.parametrize("pool", ["mean", "max"])
def test_it_may_read_every_place_and_be_pooled_then(tmp_path: Path, pixels: Tensor, pool: str) -> None:
    file = _save(tmp_path, _weights())
    found = _features(f"{FAKE}+sae:conv={file}:places:topk=3", pixels, pool=pool)
    places = _oracle(np.moveaxis(_maps(pixels), 1, -1), _weights(), 3)
    expected = places.mean((1, 2)) if pool == "mean" else places.max((1, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_the_first_pooling_can_be_chosen(tmp_path: Path, pixels: Tensor) -> None:
    file = _save(tmp_path, _weights())
    found = _features(f"{FAKE}+sae:conv={file}:pool=max", pixels)
    np.testing.assert_allclose(found, _oracle(_maps(pixels).max((2, 3)), _weights()), rtol=1e-4, atol=1e-5)


def test_libraries_layouts_give_the_same_features(tmp_path: Path, pixels: Tensor) -> None:
    w = _weights()
    layouts = {
        "saelens": w,
        "sparsify": {
            "encoder.weight": w["W_enc"].T,
            "encoder.bias": w["b_enc"],
            "W_dec": w["W_dec"],
            "b_dec": w["b_dec"],
        },
        "openai": {"encoder.weight": w["W_enc"].T, "latent_bias": w["b_enc"], "pre_bias": w["b_dec"]},
        "turned": {"W_enc": w["W_enc"].T, "b_enc": w["b_enc"], "b_pre": w["b_dec"]},
        "linear": {
            "encoder.weight": w["W_enc"].T,
            "encoder.bias": w["b_enc"] - w["b_dec"] @ w["W_enc"],
            "decoder.weight": w["W_dec"].T,
            "decoder.bias": w["b_dec"],  # of a plain pair of linear layers: not taken off the input
        },
    }
    expected = _oracle(_maps(pixels).mean((2, 3)), w)
    for name, tensors in layouts.items():
        found = _features(f"{FAKE}+sae:conv={_save(tmp_path, tensors, name)}", pixels)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4, err_msg=name)
    torch.save(w, tmp_path / "checkpoint.pt")
    np.testing.assert_allclose(
        _features(f"{FAKE}+sae:conv={tmp_path / 'checkpoint.pt'}:relu", pixels), expected, rtol=1e-4, atol=1e-4
    )


def test_the_decoders_bias_can_stay_on_the_input(tmp_path: Path, pixels: Tensor) -> None:
    expected = _oracle(_maps(pixels).mean((2, 3)), _weights(), centre=None)
    said = _save(tmp_path, _weights(), "said", {"apply_b_dec_to_input": "False", "type": "standard"})
    for spec in (f"{FAKE}+sae:conv={_save(tmp_path, _weights())}:plain", f"{FAKE}+sae:conv={said}"):
        np.testing.assert_allclose(_features(spec, pixels), expected, rtol=1e-4, atol=1e-4)


def test_a_square_encoder_is_read_by_its_name(tmp_path: Path, pixels: Tensor) -> None:
    square = torch.randn(D, D, generator=torch.Generator().manual_seed(3))
    x = _maps(pixels).mean((2, 3))
    for name, matrix in (("W_enc", square), ("encoder.weight", square.T)):
        found = _features(f"{FAKE}+sae:conv={_save(tmp_path, {name: matrix}, name)}", pixels)
        np.testing.assert_allclose(found, np.maximum(x @ square.double().numpy(), 0), rtol=1e-4, atol=1e-4)


def test_k_may_stand_in_the_file(tmp_path: Path, pixels: Tensor) -> None:
    w = _weights()
    in_words = _save(tmp_path, w, "words", {"k": "2"})
    as_tensor = _save(tmp_path, {**w, "k": torch.tensor(2)}, "tensor")
    expected = _features(f"{FAKE}+sae:conv={_save(tmp_path, w)}:topk=2", pixels)
    for file in (in_words, as_tensor):
        torch.testing.assert_close(_features(f"{FAKE}+sae:conv={file}", pixels), expected)
    with pytest.raises(ModelError, match="does not say its K: add :topk=K"):
        _features(f"{FAKE}+sae:conv={_save(tmp_path, w, 'silent', {'architecture': 'topk'})}", pixels)


def test_the_network_computes_what_it_did_without_it(tmp_path: Path, pixels: Tensor) -> None:
    spec = "python:stacked:stack"
    file = _save(tmp_path, _weights())
    alone = load_network(spec, layers=["1"], device="cpu")
    both = load_network(f"{spec}+sae:0={file}", layers=["1", "0.sae-sae"], device="cpu")
    found = both.activations(pixels)
    torch.testing.assert_close(found["1"], alone.activations(pixels)["1"])
    assert found["0.sae-sae"].shape == (5, S)
    assert both.identity_of("1") == {**alone.identity_of("1"), "spec": both.spec}
    assert "sparse" in both.identity_of("0.sae-sae")


def test_tokens_are_read_too(tmp_path: Path) -> None:
    import transformers  # noqa: F401
    from tiny_models import WIDTH, save_vit

    torch.manual_seed(0)
    w = {"W_enc": torch.randn(WIDTH, S), "b_enc": torch.randn(S)}
    file = _save(tmp_path, w)
    vit = save_vit(tmp_path / "vit")
    layer = next(found.name for found in list_layers(f"transformers:{vit}") if found.shape == (5, WIDTH))
    layers = [layer, f"{layer}.sae-sae", f"{layer}.sae-all"]
    spec = f"transformers:{vit}+sae:{layer}={file}+sae:{layer}={file}:places:name=all"
    studied = load_network(spec, layers=layers, device="cpu")
    found = studied.activations(torch.rand(2, 3, 16, 16))
    expected = torch.relu(found[layer] @ w["W_enc"] + w["b_enc"])
    for name in layers[1:]:  # the class token either way
        torch.testing.assert_close(found[name], expected)
    assert studied.layers[layers[1]].shape == (S,) and studied.layers[layers[2]].shape == (5, S)


# names and errors


def test_a_spec_is_settled_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = "timm:resnet50.a1_in1k+sae:layer4=a/s.safetensors:name=x:topk=32+sae:layer3=/b.pt:places:plain:pool=max"
    base, (one, two) = split_spec(settled(spec))
    assert base == "timm:resnet50.a1_in1k" and settled(settled(spec)) == settled(spec)
    assert one.file == str(tmp_path / "a/s.safetensors") and (one.topk, one.added) == (32, "layer4.sae-x")
    assert (two.places, two.plain, two.pool, two.added) == (True, True, "max", "layer3.sae-b")


@pytest.mark.parametrize(
    ("tensors", "suffix", "told"),
    [
        ({}, "", "has no encoder matrix"),
        ({"W_enc": torch.ones(4, S)}, "", "reads 4 values, but layer 'conv' gives 6"),
        ({"W_enc": torch.ones(D, S), "b_enc": torch.ones(3)}, "", "does not go with biases of [3] features"),
        (
            {"W_enc": torch.ones(D, S), "threshold": torch.ones(S)},
            "",
            "said to be a ReLU autoencoder, but holds threshold",
        ),
        ({"W_enc": torch.ones(D, S)}, f":topk={S + 1}", "cannot be kept"),
        ({"W_enc": torch.ones(D, S)}, ":topk=0", "cannot be kept"),
        ({"W_enc": torch.ones(D, S)}, ":pool=cls", "pool 'cls' does not fit"),
    ],
)
def test_weights_that_do_not_fit_are_told_in_one_line(
    tmp_path: Path, pixels: Tensor, tensors: dict[str, Tensor], suffix: str, told: str
) -> None:
    file = _save(tmp_path, tensors or {"odd": torch.ones(1, dtype=torch.int64)})
    with pytest.raises(ModelError) as caught:
        _features(f"{FAKE}+sae:conv={file}{suffix}", pixels)
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("added", "told"),
    [
        ("+sae:conf={}", "no layer 'conf' for"),
        ("+sae:conv", "adds no sparse autoencoder: write LAYER=FILE"),
        ("+sae:conv={}+sae:conv={}", "two layers would be called conv.sae-sae: add :name=NAME"),
        ("+sae:conv=/nowhere/x.safetensors", "does not exist"),
    ],
)
def test_a_spec_that_cannot_be_is_told_in_one_line(tmp_path: Path, added: str, told: str) -> None:
    file = _save(tmp_path, _weights())
    with pytest.raises(ModelError) as caught:
        load_network(FAKE + added.format(*[file] * 2), layers=["conv"], device="cpu")
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_feature_layer_is_named_with_near_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"conv\.sae-sae"):
        load_network(f"{FAKE}+sae:conv={_save(tmp_path, _weights())}", layers=["conv.sae-sea"], device="cpu")


# in an index


def test_an_index_extends_itself_with_the_features_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_images(tmp_path / "images", 8)
    monkeypatch.chdir(tmp_path)
    _save(tmp_path, _weights())
    spec = f"{FAKE}+sae:conv=sae.safetensors:topk=4"
    index = open_index(tmp_path / "db", device="cpu")
    index.add_images("images", encoders=["python:fakes:encoder"], networks=[NetworkSource(FAKE, ("conv",))])
    index.add_layer(spec, ["conv", "conv.sae-sae"])  # `conv` is the one that is there already
    write_images(tmp_path / "images", 3, start=8)
    monkeypatch.chdir("/")  # the file is found from anywhere
    summary = open_index(tmp_path / "db", device="cpu").add_images(tmp_path / "images")
    assert summary.images == 11 and summary.added == 3
    held = open_index(tmp_path / "db", device="cpu")
    found = np.stack([held.activations(f"network/conv.sae-sae/{k}") for k in range(S)], axis=1)
    maps = np.stack([held.activations(f"network/conv/{k}") for k in range(D)], axis=1)
    np.testing.assert_allclose(found, _oracle(maps.astype(np.float64), _weights(), 4), rtol=1e-3, atol=1e-4)
    # Other weights, or another k, under the same name are refused.
    for change in ("weights", "k"):
        _save(tmp_path, _weights(1 if change == "weights" else 0))
        other = f"{FAKE}+sae:conv={tmp_path}/sae.safetensors:topk={4 if change == 'weights' else 5}"
        with pytest.raises(SettingError, match=r"network/conv\.sae-sae differs .*sparse is"):
            held.add_layer(other, "conv.sae-sae")


def _stored(db: Path, latents: int) -> np.ndarray:
    index = open_index(db, device="cpu")
    return np.stack([index.activations(f"network/conv.sae-sae/{k}") for k in range(latents)], axis=1)


def test_layers_show_what_was_understood(tmp_path: Path) -> None:
    file = _save(tmp_path, _weights(), said={"k": "3"})
    plain = CliRunner().invoke(cli, ["layers", FAKE, "--sae", f"conv={file}"])
    words = f"TopK with k 3; {D} inputs (minus a bias); {S} latents"
    assert f"conv.sae-sae\tSparseAutoencoder\t{S}\t{S} neurons\t{words}" in plain.output
    rows = [
        json.loads(line)
        for line in CliRunner().invoke(cli, ["layers", f"{FAKE}+sae:conv={file}", "--json"]).output.splitlines()
    ]
    assert rows[-1]["understood"] == words and "understood" not in rows[0]


def test_the_command_line_adds_the_layer(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 6)
    file = _save(tmp_path, _weights())
    base = ["index", str(tmp_path / "db"), str(tmp_path / "images"), "--encoder", "python:fakes:encoder"]
    run = CliRunner().invoke(
        cli, [*base, "--network", FAKE, "--layers", "conv", "--sae", f"conv={file}:topk=3", "--json"]
    )
    assert run.exit_code == 0, run.output
    summary = json.loads(run.output)
    assert summary["layers"] == ["network/conv", "network/conv.sae-sae"]
    features = _stored(tmp_path / "db", S)
    dead, dense = (~(features > 0).any(0)).sum(), ((features > 0).mean(0) > 0.5).sum()
    assert summary["latents"] == {"network/conv.sae-sae": {"latents": S, "dead": dead, "dense": dense}}
    assert dead and dense, "the case tells nothing"
    said = CliRunner().invoke(cli, [*base, "--network", FAKE, "--layers", "conv", "--sae", f"conv={file}:topk=3"])
    assert f"{dead} of {S} latents are dead (fire on no image), {dense} are dense" in said.stderr
    wrong = CliRunner().invoke(cli, [*base, "--sae", f"conv={file}"])
    assert wrong.exit_code == 2 and "expected one" in wrong.output
