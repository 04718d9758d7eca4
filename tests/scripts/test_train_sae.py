from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from safetensors.torch import load_file

from csp_index import open_index
from csp_index.models.sparse_autoencoders import SparseAutoencoder, SparseSource

sys.path.insert(0, str(ROOT / "scripts"))

import train_sae

N, D, S, K = 300, 8, 24, 3


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Return an index whose layer is sums of three of twelve directions."""
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((12, D)) / np.sqrt(D)
    places = np.stack([rng.choice(12, 3, replace=False) for _ in range(N)])
    weights = np.zeros((N, 12))
    np.put_along_axis(weights, places, rng.uniform(2, 6, (N, 3)), axis=1)
    np.save(tmp_path / "activations.npy", (weights @ directions + 5).astype(np.float32))
    np.save(tmp_path / "embeddings.npy", rng.standard_normal((N, 4)).astype(np.float32))
    open_index(tmp_path / "db").import_arrays(
        tmp_path / "activations.npy", "m/l", embeddings=tmp_path / "embeddings.npy"
    )
    return tmp_path / "db"


def _train(index: Path, out: Path, *more: str) -> int:
    options = [
        "--layer",
        "m/l",
        "--latents",
        str(S),
        "--k",
        str(K),
        "--steps",
        "400",
        "--batch",
        "64",
        "--rate",
        "0.01",
    ]
    return train_sae.main([str(index), "--out", str(out), "--device", "cpu", *options, *more])


def test_a_trained_autoencoder_is_read_and_explains_the_layer(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(index, tmp_path / "sae") == 0
    read = SparseAutoencoder(SparseSource("l", str(tmp_path / "sae")))
    assert read.understood.startswith("BatchTopK by threshold") and "settings from cfg.json" in read.understood
    _, inputs = train_sae.stored_activations(str(index), "m/l")
    features = read.encode(inputs)
    assert (features > 0).sum(1).float().mean() == pytest.approx(K, abs=0.3)
    tensors = load_file(tmp_path / "sae" / "sae_weights.safetensors")
    missed = (inputs - tensors["b_dec"] - features @ tensors["W_dec"]).square().sum()
    explained = 1 - float(missed / (inputs - inputs.mean(0)).square().sum())
    assert explained > 0.8
    assert f"{explained:.1%} of the variance" in capsys.readouterr().out


@pytest.mark.slow
def test_an_interrupted_training_ends_as_a_whole_one(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_sae, "SAVE_EVERY", 50)
    assert _train(index, tmp_path / "whole") == 0
    learn, steps = train_sae.Autoencoder.learn, []

    def stopping(self: train_sae.Autoencoder, inputs: torch.Tensor, rate: float) -> None:
        steps.append(rate)
        if len(steps) == 130:
            raise KeyboardInterrupt
        learn(self, inputs, rate)

    monkeypatch.setattr(train_sae.Autoencoder, "learn", stopping)
    with pytest.raises(KeyboardInterrupt):
        _train(index, tmp_path / "parts")
    assert not (tmp_path / "parts" / "cfg.json").exists()
    assert _train(index, tmp_path / "parts") == 0
    assert "going on after step 100" in capsys.readouterr().out
    whole, parts = (load_file(tmp_path / name / "sae_weights.safetensors") for name in ("whole", "parts"))
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--k", "25"), "--k is 25 for 24 latents"),
        (("--steps", "0"), "--steps is 0: expected a number above 0"),
        (("--layer", "m/x"), "m/x"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    index: Path, tmp_path: Path, more: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(index, tmp_path / "sae", *more) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_another_training_in_the_same_folder_is_refused(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train(index, tmp_path / "sae", "--steps", "3") == 0
    assert _train(index, tmp_path / "sae", "--steps", "3", "--seed", "1") == 2
    assert "is of another training (seed is 1, was 0): use another --out" in capsys.readouterr().err
