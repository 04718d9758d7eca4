"""doctor: what indexing would do is said before it is done, all problems at once, and nothing is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import fakes
import pytest
from cli_world import ENCODER, NETWORK

from csp_index import open_index
from csp_index.demo.network import CLIP_FOLDER
from csp_index.images.sources import open_source
from csp_index.indexing.doctor.report import Listing
from csp_index.indexing.doctor.source import listed
from csp_index.store import schema

IMAGES = 23
COLUMNS = {"label": IMAGES, "class": 20}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("doctor")
    fakes.write_images(folder / "images", IMAGES)
    (folder / "images" / "notes.txt").write_text("no picture")
    lines = [f"img{number:05d}.png,{number % 3}" for number in range(20)]
    (folder / "table.csv").write_text("\n".join(["file,class", *lines]))
    index = open_index(folder / "db")
    index.add_images(folder / "images", encoders=[ENCODER], networks=[_network()], metadata=folder / "table.csv")
    arrays = fakes.write_arrays(folder / "made")
    open_index(folder / "arrays").import_arrays(arrays["activations"], "m/l", embeddings=arrays["embeddings"])
    return folder


def _network(*layers: str) -> Any:
    from csp_index import NetworkSource

    return NetworkSource("python:fakes:network", layers or ("conv", "concepts"), name="net")


def files_of(folder: Path) -> dict[str, int]:
    return {str(file): file.stat().st_mtime_ns for file in sorted(folder.rglob("*"))}


def test_a_source_is_understood_and_nothing_is_written(run, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CSP_INDEX_STATE", str(tmp_path / "state"))
    before = files_of(world)
    said = run("doctor", world / "images", "--encoder", ENCODER, *NETWORK, "--metadata", world / "table.csv", "--json")
    assert said.status == 0, said.err
    assert (said.err, files_of(world), list(tmp_path.iterdir())) == ("", before, [])
    (report,) = said.rows
    listing = report["listing"]
    assert (listing["images"], listing["kinds"]) == (IMAGES, {".png": IMAGES})
    assert (listing["passed_over"], listing["columns"]) == ({".txt": 1}, COLUMNS)
    assert [line.partition(";")[0] for line in listing["metadata"]] == [
        "table.csv: 20 of 20 rows joined to 20 of 23 images by column 'file'",
        "folders taken for classes: 2 in the column label (a, b)",
    ]
    encoder, network = report["trial"]["models"]
    assert (encoder["width"], encoder["preprocessing"], encoder["input"]["shape"]) == (12, "8 x 8", [3, 8, 8])
    assert encoder["repeats"] and network["repeats"]
    conv, concepts = network["layers"]
    assert (conv["shape"], conv["axes"], conv["pool"], conv["neurons"]) == ([6, 8, 8], [1], "mean", 6)
    assert (concepts["kind"], concepts["shape"], concepts["pool"]) == ("ReLU", [10], "none")
    assert report["notes"] == report["problems"] == []


def test_shares_and_bytes_are_those_of_the_images(run, world):
    said = run("doctor", world / "images", "--encoder", ENCODER, *NETWORK, "--sample", "100", "--json")
    (report,) = said.rows
    rows = open_index(world / "db").store.read(schema.NEURONS, ["layer", "firing_rate"]).to_pylist()
    rates = [row["firing_rate"] for row in rows if row["layer"] == "concepts"]
    concepts = report["trial"]["models"][1]["layers"][1]
    assert concepts["dead"] == pytest.approx(sum(rate == 0 for rate in rates) / 10)
    assert concepts["always_on"] == pytest.approx(sum(rate == 1 for rate in rates) / 10)
    expected = report["expected"]
    assert expected["activations"] == pytest.approx(IMAGES * 16 * 4, rel=0.05)
    assert expected["embeddings"] == pytest.approx(IMAGES * 12 * 4, rel=0.3)  # and an id per row
    store = open_index(world / "db").store
    thumbnails = sum(len(one) for one in store.read(schema.IMAGES, ["thumbnail"])["thumbnail"].to_pylist())
    assert expected["thumbnails"] == pytest.approx(thumbnails)
    assert expected["seconds"] == pytest.approx(IMAGES / report["trial"]["images_per_second"])


def test_the_models_of_the_demo_are_described(run, world):
    models = ["--encoder", f"open_clip:{CLIP_FOLDER}", "--network", "python:csp_index.demo.network:planted_cnn"]
    (report,) = run("doctor", world / "images", *models, "--layers", "concepts", "--json").rows
    assert report["problems"] == []
    encoder, network = report["trial"]["models"]
    assert (encoder["width"], encoder["input"]["shape"], encoder["repeats"]) == (128, [3, 64, 64], True)
    assert all(part in encoder["preprocessing"] for part in ("Resize(size=64", "CenterCrop", "mean=[0.5", "std=[0.25"))
    assert network["layers"][0]["neurons"] == 45
    assert report["trial"]["images_per_second"] > 0


def test_the_sample_is_always_the_same(world):
    source = open_source(world / "images")
    one, two = (listed(source, Listing(""), 8) for _ in range(2))
    assert one == two and len(one) == 8
    assert one != list(source.refs())[:8]


def test_all_problems_are_said_one_a_line(run, world, tmp_path):
    (tmp_path / "wrong.csv").write_text("file,class\nother.png,1\n")
    network = ["--network", "python:fakes:network", "--layers", "conv,nothing,neither,concepts"]
    models = ["--encoder", "python:broken_encoders:failing", "--encoder", "python:fakes:absent", *network]
    said = run("doctor", world / "images", *models, "--metadata", tmp_path / "wrong.csv", "--json")
    assert said.status == 1
    (report,) = said.rows
    problems = report["problems"]
    starts = ["no row of the metadata table", "encoder python:fakes:absent", "network python:fakes:network: layer"]
    starts += ["network python:fakes:network: layer", "encoder python:broken_encoders:failing"]
    assert len(problems) == len(starts)
    assert all(line.startswith(start) for line, start in zip(problems, starts, strict=True))
    assert "'nothing'" in problems[2] and "'neither'" in problems[3]
    assert report["listing"]["images"] == IMAGES  # the images are examined without their table
    network = next(model for model in report["trial"]["models"] if model["kind"] == "network")
    assert [layer["layer"] for layer in network["layers"]] == ["conv", "concepts"]
    plain = run("doctor", world / "images", *models, "--metadata", tmp_path / "wrong.csv")
    assert [line.removeprefix("problem: ") for line in plain.out.splitlines() if line.startswith("problem")] == problems
    assert plain.out.splitlines()[-1] == "5 problems"


def test_a_model_that_draws_random_numbers_is_a_problem(run, world):
    said = run("doctor", world / "images", "--encoder", "python:odd_encoders:noisy", "--json")
    (report,) = said.rows
    assert said.status == 1
    assert "two passes over the same images differ" in report["problems"][0]
    assert report["trial"]["models"][0]["repeats"] is False
    said = run("doctor", world / "images", "--encoder", "python:odd_encoders:cropping")
    assert "its preprocessing draws random numbers" in said.out


def test_an_encoder_that_tells_no_images_apart_is_a_problem(run, world):
    said = run("doctor", world / "images", "--encoder", "python:odd_encoders:blind")
    assert said.status == 1
    assert "gives one and the same vector for 8 different images" in said.out


def test_a_source_without_a_readable_image_is_a_problem(run, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    said = run("doctor", tmp_path, "--encoder", ENCODER)
    assert said.status == 1
    assert "no image of those tried can be read" in said.out
    missing = run("doctor", tmp_path / "absent", "--encoder", ENCODER)
    assert missing.status == 1
    assert "does not exist" in missing.out


def test_an_index_is_described_and_tried(run, world):
    before = files_of(world)
    said = run("doctor", world / "db", "--json")
    assert said.status == 0, said.out
    assert files_of(world) == before
    (report,) = said.rows
    assert report["listing"] | {"metadata": []} == report["listing"]
    assert (report["listing"]["images"], report["listing"]["columns"]) == (IMAGES, COLUMNS)
    assert [layer["layer"] for layer in report["layers"]] == ["net/conv", "net/concepts"]
    assert report["bytes"] == sum(file.stat().st_size for file in (world / "db").rglob("*") if file.is_file())
    dead = report["layers"][1]["dead"]
    rates = open_index(world / "db").sql("SELECT firing_rate FROM neurons WHERE layer = 'concepts'").rows()
    assert dead == pytest.approx(sum(row["firing_rate"] == 0 for row in rates) / 10)
    assert {model["name"] for model in report["trial"]["models"]} == {ENCODER, "net"}


def test_a_model_to_add_is_tried_on_the_images_of_the_index(run, world):
    other = ["--encoder", "python:fakes:other_encoder"]
    (report,) = run("doctor", world / "db", *other, "--json").rows
    assert (report["problems"], report["expected"]["images"]) == ([], IMAGES)
    assert report["expected"]["thumbnails"] == 0  # the index has them
    same = run("doctor", world / "db", *NETWORK[:4], "--name", "net", "--pool", "max", "--dtype", "float16")
    assert same.status == 1
    assert "pool is max, was mean" in same.out or "does not fit" in same.out
    assert run("doctor", world / "db", "--metadata", "x.csv").status == 2


def test_what_an_index_lacks_to_be_extended_is_said(run, world, tmp_path, monkeypatch):
    shutil.copytree(world / "db", tmp_path / "db")
    moved = run("doctor", tmp_path / "db", "--json")  # nobody named the place of its images to this copy
    (report,) = moved.rows
    assert moved.status == 1
    assert [line.partition(", first")[0] for line in report["problems"]] == [
        "8 of 8 original images tried cannot be read"
    ]
    assert "--images DIR" in report["problems"][0]
    monkeypatch.setenv("FAKE_SEED", "5")
    (report,) = run("doctor", tmp_path / "db", "--images", world / "images", "--json").rows
    assert len(report["problems"]) == 1
    assert "is not the encoder the index was built with" in report["problems"][0]


def test_a_stored_python_model_is_not_run_without_trust(run, world, monkeypatch):
    from csp_index.models import trust

    monkeypatch.setattr(trust, "_given", set())
    (report,) = run("doctor", world / "db", "--json").rows
    assert len(report["problems"]) == 2
    assert all("--trust" in line for line in report["problems"])
    assert run("doctor", world / "db", "--trust").status == 0


def test_an_index_of_arrays_is_whole_without_pictures(run, world):
    said = run("doctor", world / "arrays")
    assert said.status == 0, said.out
    assert "layer m/l came as arrays" in said.out
    assert said.out.splitlines()[-1] == "everything would work"
