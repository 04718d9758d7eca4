"""`csp-index compare`: what it says for people and for machines, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from compared import NEURONS, make_compared, scenes, with_layers


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_compared(tmp_path_factory.mktemp("compared")).uri


def test_it_says_how_many_match_and_beside_it_the_nulls(db: str, run) -> None:
    said = run("compare", db, "a/l", "permuted/l", "--top", 3)
    assert said.status == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith(f"a/l ({NEURONS} neurons) and permuted/l ({NEURONS} neurons) over 400 images")
    assert lines[1].startswith("no vocabulary was used yet")
    assert lines[2].startswith("11 pairs by concept vectors (100.0%) of 11 and 11") and "other images 0." in lines[2]
    assert lines[3].startswith("1.000\ta/l/") and len(lines) == 2 + 2 * 4 + 2
    assert lines[-1] == "only permuted/l holds: no concept"


def test_a_pair_below_a_null_is_within_chance_in_the_words_of_the_pages(tmp_path: Path, run) -> None:
    db = with_layers(tmp_path, a=scenes()[1], unrelated=scenes(seed=1)[1]).uri
    rows = run("compare", db, "a/l", "unrelated/l", "--json").rows[1:]
    said = run("compare", db, "a/l", "unrelated/l", "--top", NEURONS).out.splitlines()
    chance = [row for row in rows if row["score"] is not None and not row["matched"]]
    assert chance and sum(line.endswith("\t[within chance]") for line in said) == len(chance)


def test_for_machines_the_first_line_is_the_comparison_and_each_further_one_a_neuron(db: str, run) -> None:
    head, *rows = run("compare", db, "a/l", "alone/l", "--json").rows
    assert [way["by"] for way in head["ways"]] == ["concepts", "activations"] and head["other_neurons"] == 4
    assert {"null", "share", "matched"} <= head["ways"][0].keys()
    assert len(rows) == 2 * NEURONS and rows[5]["other_neuron"] is None
    of_pair = ["neuron", "other_neuron", "by", "score", "matched", "best", "other_best", "label", "other_label"]
    assert rows[0].keys() == {"model", "layer", "other", "other_model", "other_layer", *of_pair}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a/l", "a/l"), "a/l is named twice: a layer is compared with another one"),
        (("a/l", "b/l"), "layer b/l is not in the index (has: a/l, permuted/l, alone/l)"),
        (("a", "b/l"), "layer 'a' is not an address"),
        (("a/l", "b/l", "--with", "nowhere"), "no index at"),
    ],
)
def test_what_cannot_be_compared_is_one_line(db: str, run, arguments: tuple[str, ...], message: str) -> None:
    said = run("compare", db, *arguments)
    assert (said.status, said.out) == (1, "") and message in said.err and said.err.count("\n") == 1


def test_a_second_index_without_common_images(db: str, run, tmp_path: Path) -> None:
    other = make_compared(tmp_path / "other")
    said = run("compare", db, "a/l", "a/l", "--with", other.uri)
    assert said.status == 1 and "0 of them are the same by sha256" in said.err
