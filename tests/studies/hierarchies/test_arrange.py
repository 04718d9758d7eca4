"""Labels at the level that planted neurons bear, read again, and what is refused."""

from __future__ import annotations

from pathlib import Path

import families
import pytest

from csp_index import Index
from csp_index.errors import EvaluationError, NotFoundError, SettingError, StudyError
from csp_index.records import LayerKey
from csp_index.studies.hierarchies.stored import read_hierarchy


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return families.make_families(tmp_path_factory.mktemp("families"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write_table(tmp_path_factory.mktemp("table") / "animals.csv")


@pytest.mark.parametrize("further", [(), ("dog", "cat", "animal")])
def test_a_neuron_stands_at_the_word_it_fires_for(index: Index, table: Path, further: tuple[str, ...]) -> None:
    """Families are known by the union of their species, and where they have embeddings by these as well."""
    found = index.hierarchy(families.LAYER, table, vocabulary=families.words(*further))
    rows = {row["neuron"]: row for row in found.rows}
    assert [rows[neuron]["level_title"] for neuron in range(5)] == ["dog", "beagle", "poodle", "animal", None]
    assert [rows[neuron]["state"] for neuron in range(5)] == ["climbed", "kept", "unexplained", "climbed", "unknown"]
    assert rows[0]["level_correlation"] > rows[0]["correlation"] + 0.2
    assert rows[0]["steps"] == 1 and rows[3]["steps"] == 2
    assert (rows[0]["ended_at"], rows[1]["ended_at"]) == ("animal", "dog")
    assert rows[1]["ended_correlation"] < rows[1]["correlation"] - 0.2
    assert any("'tractor'" in note and "1 labels of 1 neurons" in note for note in found.notes)
    assert any("have no embedding" in note for note in found.notes) is not bool(further)


def test_groups_lead_from_broad_to_narrow(index: Index, table: Path) -> None:
    found = index.hierarchy(families.LAYER, table, vocabulary=families.words())
    (animal,) = found.groups()
    assert (animal.word.title, animal.neurons, animal.own) == ("animal", 4, 1)
    (dog,) = found.groups(animal.word.word)
    assert (dog.word.title, dog.neurons, dog.own) == ("dog", 3, 1)
    assert [group.word.title for group in found.groups(dog.word.word)] == ["beagle", "poodle"]
    assert [row["neuron"] for row in found.neurons_at(dog.word.word)] == [0]
    assert [(depth, group.word.title) for depth, group in found.tree()][:2] == [(0, "animal"), (1, "dog")]


def test_a_chain_of_words_with_the_same_neurons_is_shown_once(index: Index, tmp_path: Path) -> None:
    rows = [("poodle", "toy dog"), ("toy dog", "dog"), ("beagle", "dog"), ("dog", "being"), ("being", "thing")]
    found = index.hierarchy(families.LAYER, families.write_table(tmp_path / "t.csv", rows), vocabulary=families.words())
    (group,) = found.groups()
    assert (group.word.title, group.through) == ("dog", ("thing", "being"))


def test_what_is_stored_is_read_until_something_changes(index: Index, table: Path) -> None:
    first = index.hierarchy(families.LAYER, table, vocabulary=families.words())
    assert index.hierarchy(families.LAYER, table, vocabulary=families.words()).run_id == first.run_id
    stored = read_hierarchy(index.store, LayerKey.parse(families.LAYER))
    assert stored.rows == first.rows and stored.words == first.words and stored.notes == first.notes
    changes = {"seed": 1}, {"keep": 0.5}, {"recompute": True}
    runs = {index.hierarchy(families.LAYER, table, vocabulary=families.words(), **change).run_id for change in changes}
    assert len(runs | {first.run_id}) == 4
    assert index.store.count("hierarchies") == 1, "the last one stays"


def test_a_word_with_two_parents_stands_below_both(index: Index, tmp_path: Path) -> None:
    rows = [
        ("poodle", "dog"),
        ("beagle", "dog"),
        ("husky", "dog"),
        ("dog", "pet"),
        ("dog", "hunter"),
        ("siamese", "pet"),
    ]
    found = index.hierarchy(families.LAYER, families.write_table(tmp_path / "t.csv", rows), vocabulary=families.words())
    below = {group.word.title: [one.word.title for one in found.groups(group.word.word)] for group in found.groups()}
    assert "dog" in below["pet"] and found.rows[0]["level_title"] in ("dog", "hunter")
    assert sorted({word.title for word in found.broader(next(w.word for w in found.words if w.title == "dog"))}) == [
        "hunter",
        "pet",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"child,parent\npoodle,dog\ndog,poodle\n", "has a cycle: poodle < dog < poodle"),
        (b"child,parent\npoodle,d\xf6g\n", "cannot be read as a UTF-8 CSV"),
        (b"word,above\npoodle,dog\n", "lacks the columns child,parent"),
        (b"", "lacks the columns child,parent"),
    ],
)
def test_a_hierarchy_that_cannot_be_read(index: Index, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    before = index.store.count("runs")
    with pytest.raises(EvaluationError, match=message):
        index.hierarchy(families.LAYER, tmp_path / "t.csv", vocabulary=families.words())
    assert index.store.count("runs") == before


def test_a_hierarchy_of_other_words_and_a_layer_without_labels(index: Index, table: Path, tmp_path: Path) -> None:
    other = families.write_table(tmp_path / "t.csv", [("oak", "tree")])
    with pytest.raises(StudyError, match=r"none of the labels of net/pooled \('poodle', 'beagle', .*2 words of t\.csv"):
        index.hierarchy(families.LAYER, other, vocabulary=families.words())
    with pytest.raises(SettingError, match="keep is 2"):
        index.hierarchy(families.LAYER, table, vocabulary=families.words(), keep=2)
    bare = families.make_families(tmp_path / "bare")
    bare.store.delete("labels", "true")
    with pytest.raises(
        StudyError, match="no neuron of net/pooled has a label: run `csp-index label DB --layer net/pooled`"
    ):
        bare.hierarchy(families.LAYER, table, vocabulary=families.words())
    with pytest.raises(NotFoundError, match=r"in no hierarchy .*run `csp-index hierarchy DB --layer net/pooled"):
        read_hierarchy(bare.store, LayerKey.parse(families.LAYER))


def test_words_without_an_embedding_are_said_and_labels_kept(index: Index, table: Path) -> None:
    given = families.words()
    from csp_index.labelling.texts.candidate_names import TextArrays

    fewer = TextArrays(given.texts[1:], given.embeddings[1:], "arrays@fewer")
    found = index.hierarchy(families.LAYER, table, vocabulary=fewer)
    assert found.rows[0]["state"] == "unexplained" and found.rows[0]["level_title"] == "poodle"
    assert any("'poodle'" in note for note in found.notes)
