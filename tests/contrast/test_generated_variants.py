from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
import torch
from made_once import allow_originals, made_once
from PIL import Image

from csp_index import Index, NetworkSource, open_index
from csp_index.contrast.examples import gather_examples
from csp_index.contrast.selection import Selection
from csp_index.demo import world
from csp_index.demo.generator import renderer
from csp_index.errors import CspIndexError, GeneratorError, LabelError, NotFoundError, SettingError
from csp_index.evaluation.options import EvaluationOptions, parse_methods
from csp_index.models.generators.variant_generators import Original, Variant, load_variants, make_variants
from csp_index.records import ExampleOptions, Label
from csp_index.store import catalog, column_tables, schema
from csp_index.store.values.derived_images import FIRST, find_derived, read_derived

LAYER = "network/concepts"
SHADER = "python:fakes:shader"
WORDS = ["red", "blue", "star", "circle", "dotted"]
NEURON = 1  # one that fires, and that a darker picture silences


@pytest.fixture
def index(tmp_path: Path) -> Index:
    made_once("generated variants", make, tmp_path)
    return allow_originals(open_index(tmp_path / "db"))


def make(place: Path) -> None:
    """Index 40 squares with captions."""
    folder = fakes.write_images(place / "images", 40)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "caption"))
        for number, path in enumerate(sorted(folder.rglob("*.png"))):
            table.writerow((path.relative_to(folder).as_posix(), f"square {number}"))
    made = open_index(place / "db")
    network = NetworkSource("python:fakes:network", ("concepts",))
    made.add_images(folder, encoders=["python:fakes:encoder"], networks=[network])


def label(index: Index, neurons: str = LAYER, **options: Any) -> list[Label]:
    given = {"generator": SHADER, "contrast": "synthetic", "examples": 6, "variants": 4, "bootstrap": 0} | options
    return list(index.label(neurons, vocabulary=WORDS, templates="none", **given))


def asked(index: Index) -> list[int]:
    """Return the images that the generator of an index was asked about so far."""
    (made,) = index._models._variants.values()
    found: list[int] = made.asked  # type: ignore[attr-defined]
    return found


def rows_of(index: Index) -> list[dict[str, Any]]:
    table = column_tables.derived_table(catalog.encoder(index.store).name)
    rows: list[dict[str, Any]] = index.store.read(table).to_pylist() if index.store.has(table) else []
    return rows


def test_partners_are_the_nearest_variants_that_leave_the_neuron_silent(index: Index) -> None:
    before = {name: index.store.count(name) for name in (schema.IMAGES, schema.SHARDS, schema.NEURONS)}
    labels = label(index, neighbours=2)
    rows = {row["image_id"]: row for row in rows_of(index)}
    network = index._models.held_network(catalog.layers(index.store)[0])
    encoder = index._models.held_encoder(catalog.encoder(index.store))
    thresholds = {row["neuron"]: row["mean"] for row in index.store.read(schema.NEURONS).to_pylist()}
    for row in rows.values():  # every row holds what the models make of its own picture
        with Image.open(io.BytesIO(row["picture"])) as picture:
            shown = picture.convert("RGB")
        values = network.activations(network.preprocess(shown)[None])["concepts"][0]
        assert row["activation"] == pytest.approx(float(values[row["neuron"]]), abs=1e-5)
        expected = encoder.embed_images(encoder.preprocess(shown)[None])[0].numpy()
        np.testing.assert_allclose(row["embedding"], expected, atol=1e-6)
        recipe = json.loads(row["recipe"])
        assert recipe["prompt"].startswith("shade") and recipe["seed"] == 0 and recipe["model"] == SHADER
    paired = 0
    for found in labels:
        neuron = found.neuron.neuron
        for pair in found.pairs:
            own = [r for r in rows.values() if r["neuron"] == neuron and r["origin"] == pair.image_id]
            assert len(own) == 4
            vector = np.asarray(_embedding(index, pair.image_id))
            silent = [r for r in own if r["activation"] < np.float32(thresholds[neuron])]
            if not silent:
                assert pair.contrast_id is None
                continue
            best = max(silent, key=lambda r: (float(vector @ np.asarray(r["embedding"])), -r["image_id"]))
            paired += 1
            assert pair.contrast_id == best["image_id"] >= FIRST
            assert pair.similarity == pytest.approx(float(vector @ np.asarray(best["embedding"])), abs=1e-5)
            assert pair.contrast_activation == pytest.approx(best["activation"])
    assert paired > 10
    assert {name: index.store.count(name) for name in before} == before


