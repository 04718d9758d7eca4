"""Autoencoders written as their libraries save them, and what they compute, in NumPy."""

from __future__ import annotations

import io
import json
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


def overcomplete_folder(folder: Path, more: dict[str, Tensor], settings: dict[str, Any]) -> Path:
    torch.save(OVERCOMPLETE | more, folder / "sae.pt")
    if settings:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


def read(where: object, options: str = "") -> SparseAutoencoder:
    return SparseAutoencoder(split_spec(f"timm:x+sae:layer={where}{options}")[1][0])


def refusal(folder: Path) -> str:
    """The one line with which the autoencoder in a folder is refused."""
    with pytest.raises(ModelError) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def features(autoencoder: SparseAutoencoder) -> Tensor:
    """The features of X, which are the same bits where gradients are computed and where they are not."""
    values = torch.from_numpy(X).float()
    result = autoencoder.encode(values.clone())
    with torch.no_grad():
        assert torch.equal(autoencoder.encode(values), result)
    assert torch.equal(values, torch.from_numpy(X).float()), "the input stays as it was"
    return result
