"""Autoencoders as their libraries save them: each file is written in the library's layout, and read by its formula."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from csp_index.errors import ModelError
from csp_index.models.sparse_autoencoders import SparseAutoencoder, split_spec

D, S, K = 6, 20, 3
Array = NDArray[np.float64]
X = np.random.default_rng(0).normal(0.4, 1.2, (40, D)).astype(np.float32).astype(np.float64)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


W_ENC, B_ENC, W_DEC, B_DEC = drawn(D, S, seed=1), drawn(S, seed=2), drawn(S, D, seed=3), drawn(D, seed=4)
THRESHOLDS = drawn(S, seed=5).abs()
R_MAG, B_MAG, B_GATE = drawn(S, seed=6), drawn(S, seed=7), drawn(S, seed=8)
SAELENS = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
LINEAR = {"encoder.weight": W_ENC.T.contiguous(), "encoder.bias": B_ENC, "decoder.weight": W_DEC.T.contiguous()}
GATED = {"W_enc": W_ENC, "b_gate": B_GATE, "r_mag": R_MAG, "b_mag": B_MAG, "W_dec": W_DEC, "b_dec": B_DEC}


def pre(x: Array, centred: bool = True) -> Array:
    return (x - (B_DEC.double().numpy() if centred else 0)) @ W_ENC.double().numpy() + B_ENC.double().numpy()


def relu(z: Array) -> Array:
    return np.maximum(z, 0)


def topk(z: Array, k: int = K) -> Array:
    z = relu(z)
    return np.where(np.argsort(np.argsort(-z, axis=1, kind="stable"), axis=1) < k, z, 0)


def above(z: Array, threshold: Tensor | float) -> Array:
    limit = threshold.double().numpy() if isinstance(threshold, Tensor) else threshold
    return np.where(relu(z) > limit, relu(z), 0)


def gated(x: Array, centred: bool = True) -> Array:
    projected = (x - (B_DEC.double().numpy() if centred else 0)) @ W_ENC.double().numpy()
    gate = projected + B_GATE.double().numpy() > 0
    return gate * relu(projected * np.exp(R_MAG.double().numpy()) + B_MAG.double().numpy())


def layer_norm(x: Array) -> Array:
    centred = x - x.mean(1, keepdims=True)
    return centred / (centred.std(1, ddof=1, keepdims=True) + 1e-5)


def saelens(folder: Path, tensors: dict[str, Tensor], **settings: Any) -> Path:
    base = {"d_in": D, "d_sae": S, "dtype": "float32", "device": "cpu", "normalize_activations": "none"}
    base |= {"apply_b_dec_to_input": True, "reshape_activations": "none", "metadata": {"hook_name": "blocks.3"}}
    (folder / "cfg.json").write_text(json.dumps(base | settings))
    save_file(tensors, folder / "sae_weights.safetensors")
    save_file({"sparsity": torch.zeros(S)}, folder / "sparsity.safetensors")
    return folder


def dictionary_learning(folder: Path, tensors: dict[str, Tensor], dict_class: str, **settings: Any) -> Path:
    trainer = {"dict_class": dict_class, "trainer_class": "X", "activation_dim": D, "dict_size": S, "lr": 1e-3}
    (folder / "config.json").write_text(
        json.dumps({"trainer": trainer | settings, "buffer": {"d_submodule": D, "ctx_len": 128}})
    )
    torch.save(tensors, folder / "ae.pt")
    return folder


def saev(folder: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> Path:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    (folder / "sae.pt").write_bytes(json.dumps(header).encode() + b"\n" + buffer.getvalue())
    return folder / "sae.pt"


def sparsify(folder: Path, **settings: Any) -> Path:
    base = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": S, "k": K}
    base |= {"multi_topk": False, "skip_connection": False, "transcode": False, "d_in": D}
    (folder / "cfg.json").write_text(json.dumps(base | settings))
    tensors = {"encoder.weight": LINEAR["encoder.weight"], "encoder.bias": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
    save_file(tensors, folder / "sae.safetensors")
    return folder


def visaebench(folder: Path, tensors: dict[str, Tensor], **settings: Any) -> Path:
    (folder / "config.json").write_text(json.dumps({"input_dim": D, "hidden_dim": S, **settings}))
    torch.save(LINEAR | {"decoder.weight": W_DEC, "decoder.bias": B_DEC} | tensors, folder / "sae.pt")
    return folder


def overcomplete() -> tuple[dict[str, Tensor], Array]:
    """Return the state of an encoder of overcomplete in evaluation mode, and what comes before its ReLU."""
    mean, variance, gain, shift = (drawn(S, seed=seed) for seed in (10, 11, 12, 13))
    state = {
        "encoder.final_block.0.weight": W_ENC.T.contiguous(),
        "encoder.final_block.0.bias": B_ENC,
        "encoder.final_block.1.weight": gain,
        "encoder.final_block.1.bias": shift,
        "encoder.final_block.1.running_mean": mean,
        "encoder.final_block.1.running_var": variance.abs(),
        "encoder.final_block.1.num_batches_tracked": torch.tensor(7),
        "dictionary._weights": W_DEC,
    }
    normalized = (pre(X, False) - mean.double().numpy()) / np.sqrt(variance.abs().double().numpy() + 1e-5)
    return state, normalized * gain.double().numpy() + shift.double().numpy()


OVERCOMPLETE, BEFORE_RELU = overcomplete()
NORMS = W_DEC.double().norm(dim=1).numpy()
DL_TOPK = {"k": torch.tensor(K), "threshold": torch.tensor(0.4), "b_dec": B_DEC, **LINEAR}
MATRYOSHKA = {"k": torch.tensor(K), "threshold": torch.tensor(0.4), "group_sizes": torch.tensor([8, 12]), **SAELENS}
OPENAI = {"pre_bias": B_DEC, "latent_bias": B_ENC, "encoder.weight": LINEAR["encoder.weight"]}
OPENAI |= {"decoder.weight": LINEAR["decoder.weight"], "stats_last_nonzero": torch.zeros(S, dtype=torch.long)}
JUMP = {**SAELENS, "threshold": THRESHOLDS}


def saved(name: str, content: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.save(content, folder / name)
        return folder / name

    return write


# What a library writes into a folder, and what it then computes for X.
LAYOUTS: dict[str, tuple[Callable[[Path], Path], Array, str]] = {
    "SAELens standard": (lambda f: saelens(f, SAELENS, architecture="standard"), relu(pre(X)), "ReLU"),
    "SAELens, bias stays": (
        lambda f: saelens(f, SAELENS, architecture="standard", apply_b_dec_to_input=False),
        relu(pre(X, False)),
        "ReLU",
    ),
    "SAELens TopK": (lambda f: saelens(f, SAELENS, architecture="topk", k=K), topk(pre(X)), "TopK with k 3"),
    "SAELens old TopK": (
        lambda f: saelens(f, SAELENS, architecture="standard", activation_fn_str="topk", activation_fn_kwargs={"k": K}),
        topk(pre(X)),
        "TopK with k 3",
    ),
    "SAELens older TopK": (
        lambda f: saelens(f, SAELENS, activation_fn="topk", activation_fn_kwargs={"k": K}),
        topk(pre(X)),
        "TopK with k 3",
    ),
    "SAELens TopK by the decoder's norms": (
        lambda f: saelens(f, SAELENS, architecture="topk", k=K, rescale_acts_by_decoder_norm=True),
        topk(pre(X) * NORMS),
        "TopK with k 3",
    ),
    "SAELens JumpReLU": (lambda f: saelens(f, JUMP, architecture="jumprelu"), above(pre(X), THRESHOLDS), "JumpReLU by"),
    "SAELens old JumpReLU": (
        lambda f: saelens(f, JUMP, architecture="jumprelu", activation_fn_str="relu", apply_b_dec_to_input=False),
        above(pre(X, False), THRESHOLDS),
        "JumpReLU by",
    ),
    "SAELens gated": (
        lambda f: saelens(f, GATED, architecture="gated", activation_fn_str="relu"),
        gated(X),
        "gated; 6 inputs (minus a bias)",
    ),
    "SAELens BatchTopK in training": (
        lambda f: saelens(
            f, {**SAELENS, "topk_threshold": torch.tensor(0.4, dtype=torch.float64)}, architecture="batchtopk", k=K
        ),
        above(pre(X), 0.4),
        "BatchTopK by threshold 0.4",
    ),
    "SAELens layer norm": (
        lambda f: saelens(f, SAELENS, architecture="standard", normalize_activations="layer_norm"),
        relu(pre(layer_norm(X))),
        "(layer norm, minus a bias)",
    ),
    "SAELens constant norm": (
        lambda f: saelens(f, SAELENS, architecture="standard", normalize_activations="constant_norm_rescale"),
        relu(pre(X * np.sqrt(D) / np.linalg.norm(X, axis=1, keepdims=True))),
        "scaled to length",
    ),
    "SAELens transcoder": (
        lambda f: saelens(
            f,
            {**SAELENS, "b_dec": drawn(9, seed=9), "W_dec": drawn(S, 9, seed=9)},
            architecture="transcoder",
            apply_b_dec_to_input=False,
            d_out=9,
        ),
        relu(pre(X, False)),
        "ReLU",
    ),
    "dictionary_learning standard": (
        lambda f: dictionary_learning(f, {"bias": B_DEC, **LINEAR}, "AutoEncoder"),
        relu(pre(X)),
        "ReLU",
    ),
    "dictionary_learning standard, no config": (saved("ae.pt", {"bias": B_DEC, **LINEAR}), relu(pre(X)), "ReLU"),
    "dictionary_learning new": (
        lambda f: dictionary_learning(f, {**LINEAR, "decoder.bias": B_DEC}, "AutoEncoderNew"),
        relu(pre(X, False)),
        "ReLU",
    ),
    "dictionary_learning TopK": (
        lambda f: dictionary_learning(f, DL_TOPK, "AutoEncoderTopK", k=K),
        topk(pre(X)),
        "TopK with k 3",
    ),
    "dictionary_learning BatchTopK": (
        lambda f: dictionary_learning(f, DL_TOPK, "BatchTopKSAE", k=K),
        above(pre(X), 0.4),
        "BatchTopK by",
    ),
    "dictionary_learning BatchTopK, scaled in training": (
        lambda f: dictionary_learning(f, DL_TOPK, "BatchTopKSAE", k=K, norm_factor=3.0),
        above(pre(X), 0.4),
        "6 inputs (minus a bias)",
    ),
    "dictionary_learning Matryoshka, sae-for-vlm": (
        lambda f: dictionary_learning(f, MATRYOSHKA, "MatroyshkaBatchTopKSAE", k=K, group_sizes=[8, 12]),
        above(pre(X), 0.4),
        "BatchTopK by",
    ),
    "Matryoshka, no config": (saved("ae.pt", MATRYOSHKA), above(pre(X), 0.4), "BatchTopK by threshold 0.4"),
    "dictionary_learning JumpReLU": (
        lambda f: dictionary_learning(f, JUMP, "JumpReluAutoEncoder"),
        above(pre(X, False), THRESHOLDS),
        "JumpReLU",
    ),
    "dictionary_learning JumpReLU, no config": (saved("ae.pt", JUMP), above(pre(X, False), THRESHOLDS), "JumpReLU"),
    "dictionary_learning gated": (
        lambda f: dictionary_learning(
            f,
            {"encoder.weight": LINEAR["encoder.weight"], "decoder.weight": LINEAR["decoder.weight"]}
            | {"decoder_bias": B_DEC, "r_mag": R_MAG, "gate_bias": B_GATE, "mag_bias": B_MAG},
            "GatedAutoEncoder",
        ),
        gated(X),
        "gated",
    ),
    "overcomplete TopK": (
        lambda f: _overcomplete(f, {}, {"sae_type": "topk", "top_k": K}),
        topk(BEFORE_RELU),
        "TopK with k 3",
    ),
    "overcomplete JumpReLU": (
        lambda f: _overcomplete(f, {"thresholds": drawn(S, seed=5), "bandwith": torch.tensor(1e-3)}, {}),
        above(BEFORE_RELU, drawn(S, seed=5).exp()),
        "JumpReLU",
    ),
    "overcomplete BatchTopK": (
        lambda f: _overcomplete(f, {"_running_threshold": torch.tensor(0.7)}, {}),
        above(BEFORE_RELU, 0.7),
        "threshold 0.7",
    ),
    "VISAEBench BatchTopK": (
        lambda f: visaebench(f, {}, activation="batchtopk", k=K, threshold=0.6),
        above(pre(X, False), 0.6),
        "BatchTopK",
    ),
    "VISAEBench BatchTopK, threshold among the tensors": (
        lambda f: visaebench(f, {"_running_threshold": torch.tensor(0.6)}, activation="batchtopk", k=K, threshold=None),
        above(pre(X, False), 0.6),
        "BatchTopK by threshold 0.6",
    ),
    "VISAEBench JumpReLU": (
        lambda f: visaebench(f, {"jump_thresholds": THRESHOLDS}, activation="jumprelu"),
        above(pre(X, False), THRESHOLDS),
        "JumpReLU",
    ),
    "VISAEBench TopK": (lambda f: visaebench(f, {}, sae_type="topk", k=K), topk(pre(X, False)), "TopK"),
    "saev, first": (
        lambda f: saev(
            f, SAELENS, {"d_vit": D, "exp_factor": 4, "sparsity_coeff": 1e-4, "ghost_grads": False, "seed": 1}
        ),
        relu(pre(X)),
        "ReLU",
    ),
    "saev, schema 1 TopK": (
        lambda f: saev(f, SAELENS, {"schema": 1, "cfg": {"d_vit": D, "top_k": K}, "cls": "TopK", "commit": "x"}),
        topk(pre(X)),
        "TopK with k 3",
    ),
    "saev, schema 2 TopK": (
        lambda f: saev(
            f, SAELENS, {"schema": 2, "cfg": {"d_vit": D, "activation": {"cls": "TopK", "params": {"top_k": K}}}}
        ),
        topk(pre(X, False)),
        "TopK with k 3",
    ),
    "saev BatchTopK": (
        lambda f: saev(
            f,
            {**SAELENS, "activation.threshold": torch.tensor(0.5)},
            {
                "schema": 4,
                "cfg": {"d_model": D, "activation": {"kind": "batch-top-k", "top_k": K, "sparsity": {"x": 1}}},
            },
        ),
        above(pre(X, False), 0.5),
        "BatchTopK by threshold 0.5",
    ),
    "sparsify": (sparsify, topk(pre(X)), "TopK with k 3; 6 inputs (minus a bias); 20 latents; settings from cfg.json"),
    "sparsify transcoder": (lambda f: sparsify(f, transcode=True), topk(pre(X, False)), "6 inputs;"),
    "OpenAI ReLU": (saved("sae.pt", OPENAI | {"activation": "ReLU"}), relu(pre(X)), "ReLU"),
    "OpenAI TopK": (
        saved("sae.pt", OPENAI | {"activation": "TopK", "activation_state_dict": {"k": K, "postact_fn": "ReLU"}}),
        topk(pre(layer_norm(X))),
        "TopK with k 3; 6 inputs (layer norm, minus a bias)",
    ),
    "Prisma": (
        saved(
            "weights.pt",
            {
                "cfg": {"architecture": "standard", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}},
                "state_dict": SAELENS,
            },
        ),
        topk(pre(X)),
        "TopK with k 3",
    ),
    "wrapped in training": (
        saved(
            "ae.pt", {"model_state_dict": {f"module._orig_mod.{n}": t for n, t in DL_TOPK.items() if n != "threshold"}}
        ),
        topk(pre(X)),
        "TopK with k 3",
    ),
    "settings as JSON in the metadata": (
        lambda f: save_file(SAELENS, f / "sae.safetensors", {"cfg": json.dumps({"architecture": "topk", "k": K})}) or f,
        topk(pre(X)),
        "TopK with k 3",
    ),
    "a checkpoint of Lightning": (
        saved(
            "last.ckpt",
            {"epoch": 3, "state_dict": {f"sae.{n}": t for n, t in SAELENS.items()}, "hyper_parameters": {"top_k": K}},
        ),
        topk(pre(X)),
        "TopK with k 3",
    ),
    "dictionary_learning, the class as Python writes it": (
        lambda f: dictionary_learning(
            f, {"bias": B_DEC, **LINEAR}, "<class 'dictionary_learning.dictionary.AutoEncoder'>"
        ),
        relu(pre(X)),
        "ReLU",
    ),
    "stored mean and deviation": (
        saved("ae.pt", {**SAELENS, "k": K, "input_mean": drawn(D, seed=20), "input_std": drawn(D, seed=21).abs()}),
        topk(pre((X - drawn(D, seed=20).double().numpy()) / drawn(D, seed=21).abs().double().numpy())),
        "minus a stored mean, over a stored deviation, minus a bias",
    ),
}


def _overcomplete(folder: Path, more: dict[str, Tensor], settings: dict[str, Any]) -> Path:
    torch.save(OVERCOMPLETE | more, folder / "sae.pt")
    if settings:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


def _read(where: object, options: str = "") -> SparseAutoencoder:
    return SparseAutoencoder(split_spec(f"timm:x+sae:layer={where}{options}")[1][0])


def _features(read: SparseAutoencoder) -> Tensor:
    return read.encode(torch.from_numpy(X).float())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_by_its_librarys_formula(layout: str, tmp_path: Path) -> None:
    write, expected, words = LAYOUTS[layout]
    read = _read(write(tmp_path))
    np.testing.assert_allclose(_features(read), expected, rtol=1e-3, atol=1e-4)
    assert 0 < (expected > 0).mean() < 0.75, "the case tells nothing"
    assert words in read.understood


def test_a_scale_that_was_not_folded_is_read_or_asked_for(tmp_path: Path) -> None:
    folder = saelens(tmp_path, SAELENS, architecture="standard", normalize_activations="expected_average_only_in")
    with pytest.raises(ModelError, match=r"expected_average_only_in.*add :scale=X"):
        _read(folder)
    expected = relu(pre(X * 2.5))
    np.testing.assert_allclose(_features(_read(folder, ":scale=2.5")), expected, rtol=1e-3, atol=1e-4)
    (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 2.5}')
    read = _read(folder)
    np.testing.assert_allclose(_features(read), expected, rtol=1e-3, atol=1e-4)
    assert "times 2.5" in read.understood


def test_topk_and_batchtopk_of_one_layout_are_told_apart_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = saved("ae.pt", DL_TOPK)(tmp_path)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(_features(_read(file)), above(pre(X), 0.4), rtol=1e-3, atol=1e-4)
    assert "no settings tell BatchTopK from TopK" in caplog.text and "add :topk=3" in caplog.text
    np.testing.assert_allclose(_features(_read(file, ":topk=3")), topk(pre(X)), rtol=1e-3, atol=1e-4)
    saved("ae.pt", DL_TOPK | {"threshold": torch.tensor(-1.0)})(tmp_path)  # as before its first update
    np.testing.assert_allclose(_features(_read(file)), topk(pre(X)), rtol=1e-3, atol=1e-4)


def test_what_the_options_say_wins(tmp_path: Path) -> None:
    folder = saelens(tmp_path, SAELENS, architecture="topk", k=K)
    for options, expected in (
        (":topk=5", topk(pre(X), 5)),
        (":relu", relu(pre(X))),
        (":relu:plain", relu(pre(X, False))),
        (":threshold=0.25", above(pre(X), 0.25)),
        (":threshold=0.25:scale=2", above(pre(X * 2), 0.25)),
    ):
        np.testing.assert_allclose(_features(_read(folder, options)), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: save_file(SAELENS, f / "sae.safetensors"), "nothing tells whether"),
        (lambda f: saved("sae.pt", OPENAI)(f), "nothing tells whether"),
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
        (lambda f: None, "holds no autoencoder: expected a file such as sae_weights.safetensors"),
        (lambda f: [saved(n, SAELENS)(f) for n in ("a.pt", "b.pt")], "has 2 weight files (a.pt, b.pt): name one"),
        (lambda f: [saved("ae.pt", 0)(_made(f / n)) for n in ("x", "y")], "in its folders: name one (x, y)"),
    ],
)
def test_what_has_no_settled_meaning_is_refused_in_one_line(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write(tmp_path)
    with pytest.raises(ModelError) as caught:
        _read(tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_settings_of_a_network_in_the_same_folder_are_none_of_the_autoencoders(tmp_path: Path) -> None:
    save_file(SAELENS, tmp_path / "sae.safetensors")
    (tmp_path / "config.json").write_text('{"architectures": ["ViTModel"], "model_type": "vit", "hidden_act": "relu"}')
    with pytest.raises(ModelError, match=r"config\.json beside it is about something else"):
        _read(tmp_path)
    np.testing.assert_allclose(_features(_read(tmp_path, ":topk=3")), topk(pre(X)), rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_training_finds_its_settings_one_folder_up(tmp_path: Path) -> None:
    dictionary_learning(tmp_path, DL_TOPK, "AutoEncoderTopK", k=K)
    file = saved("ae_1000.pt", DL_TOPK)(_made(tmp_path / "checkpoints"))
    np.testing.assert_allclose(_features(_read(file)), topk(pre(X)), rtol=1e-3, atol=1e-4)


def test_arrays_of_numpy_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "params.npz", **{name: tensor.numpy() for name, tensor in JUMP.items()})  # as Gemma Scope
    np.testing.assert_allclose(_features(_read(tmp_path)), above(pre(X, False), THRESHOLDS), rtol=1e-3, atol=1e-4)


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
        read = _read(name)
        np.testing.assert_allclose(_features(read), topk(pre(X)), rtol=1e-3, atol=1e-4)
    assert split_spec("timm:x+sae:a=hf:org/saes/layers.5:topk=2")[1][0].added == "a.sae-layers.5"
    for name, message in (
        ("hf:org/nothing", "cannot be fetched"),
        ("hf:org/saes/layers.6", "has no layers.6"),
        ("hf:org/saes/../x", "names no file or folder"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            _read(name)
        assert "\n" not in str(caught.value)


def test_the_identity_of_what_loaded_before_is_the_same(tmp_path: Path) -> None:
    """What an index of an older version holds: the hash of the three tensors, and the options."""
    save_file(SAELENS, tmp_path / "sae.safetensors")
    read = json.loads(_read(tmp_path / "sae.safetensors", ":topk=3").identity)
    expected = {"topk": 3, "places": False, "pool": None, "layer": "layer"}
    assert {name: value for name, value in read.items() if name != "weights"} == expected
    relu_too = json.loads(_read(tmp_path / "sae.safetensors", ":relu").identity)
    assert relu_too == read | {"topk": None}
    saelens(tmp_path, SAELENS, architecture="standard", normalize_activations="layer_norm")
    assert json.loads(_read(tmp_path).identity)["norm"] == "layer"
    other = {json.loads(_read(tmp_path, f":threshold={t}").identity)["weights"] for t in (0.5, 0.25)}
    assert len(other) == 2
