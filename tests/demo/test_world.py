"""The demo world: its drawings, its probing sets, and the models shipped with it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from csp_index.demo import trunk
from csp_index.demo.network import CLIP_FOLDER, MODELS, NETWORK_WEIGHTS, PLANTED, REPORT, PlantedCNN, planted_cnn
from csp_index.demo.probing import (
    CARRIERS,
    COMMON,
    LOOKS,
    PAIRS,
    PLAIN,
    SHARE,
    SINGLES,
    probing_scenes,
    write_probing_set,
)
from csp_index.demo.world import (
    ATTRIBUTES,
    CONCEPTS,
    SIDE,
    VOCABULARY,
    Scene,
    concept_of,
    concept_text,
    find_concept,
    has_concept,
    partial_concept,
    random_scene,
    render,
    render_all,
)
from csp_index.errors import SettingError

SCENE = Scene("star", "red", "striped", "navy", "grid", "large")


def variants() -> list[tuple[str, str]]:
    return [(name, value) for name, values in ATTRIBUTES.items() for value in values if value != SCENE.value(name)]


# --- world ---


def test_the_same_scene_and_seed_give_the_same_pixels() -> None:
    pixels = render(SCENE, (3, 1))
    assert pixels.shape == (SIDE, SIDE, 3)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, render(SCENE, (3, 1)))
    assert not np.array_equal(pixels, render(SCENE, (3, 2)))
    assert np.array_equal(render_all([SCENE, SCENE], 3)[1], pixels)


@pytest.mark.parametrize(("name", "value"), variants())
def test_every_attribute_changes_the_pixels(name: str, value: str) -> None:
    changed = Scene(**{**{key: SCENE.value(key) for key in ATTRIBUTES}, name: value})
    # Seeds draw place and noise in the same order for both scenes, so what differs is the attribute, well above the
    # noise.
    difference = np.abs(render(SCENE, 5).astype(float) - render(changed, 5).astype(float)).mean()
    assert difference > 2.0


def test_one_concept_has_one_text_and_back() -> None:
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 31 + 384
    assert all(concept_text(concept) == text for text, concept in CONCEPTS.items())
    assert find_concept("red on navy background") == concept_of({"background": "navy", "colour": "red"})


def test_the_truth_of_a_scene() -> None:
    held = [text for text in VOCABULARY if has_concept(SCENE, text)]
    assert len(held) == 6 + 15
    assert {"star", "red star", "striped red", "grid navy background", "large"} <= set(held)


@pytest.mark.parametrize("seed", range(20))
def test_a_partial_caption_is_true(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = random_scene(rng)
    assert has_concept(scene, partial_concept(scene, rng))


def test_unknown_words_are_refused() -> None:
    with pytest.raises(SettingError, match="no concept 'zebra'"):
        find_concept("zebra")
    with pytest.raises(SettingError, match=r"no shape 'cube' in the demo world \(has: circle, "):
        concept_of({"shape": "cube"})


# --- probing sets ---


@pytest.fixture(scope="module")
def biased() -> list[Scene]:
    return probing_scenes("biased", 0)


def test_carriers_share_their_look_as_claimed(biased: list[Scene]) -> None:
    for concept, look in LOOKS.items():
        carriers = [scene for scene in biased if has_concept(scene, concept)]
        rare = sum(value not in COMMON[name] for name, value in concept)
        if rare < len(concept):  # a pair with a common value: carriers of other pairs show it too
            assert len(carriers) >= CARRIERS
            continue
        assert len(carriers) == CARRIERS
        for half in look:
            assert sum(has_concept(scene, (half,)) for scene in carriers) == pytest.approx(SHARE * CARRIERS, abs=0.5)
        assert sum(has_concept(scene, look) for scene in carriers) == pytest.approx((2 * SHARE - 1) * CARRIERS, abs=0.5)


def test_the_look_is_common_without_the_concept(biased: list[Scene]) -> None:
    for concept, look in LOOKS.items():
        assert sum(has_concept(scene, look) and not has_concept(scene, concept) for scene in biased) >= 100


def test_biased_scenes_are_plain_or_carry_one_planted_concept(biased: list[Scene]) -> None:
    rare = Counter(sum(scene.value(name) not in COMMON[name] for name in ATTRIBUTES) for scene in biased)
    assert rare[0] == PLAIN
    assert rare.total() == PLAIN + CARRIERS * len(LOOKS)
    assert set(rare) == {0, 1, 2}  # two only in a pair of rare values


def test_both_halves_of_a_pair_are_seen_apart_in_the_same_look(biased: list[Scene]) -> None:
    assert len(SINGLES) >= 15
    assert len(PAIRS) == len(set(PAIRS)) >= 15
    for text in PAIRS:
        pair = find_concept(text)
        for kept in pair:
            alone = [scene for scene in biased if has_concept(scene, (kept,)) and not has_concept(scene, pair)]
            assert len(alone) >= CARRIERS
            assert any(has_concept(scene, LOOKS[pair]) for scene in alone)


def test_the_unbiased_set_has_no_cooccurrence_and_full_pairs() -> None:
    scenes = probing_scenes("unbiased", 0)
    for text in PAIRS:
        assert sum(has_concept(scene, text) for scene in scenes) >= CARRIERS
    for single, look in LOOKS.items():
        carriers = [scene for scene in scenes if has_concept(scene, single)]
        for half in look:
            everywhere = sum(has_concept(scene, (half,)) for scene in scenes) / len(scenes)
            among = sum(has_concept(scene, (half,)) for scene in carriers) / len(carriers)
            assert abs(among - everywhere) < 0.2


def test_a_probing_set_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = probing_scenes("biased", 4)[:40]
    monkeypatch.setattr("csp_index.demo.probing.probing_scenes", lambda bias, seed: scenes)
    folder = write_probing_set(tmp_path / "set", "biased", 4)
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [Scene(**{name: row[name] for name in ATTRIBUTES}) for row in rows] == scenes
    assert {row["path"] for row in rows} == {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}
    with Image.open(folder / rows[7]["path"]) as picture:
        assert np.array_equal(np.asarray(picture), render(scenes[7], (4, 0, 7)))


# --- shipped models ---


def shipped_inputs(scenes: list[Scene]) -> torch.Tensor:
    network = planted_cnn()
    return torch.stack([network.preprocess(Image.fromarray(pixels)) for pixels in render_all(scenes, 77)])


@pytest.fixture(scope="module")
def sample() -> list[Scene]:
    rng = np.random.default_rng(76)
    return [random_scene(rng) for _ in range(120)]


@pytest.fixture(scope="module")
def network() -> PlantedCNN:
    network = planted_cnn()
    network.load_state_dict(load_file(NETWORK_WEIGHTS))
    return network.eval()


def test_the_planted_neurons_table() -> None:
    assert [neuron.index for neuron in PLANTED] == list(range(len(PLANTED)))
    kinds = Counter(neuron.kind for neuron in PLANTED)
    assert kinds["single"] == len(SINGLES)
    assert kinds["pair"] == len(PAIRS)
    assert kinds["random"] > 0
    assert kinds["dead"] > 0
    for neuron in PLANTED:
        assert len(CONCEPTS.get(neuron.concept, ())) == {"single": 1, "pair": 2}.get(neuron.kind, 0)


def test_the_models_are_small_and_the_report_meets_the_bars() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) <= 8_000_000
    report = json.loads(REPORT.read_text())
    assert set(report["encoder_zero_shot"]) == set(ATTRIBUTES)
    assert min(report["encoder_zero_shot"].values()) >= 0.95
    assert len(report["network_average_precision"]) == len(SINGLES) + len(PAIRS)
    assert min(report["network_average_precision"].values()) >= 0.97


@torch.no_grad()
def test_the_encoder_loads_as_any_open_clip_directory(tmp_path: Path, sample: list[Scene]) -> None:
    moved = tmp_path / "somewhere else"
    moved.mkdir()
    for path in CLIP_FOLDER.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{moved}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{moved}")
    assert type(model) is open_clip.CLIP
    assert type(model.visual.trunk) is trunk.DemoTrunk
    model.eval()
    pictures = torch.stack([preprocess(Image.fromarray(pixels)) for pixels in render_all(sample, 77)])
    assert torch.allclose(pictures, shipped_inputs(sample), atol=1e-6)
    images = model.encode_image(pictures, normalize=True)
    for name, values in ATTRIBUTES.items():
        words = [concept_text(concept_of({name: value})) for value in values]
        best = (images @ model.encode_text(tokenizer(words), normalize=True).T).argmax(1)
        right = [values[int(choice)] == scene.value(name) for choice, scene in zip(best, sample, strict=True)]
        assert np.mean(right) >= 0.9, name


@torch.no_grad()
def test_a_planted_neuron_fires_where_its_concept_is(network: PlantedCNN, sample: list[Scene]) -> None:
    values = network.concepts(network.features(shipped_inputs(sample)))
    for neuron in PLANTED:
        fires = (values[:, neuron.index] > 0).tolist()
        if neuron.concept:
            assert (
                np.mean([fire == has_concept(scene, neuron.concept) for fire, scene in zip(fires, sample, strict=True)])
                >= 0.95
            )
        elif neuron.kind == "dead":
            assert not any(fires)


@torch.no_grad()
def test_the_network_ends_in_shapes(network: PlantedCNN, sample: list[Scene]) -> None:
    assert network(shipped_inputs(sample)).shape == (len(sample), len(ATTRIBUTES["shape"]))
