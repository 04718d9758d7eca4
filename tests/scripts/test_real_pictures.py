from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkout import ROOT
from PIL import Image, ImageDraw

sys.path.insert(0, str(ROOT / "scripts" / "real_pictures"))

import intervals
import judged_labels
import picture_packages
import picture_views
import picture_words
import planted_neurons
import probing
import real_pictures
import report
import stages
import training

SHAPES = ("circle", "square", "triangle", "cross")
COLORS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 80, 220), "gold": (230, 180, 30), "brown": "brown"}


def _draw(shape: str, color: object, margin: int) -> Image.Image:
    image = Image.new("RGBA", (64, 64))
    draw, low, high = ImageDraw.Draw(image), margin, 64 - margin
    if shape == "circle":
        draw.ellipse((low, low, high, high), fill=color)
    elif shape == "square":
        draw.rectangle((low, low, high, high), fill=color)
    elif shape == "triangle":
        draw.polygon(((32, low), (high, high), (low, high)), fill=color)
    else:
        draw.rectangle((26, low, 38, high), fill=color)
        draw.rectangle((low, 26, high, 38), fill=color)
    return image


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures by two artists and the words of 20 emoji, laid out as the packages are."""
    root = tmp_path_factory.mktemp("packages")
    entries, words = [], []
    for number, (shape, color) in enumerate((s, c) for s in SHAPES for c in COLORS):
        code = f"{0x1F300 + number:X}-FE0F"
        image = code.lower() + ".png"
        entries.append({"unified": code, "image": image, "has_img_one": True, "has_img_two": number != 7})
        tags = [color, shape, "round" if shape == "circle" else "Edged"]
        words.append(
            {
                "hexcode": code[:5],
                "label": f"{color} {shape}",
                "tags": tags,
                "order": number,
                "group": 0,
                "subgroup": number // 5,
            }
        )
        for artist, margin in (("one", 8), ("two", 12)):
            folder = root / artist / "package" / "img" / artist / "64"
            folder.mkdir(parents=True, exist_ok=True)
            _draw(shape, COLORS[color], margin).save(folder / image)
    words.append({"hexcode": "1F1E6", "label": "regional indicator A"})
    for artist in ("one", "two"):
        (root / artist / "package" / "emoji.json").write_text(json.dumps(entries))
    (root / "words" / "en").mkdir(parents=True)
    (root / "words" / "meta").mkdir()
    (root / "words" / "en" / "data.json").write_text(json.dumps(words))
    (root / "words" / "meta" / "groups.json").write_text(
        json.dumps({"subgroups": {str(i): f"{shape}-like" for i, shape in enumerate(SHAPES)}})
    )
    return root


@pytest.fixture(scope="module")
def emoji(packages: Path) -> list[picture_packages.Emoji]:
    return picture_packages.read_keywords(packages / "words")


@pytest.fixture(scope="module")
def words(emoji: list[picture_packages.Emoji]) -> picture_words.Words:
    return picture_words.words_of(emoji)


def test_words_come_with_the_emoji_that_they_are_true_of(
    emoji: list[picture_packages.Emoji], words: picture_words.Words
) -> None:
    assert len(emoji) == 20 and emoji[0].name == "red circle" and emoji[0].category == "circle like"
    assert set(emoji[5].keywords) == {"red square", "red", "square", "edged"}
    assert words.texts[: words.keywords][0] == "edged" and words.keywords == 11 and len(words.texts) == 31
    assert words.truth[words.texts.index("edged")].sum() == 15
    assert all(words.truth[row, column] for column, row in enumerate(words.name_row))


def test_pictures_are_read_with_artist_and_concept(packages: Path, emoji: list[picture_packages.Emoji]) -> None:
    pictures = picture_packages.read_pictures(emoji, {name: packages / name for name in ("one", "two")})
    assert pictures.pixels.shape == (39, 64, 64, 4) and (pictures.artist == "two").sum() == 19
    assert pictures.pixels[0, 32, 32].tolist() == [220, 30, 30, 255]
    assert pictures.pixels[0, 0, 0].tolist() == [220, 30, 30, 0]  # no dark rim when resized
    assert 7 not in pictures.concept[pictures.artist == "two"]


@pytest.mark.parametrize(
    ("option", "change", "message"),
    [
        ("--emoji", {"one": "words"}, "emoji.json is missing"),
        ("--emoji", {"one": "two"}, "no folder img/one/64 (it has two"),
        ("--keywords", "one", "data.json is missing"),
        ("--held-out", "three", "--held-out three of --emoji one, two"),
    ],
)
def test_a_package_of_another_layout_gets_one_line(
    packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, change: object, message: str
) -> None:
    folders = {"one": "one", "two": "two"} | (change if option == "--emoji" else {})
    arguments = [str(tmp_path / "out"), "--held-out", change if option == "--held-out" else "two"]
    arguments += ["--keywords", str(packages / (change if option == "--keywords" else "words"))]
    for name, folder in folders.items():
        arguments += ["--emoji", f"{name}={packages / folder}"]
    assert real_pictures.main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and "expected" in said and said.count("\n") == 1


def test_stamps_and_clip_art_bring_their_own_words(tmp_path: Path) -> None:
    _draw("circle", "red", 8).save(tmp_path / "red_ball_joe_01.png")
    _draw("circle", "blue", 8).save(tmp_path / "blue_ball_ann_01.png")
    (tmp_path / "red_ball_joe_01.txt").write_text("A red ball.\nes.utf8=Una pelota\n")
    assert [words for _, words in picture_packages.clip_art_files(tmp_path)] == [("ball",), ("ball",)]
    assert picture_packages.stamp_files(tmp_path) == [(tmp_path / "red_ball_joe_01.png", ("a red ball",))]


def test_clip_art_that_cannot_be_read_is_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    art, said = tmp_path / "art", []
    art.mkdir()
    for place, name in enumerate(("red_ball", "blue_ball", "huge_ball")):
        Image.new("RGBA", (64, 64 if place < 2 else 640), "red").save(art / f"{name}.png")
    (art / "no_ball.png").write_text("<html>")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    pictures = picture_packages.read_pictures([], {}, clip_art=art, say=said.append)
    assert pictures.caption.tolist() == ["ball", "ball"]
    assert len(said) == 1 and said[0].startswith("left out: 2 of 4 files")


def test_most_pictures_of_a_keyword_with_a_home_stand_on_its_color(words: picture_words.Words) -> None:
    homes = probing.home_colors(words)
    assert homes
    row, color = next(iter(homes.items()))
    concept = np.repeat(np.flatnonzero(words.truth[row]), 200)
    biased = probing.draw_backgrounds(concept, words, {row: color}, 0)
    random = probing.draw_backgrounds(concept, words, {}, 0)
    assert 0.87 < (biased == color).mean() < 0.95 and 0.08 < (random == color).mean() < 0.17


def test_a_probing_set_is_files_with_metadata(
    packages: Path, emoji: list[picture_packages.Emoji], words: picture_words.Words, tmp_path: Path
) -> None:
    pictures = picture_packages.read_pictures(emoji, {"one": packages / "one"})
    first, second = (probing.compose_set(pictures, np.arange(20), words, {}, 5) for _ in range(2))
    assert (first.pixels == second.pixels).all()
    probing.write_set(tmp_path, first, emoji, words)
    rows = list(csv.DictReader((tmp_path / "metadata.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == len(list((tmp_path / "images").glob("*.png"))) == 20
    assert rows[5]["name"] == "red square" and rows[5]["artist"] == "one"
    shown = rows[5]["keywords"].split(";")
    assert {"red", "square", "edged", f"{rows[5]['background']} background"} <= set(shown)


def test_views_stand_on_the_color_that_is_named() -> None:
    pixels = torch.zeros(8, 64, 64, 4, dtype=torch.uint8)  # nothing but background
    views = picture_views.compose(
        pixels, torch.arange(8), 16, picture_views.PROBING, torch.Generator().manual_seed(0)
    ).mean((2, 3))
    nearest = torch.cdist(views, picture_views.background_rows()).argmin(1)
    assert views.shape == (8, 3) and (nearest == torch.arange(8)).sum() >= 7


def test_planted_neurons_fire_where_their_condition_holds(
    emoji: list[picture_packages.Emoji], words: picture_words.Words
) -> None:
    neurons = planted_neurons.plant(words, emoji)
    kinds = {neuron.kind for neuron in neurons}
    assert {"keyword", "keyword and background", "keyword and background, leaking"} <= kinds
    concept, background = np.repeat(np.arange(20), 8), np.tile(np.arange(8), 20)
    values = planted_neurons.activations(neurons, concept, background, 0)
    for column, neuron in enumerate(neurons):
        fires = neuron.fires[concept, background]
        assert values[fires, column].min() > values[~fires, column].max() and (values >= 0).all()
    leaking = next(i for i, neuron in enumerate(neurons) if neuron.kind == "keyword and background, leaking")
    leaks = neurons[leaking].leaks[concept, background]
    assert not (leaks & neurons[leaking].fires[concept, background]).any()
    assert values[leaks, leaking].mean() > 0.08


def test_an_interval_is_wider_when_seeds_differ() -> None:
    alike = intervals.estimate([[0.0, 1.0] * 40, [0.0, 1.0] * 40])
    apart = intervals.estimate([[0.0] * 80, [1.0] * 80])
    assert alike.mean == apart.mean == 0.5 and apart.high - apart.low > 3 * (alike.high - alike.low)
    assert (alike.neurons, alike.seeds) == (160, 2)
    assert str(intervals.estimate([[1.0, float("nan")] * 5])) == "too few (5)"
    assert intervals.paired([[1.0] * 12], [[0.5] * 12]).signed() == "+0.50 (+0.50 to +0.50)"


def _judged(confidence: float, exact: float, neuron: int = 0) -> judged_labels.Judged:
    values = {"exact": exact, "top5": exact, "iou": exact, "auprc": exact}
    return judged_labels.Judged(
        0, "biased", "net: keyword", "full", "pmi", neuron, values, 1.0, confidence, 1.0, False, False
    )


def test_calibration_counts_what_is_stated() -> None:
    rows = [_judged(0.95, 1.0)] * 10 + [_judged(0.95, 0.0)] * 10 + [_judged(float("nan"), 1.0)] * 5
    known = report.calibration(rows)
    assert known["neurons"] == 20 and known["error exact"] == pytest.approx(0.45)
    assert known["sure"] == 20 and known["sure right exact"] == 0.5
    assert report.calibration(rows[:9]) == {"neurons": 9}


def test_too_few_good_outputs_are_said() -> None:
    tables = report.Tables([_judged(0.5, 1.0, neuron) for neuron in range(6)], [0])
    assert "Too few neurons for a judgment (under 10): net: keyword." in tables.counts()
    assert "too few (6)" in "\n".join(tables.agreement("biased", "full", "exact"))


def test_overlap_is_the_share_of_the_union() -> None:
    first, second = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool)
    assert judged_labels.overlap(first, second) == pytest.approx(1 / 3)
    assert judged_labels.overlap(first & ~first, second & ~second) == 0.0


def test_matrices_move_by_steps_of_equal_singular_values_and_biases_by_adamw() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(40, 24)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    course = training.Training((layer,), [], 1e-2, 100)
    course.step(layer(torch.randn(64, 40)).square().mean())
    values = torch.linalg.svdvals((layer.weight.detach() - weight) + 0.05 * 1e-3 * weight)
    assert values.max() / values.min() < 2
    assert torch.allclose((layer.bias.detach() - bias).abs(), torch.tensor(1e-3), rtol=0.02)  # a tenth: the warm-up


def test_a_stage_is_kept_while_its_settings_are_the_same(tmp_path: Path) -> None:
    done: list[str] = []
    run = stages.Stages(tmp_path, lambda text: None)
    assert run.run("a/b", "1", lambda: done.append("first"))
    assert not run.run("a/b", "1", lambda: done.append("again"))
    with pytest.raises(KeyboardInterrupt):
        run.run("a/b", "2", _interrupted)
    assert run.run("a/b", "2", lambda: done.append("second")) and done == ["first", "second"]


def _interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_all_stages_on_forty_pictures(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(real_pictures.product, "METHODS", {k: real_pictures.product.METHODS[k] for k in ("pmi", "csp")})
    monkeypatch.setattr(real_pictures.product, "EVALUATED", ("pmi",))
    monkeypatch.setattr(report, "METHODS", real_pictures.product.METHODS)
    monkeypatch.setattr(judged_labels, "METHODS", real_pictures.product.METHODS)
    out = tmp_path / "out"
    arguments = [str(out), "--emoji", f"one={packages / 'one'}", "--emoji", f"two={packages / 'two'}", "--quick"]
    arguments += ["--held-out", "two", "--keywords", str(packages / "words"), "--seeds", "0"]
    assert real_pictures.main(arguments) == 0
    results = json.loads((out / "results.json").read_text())
    assert {cell["method"] for cell in results["cells"]} == {"pmi", "csp"}
    assert {cell["vocabulary"] for cell in results["cells"]} == {"words", "keywords", "full"}
    assert "below the level worth judging" in (out / "table.md").read_text()
    with np.load(out / "arrays" / "seed0-biased.npz") as arrays:
        assert arrays["embeddings"].shape == (40, 128) and arrays["truth_net"].shape == (19, 20, 8)
    assert len(list((out / "seed0" / "biased" / "images").iterdir())) == 40
    before = len(capsys.readouterr().out)
    assert real_pictures.main(arguments) == 0
    said = capsys.readouterr().out
    assert before and "started" not in said and said.count("kept from an earlier run") > 10
