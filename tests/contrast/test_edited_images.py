"""Contrast by editing: where a neuron looks, what is taken out there, and how it is kept."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEncoder
from few import few
from made_once import allow_originals, made_once
from PIL import Image
from spots import SIDE, spot
from torch import nn

from csp_index import CspIndexError, Index, NetworkSource, open_index
from csp_index.contrast import edited_images
from csp_index.contrast.edits import EDITS, as_stored, edited, encoded, reduced, usable_edits
from csp_index.errors import LabelError, SettingError, SourceError
from csp_index.evaluation.options import EvaluationOptions, parse_methods
from csp_index.models.networks import LoadedNetwork, load_network
from csp_index.store import catalog
from csp_index.store.values.derived_images import FIRST, find_derived, read_derived


@pytest.fixture(scope="module")
def network() -> LoadedNetwork:
    return load_network("python:spots:spot", layers=["maps", "vector", "ceiling"], device="cpu")


# edits


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_changes_the_region_alone_and_the_same_way_again(edit):
    if edit == "inpaint":
        pytest.importorskip("cv2")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    mask = np.zeros((48, 64), dtype=bool)
    mask[10:30, 20:40] = True
    picture = Image.fromarray(pixels)
    made = np.asarray(edited(picture, edit, mask, 0.4, 7))
    changed = (made != pixels).any(2)
    assert changed[mask].mean() > 0.95
    assert not changed[:, :14].any() and not changed[:4].any()
    assert np.array_equal(made, np.asarray(edited(picture, edit, mask, 0.4, 7)))
    if edit == "noise":
        assert not np.array_equal(made, np.asarray(edited(picture, edit, mask, 0.4, 8)))
    if edit == "occlude":
        np.testing.assert_allclose(made[mask], np.broadcast_to(pixels[~mask].mean(0), (400, 3)), atol=0.6)


def test_edits_are_named_and_wrong_ones_refused(monkeypatch):
    assert usable_edits("noise,occlude,noise") == ("noise", "occlude")
    for wrong, said in (("noise,paint", "'paint' is unknown"), ("", "no edit is left")):
        with pytest.raises(SettingError, match=said):
            usable_edits(wrong)
    monkeypatch.setattr("csp_index.contrast.edits.find_spec", lambda name: None)
    assert usable_edits("occlude,inpaint") == ("occlude",)
    with pytest.raises(SettingError, match=r"csp_index\[inpaint\]"):
        usable_edits("inpaint")


def test_what_is_measured_is_what_is_stored():
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8))
    large = small.resize((500, 400))
    for picture, kind in ((small, "PNG"), (large, "JPEG")):
        given, seen = as_stored(picture)
        held = Image.open(io.BytesIO(given or encoded(seen)))
        assert held.format == kind
        assert np.array_equal(np.asarray(held), np.asarray(seen))
    assert reduced(small) is small
    assert reduced(Image.new("RGB", (2000, 1000))).size == (896, 448)


# the whole way


def write_spots(folder: Path) -> Path:
    """Write 24 pictures with a red or a blue spot, or none, before grounds of several greys."""
    folder.mkdir(parents=True)
    for number in range(24):
        rng = np.random.default_rng(number)
        grey = int(rng.integers(60, 120))
        picture = Image.new("RGB", (SIDE, SIDE), (grey, grey, grey))
        if number % 3:
            left, top = (int(place) for place in rng.integers(0, SIDE - 8, 2))
            picture.paste(Image.new("RGB", (8, 8), "red" if number % 3 == 1 else "blue"), (left, top))
        picture.save(folder / f"img{number:02d}.png")
    return folder


def build(folder: Path, layer: str = "maps") -> Index:
    """A copy of the index that `write` makes, once in a process, of the same photos."""
    made_once(("edited images", layer), lambda place: write(place, layer), folder)
    return allow_originals(open_index(folder / "db", device="cpu"))


def write(folder: Path, layer: str) -> None:
    photos = write_spots(folder / "photos")
    index = open_index(folder / "db", device="cpu")
    pool = "max" if layer == "maps" else None
    source = NetworkSource("python:spots:spot", (layer,), pool=pool, name="net")
    index.add_images(photos, encoders=["python:fakes:encoder"], networks=[source])


@pytest.fixture(scope="module")
def spots(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return build(tmp_path_factory.mktemp("spots"))


def label(index: Index, neurons: str = "net/maps", method: str = "csp", **options: Any) -> Any:
    chosen = {"contrast": "perturbation", "examples": 8, "vocabulary": ["red", "blue", "green"]} | options
    return index.label(neurons, method, **chosen)


def derived(index: Index) -> list[dict[str, Any]]:
    return index.sql("SELECT * EXCLUDE (embedding) FROM derived ORDER BY image_id").rows()


@pytest.mark.parametrize("layer", few(["maps", "vector", "ceiling"], 1))
def test_edited_images_silence_the_neuron_and_are_kept_as_they_are(tmp_path, layer):
    index = build(tmp_path, layer=layer)
    before = index.sql("SELECT * FROM neurons").rows()
    labels = label(index, f"net/{layer}")
    partners = [(found.neuron, pair) for found in labels for pair in found.pairs if pair.contrast_id is not None]
    assert len(partners) >= 8
    thresholds = {row["neuron"]: row["mean"] for row in before}
    network, encoder, source = spot().eval(), FakeEncoder(), catalog.encoder(index.store)
    for neuron, pair in partners:
        assert pair.contrast_id >= FIRST and pair.contrast_activation < thresholds[neuron.neuron]
        (row,) = read_derived(index.store, source, [pair.contrast_id]).to_pylist()
        assert row["origin"] == pair.image_id and row["neuron"] == neuron.neuron
        picture = Image.open(io.BytesIO(row["picture"]))
        output = network.maps(network.preprocess(picture)[None]).amax((2, 3))
        output = network.ceiling(60 * output) if layer == "ceiling" else output
        assert pair.contrast_activation == pytest.approx(output[0, neuron.neuron].item(), abs=1e-5)
        embedded = encoder.embed_images(encoder.preprocess(picture)[None])[0]
        np.testing.assert_allclose(row["embedding"], embedded, atol=1e-6)
    assert index.sql("SELECT * FROM neurons").rows() == before
    assert index.status()["images"] == 24
    kinds = {row["kind"] for row in index.sql("SELECT kind FROM examples").rows()}
    assert kinds == {"perturbation"}


def test_they_are_made_once(spots, monkeypatch):
    first = label(spots)
    held = derived(spots)
    monkeypatch.setattr(LoadedNetwork, "activations", None)  # nothing may run
    second = label(spots, method="csp-difference")
    assert derived(spots) == held
    assert [found.pairs for found in second] == [found.pairs for found in first]
    assert label(spots, "net/maps/1", examples=5)[0].pairs == first[1].pairs[:5]
    monkeypatch.undo()
    label(spots, examples=10)  # only what is new
    assert len(derived(spots)) > len(held) and derived(spots)[: len(held)] == held
    fresh = label(spots, threshold="max:0.5")  # another question
    assert {pair.contrast_id for found in fresh for pair in found.pairs} & {row["image_id"] for row in held} <= {None}


def test_what_an_interrupted_run_made_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(edited_images, "_AT_ONCE", 5)  # what is in one batch decides the last bit
    whole, cut = build(tmp_path / "a"), build(tmp_path / "b")
    expected = label(whole)

    def stop(done: int, todo: int, what: str) -> None:
        if done >= 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(cut, progress=stop)
    (target,), source = catalog.layers(cut.store), catalog.encoder(cut.store)
    origins = {(row["neuron"], row["origin"]) for row in derived(cut)}
    assert len(origins) == 10
    assert cut.status()["runs"][-1]["state"] == "interrupted"
    found = label(cut)
    assert [one.pairs for one in found] == [one.pairs for one in expected]
    hashed = {row["settings_hash"] for row in derived(cut)}
    assert len(hashed) == 1
    assert find_derived(cut.store, source, target, range(2), "perturbation", hashed.pop()).num_rows == len(derived(cut))
    assert not {(row["neuron"], row["origin"]) for row in derived(cut)[len(origins) * 4 :]} & origins


def test_an_image_that_no_edit_silences_is_tried_once(tmp_path, monkeypatch):
    index = build(tmp_path)
    found = label(index, "net/maps/0", threshold="quantile:0.01")
    tried = derived(index)
    assert {row["origin"] for row in tried} == {pair.image_id for pair in found[0].pairs}
    monkeypatch.setattr(LoadedNetwork, "activations", None)
    label(index, "net/maps/0", "csp-difference", threshold="quantile:0.01")
    assert derived(index) == tried
    lowest = index.sql("SELECT quantiles[2] AS q FROM neurons WHERE neuron = 0").rows()[0]["q"]
    for row in tried:
        partner = any(pair.contrast_id == row["image_id"] for pair in found[0].pairs)
        assert row["activation"] < lowest or not partner


def test_nothing_is_made_where_nothing_may_be_kept(tmp_path):
    index = build(tmp_path)
    with pytest.raises(LabelError, match=r"lacks \d+ edited images, and this question may not store any"):
        label(index, keep=False)
    made = label(index)
    kept = label(index, method="csp-difference", keep=False)  # what is there can be used
    assert [found.pairs for found in kept] == [found.pairs for found in made]


def test_images_that_are_gone_or_are_others_now_have_no_partner(tmp_path, caplog):
    write(tmp_path, "maps")
    index = open_index(tmp_path / "db", device="cpu")
    gone = index.sql("SELECT image_id, uri FROM images").rows()[::2]
    for place, row in enumerate(gone):
        Path(row["uri"]).unlink()
        if place % 2:
            Image.new("RGB", (SIDE, SIDE), "green").save(row["uri"])
    absent = {row["image_id"] for row in gone}
    pairs = [pair for found in label(index) for pair in found.pairs]
    assert all(pair.contrast_id is None for pair in pairs if pair.image_id in absent)
    assert any(pair.contrast_id is not None for pair in pairs)
    assert "images were not edited and have no partner, first reason" in caplog.text
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(SourceError, match=r"none of the \d+ activating images can be read any more"):
        label(index, threshold="max:0.5")


def test_show_card_and_status_survive_derived_partners(spots, tmp_path, run):
    label(spots)
    said = run("show", spots.uri, "net/maps/0", "--card", tmp_path / "card.png")
    assert said.status == 0, said.err
    assert "occlude 0.1" in said.out and (tmp_path / "card.png").stat().st_size > 10_000
    assert "images made for neurons" in run("status", spots.uri).out
    assert run("export", spots.uri, "--layer", "net/maps").status == 0
    rows = spots.sql(
        "SELECT e.neuron, d.recipe FROM examples e JOIN derived d ON d.image_id = e.contrast_id AND d.kind = e.kind"
    ).rows()
    assert rows and all("edit" in row["recipe"] for row in rows)
    assert spots.add_images(None).added == 0  # completing the index knows nothing of them


def test_a_mixture_has_both(spots):
    found = label(spots, contrast="nearest+perturbation")
    kinds = spots.sql(
        f"SELECT kind, count(*) AS n FROM examples WHERE run_id = '{found[0].run_id}' GROUP BY kind"
    ).rows()
    assert {row["kind"] for row in kinds} == {"nearest", "perturbation"}
    assert all(pair.contrast_id is None or pair.contrast_id < FIRST for pair in found[0].pairs)  # the first kind's


def test_another_network_is_refused(tmp_path, monkeypatch):
    index = build(tmp_path)

    def changed() -> nn.Module:
        made = spot()
        made.maps.weight.data[0, 0] += 1
        return made

    monkeypatch.setattr("spots.spot", changed)
    with pytest.raises(CspIndexError, match="is not the network the index was built with"):
        label(open_index(index.uri, device="cpu"))


def test_an_evaluation_makes_them_of_the_choosing_images(tmp_path):
    index = build(tmp_path)
    method = "csp:contrast=perturbation,floor=0.5"
    options = EvaluationOptions(methods=parse_methods([method, "semanticlens"]), perturb=True)
    found = index.evaluate("net/maps", options, vocabulary=["red", "blue", "green"])
    values = {(row["method"], row["metric"]): row["value"] for row in found.values.to_pylist()}
    assert values[method, "contrast-drop"] > 0.5
    assert values[method, "stable-noise"] in (0.0, 1.0)
    assert derived(index)
