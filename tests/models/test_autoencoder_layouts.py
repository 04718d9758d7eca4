"""Autoencoders as their libraries save them: each file is written in the library's layout, and read by its formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from autoencoder_files import (
    B_DEC,
    B_GATE,
    B_MAG,
    BEFORE_RELU,
    DL_TOPK,
    GATED,
    JUMP,
    LINEAR,
    MATRYOSHKA,
    NORMS,
    OPENAI,
    R_MAG,
    SAELENS,
    THRESHOLDS,
    Array,
    D,
    K,
    S,
    X,
    above,
    dictionary_learning,
    drawn,
    features,
    gated,
    layer_norm,
    overcomplete_folder,
    pre,
    read,
    relu,
    saelens,
    saev,
    saved,
    sparsify,
    topk,
    visaebench,
)
from safetensors.torch import save_file

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
        lambda f: overcomplete_folder(f, {}, {"sae_type": "topk", "top_k": K}),
        topk(BEFORE_RELU),
        "TopK with k 3",
    ),
    "overcomplete JumpReLU": (
        lambda f: overcomplete_folder(f, {"thresholds": drawn(S, seed=5), "bandwith": torch.tensor(1e-3)}, {}),
        above(BEFORE_RELU, drawn(S, seed=5).exp()),
        "JumpReLU",
    ),
    "overcomplete BatchTopK": (
        lambda f: overcomplete_folder(f, {"_running_threshold": torch.tensor(0.7)}, {}),
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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_by_its_librarys_formula(layout: str, tmp_path: Path) -> None:
    write, expected, words = LAYOUTS[layout]
    found = read(write(tmp_path))
    np.testing.assert_allclose(features(found), expected, rtol=1e-3, atol=1e-4)
    assert 0 < (expected > 0).mean() < 0.75, "the case tells nothing"
    assert words in found.understood
