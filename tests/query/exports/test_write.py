"""An index written for other tools: each layout is read by the tool it is for, where that is installed."""

from __future__ import annotations

import ast
import gzip
import json
import shlex
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import write_arrays
from PIL import Image
from planted import CONCEPTS, PLANTED, make_arrays, serve_planted

from csp_index import Index, open_index
from csp_index.errors import NotFoundError, QueryError, SettingError
from csp_index.query.exports.for_fiftyone import _columns, _sample
from csp_index.query.exports.write import TARGETS


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return open_index(serve_planted(tmp_path_factory)[0].store.uri)


@pytest.fixture(scope="module")
def folders(index: Index, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The index written for every tool."""
    place = tmp_path_factory.mktemp("exports")
    for target in TARGETS:
        index.export(target, place / target)
    return {target: place / target for target in TARGETS}


def lines_of(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for file in sorted(folder.glob("*.gz")) for line in gzip.open(file, "rt").readlines()]


def test_datasets_reads_images_and_neurons(folders: dict[str, Path], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", minversion="4", reason="datasets is not installed")
    images, neurons = (
        datasets.load_dataset(str(folders["datasets"]), name, split="train", cache_dir=str(tmp_path))
        for name in ("images", "neurons")
    )
    assert images.num_rows == 40 and images[3]["image"].size == (8, 8) and images[3]["image_id"] == 3
    assert sum(value * value for value in images[3]["embedding"]) == pytest.approx(1)
    assert neurons.num_rows == 17 and neurons[10]["address"] == "planted/words/0" and neurons[10]["label"] == "striped"


def test_without_a_layer_only_the_images_are_named(tmp_path: Path) -> None:
    index = open_index(tmp_path / "db")
    index.add_images([("a.png", Image.new("RGB", (8, 8)))], encoders=["python:fakes:encoder"])
    written = index.export("datasets", tmp_path / "out")
    assert written.opening == f'datasets.load_dataset("{tmp_path / "out"}", "images")'
    assert "neurons.parquet" not in (tmp_path / "out/README.md").read_text()


def test_what_is_to_be_typed_can_be_copied(index: Index, tmp_path: Path) -> None:
    """Folders have blanks, quotes and braces."""
    place = tmp_path / 'my "birds"{0}\''
    said = {target: index.export(target, place / target, PLANTED) for target in TARGETS}
    for target in ("datasets", "fiftyone"):
        call = ast.parse(said[target].opening, mode="eval").body
        assert isinstance(call, ast.Call) and ast.literal_eval(call.args[0]) == str(place / target)
    command = shlex.split(said["embedding-atlas"].opening)
    assert command[:2] == ["embedding-atlas", f"{place}/embedding-atlas/neurons/planted%2Fwords.parquet"]
    assert f"{place}/neuronpedia/*/*" in said["neuronpedia"].opening
    assert said["fiftyone"].neurons == 6  # one never fires


def test_embedding_atlas_opens_a_table_that_has_points(tmp_path: Path) -> None:
    """A layer in which nothing fires has none: another layer is opened, or the images by their names."""
    arrays = write_arrays(tmp_path / "arrays")
    np.save(tmp_path / "dead.npy", np.zeros((60, 3), np.float32))
    dead = open_index(tmp_path / "dead.db")
    dead.import_arrays(tmp_path / "dead.npy", "m/dead", embeddings=arrays["embeddings"])
    written = dead.export("embedding-atlas", tmp_path / "without")
    assert written.opening.endswith("without/images.parquet --x x --y y --image picture --text name")
    both = open_index(tmp_path / "both.db")
    both.import_arrays(arrays["activations"], "m/l", embeddings=arrays["embeddings"])
    both.import_arrays(tmp_path / "dead.npy", "m/dead")
    assert "/with/neurons/m%2Fl.parquet --x x" in both.export("embedding-atlas", tmp_path / "with").opening


def test_fiftyone_samples_name_the_neurons_that_fire(folders: dict[str, Path], index: Index) -> None:
    samples = json.loads((folders["fiftyone"] / "samples.json").read_text())["samples"]
    assert [sample["image_id"] for sample in samples] == list(range(40))
    first = index["planted/words/0"].pairs[0].image_id
    firing = {one["neuron"]: one for one in samples[first]["neurons"]["classifications"]}
    assert firing["planted/words/0"]["rank"] == 0 and firing["planted/words/0"]["label"] == "striped"
    assert all(one["activation"] > 0 for sample in samples for one in sample["neurons"]["classifications"])
    assert all(Path(sample["filepath"]).is_file() for sample in samples)  # they lie where they were indexed


def test_fiftyone_gets_thumbnails_where_originals_may_not_be_opened(index: Index, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("csp_index.store.originals.ImageRoots.allow", lambda roots, uri: False)
    index.export("fiftyone", tmp_path / "out", PLANTED)
    samples = json.loads((tmp_path / "out" / "samples.json").read_text())["samples"]
    assert {sample["filepath"] for sample in samples} == {f"data/{image}.jpg" for image in range(40)}
    assert (tmp_path / "out" / "data" / "7.jpg").read_bytes()[:3] == b"\xff\xd8\xff"


def test_fiftyone_reads_its_samples(folders: dict[str, Path]) -> None:
    importers = pytest.importorskip("fiftyone.utils.data", reason="fiftyone is not installed")
    with importers.LegacyFiftyOneDatasetImporter(str(folders["fiftyone"])) as importer:
        samples = list(importer)
    assert len(samples) == 40 and {type(sample["neurons"]).__name__ for sample in samples} == {"Classifications"}


def test_fiftyone_reads_lists_of_metadata(tmp_path: Path) -> None:
    importers = pytest.importorskip("fiftyone.utils.data", reason="fiftyone is not installed")
    index = open_index(tmp_path / "db")
    images = [(f"{name}.png", Image.new("RGB", (8, 8))) for name in "abc"]
    index.add_images(images, encoders=["python:fakes:encoder"])
    told = [{"name": "a.png", "words": []}, {"name": "b.png", "words": ["x", "y"]}, {"name": "c.png", "words": ["y"]}]
    (tmp_path / "told.jsonl").write_text("\n".join(map(json.dumps, told)))
    index.add_metadata(tmp_path / "told.jsonl")
    index.export("fiftyone", tmp_path / "out")
    with importers.LegacyFiftyOneDatasetImporter(str(tmp_path / "out")) as importer:
        samples = {Path(sample["uri"]).name: sample for sample in importer}
    assert (list(samples["b.png"]["words"]), list(samples["c.png"]["words"])) == (["x", "y"], ["y"])
    assert not samples["a.png"].has_field("words")


def test_embedding_atlas_has_places_pictures_and_neighbors(folders: dict[str, Path]) -> None:
    images = pq.read_table(folders["embedding-atlas"] / "images.parquet").to_pylist()
    assert len(images) == 40 and images[0]["picture"]["bytes"][:3] == b"\xff\xd8\xff"
    neurons = pq.read_table(folders["embedding-atlas"] / "neurons" / "planted%2Fwords.parquet").to_pylist()
    assert [row["label"] for row in neurons][:1] == ["striped"] and len(neurons) == 6  # the last one never fires
    for place, row in enumerate(neurons):
        assert row["neighbors"]["ids"][0] == place and row["neighbors"]["distances"][0] == 0
        assert row["neighbors"]["distances"] == sorted(row["neighbors"]["distances"])
        assert 0 <= row["x"] <= 1 and 0 <= row["y"] <= 1


def test_embedding_atlas_loads_the_tables(folders: dict[str, Path]) -> None:
    atlas = pytest.importorskip("embedding_atlas.data_source", reason="embedding-atlas is not installed")
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(folders["embedding-atlas"] / "images.parquet")
    assert atlas.DataSource("id", frame, {}).dataset.equals(frame)


def test_neuronpedia_has_the_keys_of_its_database(folders: dict[str, Path]) -> None:
    place = folders["neuronpedia"] / "planted" / "words"
    said = lines_of(place / "explanations")
    assert [line["index"] for line in said] == [str(neuron) for neuron in range(6)]
    assert said[0] | {"score": 0, "confidence": 0} == {
        "modelId": "planted",
        "layer": "words",
        "source": "words",
        "index": "0",
        "description": "striped",
        "typeName": "semanticlens",
        "explanationModelName": "csp_index",
        "score": 0,
        "confidence": 0,
    }
    assert len(lines_of(place / "features")) == 7 and lines_of(place / "activations")[6]["values"] == []


def test_neuronpedia_takes_neurons_with_their_labels(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client builds a feature from what its service would answer, and would upload the same."""
    requests = pytest.importorskip("neuronpedia.requests.feature_request", reason="neuronpedia is not installed")
    place, sent = folders["neuronpedia"] / "planted" / "words", list[str]()
    kinds = {name: lines_of(place / name) for name in ("features", "explanations", "activations")}

    def answer(client: object, method: str, uri: str, **payload: object) -> dict[str, object]:
        if method == "POST":
            sent.append(json.dumps(payload["json"], allow_nan=False))
            return {}
        own = {name: [line for line in lines if line["index"] == uri.split("/")[-1]] for name, lines in kinds.items()}
        return {**own["features"][0], "explanations": own["explanations"], "activations": own["activations"]}

    monkeypatch.setattr(requests.FeatureRequest, "send_request", answer)
    client = requests.FeatureRequest(api_key="none")
    features = [client.get("planted", "words", neuron) for neuron in range(7)]
    assert features[0].explanations[0].text == "striped" and 0 < features[0].density < 1
    assert features[6].explanations == [] and features[6].activations[0].values == []  # it never fires
    client.upload_batch("planted", "words", features)
    assert [one["explanations"][0]["text"] for one in json.loads(sent[0])["features"][:1]] == ["striped"]


def test_neuronpedia_reads_its_lines(folders: dict[str, Path]) -> None:
    client = pytest.importorskip("neuronpedia.np_explanation", reason="neuronpedia is not installed")
    from neuronpedia.np_activation import Activation

    place = folders["neuronpedia"] / "planted" / "words"
    explanations = [client.Explanation.from_np_db_json(line) for line in lines_of(place / "explanations")]
    assert (explanations[0].text, explanations[0].index, explanations[0].method) == ("striped", 0, "semanticlens")
    activation = Activation.from_np_db_json(lines_of(place / "activations")[0])
    assert activation.tokens[0].endswith(".png") and activation.values == sorted(activation.values, reverse=True)


def test_a_folder_is_written_whole_or_not_at_all(index: Index, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(QueryError, match="there exists: name a new folder"):
        index.export("datasets", tmp_path / "there")
    with pytest.raises(SettingError, match="no export to 'excel': expected fiftyone, datasets"):
        index.export("excel", tmp_path / "new")
    with pytest.raises(NotFoundError, match="layer m/l is not in the index"):
        index.export("datasets", tmp_path / "new", "m/l")
    monkeypatch.setattr("csp_index.query.exports.for_datasets._described", lambda table: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        index.export("datasets", tmp_path / "new", CONCEPTS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


@pytest.mark.parametrize("target", TARGETS)
def test_an_index_of_arrays_without_labels_is_written_too(target: str, tmp_path: Path) -> None:
    arrays = open_index(make_arrays(tmp_path))
    written = arrays.export(target, tmp_path / "out")
    assert written.neurons == {"datasets": 8, "embedding-atlas": 7}.get(
        target, 0
    )  # one is dead; labels and samples: none
    assert written.images == (60 if target in ("datasets", "embedding-atlas") else 0)


def test_a_layer_whose_name_climbs_stays_in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csp_index.indexing.commit.check_address", lambda key: None)  # a stranger's program takes any
    arrays = open_index(tmp_path / "climbing.db")
    paths = write_arrays(tmp_path)
    arrays.import_arrays(paths["activations"], "../..", embeddings=paths["embeddings"])
    there = set(tmp_path.rglob("*"))
    for target in ("neuronpedia", "embedding-atlas"):
        arrays.export(target, tmp_path / "in" / "deep" / target)
    new = {path for path in set(tmp_path.rglob("*")) - there if "climbing.db" not in path.parts}
    assert {path.parts[len(tmp_path.parts)] for path in new} == {"in"}
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["deep"]
    assert {path.name for path in (tmp_path / "in" / "deep").iterdir()} == {"neuronpedia", "embedding-atlas"}
    assert (tmp_path / "in" / "deep" / "neuronpedia" / "%2E%2E" / "%2E%2E" / "features").is_dir()


def test_what_cannot_be_written_is_one_line(index: Index, tmp_path: Path, monkeypatch) -> None:
    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("csp_index.query.exports.for_neuronpedia._write", full)
    with pytest.raises(QueryError, match="new cannot be written: No space left on device"):
        index.export("neuronpedia", tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_columns_of_fiftyone_keep_apart() -> None:
    """Two names that become one field, and one that is a field of ours."""
    first, second = samples_of({"eye color": 1, "eye_color": 2, "uri": "own"}, {"eye_color": 3})
    assert (first["eye_color"], first["eye_color_"], first["uri_"], first["uri"]) == (1, 2, "own", "/a.jpg")
    assert second["eye_color_"] == 3 and "eye_color" not in second


def samples_of(*records: dict[str, object]) -> list[dict[str, object]]:
    row, columns = {"image_id": 0, "uri": "/a.jpg", "split": None}, _columns(records)
    return [_sample({**row, "metadata": json.dumps(record)}, "data/0.jpg", [], columns) for record in records]


@pytest.mark.parametrize(
    ("values", "taken"),
    [
        ([["a", "b"], [], [None], None], [["a", "b"], None, None, None]),
        ([["a", None], "b"], [["a"], ["b"]]),  # a list in one row is a list in all
        ([[1, 2.5], [3]], [[1.0, 2.5], [3.0]]),
        ([[1, "a"], [True]], [["1", "a"], ["true"]]),
        ([[["a"], {"b": 1}]], [['["a"]', '{"b": 1}']]),
        ([{"b": "ü"}, "a"], ['{"b": "ü"}', "a"]),
        ([7, 7.5], [7.0, 7.5]),
        ([7, "unknown"], ["7", "unknown"]),  # one field has values of one kind
        ([True, False], [True, False]),
        ([1, 2**63], ["1", "9223372036854775808"]),
    ],
)
def test_a_column_is_one_kind_of_field_in_fiftyone(values: list[object], taken: list[object]) -> None:
    told = samples_of(*({"tags_": value} for value in values))
    assert [sample.get("tags_") for sample in told] == taken
    assert [type(sample.get("tags_")) for sample in told] == [type(value) for value in taken]


def test_the_command_says_how_the_tool_opens_it(index: Index, run, tmp_path: Path) -> None:
    done = run("export", index.uri, "--to", "datasets", "--layer", PLANTED, "--out", tmp_path / "out")
    assert done.status == 0 and done.out.splitlines() == [
        f"40 images and 7 neurons are in {tmp_path / 'out'}",
        f'open it: datasets.load_dataset("{tmp_path / "out"}", "neurons")',
    ]
    assert run("export", index.uri, "--to", "datasets").status == 2
    assert run("export", index.uri, "--to", "datasets", "--out", tmp_path / "new", "--method", "csp").status == 2
    again = run("export", index.uri, "--to", "neuronpedia", "--out", tmp_path / "out")
    assert again.status == 1 and "exists: name a new folder" in again.err
