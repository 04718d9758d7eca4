"""Answers in the store: nothing that came in is lost, nothing stands there twice, costs add up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from csp_index.errors import StoreError
from csp_index.proposers import answer_store
from csp_index.proposers.answer_store import JOURNAL, AnswerWriter, Journal, Known, Origin, known_answers, take_over
from csp_index.proposers.proposer import Answer
from csp_index.records import LayerKey, NeuronKey
from csp_index.store import schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.connect import create_store
from csp_index.store.tables import Store

TARGET = LayerInfo(LayerKey("net", "layer"), 100, "none", "arrays", None, "float32", {}, "activations")
NOTHING = Known(frozenset(), {})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "db")


def origin(run: str = "run1", hashed: str = "same") -> Origin:
    return Origin(run, hashed, "vlm", "python:fake", "1", "p")


def said(neuron: int, *texts: str, **more) -> Answer:
    return Answer(NeuronKey("net", "layer", neuron), "answered", raw=" ".join(texts), texts=texts, requests=1, **more)


def failed(neuron: int, reason: str = "no answer") -> Answer:
    return Answer(NeuronKey("net", "layer", neuron), "failed", reason=reason, requests=2)


def write(store: Store, *found: Answer, run: str = "run1", again: bool = True) -> None:
    known = known_answers(store, TARGET, "same") if again else NOTHING
    with store.write_lock(), AnswerWriter(store, origin(run), known) as writer:
        for answer in found:
            writer.add(answer)


def texts_of(store: Store) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for row in store.read(schema.CANDIDATES).sort_by("rank").to_pylist():
        found.setdefault(row["neuron"], []).append(row["text"])
    return found


def test_an_answer_is_one_row_and_its_candidates_are_ranked(store):
    write(store, said(3, "red star", "star", scores=(0.9, 0.25)), failed(5, "the endpoint\nis down"))
    rows = {row["neuron"]: row for row in store.read(schema.ANSWERS).to_pylist()}
    assert (rows[3]["state"], rows[3]["raw"], rows[3]["requests"]) == ("answered", "red star star", 1)
    assert (rows[5]["state"], rows[5]["reason"]) == ("failed", "the endpoint is down")
    found = store.read(schema.CANDIDATES).to_pylist()
    assert [(r["neuron"], r["rank"], r["text"], r["score"]) for r in found] == [
        (3, 0, "red star", 0.9),
        (3, 1, "star", 0.25),
    ]
    assert known_answers(store, TARGET, "same").settled == {3}
    assert known_answers(store, TARGET, "other").settled == frozenset()


def test_texts_are_kept_in_one_line_without_empty_and_repeated_ones(store):
    write(store, said(1, " red\n star ", "", "red star", "half \ud83d", "nul\0"), said(2, "  "))
    assert texts_of(store) == {1: ["red star", "half ?", "nul"]}
    rows = {row["neuron"]: row for row in store.read(schema.ANSWERS).to_pylist()}
    assert rows[2]["state"] == "unparsed" and rows[2]["reason"] == "the answer has no candidate"


def test_scores_that_are_not_finite_or_not_one_a_text_are_none(store):
    write(store, said(1, "a", "b", scores=(float("nan"), 0.5)), said(2, "c", scores=(0.1, 0.2)))
    assert store.read(schema.CANDIDATES)["score"].to_pylist() == [None, 0.5, None]


def test_a_later_answer_takes_the_place_of_a_failure_and_adds_to_its_cost(store):
    write(store, failed(1))
    write(store, said(1, "star"), run="run2")
    (row,) = store.read(schema.ANSWERS).to_pylist()
    assert (row["state"], row["run_id"], row["requests"]) == ("answered", "run2", 3)


def test_a_failure_leaves_the_answer_that_was_there(store):
    write(store, said(1, "star"))
    write(store, failed(1), said(2, "disc"), run="run2")
    assert texts_of(store) == {1: ["star"], 2: ["disc"]}
    write(store, said(1, "dot"), run="run3")
    assert texts_of(store) == {1: ["dot"], 2: ["disc"]}


def test_every_answer_is_in_the_journal_before_it_is_in_a_table(store, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_ANSWERS_PAUSE", "1000")
    journal = Path(store.address) / JOURNAL
    with store.write_lock(), AnswerWriter(store, origin(), NOTHING) as writer:
        for neuron in range(3):
            writer.add(said(neuron, f"text {neuron}"))
            assert [json.loads(line)["neuron"] for line in journal.read_text().splitlines()] == [*range(neuron + 1)]
        assert store.count(schema.ANSWERS) == 0
    assert store.count(schema.ANSWERS) == 3
    assert not journal.exists()


def test_answers_are_committed_in_groups(store, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_ANSWERS_PAUSE", "1000")
    monkeypatch.setenv("CSP_INDEX_ANSWERS_GROUP", "10")
    write(store, *[said(neuron, "text") for neuron in range(35)])
    assert store.count(schema.ANSWERS) == 35
    assert len(store.dataset(schema.ANSWERS).versions()) <= 1 + 4  # the empty table, then three tens and a rest


def test_what_an_error_cuts_short_is_cleaned(store):
    with (
        pytest.raises(KeyboardInterrupt),
        store.write_lock(),
        AnswerWriter(store, origin(), NOTHING) as writer,
    ):
        writer.add(said(1, "star"))
        raise KeyboardInterrupt
    assert texts_of(store) == {1: ["star"]}


def leave(store: Store, *found: Answer, run: str = "run1") -> Path:
    """Write a journal as a killed run leaves it."""
    journal = Journal.of(store)
    for answer in found:
        journal.add(answer_store._row(answer_store._cleaned(answer), origin(run), (0, 0, 0, 0.0)))
    journal._open = 1  # what was killed removes nothing
    journal.close()
    return Path(store.address) / JOURNAL


def test_the_journal_of_a_killed_run_is_taken_over_once(store):
    path = leave(store, said(1, "star"), said(2, "disc"), failed(3))
    with store.write_lock():
        assert take_over(store) == 3
        assert take_over(store) == 0
    assert not path.exists()
    assert texts_of(store) == {1: ["star"], 2: ["disc"]}
    assert known_answers(store, TARGET, "same").settled == {1, 2}


def test_lines_that_were_committed_before_the_kill_are_not_doubled(store):
    write(store, said(1, "star"))
    leave(store, said(1, "star"), said(2, "disc"))
    with store.write_lock():
        assert take_over(store) == 1
    assert store.count(schema.ANSWERS) == 2
    assert texts_of(store) == {1: ["star"], 2: ["disc"]}


def test_candidates_without_their_answer_are_written_anew(store):
    """A kill between the two tables leaves candidates alone; the journal still has their answer."""
    rows = [answer_store._row(answer_store._cleaned(said(1, "star", "dot")), origin(), (0, 0, 0, 0.0))]
    store.append(schema.CANDIDATES, answer_store._candidates(rows))
    leave(store, said(1, "star", "dot"))
    with store.write_lock():
        take_over(store)
    assert texts_of(store) == {1: ["star", "dot"]}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-20],  # a last line torn by the kill
        lambda data: data + b'{"neuron": 9}\n[1, 2]\n\xff\xfe\n\n',
    ],
)
def test_torn_and_damaged_lines_are_passed_over(store, damage: Callable[[bytes], bytes]):
    path = leave(store, said(1, "star"), said(2, "disc"))
    path.write_bytes(damage(path.read_bytes()))
    with store.write_lock():
        assert take_over(store) >= 1
    assert texts_of(store)[1] == ["star"]
    assert not path.exists()


def test_the_journal_is_emptied_only_when_all_of_it_is_in_the_tables(tmp_path):
    journal = Journal(tmp_path / JOURNAL)
    journal.add({"neuron": 1})
    journal.add({"neuron": 2})
    journal.done(1)
    assert len((tmp_path / JOURNAL).read_bytes().splitlines()) == 2
    journal.done(1)
    assert (tmp_path / JOURNAL).read_bytes() == b""
    journal.close()
    assert not (tmp_path / JOURNAL).exists()


def test_a_journal_without_end_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / JOURNAL).open("wb") as file:
        file.truncate(2**40)  # a stranger's: no disk space is taken
    with pytest.raises(StoreError, match=r"cannot be read: .*max_text_bytes allows"):
        Journal(tmp_path / JOURNAL).rows()
    assert (tmp_path / JOURNAL).exists()


def test_what_is_no_file_in_place_of_the_journal_is_passed_over(tmp_path):
    os.mkfifo(tmp_path / JOURNAL)
    journal = Journal(tmp_path / JOURNAL)
    assert journal.rows() == []
    journal.remove()
    journal.add({"neuron": 1})
    journal.close()
    assert (tmp_path / JOURNAL).is_file()


def test_a_journal_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(StoreError, match=r"the answer cannot be written to .*: No such file"):
        Journal(tmp_path / "missing" / JOURNAL).add({"neuron": 1})


def test_an_object_store_has_no_journal():
    class Bucket:
        address = "s3://bucket/db"

    journal = Journal.of(Bucket())  # type: ignore[arg-type]
    journal.add({"neuron": 1})
    journal.done(1)
    journal.close()
    assert journal.rows() == []
