"""Live re-labelling gives the answers of `Index.label`, whatever was asked before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fakes import write_arrays, write_images
from imported_arrays import build

from csp_index import Index, NetworkSource, open_index
from csp_index.errors import LabelError, NotFoundError, SettingError
from csp_index.labelling import gather, pipeline
from csp_index.labelling.candidates import read_text_arrays
from csp_index.records import Label, NeuronKey
from csp_index.service.config import ServiceSettings
from csp_index.service.live.engine import Engine
from csp_index.service.live.queries import LabelQuery
from csp_index.service.live.relabel import Relabeller
from csp_index.service.snapshot import Snapshot

WORDS = [f"{colour} {thing}" for colour in ("red", "green", "dark", "pale") for thing in ("square", "noise", "edge")]
METHODS = ("csp", "semanticlens", "pmi", "contrastive-pmi", "consensus", "clip-dissect", "random-contrast")


def neurons(*numbers: int) -> tuple[NeuronKey, ...]:
    return tuple(NeuronKey("net", "concepts", number) for number in numbers)


SOME = neurons(3, 0, 7, 9)  # 9 never fires


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    folder = tmp_path_factory.mktemp("relabel")
    found = open_index(folder / "db", device="cpu")
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    images = write_images(folder / "images", 48)
    found.add_images(images, encoders=["python:fakes:encoder"], networks=[network], decode_workers=0)
    found.label("net/concepts", "csp", vocabulary=WORDS)
    return found


@pytest.fixture(scope="module")
def engine(index: Index) -> Engine:
    return Engine(Snapshot(index.uri), ServiceSettings())


def expected(index: Index, query: LabelQuery, **more: Any) -> list[dict[str, Any]]:
    """What the index answers, without a look at what it keeps."""
    asked = [str(key) for key in query.neurons]
    given = {"vocabulary": query.candidates} | query.options | more
    found = index.label(asked, query.method, top=query.top, keep=False, recompute=True, **given)
    return [told(label) for key in query.neurons for label in found if label.neuron == key]


def told(label: Label) -> dict[str, Any]:
    def values(record: Any) -> dict[str, Any]:
        return {name: getattr(record, name) for name in record.__dataclass_fields__}

    return label.as_json() | {
        "labels": [values(score) for score in label.labels],
        "pairs": [values(pair) for pair in label.pairs],
        "doubt": label.doubt,
    }


def answered(engine: Engine, query: LabelQuery) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in one.items() if name != "threshold"} for one in engine.models().relabel(query)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_an_answer_is_the_index_s_own_by_every_method(index: Index, engine: Engine, method: str) -> None:
    for query in (LabelQuery(SOME, method=method), LabelQuery(neurons(2), method=method, candidates=tuple(WORDS[:5]))):
        wanted = expected(index, query)
        assert answered(engine, query) == wanted
        assert answered(engine, query) == wanted  # now from what is kept


@pytest.mark.parametrize(
    "options",
    [
        {},  # by the default method
        {"method": "csp", "gamma": 0.0},
        {"method": "csp", "gamma": 0.35},
        {"examples": 3},
        {"neighbours": 3},
        {"threshold": "quantile:0.5"},
        {"threshold": "max:0.2"},
        {"contrast": "random"},
        {"contrast": "falcon"},
        {"contrast": "nearest+random", "neighbours": 2},
        {"confidence": False},
        {"top": 30},
        {"method": "clip-dissect", "prior": "neurons"},
        {"method": "semanticlens", "contrast": "nearest+random"},  # looks at none: no room for two kinds
    ],
    ids=str,
)
def test_every_knob_moves_the_answer_as_in_the_index(index: Index, engine: Engine, options: dict[str, Any]) -> None:
    query = LabelQuery(SOME, **options)
    assert answered(engine, query) == expected(index, query)


def test_moving_a_knob_of_the_formula_gathers_nothing_anew(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, index: Index
) -> None:
    engine.models().relabel(LabelQuery(neurons(1), "csp", examples=7))
    queries = [LabelQuery(neurons(1), "csp", examples=7, gamma=gamma) for gamma in (0.1, 0.9)]
    wanted = [expected(index, query) for query in queries]
    monkeypatch.setattr(pipeline, "read_evidence", None)
    assert [answered(engine, query) for query in queries] == wanted
    with pytest.raises(TypeError):
        engine.models().relabel(LabelQuery(neurons(1), "csp", examples=8))


def test_the_dataset_is_gone_over_once_for_the_same_candidates(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.models().relabel(LabelQuery(neurons(1), method="pmi"))
    monkeypatch.setattr(pipeline, "read_sums", None)
    engine.models().relabel(LabelQuery(neurons(2), method="pmi"))
    engine.models().relabel(LabelQuery(neurons(2), method="contrastive-pmi"))
    with pytest.raises(TypeError):
        engine.models().relabel(LabelQuery(neurons(2), method="pmi", candidates=("red square", "another")))


def test_threads_that_ask_at_once_all_get_their_own_answer(index: Index, engine: Engine) -> None:
    queries = [LabelQuery(neurons(n), "csp", gamma=g / 4, examples=11 + g) for n in (0, 1, 2, 3, 7) for g in range(4)]
    wanted = [expected(index, query) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(2):
            assert list(pool.map(lambda query: answered(engine, query), queries)) == wanted


def test_results_come_as_asked_and_tell_the_threshold(engine: Engine, index: Index) -> None:
    found = engine.models().relabel(LabelQuery(neurons(3, 0, 3), top=2))
    assert [one["neuron"] for one in found] == ["net/concepts/3", "net/concepts/0"]
    assert [len(one["labels"]) for one in found] == [2, 2]
    rows = index.sql("SELECT mean FROM neurons WHERE neuron = 3").rows()
    assert found[0]["threshold"] == pytest.approx(rows[0]["mean"], rel=1e-6)
    assert all(pair["contrast_activation"] < found[0]["threshold"] for pair in found[0]["pairs"])


def test_a_dead_neuron_has_no_label_and_says_why(engine: Engine) -> None:
    (found,) = engine.models().relabel(LabelQuery(neurons(9)))
    assert (found["state"], found["labels"], found["pairs"], found["confidence"]) == ("dead", [], [], None)
    assert "never fires" in found["note"]


def test_own_candidates_are_cleaned_and_new_ones_embedded(index: Index, engine: Engine) -> None:
    query = LabelQuery(neurons(0), candidates=("red square", "RED  square ", "something new"))
    found = answered(engine, query)
    assert sorted(score["text"] for score in found[0]["labels"]) == ["red square", "something new"]
    assert found == expected(index, query)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"method": "best"}, "method 'best' is unknown"),
        ({"gamma": 0.5}, "gamma changes csp, random-contrast, and not firing-contrast, which labels"),
        ({"prior": "neurons"}, "prior changes clip-dissect"),
        ({"gamma": 2.0}, "gamma is 2.0"),
        ({"gamma": float("nan")}, "gamma is nan"),
        ({"examples": 0}, "examples"),
        ({"threshold": "high"}, "threshold 'high' is unknown"),
        ({"contrast": "far"}, "contrast"),
        ({"neighbours": 101}, "neighbours: 101 given, expected 1 to 100"),
        ({"top": 0}, "top: 0 given, expected 1 to 100"),
        ({"candidates": ()}, "candidates: 0 given, expected 1 to 200"),
        ({"candidates": ("a",) * 201}, "candidates: 201 given"),
        ({"candidates": ("x" * 201,)}, "201 characters: expected at most 200"),
        ({"candidates": ("fine", " ")}, "line 2"),
        ({"contrast": "perturbation"}, "may not store any: label these neurons with --contrast perturbation first"),
        ({"contrast": "synthetic"}, "needs an image generator"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused_in_one_line(engine: Engine, options: dict[str, Any], told: str) -> None:
    with pytest.raises((LabelError, SettingError), match=told) as refused:
        engine.models().relabel(LabelQuery(neurons(0), **options))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("count", [0, 65])
def test_a_question_is_about_a_few_neurons(count: int) -> None:
    with pytest.raises(SettingError, match=f"neurons: {count} given, expected 1 to 64"):
        LabelQuery(neurons(*range(count)))


@pytest.mark.parametrize("key", [NeuronKey("net", "concepts", 10), NeuronKey("net", "other", 0)])
def test_a_neuron_that_is_not_there_is_missing(engine: Engine, key: NeuronKey) -> None:
    with pytest.raises(NotFoundError, match="net/"):
        engine.models().relabel(LabelQuery((key,)))


def test_made_images_are_contrast_where_they_are_stored(index: Index) -> None:
    made = LabelQuery(neurons(3), "csp", contrast="perturbation", examples=3, candidates=tuple(WORDS))
    index.label("net/concepts/3", "csp", vocabulary=WORDS, contrast="perturbation", examples=3)
    engine = Engine(Snapshot(index.uri), ServiceSettings())
    assert answered(engine, made) == expected(index, made)
    with pytest.raises(LabelError, match="may not store any"):
        engine.models().relabel(LabelQuery(neurons(2), "csp", contrast="perturbation", examples=3))


def test_arrays_are_labelled_with_the_texts_that_came_with_them(tmp_path: Path) -> None:
    paths = write_arrays(tmp_path / "arrays")
    index = open_index(tmp_path / "db", device="cpu")
    index.import_arrays(paths["activations"], "net/concepts", embeddings=str(paths["embeddings"]))
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    query = LabelQuery(neurons(0, 3, 4, 7))
    given = Engine(Snapshot(index.uri), ServiceSettings(texts=(paths["text_embeddings"], paths["texts"])))
    assert answered(given, query) == expected(index, query, vocabulary=texts)
    own = given.models().relabel(LabelQuery(neurons(0), candidates=("text 3", "text 7")))
    assert {score["text"] for score in own[0]["labels"]} == {"text 3", "text 7"}
    with pytest.raises(LabelError, match="'unheard of' is not in the vocabulary"):
        given.models().relabel(LabelQuery(neurons(0), candidates=("text 3", "unheard of")))
    with pytest.raises(LabelError, match="logit scale"):
        given.models().relabel(LabelQuery(neurons(0), method="pmi"))
    bare = Engine(Snapshot(index.uri), ServiceSettings())
    with pytest.raises(LabelError, match="no vocabulary to label with"):
        bare.models().relabel(query)


def test_nothing_is_written(index: Index, engine: Engine) -> None:
    before = index.store.versions()
    engine.models().relabel(LabelQuery(neurons(2), examples=9, candidates=("never seen",)))
    assert index.store.versions() == before


def test_example_sets_are_dropped_when_they_are_too_many(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watched(self: Relabeller, *args: Any) -> None:
        started(self, *args)
        sizes.append(args[2])

    started = Relabeller.__init__
    monkeypatch.setattr(Relabeller, "__init__", watched)
    engine = Engine(Snapshot(index.uri), ServiceSettings(held_bytes=8 * 20_000))
    queries = [LabelQuery(neurons(n), examples=k) for n in (0, 1, 2, 3, 7) for k in (5, 6, 7)]
    answers = [engine.models().relabel(query) for query in queries]
    assert [engine.models().relabel(query) for query in queries] == answers
    assert sizes == [20_000]


def test_sets_that_a_run_kept_are_read_back(index: Index, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    query = LabelQuery(neurons(0, 4), "csp", examples=7, gamma=0.35)
    wanted = expected(index, query)
    fresh = Engine(Snapshot(index.uri), ServiceSettings())
    monkeypatch.setattr(pipeline, "gather_examples", None)  # nothing is looked for anew
    assert answered(fresh, query) == wanted
    for other in ({"examples": 31}, {"threshold": "quantile:0.3"}, {"contrast": "random"}, {"neighbours": 2}):
        with pytest.raises(TypeError):
            fresh.models().relabel(LabelQuery(neurons(0), "csp", **{"examples": 7} | other))


def test_a_run_gives_what_the_question_leaves_open(index: Index) -> None:
    first = index.label(
        "net/concepts/1", "csp", vocabulary=list(WORDS[:4]), examples=9, gamma=0.37, min_similarity=0.1
    )[0]
    index.label("net/concepts/2", vocabulary=list(WORDS[2:]))  # the vocabulary used last is another now
    engine = Engine(Snapshot(index.uri), ServiceSettings())
    (same,) = engine.models().relabel(LabelQuery(neurons(1), run=first.run_id))
    assert same["labels"] == [asdict(score) for score in first.labels]
    assert same["activating"] == [pair.image_id for pair in first.pairs]
    (moved,) = engine.models().relabel(LabelQuery(neurons(1), run=first.run_id, gamma=1.0))
    assert moved["activating"] == same["activating"] and moved["labels"] != same["labels"]
    with pytest.raises(NotFoundError, match="is no label run"):
        engine.models().relabel(LabelQuery(neurons(1), run="never"))
    with pytest.raises(SettingError, match="labelled by csp, not by semanticlens"):
        engine.models().relabel(LabelQuery(neurons(1), "semanticlens", run=first.run_id))


@pytest.mark.parametrize("method", ["linear", "linear-1"])
def test_correlations_that_a_run_stored_are_read_whatever_the_examples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    index, _, paths = build(tmp_path)
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    config = ServiceSettings(texts=(paths["text_embeddings"], paths["texts"]))
    queries = [LabelQuery((NeuronKey("m", "l", n),), method, examples=9, top=3) for n in (1, 2, 4, 5)]
    wanted = [expected(index, query, vocabulary=texts) for query in queries]
    loose = Engine(Snapshot(index.uri), config)
    assert [answered(loose, query) for query in queries] == wanted
    with monkeypatch.context() as once:  # whatever the examples, the images are gone over once
        once.setattr(gather, "dataset_explanation", None)
        for query in (LabelQuery(queries[1].neurons, method, examples=5), queries[1]):
            answered(loose, query)
    index.label("m/l", method, vocabulary=texts)
    monkeypatch.setattr(gather, "dataset_explanation", None)
    stored = Engine(Snapshot(index.uri), config)
    for query, (one,) in zip(queries, wanted, strict=True):
        (read,) = answered(stored, query)
        assert [row["text"] for row in read["labels"]] == [row["text"] for row in one["labels"]]
        scores = [[row["score"] for row in result["labels"]] for result in (read, one)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
        assert {k: v for k, v in read.items() if k not in ("labels", "terms", "doubt", "bias", "lead")} == {
            k: v for k, v in one.items() if k not in ("labels", "terms", "doubt", "bias", "lead")
        }
    with pytest.raises(TypeError):  # other candidates are not what the run looked at
        answered(stored, replace(queries[0], candidates=texts.texts[:4]))