def _embedding(index: Index, image: int) -> list[float]:
    table = catalog.encoder(index.store).table
    found: list[float] = index.store.read(table, ["embedding"], f"image_id = {image}")["embedding"][0].as_py()
    return found


def test_variants_are_made_once_whichever_neurons_and_methods_ask(index: Index) -> None:
    label(index)
    first = list(asked(index))
    assert len(first) == len(set(first))  # neurons share images
    label(index, method="csp-difference")
    label(index, threshold="max:0.5")
    label(index, f"{LAYER}/1")
    assert asked(index) == first
    label(index, examples=9)
    new = asked(index)[len(first) :]
    assert new and not set(new) & set(first)  # also where an image was varied for another neuron
    label(index, generator_seed=1)
    assert asked(index)[len(first) + len(new) :] == first
    rows = rows_of(index)
    assert len({row["settings_hash"] for row in rows}) == 2 and len({row["image_id"] for row in rows}) == len(rows)


def test_a_label_hangs_on_the_generators_identity(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    first = label(index, f"{LAYER}/{NEURON}")[0]
    assert label(index, f"{LAYER}/{NEURON}")[0].run_id == first.run_id
    monkeypatch.setenv("FAKE_SHADER", "other weights")
    again = open_index(index.uri)
    assert label(again, f"{LAYER}/{NEURON}")[0].run_id != first.run_id and asked(again)


def test_ctrl_c_keeps_what_is_done_and_the_next_run_goes_on(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = fakes.Shader.variants

    def cut(self: fakes.Shader, original: Original, count: int, seed: int) -> list[Variant]:
        if len(self.asked) == 7:
            raise KeyboardInterrupt
        return plain(self, original, count, seed)

    monkeypatch.setattr(fakes.Shader, "variants", cut)
    with pytest.raises(KeyboardInterrupt):
        label(index)
    done = set(asked(index))
    assert len(done) == 7 and {row["origin"] for row in rows_of(index)} == done
    monkeypatch.setattr(fakes.Shader, "variants", plain)
    again = open_index(index.uri)
    labels = label(again)
    assert not set(asked(again)) & done
    counts: dict[tuple[int, int], int] = {}
    for row in rows_of(again):
        counts[row["neuron"], row["origin"]] = counts.get((row["neuron"], row["origin"]), 0) + 1
    assert set(counts.values()) == {4}
    assert set(counts) == {(found.neuron.neuron, pair.image_id) for found in labels for pair in found.pairs}


def test_images_that_cannot_be_varied_are_left_out_and_counted(
    index: Index, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    plain = fakes.Shader.variants

    def picky(self: fakes.Shader, original: Original, count: int, seed: int) -> list[Variant]:
        if original.image_id % 3 == 0:
            raise GeneratorError(f"image {original.image_id} is not to my taste")
        return plain(self, original, count, seed)

    monkeypatch.setattr(fakes.Shader, "variants", picky)
    with caplog.at_level(logging.WARNING):
        labels = label(index)
    assert all(pair.contrast_id is None for found in labels for pair in found.pairs if pair.image_id % 3 == 0)
    assert any(pair.contrast_id is not None for found in labels for pair in found.pairs)
    lost = len({pair.image_id for found in labels for pair in found.pairs if pair.image_id % 3 == 0})
    whole = len({pair.image_id for found in labels for pair in found.pairs})
    (told,) = (record.getMessage() for record in caplog.records)
    assert told.startswith(f"the generator shader made no variant of {lost} of {whole} images, first reason: image ")


def test_where_no_image_can_be_varied_that_is_an_error(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes.Shader, "variants", lambda *_: [])
    with pytest.raises(GeneratorError, match=r"made no variant of .* first reason: the generator made no variant"):
        label(index)
    monkeypatch.setattr(fakes.Shader, "variants", lambda *_: 1 / 0)
    with pytest.raises(GeneratorError, match=r"the generator shader fails on image .*: ZeroDivisionError"):
        label(open_index(index.uri))
    one = [Variant(Image.new("RGB", (8, 8)), "")]
    monkeypatch.setattr(fakes.Shader, "variants", lambda self, original, count, seed: one * (count + 1))
    with pytest.raises(GeneratorError, match=r"made 5 variants of image .*, expected 4 at most"):
        label(open_index(index.uri))


def test_near_duplicates_are_no_contrast_and_counted(index: Index) -> None:
    plain = label(index)
    similarities = [pair.similarity for found in plain for pair in found.pairs if pair.similarity is not None]
    limit = float(np.median(similarities))
    filtered = label(index, near_duplicate=limit)
    left = [pair.similarity for found in filtered for pair in found.pairs if pair.similarity is not None]
    assert left and max(left) <= limit < max(similarities)
    source, target = catalog.encoder(index.store), catalog.layers(index.store)[0]
    options = ExampleOptions(
        examples=6, contrast="synthetic", generator=SHADER, variants=4, near_duplicate=limit, neighbours=4
    )
    selection = Selection(source, target, np.arange(target.neurons))
    free, some = (
        gather_examples(index.store, selection, chosen, context=index._context())
        for chosen in (replace(options, near_duplicate=1.01), options)
    )
    dropped = (free.similarities > limit).sum((1, 2))
    assert some.near_duplicates is not None and some.near_duplicates.tolist() == dropped.tolist() and dropped.any()


def test_kinds_mix(index: Index) -> None:
    (found,) = label(index, f"{LAYER}/{NEURON}", contrast="nearest+synthetic")
    where = f"run_id = '{found.run_id}'"
    rows = index.store.read(schema.EXAMPLES, where=where).to_pylist()
    kinds = {row["kind"]: row["contrast_id"] >= FIRST for row in rows if row["contrast_id"] is not None}
    assert kinds == {"nearest": False, "synthetic": True}


@pytest.mark.parametrize(
    ("ask", "error", "told"),
    [
        (lambda i: label(i, generator=None), SettingError, "needs an image generator: name one"),
        (lambda i: label(i, contrast="nearest"), SettingError, "is for contrast synthetic"),
        (lambda i: label(i, generator="sd15"), GeneratorError, "names no library"),
        (lambda i: label(i, generator="python:fakes:network"), GeneratorError, "without name, identity, variants or"),
        (lambda i: label(i, generator="python:fakes:painter"), GeneratorError, "pictures of texts only: name the met"),
        (lambda i: label(i, generator="diffusers:./nowhere"), GeneratorError, "does not exist"),
        (
            lambda i: label(i, caption_column="colour"),
            NotFoundError,
            "has the metadata column 'colour' (has: label, caption)",
        ),
        (lambda i: label(i, keep=False), LabelError, "may not store any"),
        (lambda i: label(i, variants=0), SettingError, "variants is 0"),
        (lambda i: label(i, variant_prompt="a photo"), SettingError, "a text with {caption} in it"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(
    index: Index, ask: Callable[[Index], Any], error: type[CspIndexError], told: str
) -> None:
    with pytest.raises(error) as caught:
        ask(index)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert not rows_of(index)


def test_layers_that_came_as_arrays_have_no_network_to_run_variants_through(tmp_path: Path) -> None:
    paths = fakes.write_arrays(tmp_path)
    made = open_index(tmp_path / "db")
    made.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    from csp_index.labelling.candidates import read_text_arrays

    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    with pytest.raises(LabelError, match="m/l came as arrays: choose nearest, falcon or random"):
        made.label("m/l", vocabulary=texts, contrast="synthetic", generator=SHADER)


def test_without_keeping_labels_are_made_from_variants_that_are_there(index: Index) -> None:
    kept = label(index, f"{LAYER}/{NEURON}")
    (again,) = label(index, f"{LAYER}/{NEURON}", keep=False)
    assert again.pairs == kept[0].pairs and again.labels == kept[0].labels


def test_a_generator_of_texts_draws_the_caption(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    plain = fakes.Painter.generate

    def listen(self: fakes.Painter, text: str, count: int, seed: int) -> list[Image.Image]:
        heard.append(text)
        return plain(self, text, count, seed)

    monkeypatch.setattr(fakes.Painter, "generate", listen)
    options = {"generator": "python:fakes:painter", "caption_column": "caption", "variant_prompt": "a {caption}"}
    (found,) = label(index, f"{LAYER}/{NEURON}", **options)
    assert sorted(heard) == sorted(f"a square {pair.image_id}" for pair in found.pairs)
    told = {json.loads(row["recipe"])["prompt"] for row in rows_of(index)}
    assert told == set(heard)


def test_the_command_makes_variants(index: Index, run: Callable[..., Any]) -> None:
    command = ["label", str(index.uri), "--layer", LAYER, "--neurons", str(NEURON), "--contrast", "synthetic"]
    command += ["--generator", SHADER, "--variants", "3", "--generator-seed", "2", "--examples", "5", "--json"]
    vocabulary = Path(index.uri).parent / "words.txt"
    vocabulary.write_text("\n".join(WORDS))
    said = run(*command, "--vocabulary", vocabulary, "--templates", "none")
    assert said.status == 0, said.err
    (found,) = said.rows
    assert any(image is not None and image >= FIRST for image in found["contrastive"])
    rows = rows_of(index)
    assert len(rows) == 15 and {json.loads(row["recipe"])["seed"] for row in rows} == {2}
    shown = run("show", index.uri, f"{LAYER}/{NEURON}")
    assert shown.status == 0 and "contrast: " in shown.out
    told = run("show", index.uri, f"{LAYER}/{NEURON}", "--json").rows[0]["contrast_quality"]
    assert 0 < told["pairs"] <= 5 and told["floor"] == 0.5 and 0 < told["similarity"] <= 1
    without = run(*command[:6], "--contrast", "synthetic")
    assert without.status == 1 and "needs an image generator" in without.err and without.err.count("\n") == 1


def test_an_evaluation_judges_labels_of_synthetic_contrast(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = parse_methods([f"csp:contrast=synthetic,generator={SHADER},variants=3,examples=5", "csp:examples=5"])
    options = EvaluationOptions(methods=methods)

    def judged(of: Index) -> tuple[dict[tuple[str, str, int], float], set[str]]:
        found = of.evaluate(LAYER, options, vocabulary=WORDS, templates="none")
        rows = found.values.to_pylist()
        runs: Any = found.settings["runs"]
        return {(row["method"], row["metric"], row["neuron"]): row["value"] for row in rows}, set(runs)

    values, runs = judged(index)
    synthetic, plain = (choice.text for choice in methods)
    assert values[synthetic, "contrast-similarity", NEURON] != values[plain, "contrast-similarity", NEURON]
    assert {json.loads(row["recipe"])["model"] for row in rows_of(index)} == {SHADER}
    assert judged(index)[1] == runs
    monkeypatch.setenv("FAKE_SHADER", "other weights")
    again, later = judged(open_index(index.uri))
    assert len(later - runs) == 1 and runs & later  # the other method's values are read
    assert again[plain, "contrast-similarity", NEURON] == values[plain, "contrast-similarity", NEURON]


# the demo's renderer


def _original(**scene: str) -> Original:
    metadata = {name: values[2 if name != "size" else 1] for name, values in world.ATTRIBUTES.items()} | scene
    return Original(Image.new("RGB", (64, 64)), 5, metadata)


def test_the_demos_variants_change_one_attribute_each() -> None:
    made = renderer().variants(_original(shape="star"), 25, 0)
    told = [variant.prompt for variant in made]
    assert len(set(told)) == 25 == sum(len(values) - 1 for values in world.ATTRIBUTES.values())
    assert {text.split()[0] for text in told[:6]} == set(world.ATTRIBUTES)  # each attribute once, then again
    assert len([text for text in told if text.startswith("shape") and text.endswith("in place of star")]) == 7
    again = renderer().variants(_original(shape="star"), 8, 0)
    assert [one.picture.tobytes() for one in again] == [one.picture.tobytes() for one in made[:8]]
    assert [one.prompt for one in renderer().variants(_original(shape="star"), 8, 1)] != told[:8]
    assert len(renderer().variants(_original(), 40, 0)) == 25


def test_the_demo_varies_no_images_but_its_own() -> None:
    stranger = Original(Image.new("RGB", (64, 64)), 5, {"caption": "a cat"})
    found = make_variants(renderer(), stranger, 3, 0)
    assert isinstance(found, str) and "image 5 is none of the demo's" in found


def test_a_changed_attribute_silences_the_neuron_that_wants_it() -> None:
    from csp_index.demo.network import CONCEPT_LAYER, NETWORK_WEIGHTS, PLANTED
    from csp_index.models.networks import load_network

    cnn = load_network(
        "python:csp_index.demo.network:planted_cnn", layers=[CONCEPT_LAYER], weights=NETWORK_WEIGHTS, device="cpu"
    )
    planted = next(p for p in PLANTED if p.concept == "triangle")
    scene = {name: values[0] for name, values in world.ATTRIBUTES.items()} | {"shape": "triangle"}
    made = load_variants("python:csp_index.demo.generator:renderer").variants(_original(**scene), 25, 0)
    pixels = torch.stack([cnn.preprocess(variant.picture) for variant in made])
    values = cnn.activations(pixels)[CONCEPT_LAYER][:, planted.index]
    other = torch.tensor([variant.prompt.startswith("shape") for variant in made])
    assert values[other].max() < 1.5 < 3 < values[~other].mean()


def test_derived_rows_of_one_neuron_are_found_by_its_address(index: Index) -> None:
    label(index)
    source, target = catalog.encoder(index.store), catalog.layers(index.store)[0]
    hashed = rows_of(index)[0]["settings_hash"]
    found = find_derived(index.store, source, target, [NEURON], "synthetic", hashed)
    ids = found["image_id"].to_pylist()
    assert len(ids) == 24 and read_derived(index.store, source, ids[:2])["neuron"].to_pylist() == [NEURON] * 2
