"""Index, the object a user holds: search, newest labels, cards, SQL views, and results as tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import fakes
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import csp_index
import csp_index.store.schema
from csp_index import CspIndexError, Index, Labels, NetworkSource, open_index
from csp_index.errors import AddressError, LabelError, NotFoundError, SettingError
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.methods import METHODS, RECOMMENDED
from csp_index.models.weights import lasting
from csp_index.records import Label

ENCODER = "python:fakes:encoder"
WORDS = ["striped", "red", "moon", "blue", "dotted", "ring"]


@pytest.fixture(scope="module")
def planted_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 23 images, with a layer `planted/words` whose neuron i fires on the images nearest to WORDS[i]."""
    folder = tmp_path_factory.mktemp("index")
    source = fakes.write_images(folder / "images", 23)
    network = NetworkSource("python:fakes:network", ("conv", "concepts"), name="net")
    index = open_index(folder / "db")
    index.add_images(source, encoders=[ENCODER], networks=[network], shard_size=10)
    column = index.store.read(csp_index.store.column_tables.embeddings_table(ENCODER))["embedding"].to_pylist()
    embeddings = np.array(column, np.float32)
    directions = fakes.encoder().embed_texts(WORDS).numpy()
    activations = np.maximum((embeddings - embeddings.mean(0)) @ directions.T, 0)
    np.save(folder / "planted.npy", np.concatenate([activations, np.zeros((23, 1))], 1).astype(np.float32))
    index.import_arrays(folder / "planted.npy", "planted/words")
    return folder


@pytest.fixture
def planted(planted_at: Path, tmp_path: Path) -> Index:
    shutil.copytree(planted_at / "db", tmp_path / "db")
    return open_index(tmp_path / "db")


