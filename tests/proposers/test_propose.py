"""Candidate labels: neurons shown to a proposer, answers kept, nothing asked twice, failures told and gone past."""

from __future__ import annotations

import dataclasses
import shutil
import threading
from pathlib import Path

import fakes
import numpy as np
import pytest
import torch
from namers import DEAD, LAYER, NEURONS, Fails, Namer, build
from PIL import Image

from csp_index import CandidateTexts, Index, NetworkSource, NeuronKey, open_index
from csp_index.errors import ProposerError
from csp_index.images.decode import decode, read_images
from csp_index.labelling.texts.candidate_mix import read_proposals
from csp_index.proposers.pictures import Pictures
from csp_index.proposers.proposer import Answer, Question
from csp_index.proposers.questions import Questions
from csp_index.records import LayerKey
from csp_index.store import catalog, column_tables, originals


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("proposing"))


@pytest.fixture
def index(made: Path, tmp_path: Path) -> Index:
    shutil.copytree(made / "db", tmp_path / "db")
    originals.allow(tmp_path / "db", made / "images")
    return open_index(tmp_path / "db")


def candidates(index: Index) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for row in index.sql("SELECT neuron, text FROM candidates ORDER BY neuron, rank").rows():
        found.setdefault(row["neuron"], []).append(row["text"])
    return found


def test_neurons_that_fire_are_asked_and_answers_are_rows(index):
    proposer = Namer()
    (summary,) = index.propose(LAYER, vlm=proposer)
    assert proposer.numbers == [n for n in range(NEURONS) if n != DEAD]
    assert (summary.asked, summary.answered, summary.dead, summary.known) == (9, 9, 1, 0)
    assert (summary.requests, summary.prompt_tokens, summary.completion_tokens) == (9, 90, 27)
    found = index.sql("SELECT address, kind, proposer, state, raw FROM answers ORDER BY neuron").rows()
    assert found[0] | {"raw": ""} == {
        "address": "m/l/0",
        "kind": "vlm",
        "proposer": "python:namers:namer",
        "state": "answered",
        "raw": "",
    }
    assert len(found) == 9 and all(len(texts) == 2 for texts in candidates(index).values())
    (run,) = index.sql("SELECT command, state, settings, models FROM runs WHERE command = 'candidates'").rows()
    assert run["state"] == "done" and '"revision": "1"' in run["models"]
    assert index.sql("SELECT count(*) AS n FROM candidates WHERE address = 'm/l/5'").rows() == [{"n": 2}]


def test_a_question_shows_the_most_activating_images_and_different_silent_ones(index, made):
    proposer = Namer()
    index.propose(f"{LAYER}/0", vlm=proposer, examples=4)
    (question,) = proposer.asked
    values = index.activations(f"{LAYER}/0")
    uris = index.sql("SELECT uri FROM images ORDER BY image_id").to_arrow()["uri"].to_pylist()
    best = np.argsort(-values, kind="stable")[:4]
    for picture, found in zip(question.activating, read_images(uris[i] for i in best), strict=True):
        assert picture.tobytes() == found.image.tobytes()
    silent = {read.image.tobytes() for read in read_images(uris[i] for i in np.flatnonzero(values < values.mean()))}
    assert len(question.contrastive) == len({picture.tobytes() for picture in question.contrastive}) == 4
    assert all(picture.tobytes() in silent for picture in question.contrastive)


def test_positive_only_and_a_layout_of_one_grid_show_no_contrastive_images(index):
    first, second = Namer(), Namer()
    index.propose(f"{LAYER}/0", vlm=first, positive_only=True)
    index.propose(f"{LAYER}/0", vlm=second, style="one", again=True)
    assert first.asked[0].contrastive == second.asked[0].contrastive == ()


def test_what_was_answered_is_not_asked_again(index):
    index.propose(f"{LAYER}/1", vlm=Namer())
    proposer = Namer()
    (summary,) = index.propose(LAYER, vlm=proposer)
    assert 1 not in proposer.numbers and (summary.known, summary.asked) == (1, 8)
    (summary,) = index.propose(LAYER, vlm=Namer())  # the dead one is looked at again, and costs nothing
    assert (summary.known, summary.asked, summary.requests) == (9, 0, 0)
    proposer = Namer()
    (summary,) = index.propose(f"{LAYER}/1", vlm=proposer, again=True)
    assert proposer.numbers == [1]
    (row,) = index.sql("SELECT requests, prompt_tokens FROM answers WHERE neuron = 1").rows()
    assert row == {"requests": 2, "prompt_tokens": 20}


@pytest.mark.parametrize("change", ["revision", "prompt", "name", "examples", "threshold", "positive_only"])
def test_another_question_is_asked(index, change):
    index.propose(f"{LAYER}/1", vlm=Namer())
    proposer = Namer()
    options = {"examples": 5} if change == "examples" else {"threshold": "max:0.5"} if change == "threshold" else {}
    if change == "positive_only":
        options = {"positive_only": True}
    if not options:
        setattr(proposer, change, "another")
    (summary,) = index.propose(f"{LAYER}/1", vlm=proposer, **options)
    assert (summary.known, summary.asked) == (0, 1)
    assert index.sql("SELECT count(*) AS n FROM answers").rows() == [{"n": 2}]


