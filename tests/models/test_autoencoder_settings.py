"""Which settings of an autoencoder count, where they lie, and what is refused for want of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from autoencoder_files import (
    DL_TOPK,
    GATED,
    JUMP,
    OPENAI,
    OVERCOMPLETE,
    SAELENS,
    THRESHOLDS,
    W_ENC,
    D,
    K,
    S,
    X,
    above,
    dictionary_learning,
    drawn,
    features,
    pre,
    read,
    refusal,
    relu,
    saelens,
    saev,
    saved,
    sparsify,
    topk,
)
from safetensors.torch import save_file

from csp_index.errors import ModelError
from csp_index.models.sparse_autoencoders import split_spec


def test_a_scale_that_was_not_folded_is_read_or_asked_for(tmp_path: Path) -> None:
    folder = saelens(tmp_path, SAELENS, architecture="standard", normalize_activations="expected_average_only_in")
    with pytest.raises(ModelError, match=r"expected_average_only_in.*add :scale=X"):
        read(folder)
    expected = relu(pre(X * 2.5))
    np.testing.assert_allclose(features(read(folder, ":scale=2.5")), expected, rtol=1e-3, atol=1e-4)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 2.5}')
    scaled = read(folder)
    np.testing.assert_allclose(features(scaled), expected, rtol=1e-3, atol=1e-4)
    assert "times 2.5" in scaled.understood


def test_topk_and_batchtopk_of_one_layout_are_told_apart_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved("ae.pt", DL_TOPK)(tmp_path)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(features(read(file)), above(pre(X), 0.4), rtol=1e-3, atol=1e-4)
    assert "no settings say whether it is BatchTopK or TopK" in caplog.text and "add :topk=3" in caplog.text
    np.testing.assert_allclose(features(read(file, ":topk=3")), topk(pre(X)), rtol=1e-3, atol=1e-4)
    saved("ae.pt", DL_TOPK | {"threshold": torch.tensor(-1.0)})(tmp_path)  # as before its first update
    np.testing.assert_allclose(features(read(file)), topk(pre(X)), rtol=1e-3, atol=1e-4)


def test_what_the_options_say_wins(tmp_path: Path) -> None:
    folder = saelens(tmp_path, SAELENS, architecture="topk", k=K)
    for options, expected in (
        (":topk=5", topk(pre(X), 5)),
        (":relu", relu(pre(X))),
        (":relu:plain", relu(pre(X, False))),
        (":threshold=0.25", above(pre(X), 0.25)),
        (":threshold=0.25:scale=2", above(pre(X * 2), 0.25)),
    ):
        np.testing.assert_allclose(features(read(folder, options)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: save_file(SAELENS, f / "sae.safetensors"), "nothing says whether"),
        (lambda f: saved("sae.pt", OPENAI)(f), "nothing says whether"),
        (lambda f: saelens(f, SAELENS, architecture="topk"), "does not say its K: add :topk=K"),
        (lambda f: saelens(f, SAELENS, architecture="jumprelu"), "does not hold it: add :threshold=T"),
        (lambda f: saelens(f, SAELENS, architecture="temporal"), "said to be 'temporal', which is not known"),
        (lambda f: saelens(f, SAELENS, activation_fn_str="tanh-relu"), "said to be 'tanh-relu'"),
        (lambda f: sparsify(f, activation="groupmax"), "said to be 'groupmax'"),
        (lambda f: saelens(f, SAELENS, architecture="gated"), "without r_mag and b_mag"),
        (lambda f: saelens(f, GATED, architecture="topk", k=K), "has the tensors of a gated autoencoder"),
        (lambda f: saelens(f, SAELENS, architecture="standard", d_in=768), "says 768: it belongs to another file"),
        (
            lambda f: saelens(f, SAELENS, architecture="standard", normalize_activations="dataset"),
            "normalize_activations is 'dataset', expected none",
        ),
        (lambda f: saelens(f, SAELENS, architecture="standard", normalize=True), "normalize is True"),
        (lambda f: save_file(JUMP, f / "sae.safetensors"), "add :plain (it does not) or :centered"),
        (lambda f: dictionary_learning(f, DL_TOPK, "AutoEncoderTopK", k=9), "says k is 3, but config.json says 9"),
        (
            lambda f: dictionary_learning(f, DL_TOPK | {"threshold": torch.tensor(-1.0)}, "BatchTopKSAE", k=K),
            "training ended before it was set",
        ),
        (lambda f: saev(f, SAELENS, {"schema": 2, "cfg": {"activation": {"cls": "BatchTopK"}}}), "does not hold it"),
        (
            lambda f: saved("ae.pt", {**OVERCOMPLETE, "encoder.mlp_blocks.0.0.weight": torch.ones(2)})(f),
            "holds encoder.mlp_blocks.0.0.weight",
        ),
        (
            lambda f: torch.save(torch.nn.Linear(2, 3), f / "sae.pt"),
            "torch.nn.modules.linear.Linear, which is never run",
        ),
        (lambda f: (f / "cfg.json").write_text("{") and saved("sae.pt", SAELENS)(f), "cannot be read as JSON"),
        (lambda f: sparsify(f, signed=True), "signed is True, so that its latents may be negative"),
        (lambda f: saelens(f, SAELENS, architecture="topk", k=K, center_inputs=True), "center_inputs is True"),
        (lambda f: saelens(f, SAELENS, architecture="topk", k=K, scale_inputs=True), "scale_inputs is True"),
        (lambda f: saelens(f, SAELENS, architecture="topk", k=K, norm_factor=3.5), "norm_factor is 3.5"),
        (lambda f: saelens(f, SAELENS, architecture="topk", k=K, dataset_mean=[0.5] * D), "dataset_mean is [0.5, 0.5"),
        (lambda f: saelens(f, SAELENS, architecture="topk", k=K, layer_norm=True), "layer_norm is True"),
        (lambda f: saelens(f, SAELENS, architecture="topk", k=3.5), "says k is 3.5, expected a whole number"),
        (
            lambda f: saelens(f, {**SAELENS, "W_enc": (W_ENC * 10).to(torch.int8)}, architecture="topk", k=K),
            "holds W_enc as whole numbers (int8), so it is quantized",
        ),
        (
            lambda f: saelens(f, {**SAELENS, "W_enc": drawn(2, D, S, seed=1)}, architecture="topk", k=K),
            "has 2 encoders in W_enc [2, 6, 20], as a crosscoder",
        ),
        (
            lambda f: (f / "config.yaml").write_text("architecture: topk\nk: 5\n") and sparsify(f),
            "cfg.json and config.yaml beside sae.safetensors contradict each other about k",
        ),
        (
            lambda f: (f / "cfg.yaml").write_text("a: !!python/name:os.system") and saved("sae.pt", SAELENS)(f),
            "cannot be read as YAML",
        ),
        (lambda f: None, "holds no autoencoder: expected a file such as sae_weights.safetensors"),
        (lambda f: [saved(n, SAELENS)(f) for n in ("a.pt", "b.pt")], "has 2 weight files (a.pt, b.pt): name one"),
        (lambda f: [saved("ae.pt", 0)(_made(f / n)) for n in ("x", "y")], "in its folders: name one (x, y)"),
    ],
)
def test_what_has_no_settled_meaning_is_refused_in_one_line(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write(tmp_path)
    assert message in refusal(tmp_path)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_settings_of_a_network_in_the_same_folder_are_none_of_the_autoencoders(tmp_path: Path) -> None:
    save_file(SAELENS, tmp_path / "sae.safetensors")
    (tmp_path / "config.json").write_text('{"architectures": ["ViTModel"], "model_type": "vit", "hidden_act": "relu"}')
    with pytest.raises(ModelError, match=r"config\.json beside it is about something else"):
        read(tmp_path)
    np.testing.assert_allclose(features(read(tmp_path, ":topk=3")), topk(pre(X)), rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_training_finds_its_settings_one_folder_up(tmp_path: Path) -> None:
    dictionary_learning(tmp_path, DL_TOPK, "AutoEncoderTopK", k=K)
    file = saved("ae_1000.pt", DL_TOPK)(_made(tmp_path / "checkpoints"))
    np.testing.assert_allclose(features(read(file)), topk(pre(X)), rtol=1e-3, atol=1e-4)


def test_arrays_of_numpy_areread(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", **{name: tensor.numpy() for name, tensor in JUMP.items()})  # as Gemma Scope
    np.testing.assert_allclose(features(read(tmp_path)), above(pre(X, False), THRESHOLDS), rtol=1e-3, atol=1e-4)


def test_a_repository_of_the_hub_is_read_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "models--org--saes"
    inner = repository / "snapshots" / commit / "layers.5"
    inner.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    sparsify(inner)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for name in ("hf:org/saes/layers.5", "hf:org/saes/layers.5/sae.safetensors", "hf-hub:org/saes/layers.5"):
        np.testing.assert_allclose(features(read(name)), topk(pre(X)), rtol=1e-3, atol=1e-4)
    assert split_spec("timm:x+sae:a=hf:org/saes/layers.5:topk=2")[1][0].added == "a.sae-layers.5"
    for name, message in (
        ("hf:org/nothing", "cannot be fetched"),
        ("hf:org/saes/layers.6", "has no layers.6"),
        ("hf:org/saes/../x", "names no file or folder"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            read(name)
        assert "\n" not in str(caught.value)


def test_the_identity_of_what_loaded_before_is_the_same(tmp_path: Path) -> None:
    """What an index of an older version holds: the hash of the three tensors, and the options."""
    save_file(SAELENS, tmp_path / "sae.safetensors")
    identity = json.loads(read(tmp_path / "sae.safetensors", ":topk=3").identity)
    expected = {"topk": 3, "places": False, "pool": None, "layer": "layer"}
    assert {name: value for name, value in identity.items() if name != "weights"} == expected
    relu_too = json.loads(read(tmp_path / "sae.safetensors", ":relu").identity)
    assert relu_too == identity | {"topk": None}
    saelens(tmp_path, SAELENS, architecture="standard", normalize_activations="layer_norm")
    assert json.loads(read(tmp_path).identity)["norm"] == "layer"
    other = {json.loads(read(tmp_path, f":threshold={t}").identity)["weights"] for t in (0.5, 0.25)}
    assert len(other) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", "model: {name: vit}\nsae:\n  activation: topk\n  k: 3\n  d_in: 6\n"),
        ("hyperparams.json", '{"architecture": "topk", "k": 3.0}'),
        ("runner_cfg.json", '{"model_name": "x", "sae": {"architecture": "topk", "k": 3, "d_in": 6}}'),
        ("training_args.json", '{"sae_type": "topk", "top_k": 3, "lr": 0.1}'),  # no usual name, but it says the kind
        (".hydra/config.yaml", "sae: {architecture: topk, k: 3}"),
        ("sae.yml", "architecture: topk\nk: 3\n"),
    ],
)
def test_settings_of_other_names_and_in_yaml_are_read(name: str, text: str, tmp_path: Path) -> None:
    save_file(SAELENS, tmp_path / "sae.safetensors")
    (tmp_path / "config.json").write_text('{"architectures": ["ViTModel"], "model_type": "vit"}')  # of the network
    (tmp_path / "eval_results.json").write_text('{"architecture": "topk", "k": 9}')
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    topk_too = read(tmp_path)
    np.testing.assert_allclose(features(topk_too), topk(pre(X)), rtol=1e-3, atol=1e-4)
    assert f"settings from {Path(name).name}" in topk_too.understood


def test_an_option_that_is_none_is_said_to_be(tmp_path: Path) -> None:
    saelens(tmp_path, SAELENS, architecture="topk", k=K)
    for option in (":topk=-3", ":foo=3", ":centred"):
        with pytest.raises(ModelError, match=f"does not exist \\({option} is no option: topk=K, threshold=T"):
            read(tmp_path, option)


def test_the_only_autoencoder_in_a_folder_of_trainers_is_taken(tmp_path: Path) -> None:
    dictionary_learning(_made(tmp_path / "trainer_0"), DL_TOPK, "AutoEncoderTopK", k=K)
    np.testing.assert_allclose(features(read(tmp_path)), topk(pre(X)), rtol=1e-3, atol=1e-4)


def test_settings_that_lie_deep_or_inside_themselves_end(tmp_path: Path) -> None:
    save_file(SAELENS, tmp_path / "sae.safetensors")
    (tmp_path / "cfg.yaml").write_text("&x\nsae_type: topk\nk: 3\nactivation: *x\n")
    np.testing.assert_allclose(features(read(tmp_path)), topk(pre(X)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "word", ["leaky_relu", "relu6", "prelu", "relu_squared", "soft_topk", "group_topk", "LeakyReLU"]
)
def test_activations_whose_names_hold_that_of_another_are_refused(word: str, tmp_path: Path) -> None:
    saelens(tmp_path, SAELENS, activation_fn=word, k=K)
    with pytest.raises(ModelError, match=f"said to be '{word}', which is not known here"):
        read(tmp_path)


def test_a_k_in_the_name_of_an_activation_counts_and_must_agree(tmp_path: Path) -> None:
    saelens(tmp_path, SAELENS, activation="TopKReLU_3")
    np.testing.assert_allclose(features(read(tmp_path)), topk(pre(X)), rtol=1e-3, atol=1e-4)
    saelens(tmp_path, SAELENS, activation="topk_3", k=5)
    with pytest.raises(ModelError, match=r"says topk_3, and k is 5: add :topk=K"):
        read(tmp_path)


def test_a_matrix_without_biases_is_turned_as_its_settings_say(tmp_path: Path) -> None:
    expected = relu(X @ W_ENC.double().numpy())
    for tensors in ({"W_enc": W_ENC.T.contiguous()}, {"encoder.weight": W_ENC}, {"W_enc": W_ENC}):
        saelens(tmp_path, tensors, architecture="standard")
        np.testing.assert_allclose(features(read(tmp_path)), expected, rtol=1e-3, atol=1e-4)
