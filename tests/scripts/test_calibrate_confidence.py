"""The calibration of confidence: features of right and wrong labels, the regression, the whole command."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT

sys.path.insert(0, str(ROOT / "scripts" / "method_search"))
sys.path.insert(0, str(ROOT / "scripts" / "calibration"))

import calibrate_confidence
import label_features
import world_features
from label_features import FEATURES
from regression import Calibration
from search_categories import Graded
from search_worlds import World

from csp_index.labelling.evidence import Evidence

TEXTS, WIDTH = 30, 32


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return 400 images, the activations of five neurons that each answer to one text, and the texts."""
    rng = torch.Generator().manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(TEXTS, WIDTH, generator=rng), dim=1)
    shown = torch.randint(0, 5, (400,), generator=rng)
    images = torch.nn.functional.normalize(texts[shown] + 0.15 * torch.randn(400, WIDTH, generator=rng), dim=1)
    fired = (shown == torch.arange(5)[:, None]).float() * (1 + torch.rand(5, 400, generator=rng))
    return images, fired, texts


def test_features_of_right_and_wrong_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    images, fired, texts = example()
    values, top = fired.topk(10, dim=1)
    evidence = Evidence(images, top, values, torch.full((5, 10, 0), -1), texts, None)
    scores = images[top].mean(1) @ texts.T
    leaders = scores.topk(6, dim=1).indices
    shares, fit = torch.full(leaders.shape, 1 / 6), torch.full((5,), 0.99)

    def named(places: torch.Tensor) -> dict[str, torch.Tensor]:
        columns = label_features.label_features(evidence, scores, places, shares, 100, fit, images, fired)
        return dict(zip(FEATURES, columns.T, strict=True))

    right, wrong = named(leaders), named(leaders.flip(1))
    assert bool((right["response"] > wrong["response"] + 0.1).all())
    assert right["behind"].tolist() == [0.0] * 5 and bool((wrong["behind"] < -0.1).all())
    cosines, response = texts[leaders[2, 0]] @ images.T, (fired[2] / (0.5 * values[2].mean())).clamp(0, 1)
    assert float(right["response"][2]) == pytest.approx(np.corrcoef(cosines, response)[0, 1], abs=1e-5)
    monkeypatch.setattr(label_features, "_NEURONS", 2)
    monkeypatch.setattr(label_features, "_TEXTS", 7)
    for name, values in named(leaders).items():
        torch.testing.assert_close(values, right[name])


def test_labels_of_a_world_have_features_and_truth() -> None:
    images, fired, texts = example()
    agreement = torch.eye(TEXTS)[:5]
    best = torch.tensor([1.0, 1.0, 0.4, 1.0, 1.0])  # no text says by half what the third neuron answers to
    world = World(images, fired, texts, 20.0, torch.arange(5), torch.ones(5).long())
    (result,) = world_features.features_of([Graded(world, agreement, [("real",)] * 5, best)])
    assert set(result) == set(world_features.CALIBRATED)
    for method in world_features.CALIBRATED:
        assert result[method]["features"].shape == (5, len(FEATURES))
    assert result["semanticlens"]["exact"].tolist() == [1.0] * 5
    torch.testing.assert_close(result["semanticlens"]["overlap"], best)


def test_a_fit_finds_the_chances_that_made_its_labels() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (4000, 2))
    chance = 1 / (1 + np.exp(-(features[:, 0] - 3)))
    right = (rng.random(4000) < chance).astype(float)
    fitted = Calibration.fit(features, right, np.ones(4000), 1e-6)
    assert np.abs(fitted.probability(features) - chance).max() < 0.05
    assert np.isnan(fitted.probability(np.array([[np.nan, 3.0]]))).all()
    assert calibrate_confidence.calibration_error(chance, right) < 0.03
    assert calibrate_confidence.calibration_error(np.ones(4), np.array([1.0, 0, 0, 0])) == 0.75
    assert calibrate_confidence.area(np.array([0.1, 0.5, 0.5]), np.array([0.0, 1, 0])) == 0.75


def test_the_command_judges_by_fresh_seeds_of_both_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for folder in ("out", "out/fresh", "pictures", "fresh-pictures"):
        (tmp_path / folder).mkdir()
    for name in ("pictures/seed0-biased", "pictures/seed1-biased", "fresh-pictures/seed2-biased"):
        (tmp_path / f"{name}.npz").touch()
    stored = [
        "drawn-0",
        "drawn-1",
        "real-seed0-biased",
        "real-seed1-biased",
        "fresh/drawn-7",
        "fresh/real-seed2-biased",
    ]
    for name in stored:
        features = rng.normal(size=(300, len(FEATURES))).astype(np.float32)
        right = rng.random(300) < 1 / (1 + np.exp(-2 * features[:, 3]))
        features[0, 0] = np.nan
        arrays = {"features": features, "overlap": right.astype(np.float32), "exact": right.astype(np.float32)}
        methods = calibrate_confidence.CALIBRATED
        np.savez(tmp_path / "out" / name, **{f"{m}/{key}": value for m in methods for key, value in arrays.items()})
    words = ["--cache", "none", "--out", "out", "--development", "0-1", "--fresh", "7"]
    words += ["--pictures", "pictures", "--fresh-pictures", "fresh-pictures"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["calibrate_confidence.py", *words])
    calibrate_confidence.main()
    fitted = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert fitted["methods"]["pmi"]["labels"] == {"drawn": 598, "real": 598}
    assert int(np.argmax(fitted["methods"]["pmi"]["weights"])) == 3
    fresh = (tmp_path / "out" / "calibration.md").read_text().partition("## Fresh")[2].splitlines()
    (row,) = (line.split(" | ") for line in fresh if line.startswith("| pmi | real"))
    assert row[2] == "299" and float(row[6]) < 0.12 < float(row[7])