def test_an_earlier_question_put_again_counts_again_and_hides_no_other_neurons_answer(index):
    def told() -> dict[int, str]:
        target = catalog.layer(index.store, LayerKey.parse(LAYER))
        found = read_proposals(index.store, target, ["vlm"])
        return {
            n: found.texts[p]
            for n, p in reversed(list(zip(found.neurons.tolist(), found.places.tolist(), strict=True)))
        }

    class Counts(Namer):
        name = "python:namers:counts"

        def answer(self, question: Question) -> Answer:
            return dataclasses.replace(super().answer(question), texts=(f"{len(question.activating)} shown",))

    (first,) = index.propose(["m/l/0", "m/l/1", "m/l/2"], vlm=Counts(), examples=9)
    (second,) = index.propose("m/l/1", vlm=Counts(), examples=5)
    assert (first.answered, second.answered) == (3, 1)
    assert told() == {0: "9 shown", 1: "5 shown", 2: "9 shown"}
    again = Counts()
    (third,) = index.propose(["m/l/0", "m/l/1", "m/l/2"], vlm=again, examples=9)
    assert (third.answered, third.known, again.asked) == (0, 3, [])
    assert told() == {0: "9 shown", 1: "9 shown", 2: "9 shown"}
    (fourth,) = index.propose(["m/l/0", "m/l/1", "m/l/2"], vlm=again, examples=9)
    assert fourth.run_id == ""  # nothing to do, nothing written


def test_a_neuron_that_fails_is_told_and_asked_again_next_time(index):
    (summary,) = index.propose(LAYER, vlm=Fails())
    assert (summary.answered, summary.unparsed, summary.failed) == (7, 1, 1)
    assert summary.reason == "m/l/2: the endpoint answered 500"
    assert {2, 4}.isdisjoint(candidates(index))
    (row,) = index.sql("SELECT raw, reason FROM answers WHERE state = 'unparsed'").rows()
    assert row == {"raw": "Well, I see", "reason": "prose"}
    proposer = Namer()
    index.propose(LAYER, vlm=proposer)
    assert proposer.numbers == [2]
    assert index.sql("SELECT requests FROM answers WHERE neuron = 2").rows() == [{"requests": 4}]


def test_a_proposer_that_stops_early_leaves_failures(index):
    class Stops(Namer):
        def ask(self, questions):
            yield self.answer(next(iter(questions)))

    (summary,) = index.propose(LAYER, vlm=Stops())
    assert (summary.answered, summary.failed) == (1, 8)
    assert summary.reason.endswith("the model gave no answer")


@pytest.mark.parametrize("neuron", [0, 77])
def test_an_answer_nobody_asked_for_ends_the_run(index, neuron):
    class Wrong(Namer):
        def ask(self, questions):
            yield self.answer(next(iter(questions)))
            yield Answer(NeuronKey("net", "concepts", neuron), "answered", texts=("x",))

    with pytest.raises(ProposerError, match="without a question, or twice"):
        index.propose(LAYER, vlm=Wrong())
    assert set(candidates(index)) == {0}  # what came in before is kept


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ProposerError("the key is refused"), RuntimeError("a bug")])
def test_what_came_in_before_an_error_is_kept(index, error):
    class Breaks(Namer):
        def ask(self, questions):
            for place, question in enumerate(questions):
                if place == 4:
                    raise error
                yield self.answer(question)

    with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else ProposerError):
        index.propose(LAYER, vlm=Breaks())
    assert len(candidates(index)) == 4
    state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
    assert index.sql("SELECT state FROM runs WHERE command = 'candidates'").rows() == [{"state": state}]
    proposer = Namer()
    index.propose(LAYER, vlm=proposer)
    assert len(proposer.asked) == 5


def test_a_proposer_that_takes_questions_from_threads_gets_each_once(index):
    class Threads(Namer):
        def ask(self, questions):
            def work() -> None:
                for question in questions:
                    self.asked.append(question)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            yield from map(self.answer, self.asked)

    (summary,) = index.propose(LAYER, vlm=Threads())
    assert summary.answered == 9


def test_few_questions_are_made_ahead(index, monkeypatch):
    """Pictures are read as they are needed: a layer of many neurons never lies in memory."""
    monkeypatch.setenv("CSP_INDEX_DECODE_THREADS", "1")
    made: list[int] = []
    make = Questions._make
    monkeypatch.setattr(Questions, "_make", lambda self, neuron: (made.append(neuron.neuron), make(self, neuron))[1])

    class Slow(Namer):
        def ask(self, questions):
            for place, question in enumerate(questions):
                assert len(made) <= place + 4
                yield self.answer(question)

    (summary,) = index.propose(LAYER, vlm=Slow())
    assert summary.answered == 9


