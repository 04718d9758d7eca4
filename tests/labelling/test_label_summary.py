"""The line that says what the labels of many neurons amount to."""

from __future__ import annotations

import pytest
from planted import PLANTED, WORDS, make_planted

from csp_index import Label, open_index
from csp_index.labelling.label_summary import candidates_named, summary_of
from csp_index.records import LabelScore, NeuronKey


def label(neuron: int, text: str = "", **about: object) -> Label:
    scores = (LabelScore(text, 1.0),) if text else ()
    return Label(NeuronKey("m", "l", neuron), "csp", about.pop("state", "labelled"), scores, **about)


def test_labels_are_counted():
    labels = [label(0, "red", uncertain=True), label(1, "blue"), label(2, "red"), label(3, state="dead")]
    told = "labeled 3 of 4 neurons by csp from vocabulary words, 1 of them doubtful, 1 dead, most shared label: red (2"
    assert summary_of(labels, "vocabulary words").told().startswith(told)
    alone = summary_of([label(0, "red"), label(1, state="no-contrast")], "")
    assert alone.told("why") == "labeled 1 of 2 neurons by csp (why), 0 of them doubtful, 1 without contrast"
    assert summary_of([label(0, state="dead")], "").told() == "labeled 0 of 1 neurons by csp, 1 dead"
    caption = "a photo of a bird " * 20
    shared = summary_of([label(0, caption), label(1, caption)], "")
    assert shared.shared == (caption, 2)
    assert shared.told().endswith(f"most shared label: {caption[:59]}… (2 neurons)")


def test_what_labels_were_chosen_from_is_named(tmp_path, run):
    index = open_index(make_planted(tmp_path))
    for kinds, vocabulary, named in [
        ("vocabulary", None, "vocabulary list"),
        ("vocabulary", "words.txt", "vocabulary words.txt"),
        (["captioner", "vocabulary"], WORDS, "the texts given and captioner"),
        ("vlm, neighbours", None, "vlm and neighbours"),
    ]:
        assert candidates_named(index.store, "csp", kinds, vocabulary) == named
    said = run("label", index.uri, "--layer", f"{PLANTED},net/concepts", "--neurons", "0-1")
    assert said.out.count("\n") == 4
    assert "labeled 4 of 4 neurons by firing-contrast (the default, --method names another) from vocabulary" in said.err
    assert said.err.endswith(f"; next: csp-index serve {index.uri}\n")
    assert run("label", index.uri, "--layer", "all", "--neurons", "0", "--json").err == ""


def test_the_steps_of_labeling_are_reported(tmp_path):
    index, told = open_index(make_planted(tmp_path)), []
    index.label(PLANTED, "csp", gamma=0.5, progress=lambda *report: told.append(report))
    assert [done for done, _, _ in told] == [0, 1, 2, 3, 4]
    assert {todo for _, todo, _ in told} == {4}
    assert told[0][2] == "steps of labeling, now images of neurons"
    told.clear()
    index.label(PLANTED, "csp", gamma=0.5, progress=lambda *report: told.append(report))
    assert not told  # what is read takes no time


@pytest.mark.parametrize("layers", ["planted/words,nothing", ""])
def test_a_layer_that_is_no_address_is_one_line(tmp_path, run, layers):
    said = run("label", make_planted(tmp_path), "--layer", layers)
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert "is not an address" in said.err
