"""The document of a word over the planted index: ways, stored embeddings without the encoder, what readers named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from click.testing import CliRunner
from planted import CONCEPTS, PLANTED, WORDS, Served, opened

from csp_index import open_index
from csp_index.cli import cli
from csp_index.errors import SettingError
from csp_index.records import NeuronKey
from csp_index.service.config import ServiceSettings
from csp_index.service.documents.concepts.concept import concept_document, needs_encoder, words_document
from csp_index.service.live.engine import Engine
from csp_index.service.snapshot import Snapshot
from csp_index.studies.concepts.concept import WAYS


def ask(served: Served, word: str, **options: Any) -> dict[str, Any]:
    document = concept_document(*served, word, **options)
    json.dumps(document, allow_nan=False)
    return {**document}


def encoder_of(served: Served) -> object:
    return served[1].models()._encoder_or_error


@pytest.mark.parametrize("word", WORDS)
def test_a_planted_word_labels_its_neuron_without_the_encoder(planted: Served, word: str) -> None:
    snapshot, _ = planted
    served = snapshot, Engine(snapshot, ServiceSettings())
    assert not needs_encoder(*served, word)
    document = ask(served, word.upper())
    every = [snapshot.layer(info.key).row(n) for info in snapshot.layers() for n in range(info.neurons)]
    wanted = {row["neuron"] for row in every if (row["label"] or "").lower() == word.lower()}
    assert {row["neuron"] for row in document["labeled"]} == wanted
    assert document["word"] == word.upper() and document["uncompared"] == []
    vector = fakes.encoder().embed_texts([word])[0].numpy()
    for row in document["labeled"] + document["near"]:
        model, name, number = row["neuron"].split("/")
        concepts = served[1].concepts(next(i.key for i in snapshot.layers() if str(i.key) == f"{model}/{name}"))
        assert row["similarity"] == pytest.approx(float(concepts.vectors[int(number)] @ vector), abs=1e-5)
    assert encoder_of(served) is None, "a stored candidate needs no encoder"


def test_candidates_are_the_stored_ones_of_the_label_shown(planted: Served) -> None:
    document = ask(planted, "moon", most=50)
    stored = open_index(planted[0].store.uri).sql(
        "SELECT l.address, l.rank, l.score FROM labels l JOIN neuron_labels n USING (model, layer, neuron, run_id) "
        "WHERE l.text = 'moon' ORDER BY l.address"
    )
    wanted = [(row["address"], row["rank"], pytest.approx(row["score"])) for row in stored.rows()]
    rows = document["labeled"] + document["candidates"]
    assert sorted((r["neuron"], r["candidate_rank"], r["candidate_score"]) for r in rows) == wanted
    assert all(row["candidate_rank"] > 0 for row in document["candidates"])
    assert document["layers"][1]["candidates"] == sum(r["layer"] == "words" for r in document["candidates"])


def test_a_word_in_a_longer_label_and_other_words(planted: Served) -> None:
    document = ask(planted, "ring")
    assert document["labeled"] == [] and {row["label"] for row in document["parts"]} == {"Red ring"}
    assert document["sentence"].startswith("No neuron is labeled “ring”;")
    assert ask(planted, "re", encode=False)["parts"] == [], "whole words only"
    words = words_document(planted[0])
    assert {one["text"] for one in words["words"]} <= set(WORDS) and words["total"] == len(words["words"])
    also = ask(planted, "red")["also"]
    assert also and "red" not in [one["text"] for one in also]
    directions = dict(zip(WORDS, fakes.encoder().embed_texts(WORDS).numpy(), strict=True))
    cosines = [float(directions["red"] @ directions[one["text"]]) for one in also]
    assert [one["similarity"] for one in also] == pytest.approx(cosines, abs=1e-5) == sorted(cosines, reverse=True)


def test_a_new_word_needs_the_encoder_or_is_shown_without_its_meaning(planted: Served) -> None:
    snapshot, _ = planted
    served = snapshot, Engine(snapshot, ServiceSettings())
    assert needs_encoder(*served, "zebra 7")
    without = ask(served, "zebra 7", encode=False)
    assert without["near"] == [] and without["also_by"] == "spelling" and encoder_of(served) is None
    assert without["sentence"] == "No neuron is labeled “zebra 7”. How near concept vectors are is not known."
    found = ask(served, "zebra 7")
    assert found["near"] and found["also_by"] == "meaning" and encoder_of(served) is not None
    assert not needs_encoder(*served, "zebra 7"), "it was embedded a moment ago"


def test_an_index_without_an_encoder_says_so(arrays: Served) -> None:
    document = ask(arrays, "red")
    assert document["near"] == document["labeled"] == document["also"] == []
    assert document["notes"][0].startswith("concept vectors were not compared: ")


@pytest.fixture
def copied(planted: Served, tmp_path: Path) -> Path:
    """A copy of the planted index, to write into."""
    return Path(shutil.copytree(planted[0].store.uri, tmp_path / "copy.db"))


def test_names_of_readers_come_first(copied: Path) -> None:
    open_index(copied).note(f"{CONCEPTS}/8", "rename", "Moon", by="ann")
    live = Snapshot(copied, live_reviews=True)
    served = live, Engine(live, ServiceSettings())
    document = ask(served, "moon")
    assert document["labeled"][0]["neuron"] == f"{CONCEPTS}/8" and document["labeled"][0]["by_reader"]
    assert ask(served, "named since", encode=False)["labeled"] == []
    open_index(copied).note(f"{CONCEPTS}/7", "rename", "named since", by="ann")
    assert [row["neuron"] for row in ask(served, "named since", encode=False)["labeled"]] == [f"{CONCEPTS}/7"]


def test_a_column_that_was_compared_gives_an_auroc(copied: Path, tmp_path: Path) -> None:
    index = open_index(copied)
    files = [row["uri"].split("images/")[-1] for row in index.sql("SELECT uri FROM images ORDER BY image_id").rows()]
    red, moon = np.arange(len(files)) % 3 > 0, np.arange(len(files)) < 9
    lines = [
        f"{one},{str(is_red).lower()},{'Moon' if up else 'sun'}"
        for one, is_red, up in zip(files, red, moon, strict=True)
    ]
    (tmp_path / "more.csv").write_text("\n".join(["path,red,sky", *lines]))
    index.add_metadata(tmp_path / "more.csv")
    told = ask(opened(copied), "MOON", encode=False)
    assert told["uncompared"] == [{"by": "sky", "class_name": "Moon", "images": 9}] and told["notes"] == []
    assert "compared with it: red = true (26 images); csp-index" in index.concept("red").lines()[-1]
    for column in ("red", "sky"):
        index.associations(PLANTED, column)
    served = opened(copied)
    for word, by, name, inside in (("red", "red", "true", red), ("moon", "sky", "Moon", moon)):
        document = ask(served, word, encode=False)
        assert [(one["layer"], one["by"], one["class_name"]) for one in document["classes"]] == [(PLANTED, by, name)]
        rows = [*document["labeled"], *document["near"], *document["candidates"]]
        for row in rows:
            known = row["neuron"].startswith(PLANTED)
            assert (row["auroc_by"], row["auroc_class"]) == ((by, name) if known else (None, None))
            if known:
                values = index.activations(row["neuron"])
                one, other = values[inside][:, None], values[~inside]
                assert row["auroc"] == pytest.approx(((one > other) + 0.5 * (one == other)).mean(), abs=1e-6)
        assert any(row["auroc"] is not None for row in rows) and document["notes"] == []


@pytest.mark.parametrize("word", [*WORDS, "ring", "zebra"])
def test_python_and_the_command_say_the_same(planted: Served, word: str) -> None:
    document = ask(planted, word)
    concept = open_index(planted[0].store.uri).concept(word)
    told = concept.as_json()
    for way in WAYS:
        rows = [{name: row[name] for name in told[way][0]} for row in document[way]] if told[way] else []
        rows = [row | {"uncertain": bool(row["uncertain"])} for row in rows]
        assert told[way] == [
            {k: v if isinstance(v, str | None) else pytest.approx(v, abs=1e-5) for k, v in row.items()} for row in rows
        ]
        assert len(told[way]) == len(document[way])
    assert told["sentence"] == document["sentence"] and told["also_by"] == document["also_by"]
    assert [one["text"] for one in told["also"]] == [one["text"] for one in document["also"]]
    rows = [row for way in WAYS for row in told[way]] + [row for group in told["groups"] for row in group["neurons"]]
    assert set(concept.pictures) == {NeuronKey.parse(row["neuron"]) for row in rows}
    once = [[row["neuron"] for row in group["neurons"]] for group in document["groups"]]
    assert once == [[row["neuron"] for row in group["neurons"]] for group in told["groups"]]
    every = [neuron for group in once for neuron in group]
    assert len(every) == len(set(every))
    assert "<img" in concept._repr_html_() or not len(concept)


def test_the_command_prints_a_line_a_neuron(planted: Served) -> None:
    ran = CliRunner().invoke(cli, ["concept", planted[0].store.uri, "red", "--top", "2"])
    assert ran.exit_code == 0, ran.output
    lines = ran.stdout.splitlines()
    assert lines[0].endswith(".") and "labeled “red”" in lines[0]
    assert lines[1].startswith("labeled so\t") and "\tred\t" in lines[1] and "cosine " in lines[1]
    assert "also: " in ran.stderr
    as_json = CliRunner().invoke(cli, ["concept", planted[0].store.uri, "red", "--top", "2", "--json"])
    assert json.loads(as_json.stdout)["word"] == "red"


@pytest.mark.parametrize("word", ["", " \n", "x" * 301, "\x00"])
def test_what_is_no_word_is_refused(planted: Served, word: str) -> None:
    with pytest.raises(SettingError, match="the word "):
        concept_document(*planted, word)
    with pytest.raises(SettingError, match="the word "):
        needs_encoder(*planted, word)