def test_thumbnails_stand_in_for_files_that_are_gone_or_changed(tmp_path):
    fakes.write_images(tmp_path / "images", 40)
    network = NetworkSource("python:fakes:network", ("conv",), name="net")
    index = open_index(tmp_path / "db")
    index.add_images(tmp_path / "images", encoders=["python:fakes:encoder"], networks=[network])
    changed = sorted((tmp_path / "images" / "a").iterdir())[0]
    Image.new("RGB", (8, 8), "white").save(changed)
    shutil.rmtree(tmp_path / "images" / "b")
    proposer = Namer()
    (summary,) = index.propose("net/conv/0", vlm=proposer)
    assert summary.answered == 1 and summary.thumbnails > 0
    (question,) = proposer.asked
    assert len(question.activating) == min(9, int((index.activations("net/conv/0") > 0).sum()))
    white = Image.new("RGB", (8, 8), "white").tobytes()
    assert all(picture.tobytes() != white for picture in (*question.activating, *question.contrastive))


def test_images_made_for_the_contrast_are_shown(tmp_path):
    fakes.write_images(tmp_path / "images", 40)
    network = NetworkSource("python:fakes:network", ("conv",), name="net")
    index = open_index(tmp_path / "db")
    index.add_images(tmp_path / "images", encoders=["python:fakes:encoder"], networks=[network])
    neurons = [f"net/conv/{n}" for n in range(6)]
    proposer = Namer()
    index.propose(neurons, vlm=proposer, contrast="perturbation", examples=2)
    made = index.store.read(column_tables.derived_table(index.status()["encoders"][0]["encoder"]))
    files = {decode(data).tobytes() for data in made["picture"].to_pylist()}
    shown = [picture.tobytes() for question in proposer.asked for picture in question.contrastive]
    assert shown and set(shown) <= files
    (summary,) = index.propose(neurons, vlm=Namer(), contrast="perturbation", examples=2)
    assert (summary.asked, summary.known) == (0, len(proposer.asked))


def test_large_pictures_are_reduced(index, made, tmp_path, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_PICTURE_SIDE", "4")
    source = index.propose(f"{LAYER}/0", vlm=(proposer := Namer()))
    assert source[0].answered == 1
    assert {picture.size for picture in proposer.asked[0].activating} == {(4, 4)}


def test_an_index_of_arrays_has_no_pictures(tmp_path, run):
    paths = fakes.write_arrays(tmp_path / "made")
    open_index(tmp_path / "db").import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    said = run("candidates", tmp_path / "db", "--layer", "m/l", "--vlm", "python:namers:namer")
    assert said.status == 1
    assert len(said.err.splitlines()) == 1 and "made from arrays and has no pictures" in said.err


def test_neurons_whose_pictures_cannot_be_had_are_failures(tmp_path):
    paths = fakes.write_arrays(tmp_path / "made", images=40)
    (tmp_path / "uris.txt").write_text("".join(f"{tmp_path}/gone{i}.png\n" for i in range(40)))
    index = open_index(tmp_path / "db")
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], uris=str(tmp_path / "uris.txt"))
    originals.allow(index.uri, tmp_path)
    (summary,) = index.propose("m/l", vlm=Namer())
    assert summary.answered == 0 and summary.failed == summary.asked > 0
    assert "activating images can be read" in summary.reason


def test_pictures_are_held_for_the_next_question(index, monkeypatch):
    from csp_index.proposers import pictures
    from csp_index.store import catalog

    reads: list[str] = []
    read = pictures.read_image
    monkeypatch.setattr(pictures, "read_image", lambda uri, data: (reads.append(uri), read(uri, data))[1])
    held = Pictures(index.store, catalog.encoder(index.store), np.arange(5))
    first, second = held.of([0, 1, 2]), held.of([2, 1, 4])
    held.close()
    assert list(first) == [0, 1, 2] and set(second) == {1, 2, 4}
    assert len(reads) == 4 and first[1] is second[1]


def test_neighbours_are_labels_of_another_layer_and_need_no_pictures(index, run, made):
    said = run("candidates", index.uri, "--layer", LAYER, "--neighbours")
    assert said.status == 1 and "index another layer first" in said.err
    index.import_arrays(made / "made" / "activations.npy", "m/other")
    texts = CandidateTexts(("red", "green", "blue"), torch.eye(3, 12), key="mine")
    index.label("m/other", vocabulary=texts)
    (summary,) = index.propose(LAYER, neighbours=True)
    assert (summary.kind, summary.answered, summary.dead, summary.requests) == ("neighbours", 9, 1, 0)
    assert {text for texts in candidates(index).values() for text in texts} <= {"red", "green", "blue"}
    (summary,) = index.propose(LAYER, neighbours=True)
    assert (summary.known, summary.asked) == (9, 0)
    index.label("m/other", "mean-centred", vocabulary=texts)
    (summary,) = index.propose(LAYER, neighbours=True)  # other labels are another question
    assert (summary.known, summary.asked) == (0, 9)
