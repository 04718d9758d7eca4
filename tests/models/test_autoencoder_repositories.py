"""Autoencoders as the code of single papers saves them: read by that code's formula, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from autoencoder_files import (
    B_DEC,
    B_ENC,
    LINEAR,
    SAELENS,
    THRESHOLDS,
    W_DEC,
    W_ENC,
    Array,
    D,
    K,
    S,
    X,
    above,
    drawn,
    features,
    layer_norm,
    pre,
    read,
    refusal,
    relu,
    saelens,
    topk,
)
from safetensors.torch import save_file
from torch import Tensor

MEAN = drawn(D, seed=30)
MSAE = {"pre_bias": B_DEC, "encoder": W_ENC, "latent_bias": B_ENC, "decoder": W_DEC}
TIED = {"pre_encoder_bias._bias_reference": B_DEC[None], "encoder.weight": LINEAR["encoder.weight"][None]}
TIED |= {"encoder.bias": B_ENC[None], "decoder.weight": LINEAR["decoder.weight"][None]}
TIED |= {"post_decoder_bias._bias_reference": B_DEC[None], "tied_bias": B_DEC[None]}


def msae(folder: Path, name: str, more: dict[str, Tensor] | None = None, **beside: Any) -> None:
    content = {"model": {**MSAE, **(more or {})}, "mean_center": False, "scaling_factor": 1.0, "target_norm": None}
    torch.save(content | beside, folder / name)


def bussmann(folder: Path, tensors: dict[str, Tensor], **settings: Any) -> None:
    base = {"act_size": D, "dict_size": S, "input_unit_norm": False, "top_k_aux": 512, "lr": 3e-4}
    (folder / "config.json").write_text(json.dumps(base | settings))
    torch.save(tensors, folder / "sae.pt")


def scope(folder: Path, tensors: dict[str, Tensor], name: str, **settings: Any) -> None:
    save_file({"b_enc": B_ENC, "b_dec": B_DEC, **tensors}, folder / name)
    (folder / "config.json").write_text(json.dumps(settings))


LAYOUTS: dict[str, tuple[Callable[[Path], object], Array]] = {
    "MSAE, capped": (
        lambda f: msae(f, f"{S}_{D}_TopKReLU_{K}_UW_False_False_2.5_cc3m.pt", mean_center=MEAN, scaling_factor=1.7),
        2.5 * np.tanh(topk(pre((X - MEAN.double().numpy()) * 1.7)) / 2.5),
    ),
    "MSAE": (lambda f: msae(f, f"{S}_{D}_TopKReLU_{K}_RW_False_False_0.0_cc3m.pt"), topk(pre(X))),
    "MSAE, normalized": (lambda f: msae(f, f"{S}_{D}_ReLU_003_False_True_0.0_x.pt"), relu(pre(layer_norm(X)))),
    "MSAE JumpReLU": (
        lambda f: msae(f, f"{S}_{D}_JumpReLU_False_False_0.0_x.pt", {"activation.log_threshold": THRESHOLDS.log()}),
        above(pre(X), THRESHOLDS),
    ),
    "BatchTopK's TopK": (lambda f: bussmann(f, SAELENS, sae_type="topk", top_k=K), topk(pre(X))),
    "BatchTopK's TopK, each input normalized": (
        lambda f: bussmann(f, SAELENS, sae_type="topk", top_k=K, input_unit_norm=True),
        topk(pre(layer_norm(X))),
    ),
    "BatchTopK's TopK without a bias": (
        lambda f: bussmann(f, SAELENS, sae_type="topk", top_k=K, use_encoder_bias=False, activation="relu"),
        topk(pre(X) - B_ENC.double().numpy()),
    ),
    "BatchTopK's JumpReLU": (
        lambda f: bussmann(f, {**SAELENS, "jumprelu.log_threshold": THRESHOLDS.log()}, sae_type="jumprelu"),
        above(pre(X, False), THRESHOLDS),
    ),
    "matryoshka_sae": (
        lambda f: bussmann(
            f, {**SAELENS, "threshold": torch.tensor(0.4)}, sae_type="global-matryoshka-topk", top_k=K, group_sizes=[5]
        ),
        above(pre(X), 0.4),
    ),
    "sparse_autoencoder (DN-CBM)": (lambda f: torch.save(TIED, f / "final.pt"), relu(pre(X))),
    "sparse_autoencoder, a checkpoint": (
        lambda f: torch.save(
            {"n_components": 1, "n_input_features": D, "state_dict": {n: t[0] for n, t in TIED.items()}}, f / "a.pt"
        ),
        relu(pre(X)),
    ),
    "Gemma Scope 2": (
        lambda f: scope(
            f,
            {"w_enc": W_ENC, "w_dec": W_DEC, "threshold": THRESHOLDS, "affine_skip_connection": drawn(D, D, seed=9)},
            "params.safetensors",
            architecture="jump_relu",
            width=S,
        ),
        above(pre(X, False), THRESHOLDS),
    ),
    "circuit-tracer": (
        lambda f: scope(
            f,
            {"W_enc": W_ENC.T.contiguous(), "W_dec": W_DEC, "activation_function.threshold": THRESHOLDS},
            "layer_3.safetensors",
        ),
        above(pre(X, False), THRESHOLDS),
    ),
    "SAELens, finetuned": (
        lambda f: saelens(f, {**SAELENS, "scaling_factor": drawn(S, seed=40)}, architecture="topk", k=K),
        topk(pre(X)),
    ),
    "statistics of the inputs around the weights": (
        lambda f: torch.save(
            {"state_dict": SAELENS, "activation": "relu", "mean": MEAN, "std": torch.tensor(2.0)}, f / "sae.pt"
        ),
        relu(pre((X - MEAN.double().numpy()) / 2)),
    ),
    "statistics of the inputs in the settings": (
        lambda f: saelens(f, SAELENS, architecture="standard", input_mean=MEAN.tolist(), input_std=2.0),
        relu(pre((X - MEAN.double().numpy()) / 2)),
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_by_its_codes_formula(layout: str, tmp_path: Path) -> None:
    write, expected = LAYOUTS[layout]
    write(tmp_path)
    np.testing.assert_allclose(features(read(tmp_path)), expected, rtol=1e-3, atol=1e-4)
    assert 0 < (expected > 0).mean() < 0.75, "the case tells nothing"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: msae(f, "msae.pt"), "whose settings are in the name of its file, and msae.pt has none"),
        (lambda f: msae(f, f"{S}_{D}_BatchTopKReLU_{K}_False_False_0.0_x.pt"), "does not hold it: add :threshold=T"),
        (lambda f: msae(f, f"{S}_{D}_TopKabsReLU_{K}_False_False_0.0_x.pt"), "said to be 'TopKabsReLU'"),
        (lambda f: bussmann(f, SAELENS, sae_type="batchtopk", top_k=K), "does not hold it: add :threshold=T"),
        (lambda f: bussmann(f, SAELENS, sae_type="topk", top_k=K, activation="abs"), "said to be 'abs'"),
        (lambda f: torch.save({n: torch.cat([t, t]) for n, t in TIED.items()}, f / "a.pt"), "has 2 encoders in"),
    ],
)
def test_what_its_file_does_not_settle_is_refused(
    write: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    write(tmp_path)
    assert message in refusal(tmp_path)


def test_a_soft_cap_is_part_of_the_identity_and_said(tmp_path: Path) -> None:
    msae(tmp_path, f"{S}_{D}_TopKReLU_{K}_UW_False_False_2.5_cc3m.pt")
    autoencoder = read(tmp_path)
    assert json.loads(autoencoder.identity)["cap"] == 2.5
    assert (
        autoencoder.understood
        == "TopK with k 3; 6 inputs (minus a bias); 20 latents (below 2.5); settings from the name"
    )
