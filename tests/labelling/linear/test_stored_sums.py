"""Labels that are weighted sums of texts: stored, read again, shown, searched, verified, evaluated, taken further."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from few import few

from csp_index.contrast.selection import Selection
from csp_index.errors import StoreError
from csp_index.evaluation.options import EvaluationOptions, parse_methods
from csp_index.index import Index, open_index
from csp_index.labelling.candidates import CandidateTexts
from csp_index.labelling.kept.read_labels import label_of
from csp_index.proposers.similar_neurons import related_answers
from csp_index.store import catalog, schema

IMAGES, TEXTS, WIDTH = 400, 30, 32


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, CandidateTexts]:
    """Two layers of the same five neurons: a single text, two texts, noise below 0, a dead one, a constant one."""
    folder: Path = tmp_path_factory.mktemp("sums")
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(TEXTS, WIDTH))
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    shown = (rng.random((IMAGES, TEXTS)) < 0.06).astype(float)
    embeddings = 3 * texts[:1] + shown @ texts + 0.05 * rng.normal(size=(IMAGES, WIDTH))
    activations = np.zeros((IMAGES, 5))
    activations[:, 0] = shown[:, 3]
    activations[:, 1] = 0.6 * shown[:, 5] + 0.4 * shown[:, 9]
    activations[:, 2] = rng.normal(size=IMAGES)
    activations[:, 4] = 0.5
    activations[:, :2] += 0.05 * rng.random((IMAGES, 2))
    np.save(folder / "E.npy", embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    np.save(folder / "A.npy", activations)
    index = open_index(folder / "db", device="cpu")
    index.import_arrays(folder / "A.npy", "m/l", embeddings=folder / "E.npy")
    index.import_arrays(folder / "A.npy", "m/other")
    words = tuple(f"word{number}" for number in range(TEXTS))
    return index, CandidateTexts(words, torch.from_numpy(texts).float(), "planted")


def test_sums_are_stored_and_read_back(made: tuple[Index, CandidateTexts]) -> None:
    index, texts = made
    computed = list(index.label("m/l", "linear", vocabulary=texts))
    assert computed == list(index.label("m/l", "linear", vocabulary=texts))
    single, pair, noise, dead, constant = computed
    assert single.text == "word3" and len(single.terms) == 1
    assert [term.text for term in pair.terms] == ["word5", "word9"]
    assert pair.text == pair.weighted.text and pair.text.endswith(" word9") and " word5 + " in pair.text  # type: ignore[union-attr]
    assert pair.labels[0].score > pair.labels[1].score + 0.1
    assert noise.state == "labelled" and len(noise.terms) == 1
    assert (dead.state, constant.state) == ("dead", "constant") and dead.terms == constant.terms == ()
    assert all(label.confidence is None and not label.uncertain for label in computed)
    selection = Selection(catalog.encoder(index.store), index.resolve("m/l")[0][0], np.arange(5))
    assert label_of(index.store, selection, 1) == pair
    assert pair.as_json()["terms"] == [
        {"text": term.text, "weight": term.weight, "slope": term.slope, "shift": term.shift} for term in pair.terms
    ]


def test_the_first_text_is_that_of_linear_1(made: tuple[Index, CandidateTexts]) -> None:
    index, texts = made
    single = index.label("m/l", "linear-1", vocabulary=texts)
    sums = index.label("m/l", "linear", vocabulary=texts)
    for one, several in zip(single, sums, strict=True):
        assert one.state == several.state and one.terms == ()
        assert one.text is None or one.text in {term.text for term in several.terms}


def test_one_neuron_is_labelled_as_among_all(made: tuple[Index, CandidateTexts]) -> None:
    index, texts = made
    alone = index.label("m/l/1", "linear", vocabulary=texts, keep=False, recompute=True)[0]
    among = index.label("m/l", "linear", vocabulary=texts)[1]
    assert replace(alone, run_id="") == replace(among, run_id="") or alone.text == among.text


def test_sql_and_search_find_a_neuron_by_each_of_its_texts(made: tuple[Index, CandidateTexts]) -> None:
    index, texts = made
    index.label("m/l", "linear", vocabulary=texts)
    index.prefer("linear")
    for word in ("word5", "word9"):
        rows = index.sql(
            f"SELECT address FROM label_terms WHERE text = '{word}' AND model = 'm' AND layer = 'l'"
        ).rows()
        assert {"address": "m/l/1"} in rows
        assert index.sql(f"SELECT address FROM neuron_labels WHERE text LIKE '%{word}%'").rows()
    index.prefer(None)


def test_neighbours_take_the_texts_of_a_sum_one_by_one(made: tuple[Index, CandidateTexts]) -> None:
    index, texts = made
    index.label("m/l/1", "linear", vocabulary=texts, recompute=True)
    source = catalog.encoder(index.store)
    target = catalog.layer(index.store, index.resolve("m/other")[0][0].key)
    (answer,) = related_answers(index.store, Selection(source, target, np.array([1])), source, neighbours=1, top=1)
    assert answer.texts == ("word5", "word9")
    assert json.loads(answer.raw)["neighbours"][0]["labels"] == ["word5", "word9"]


def test_evaluation_judges_the_whole_sum(made: tuple[Index, CandidateTexts], tmp_path: Path) -> None:
    index, texts = made
    (tmp_path / "truth.csv").write_text("neuron,label\n0,word3\n1,word5\n1,word9\n")
    options = EvaluationOptions(methods=parse_methods(["linear", "linear-1"]), truth=tmp_path / "truth.csv")
    rows = index.evaluate("m/l", options, vocabulary=texts).values.to_pylist()
    value = {(row["neuron"], row["method"], row["metric"]): row["value"] for row in rows}
    text = {(row["neuron"], row["method"]): row["text"] for row in rows if row["method"]}
    assert text[0, "linear"] == text[0, "linear-1"] == "word3" and "+" in text[1, "linear"]
    for metric in ("simulation", "simulation-calibrated"):
        assert value[1, "linear", metric] > value[1, "linear-1", metric] + 0.03
        assert value[0, "linear", metric] == value[0, "linear-1", metric]
    assert value[1, "linear", "agreement-exact"] == value[1, "linear-1", "agreement-exact"] == 1
    assert value[1, "linear", "f1"] is not None and value[1, "linear", "discriminative"] > 0.5


def damage(index: Index, change: Any) -> None:
    rows = index.store.read(schema.LABEL_TERMS)
    with index.store.write_lock():
        index.store.replace(schema.LABEL_TERMS, change(rows))


@pytest.mark.parametrize(
    ("change", "what"),
    few(
        [
            (lambda rows: rows.slice(0, rows.num_rows - 1), "not those of the label"),
            (lambda rows: pa.concat_tables([rows, rows.slice(0, 1)]), "missing or doubled"),
            (
                lambda rows: rows.set_column(8, "weight", pa.array([float("nan")] * rows.num_rows)),
                "no finite numbers",
            ),
        ],
        1,
    ),
    ids=["cut", "doubled", "endless"],
)
def test_verify_finds_and_repairs_damaged_terms(
    made: tuple[Index, CandidateTexts], tmp_path: Path, change: Any, what: str
) -> None:
    index = open_index(tmp_path / "db", device="cpu")
    _copy(made, index, tmp_path)
    assert not index.verify().findings
    damage(index, change)
    found = index.verify().findings
    assert any(re.search(what, finding.what) for finding in found)
    index.verify(repair=True)
    assert not index.verify().findings


def test_damaged_terms_are_one_line(made: tuple[Index, CandidateTexts], tmp_path: Path) -> None:
    index = open_index(tmp_path / "db", device="cpu")
    _copy(made, index, tmp_path)
    damage(index, lambda rows: rows.set_column(8, "weight", pa.array([float("nan")] * rows.num_rows)))
    with pytest.raises(StoreError, match=r"are damaged .* run `csp-index verify`"):
        index.view("m/l/1", "linear")


def _copy(made: tuple[Index, CandidateTexts], index: Index, folder: Path) -> None:
    """Make a small index of two neurons labelled by `linear`."""
    source, texts = made
    base = Path(source.uri).parent
    np.save(folder / "A.npy", np.load(base / "A.npy")[:, :2])
    index.import_arrays(folder / "A.npy", "m/l", embeddings=base / "E.npy")
    index.label("m/l", "linear", vocabulary=texts)