def crafted(folder: Path, images: int = 60, width: int = 12) -> tuple[Index, np.ndarray]:
    """An index of arrays whose neuron i (of six) fires where the embedding points along axis i."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((images, width)) * 0.3
    embeddings[np.arange(images), np.arange(images) % 6] += 2
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "e.npy", embeddings.astype(np.float32))
    np.save(folder / "a.npy", np.maximum(embeddings[:, :6] - 0.5, 0).astype(np.float32))
    index = open_index(folder / "db")
    index.import_arrays(folder / "a.npy", "m/l", embeddings=folder / "e.npy", shard_size=25)
    return index, embeddings


def axes(names: list[str], width: int = 12, key: str = "axes") -> CandidateTexts:
    return CandidateTexts(tuple(names), torch.eye(width)[: len(names)], key)


@pytest.fixture(scope="module", params=[False, True], ids=["unlabelled", "labelled"])
def searched(request, tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, bool]:
    """Six neurons along axes; searching writes nothing."""
    index, _ = crafted(tmp_path_factory.mktemp("searched"))
    if request.param:
        index.label("m/l", vocabulary=axes([f"axis {i}" for i in range(6)]))
    return index, request.param


@pytest.mark.parametrize("word", WORDS[:4])
def test_search_ranks_the_planted_direction_first(searched, monkeypatch, word):
    index, labelled = searched
    axis = WORDS.index(word)
    monkeypatch.setattr(
        "csp_index.labelling.search.embed_text", lambda space, text: np.eye(12, dtype=np.float32)[WORDS.index(text)] * 3
    )
    found = index.search(word).rows()
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    assert found[0]["neuron"] == f"m/l/{axis}"
    assert 0.5 < found[0]["score"] <= 1 + 1e-6
    assert found[0]["method"] == ("csp" if labelled else "mean-centred")
    assert found[0]["label"] == (f"axis {axis}" if labelled else None)
    assert found[0]["labelled_by"] == ("csp" if labelled else None)
    assert [row["neuron"] for row in index.search(word, top=2).rows()] == [row["neuron"] for row in found[:2]]


def test_search_by_text_prefers_the_neuron_planted_on_it(planted):
    found = planted.search("striped", layer="planted/words", templates="none").rows()
    assert found[0]["neuron"] == "planted/words/0"
    assert "planted/words/6" not in [row["neuron"] for row in found]  # dead
    before = planted.store.versions()
    assert len(planted.search("striped").rows()) == 10
    assert planted.store.versions() == before


def test_search_by_picture_prefers_the_neuron_that_fires_on_it(planted, planted_at):
    rows = planted.sql("SELECT uri FROM images ORDER BY image_id").rows()
    best = int(planted.activations("planted/words/3").argmax())
    found = planted.search(image=rows[best]["uri"], layer="planted/words").rows()
    assert found[0]["score"] > 0
    scores = {row["neuron"]: row["score"] for row in found}
    assert scores["planted/words/3"] > np.median(list(scores.values()))
    with pytest.raises(SettingError, match="give one of them"):
        planted.search()
    with pytest.raises(SettingError, match="give one of them"):
        planted.search("red", image=rows[0]["uri"])
    with pytest.raises(SettingError, match="is empty"):
        planted.search("  ")
    for wrong, told in (({"text": Path("a.png")}, "takes a text, got an object"), ({"image": 7}, "file of an image")):
        with pytest.raises(SettingError, match=told):
            planted.search(**wrong)
    with pytest.raises(NotFoundError, match="not in the index"):
        planted.search("red", layer="net/none")


def test_labels_of_the_planted_neurons(planted):
    labels = planted.label("planted/words", "mean-centred", vocabulary=WORDS, templates="none", examples=8)
    assert labels[6].state == "dead"
    right = sum(label.text == word for label, word in zip(labels[:6], WORDS, strict=True))
    assert right >= 4


def test_the_newest_run_of_each_method_is_what_counts(tmp_path):
    index, _ = crafted(tmp_path)
    first = index.label("m/l", vocabulary=axes(["a", "b", "c", "d", "e", "f"], key="one"))
    index.label("m/l", "semanticlens", vocabulary=axes(["p", "q", "r", "s", "t", "u"], key="two"))
    for name in ("g", "h", "i"):  # several runs in one second
        last = index.label("m/l/0", vocabulary=axes([name * 3, "b", "c"], key=name))
    rows = index.labels(method="csp").rows()
    assert [row["neuron"] for row in rows] == [f"m/l/{n}" for n in range(6)]
    assert [row["text"] for row in rows] == ["iii", *(label.text for label in first[1:])]
    assert rows[0]["run_id"] == last[0].run_id
    shown = index.labels("m/l").rows()
    assert [row["method"] for row in shown] == ["csp", *["semanticlens"] * 5]  # of each neuron the newest
    both = index.labels("m/l", method="all").rows()
    assert [(row["neuron"], row["method"]) for row in both[:2]] == [("m/l/0", "csp"), ("m/l/0", "semanticlens")]
    assert len(both) == 12
    assert len(index.labels(method="csp", top=2).rows()) == 12
    assert index.view("m/l/0").label.text == "iii"
    assert index.view("m/l/0", "semanticlens").label.text == "p"
    assert index.view("m/l/1").label.method == "semanticlens"  # newer than its label by csp
    with pytest.raises(NotFoundError, match="has: m/l"):
        index.labels("no/such")
    with pytest.raises(LabelError, match="semanticlens"):
        index.labels(method="nope")


def test_view_makes_a_label_where_there_is_none(planted):
    found = planted.view("net/concepts/0", vocabulary=["red", "green"])
    assert found.label.method == RECOMMENDED
    assert found.label.text in ("red", "green")
    assert found.statistics["images"] == 23
    assert set(found.names) == {p.image_id for p in found.pairs} | {p.contrast_id for p in found.pairs}
    assert all(name.endswith(".png") for name in found.names.values())
    assert planted.view("net/concepts/0") == found  # read
    told = found.as_json()
    assert told["neuron"] == "net/concepts/0"
    assert len(told["pairs"]) == len(found.pairs) == 5 * len(found.label.pairs)
    with pytest.raises(AddressError, match="write MODEL/LAYER/INDEX"):
        planted.view("net/concepts")
    with pytest.raises(NotFoundError, match="neurons 0 to 9"):
        planted.view("net/concepts/10")


@pytest.mark.parametrize("neuron", ["net/concepts/0", "net/concepts/9", "planted/words/6"])
def test_a_card_is_a_picture(planted, tmp_path, neuron):
    (label,) = planted.label(neuron, vocabulary=WORDS)
    path = planted.card(label, tmp_path / "card.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with Image.open(path) as picture:
        picture.load()
        assert min(picture.size) > 100


def test_a_card_of_a_label_that_was_not_kept(planted, tmp_path):
    (label,) = planted.label("net/concepts/0", vocabulary=WORDS, keep=False)
    assert label.run_id == ""
    assert planted.card(label, tmp_path / "card.png").exists()


def test_a_card_of_arrays_has_no_pictures_and_still_is_drawn(tmp_path):
    index, _ = crafted(tmp_path)
    (label,) = index.label("m/l/0", vocabulary=axes(["a", "b"]))
    assert index.card(label, tmp_path / "card.png").exists()
    with pytest.raises(CspIndexError, match="cannot be written"):
        index.card(label, tmp_path / "none" / "card.png")


def test_nothing_is_written_with_keep_off(planted):
    before = planted.store.versions()
    planted.label("net/concepts", vocabulary=WORDS, templates="none", keep=False)
    assert planted.store.versions() == before


def test_several_layers_and_neurons_in_one_call(planted):
    labels = planted.label(
        ["net/conv/3", "planted/words", "net/concepts/7", "net/conv/1", "net/conv/3"], vocabulary=WORDS
    )
    assert [str(label.neuron) for label in labels] == [
        "net/conv/1",
        "net/conv/3",
        *(f"planted/words/{n}" for n in range(7)),
        "net/concepts/7",
    ]
    assert [str(found[0].key) for found in planted.resolve(["net/conv/3", "net/conv"])] == ["net/conv"]
    assert len(planted.resolve(["net/conv/3", "net/conv"])[0][1]) == 6
    with pytest.raises(AddressError, match="no neuron is named"):
        planted.label([], vocabulary=WORDS)


def test_labels_are_a_sequence_a_table_and_a_notebook_view(tmp_path):
    index, _ = crafted(tmp_path)
    labels = index.label("m/l", vocabulary=axes(["<b>a</b>", "b", "c"]), top=2)
    assert len(labels) == 6
    assert isinstance(labels[0], Label)
    assert isinstance(labels[1:3], Labels)
    assert list(labels[1:3]) == [labels[1], labels[2]]
    assert labels[-1] == list(labels)[5]
    assert labels[2] in labels
    table = labels.to_arrow()
    head, trust = (
        ["neuron", "method", "state", "rank", "text", "score"],
        ["score_low", "score_high", "confidence", "probability"],
    )
    assert table.column_names == [*head, *trust, "uncertain", "note"]
    assert table.num_rows == 12
    assert table["rank"].to_pylist() == [0, 1] * 6
    assert table.slice(0, 1).to_pylist()[0]["score"] == labels[0].labels[0].score
    page = labels._repr_html_()
    assert "&lt;b&gt;a&lt;/b&gt;" in page
    assert "<b>a</b>" not in page
    frame = labels.to_pandas()
    assert list(frame["text"][:2]) == [score.text for score in labels[0].labels]


def test_a_dead_neuron_is_one_row_of_the_table(planted):
    (label,) = planted.label("planted/words/6", vocabulary=WORDS)
    (row,) = Labels((label,)).to_arrow().to_pylist()
    assert (row["neuron"], row["state"], row["rank"], row["text"]) == ("planted/words/6", "dead", None, None)
    assert row["note"] == "never fires above the floor on the indexed images"
    assert label.text is None


VIEWS = (
    "images",
    "failures",
    "shards",
    "runs",
    "encoders",
    "layers",
    "neurons",
    "examples",
    "derived",
    "labels",
    "texts",
    "embeddings",
)


@pytest.fixture(scope="module")
def labelled_once(planted_at: Path, tmp_path_factory: pytest.TempPathFactory) -> Index:
    index = open_index(shutil.copytree(planted_at / "db", tmp_path_factory.mktemp("labelled") / "db"))
    index.label("net/concepts/0", vocabulary=WORDS)
    return index


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_can_be_asked_before_and_after_labelling(planted_at, labelled_once, view):
    count = f"SELECT count(*) AS n FROM {view}"
    before = open_index(planted_at / "db").sql(count).rows()[0]["n"]
    assert (before > 0) == (view not in ("failures", "examples", "derived", "labels", "texts"))
    assert labelled_once.sql(f"SELECT * FROM {view} LIMIT 2").to_arrow().num_columns > 2
    assert (labelled_once.sql(count).rows()[0]["n"] > 0) == (view not in ("failures", "derived"))


def test_the_activations_macro(planted):
    expected = planted.activations("net/conv/2")
    rows = planted.sql("SELECT * FROM activations('net/conv/2')").to_arrow()
    assert rows.schema.names == ["image_id", "activation"]
    assert rows["image_id"].to_pylist() == list(range(23))
    np.testing.assert_array_equal(rows["activation"].to_numpy(), expected)
    joined = planted.sql(
        "SELECT i.uri, a.activation FROM activations('net/conv/2') a JOIN images i USING (image_id) "
        "ORDER BY activation DESC LIMIT 1"
    ).rows()
    uri = planted.sql(f"SELECT uri FROM images WHERE image_id = {int(expected.argmax())}").rows()[0]["uri"]
    assert joined[0]["uri"] == uri
    both = planted.sql(
        "SELECT corr(a.activation, b.activation) AS r FROM activations('net/conv/2') a JOIN "
        "activations('net/conv/3') b USING (image_id)"
    ).rows()
    expected_r = np.corrcoef(expected, planted.activations("net/conv/3"))[0, 1]
    assert both[0]["r"] == pytest.approx(expected_r, abs=1e-5)
    with pytest.raises(NotFoundError, match="neurons 0 to 5"):
        planted.sql("SELECT * FROM activations('net/conv/6')")
    with pytest.raises(AddressError, match="write MODEL/LAYER/INDEX"):
        planted.sql("SELECT * FROM activations('conv')")


def test_sql_joins_labels_with_their_examples(planted):
    labels = planted.label("net/concepts", "csp", vocabulary=WORDS)
    rows = planted.sql(
        "SELECT l.neuron, count(*) AS pairs, max(e.activation) AS top FROM labels l "
        "JOIN examples e USING (run_id, neuron) WHERE l.rank = 0 GROUP BY l.neuron ORDER BY l.neuron"
    ).rows()
    alive = [label for label in labels if label.labels]
    assert [row["pairs"] for row in rows] == [len(label.pairs) for label in alive]
    np.testing.assert_allclose([row["top"] for row in rows], [label.pairs[0].activation for label in alive], rtol=1e-6)
    assert planted.sql("SELECT DISTINCT encoder, text FROM texts WHERE text = 'moon'").rows() == [
        {"encoder": ENCODER, "text": "moon"}
    ]


def test_results_of_sql(planted):
    found = planted.sql("SELECT image_id, thumbnail FROM images ORDER BY image_id LIMIT 3")
    assert len(found) == 3
    assert isinstance(found.to_arrow(), pa.Table)
    assert "data:image/jpeg;base64," in found._repr_html_()
    assert list(found.to_pandas()["image_id"]) == [0, 1, 2]


def test_an_index_refers_to_a_place_and_makes_nothing(tmp_path):
    index = open_index(tmp_path / "db")
    assert repr(index) == f"Index('{tmp_path / 'db'}')"
    assert not (tmp_path / "db").exists()
    for ask in (
        index.status,
        lambda: index.label("m/l"),
        lambda: index.sql("SELECT 1"),
        lambda: index.activations("m/l/0"),
    ):
        with pytest.raises(CspIndexError, match="no index at"):
            ask()
    assert not (tmp_path / "db").exists()


@pytest.fixture(scope="module")
def with_dead(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("dead")
    index, _ = crafted(folder)
    np.save(folder / "dead.npy", np.zeros((60, 6), np.float32))
    index.import_arrays(folder / "dead.npy", "m/dead")
    return index


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_layer_in_which_nothing_fires_is_dead_and_not_an_error(with_dead, method, search):
    index = with_dead
    asked = {"vocabulary": axes(["a", "b", "c"]), "search": search, "logit_scale": 10.0, "keep": False}
    assert {label.state for label in index.label("m/l", method, floor=1e6, **asked)} == {"dead"}
    for contrast in ("nearest", "random"):
        labels = index.label("m/dead", method, contrast=contrast, **asked)
        assert [(label.state, label.labels, label.pairs) for label in labels] == [("dead", (), ())] * 6


def test_neurons_out_of_range_are_told_with_the_range(planted):
    for neuron in ("net/concepts/10", "net/concepts/99999999999"):
        with pytest.raises(NotFoundError, match="net/concepts has neurons 0 to 9"):
            planted.label(neuron, vocabulary=WORDS)
        with pytest.raises(NotFoundError, match="net/concepts has neurons 0 to 9"):
            planted.activations(neuron)


def test_stored_labels_know_what_they_rest_on(planted):
    """Trap 2 for images: labels made before images were added are not those after."""
    (first,) = planted.label("net/concepts/0", vocabulary=WORDS)
    source = Path(planted.sql("SELECT uri FROM images LIMIT 1").rows()[0]["uri"]).parent.parent
    more = fakes.write_images(Path(planted.uri).parent / "more", 15, seed=3)
    assert source.exists()
    planted.add_images(
        more, encoders=[ENCODER], networks=[NetworkSource("python:fakes:network", ("conv", "concepts"), name="net")]
    )
    (second,) = planted.label("net/concepts/0", vocabulary=WORDS)
    assert second.run_id != first.run_id
    assert planted.view("net/concepts/0").label == second


def test_a_local_directory_in_a_spec_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "clip").mkdir(parents=True)
    assert lasting("open_clip:models/clip") == f"open_clip:{tmp_path / 'models' / 'clip'}"
    assert lasting("open_clip:ViT-B-32/laion2b_s34b_b79k") == "open_clip:ViT-B-32/laion2b_s34b_b79k"
