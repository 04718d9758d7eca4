"""The calibration: labels of worlds and of their nulls, the regression, the whole command."""

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
import null_worlds
import search_worlds as base
import world_features
from additive_regression import fit_additive
from search_categories import Graded
from search_worlds import QUICK, World

from csp_index.labelling.probabilities.features import FEATURES

TEXTS, WIDTH = 30, 32
METHODS = ("csp", "pmi")


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return 400 images, the activations of five neurons that each answer to one text, and the texts."""
    rng = torch.Generator().manual_seed(0)
    texts = torch.nn.functional.normalize(torch.randn(TEXTS, WIDTH, generator=rng), dim=1)
    shown = torch.randint(0, 5, (400,), generator=rng)
    images = torch.nn.functional.normalize(texts[shown] + 0.15 * torch.randn(400, WIDTH, generator=rng), dim=1)
    fired = (shown == torch.arange(5)[:, None]).float() * (1 + torch.rand(5, 400, generator=rng))
    return images, fired, texts


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


def test_errors_and_areas() -> None:
    assert calibrate_confidence.calibration_error(np.ones(4), np.array([1.0, 0, 0, 0])) == 0.75
    assert calibrate_confidence.area(np.array([0.1, 0.5, 0.5]), np.array([0.0, 1, 0])) == 0.75


def test_a_fit_finds_the_chances_that_made_its_labels() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(3, 2, (4000, 2))
    chance = 1 / (1 + np.exp(-2 * np.abs(features[:, 0] - 3) + 2))  # a straight line says nothing of it
    right = (rng.random(4000) < chance).astype(float)
    fitted = fit_additive(features, right, np.ones(4000), (False, False), 1e-6)
    assert np.abs(fitted.probability(features) - chance).mean() < 0.05
    assert np.isnan(fitted.probability(np.array([[np.nan, 3.0]]))).all()


def test_a_rising_feature_never_lowers_the_probability() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(2000, 2))
    right = (np.abs(features[:, 0]) + features[:, 1] < 1).astype(float)  # the first falls and the second falls, too
    fitted = fit_additive(features, right, np.ones(2000), (True, False), 1e-4)
    assert (fitted.rises[0] >= 0).all() and fitted.rises[1].sum() < -1
    line = np.stack([np.linspace(-9, 9, 50), np.zeros(50)], 1)
    assert (np.diff(fitted.probability(line)) >= 0).all()


def test_a_feature_that_is_constant_but_for_rounding_makes_no_step() -> None:
    rng = np.random.default_rng(0)
    features = np.stack([1 - rng.random(2000) * 1e-7, rng.normal(size=2000)], 1)
    right = (features[:, 0] > 1 - 5e-8).astype(float)
    fitted = fit_additive(features, right, np.ones(2000), (True, False), 1e-4)
    low, high = fitted.probability(np.array([[1 - 1e-7, 0.0], [1.0, 0.0]]))
    assert abs(low - high) < 1e-3


@pytest.mark.slow
def test_networks_that_have_learned_nothing_have_labels_that_are_all_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(null_worlds, "_IMAGES", 60)
    pool = base.Pool(base.design(7), *_scenes_of(7))
    monkeypatch.setattr(base, "load_pool", lambda *_: pool)
    graded = list(null_worlds.drawn_nulls(Path("none"), [7], QUICK))
    assert len(graded) == 3
    for one in graded:
        assert one.world.vectors.shape == (60, 128) and len(one.world.activations) > 20
        assert not bool(one.agreement.any()) and not bool(one.best.any())
        assert bool(((one.world.activations > 0).sum(1) > 0).all())


def _scenes_of(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, torch.Tensor, torch.Tensor]:
    scenes, group, biased = base.draw_scenes(base.design(seed), seed, QUICK)
    vectors = torch.nn.functional.normalize(torch.randn(len(scenes), 128, generator=torch.Generator().manual_seed(0)))
    return base.scene_codes(scenes), group, biased, vectors, vectors


def test_the_command_judges_by_fresh_seeds_of_both_kinds_and_their_nulls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    for folder in ("out", "out/fresh", "pictures", "fresh-pictures"):
        (tmp_path / folder).mkdir()
    for name in ("pictures/seed0-biased", "pictures/seed1-biased", "fresh-pictures/seed2-biased"):
        (tmp_path / f"{name}.npz").touch()
    own = ["drawn-0", "drawn-1", "real-seed0-biased", "real-seed1-biased", "fresh/drawn-7", "fresh/real-seed2-biased"]
    for name in own:
        null = Path(name).with_name(f"null-{Path(name).name}")
        for file, shift in ((Path(name), 0.0), (null, -1.5)):
            features = rng.normal(size=(300, len(FEATURES))).astype(np.float32)
            features[:, 3] += shift
            right = (rng.random(300) < 1 / (1 + np.exp(-2 * features[:, 3]))) * (shift == 0)
            features[0, 0] = np.nan
            arrays = {"features": features, "overlap": right.astype(np.float32), "exact": right.astype(np.float32)}
            np.savez(tmp_path / "out" / file, **{f"{m}/{key}": value for m in METHODS for key, value in arrays.items()})
    words = ["--cache", "none", "--out", "out", "--development", "0-1", "--fresh", "7", "--run", "none"]
    words += ["--pictures", "pictures", "--fresh-pictures", "fresh-pictures"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(calibrate_confidence, "CALIBRATED", METHODS)
    monkeypatch.setattr(sys, "argv", ["calibrate_confidence.py", *words])
    calibrate_confidence.main()
    stored = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert stored["development"]["drawn"] == "0-1" and stored["fresh"]["real"] == ["seed2-biased"] and stored["commit"]
    fitted = stored["methods"]["pmi"]
    assert fitted["labels"] == {"drawn": 598, "real": 598, "drawn null": 598, "real null": 598}
    assert int(np.argmax(np.sum(fitted["rises"], axis=1))) == 3
    assert fitted["judged"]["drawn null"]["mean"] < 0.35 < fitted["judged"]["drawn"]["mean"]
    fresh = (tmp_path / "out" / "calibration.md").read_text().partition("## Fresh")[2].splitlines()
    (row,) = (line.split(" | ") for line in fresh if line.startswith("| pmi | real |"))
    assert row[2] == "299" and float(row[6]) < float(row[7])
