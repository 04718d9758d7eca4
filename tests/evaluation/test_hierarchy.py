"""Hierarchies from tables and from WordNet's own format: senses, several parents, roots, cycles, and large ones."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp_index.errors import EvaluationError
from csp_index.evaluation.hierarchy import Hierarchy, load_hierarchy, normal_text

ANIMALS = """child,parent
Dog,mammal
cat,mammal
Mammal,animal
bird,animal
crane,bird
crane,machine
"Man-of-war, Portuguese",animal
bat,mammal
bat,club
été,saison
"""


@pytest.fixture
def animals(tmp_path: Path) -> Hierarchy:
    return load_hierarchy(write(tmp_path, ANIMALS))


def write(folder: Path, text: str | bytes, name: str = "tree.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def wordnet_bytes(synsets: list[tuple[str, list[str], list[tuple[str, str]]]]) -> bytes:
    """A data.noun of (name, words, pointers to names): licence, then synsets whose numbers are their byte offsets."""
    licence = "".join(f"  {n} This software and database is made up. entity | nothing  \n" for n in range(1, 4))

    def line(words: list[str], pointers: list[tuple[str, str]], offsets: dict[str, int], name: str) -> str:
        named = " ".join(f"{word} {place:x}" for place, word in enumerate(words))
        pointing = "".join(f" {mark} {offsets[to]:08d} n 0000" for mark, to in pointers)
        return f'{offsets[name]:08d} 03 n {len(words):02x} {named} {len(pointers):03d}{pointing} | a gloss; "@ 1 n"  \n'

    offsets = {name: 0 for name, _, _ in synsets}
    at = len(licence)
    for name, words, pointers in synsets:
        offsets[name] = at
        at += len(line(words, pointers, offsets, name))
    data = (licence + "".join(line(words, pointers, offsets, name) for name, words, pointers in synsets)).encode()
    assert all(data[at : at + 8] == b"%08d" % at for at in offsets.values())
    return data


NOUNS: list[tuple[str, list[str], list[tuple[str, str]]]] = [
    ("entity", ["entity"], [("~", "animal"), ("~", "tool")]),
    ("animal", ["animal", "animate_being", "beast"], [("@", "entity"), ("~", "dog")]),
    ("dog", ["dog", "domestic_dog", "Canis_familiaris"], [("@", "animal"), ("#m", "pack"), ("~i", "laika")]),
    ("laika", ["Laika"], [("@i", "dog")]),
    ("pack", ["pack"], [("@", "entity"), ("%m", "dog")]),
    ("bird", ["bird"], [("@", "animal")]),
    ("crane-bird", ["crane"], [("@", "bird")]),
    ("tool", ["tool"], [("@", "entity")]),
    ("crane-tool", ["crane", "Kran"], [("@", "tool")]),
    ("many", [f"word_{n}" for n in range(17)], [("@", "entity"), ("@", "animal")]),
]


@pytest.fixture
def nouns(tmp_path: Path) -> Hierarchy:
    return load_hierarchy(write(tmp_path, wordnet_bytes(NOUNS), "data.noun"))


def test_texts_are_found_in_any_case_and_spacing(animals: Hierarchy) -> None:
    for text in ("dog", " DOG ", "Dog"):
        assert animals.has(text) and animals.parents(text) == ("mammal",)  # as spelt first
    assert animals.has("man of war, portuguese") and animals.has("Man_of-War,  Portuguese")
    assert animals.has("E\u0301TE\u0301") and not animals.has("wolf")
    assert (
        animals.parents("wolf") == animals.children("wolf") == animals.ancestors("wolf") == animals.names("wolf") == ()
    )
    assert normal_text("Straße") == normal_text("STRASSE")


def test_parents_children_and_ancestors(animals: Hierarchy) -> None:
    assert set(animals.children("mammal")) == {"Dog", "cat", "bat"}
    assert animals.parents("crane") == ("bird", "machine")
    assert animals.ancestors("bat") == ("mammal", "club", "animal")
    assert animals.ancestors("animal") == () and animals.parents("animal") == ()


def test_depth_counts_from_1_along_the_shortest_way(animals: Hierarchy) -> None:
    found = {text: animals.depth(text) for text in ("animal", "mammal", "dog", "crane", "machine")}
    assert found == {"animal": 1, "mammal": 2, "dog": 3, "crane": 2, "machine": 1}
    assert math.isnan(animals.depth("wolf"))


def test_similarity_is_wu_palmers_in_a_tree(animals: Hierarchy) -> None:
    assert animals.similarity("dog", "cat") == pytest.approx(2 * 2 / (3 + 3))
    assert animals.similarity("dog", "animal") == pytest.approx(2 * 1 / (3 + 1))
    assert animals.similarity("dog", "bird") == pytest.approx(2 * 1 / (3 + 2))
    assert animals.similarity("DOG", "dog") == 1.0
    assert animals.similarity("dog", "été") == 0.0  # another tree
    assert math.isnan(animals.similarity("dog", "wolf")) and math.isnan(animals.similarity("wolf", "wolf"))


def test_with_several_parents_the_best_common_ancestor_counts(animals: Hierarchy) -> None:
    assert animals.similarity("crane", "machine") == pytest.approx(2 / 3)
    assert animals.similarity("crane", "bird") == pytest.approx(4 / 5)  # through bird, at depth 2, crane is at depth 3
    assert animals.similarity("crane", "dog") == pytest.approx(2 / 6)


def test_relation_of_a_label_to_the_truth(animals: Hierarchy) -> None:
    expected = {
        ("dog", "DOG"): "same",
        ("wolf", "Wolf "): "same",
        ("animal", "dog"): "broader",
        ("dog", "mammal"): "narrower",
        ("dog", "cat"): "sibling",
        ("dog", "bird"): "other",
        ("machine", "dog"): "other",
        ("dog", "wolf"): "unknown",
        ("wolf", "dog"): "unknown",
    }
    assert {pair: animals.relation(*pair) for pair in expected} == expected


@pytest.mark.parametrize(
    ("rows", "cycle"),
    [
        ("a,b\nb,c\nc,a\nz,a\n", ("a", "b", "c")),
        ("a,A\n", ("a",)),
        ("top,\nleaf,x\nx,y\ny,x\nx,top\n", ("x", "y")),
    ],
)
def test_a_cycle_is_refused_in_one_line_that_names_it(tmp_path: Path, rows: str, cycle: tuple[str, ...]) -> None:
    with pytest.raises(EvaluationError, match=r"tree\.csv has a cycle: ") as caught:
        load_hierarchy(write(tmp_path, "child,parent\n" + rows))
    assert "\n" not in str(caught.value)
    named = str(caught.value).split("cycle: ")[1].split(" (")[0].split(" < ")
    assert named[0] == named[-1] and sorted(named[:-1]) == sorted(cycle)


def test_a_long_cycle_is_named_in_part() -> None:
    with pytest.raises(EvaluationError, match=r"n\d+ < \.\.\. < n\d+ ") as caught:
        Hierarchy([[f"n{i}"] for i in range(500)], [[(i + 1) % 500] for i in range(500)])
    assert len(str(caught.value)) < 150


def test_two_ways_up_are_no_cycle() -> None:
    diamond = Hierarchy([["top"], ["left"], ["right"], ["low"]], [[], [0], [0], [1, 2]])
    assert diamond.depth("low") == 3 and set(diamond.ancestors("low")) == {"left", "right", "top"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"columns child,parent \(has: nothing\)"),
        ("name,parent\na,b\n", r"has: name, parent"),
        ("child,parent\n", "has no rows"),
        ("child,parent\na,b\n ,c\n", "no child in row 2"),
        (b"child,parent\n\xff\xfe,b\n", "cannot be read as a UTF-8 CSV"),
    ],
)
def test_a_table_that_does_not_fit_is_told_in_one_line(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(EvaluationError, match=message) as caught:
        load_hierarchy(write(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot be read: No such file"):
        load_hierarchy(tmp_path / "none.csv")


def test_bom_quotes_crlf_other_columns_and_rows_without_parent(tmp_path: Path) -> None:
    text = '\ufeffParent, Child ,note\r\nshape,"star, red",x\r\n,shape,\r\n,lone,\r\nshape,"star, red",again\r\n'
    tree = load_hierarchy(write(tmp_path, text))
    assert tree.parents("star, red") == ("shape",) and tree.depth("lone") == 1 and len(tree) == 3


def test_wordnet_lines_give_words_and_hypernyms(nouns: Hierarchy) -> None:
    assert len(nouns) == len(NOUNS)
    assert nouns.names("domestic dog") == ("dog", "domestic dog", "Canis familiaris")
    assert nouns.parents("dog") == ("animal",)
    assert nouns.children("dog") == ("Laika",)  # an instance; `pack` is a holonym, not a parent
    assert nouns.ancestors("laika") == ("dog", "animal", "entity") and nouns.depth("laika") == 4
    assert nouns.similarity("beast", "animate being") == 1.0 and nouns.relation("beast", "Animal") == "same"
    assert nouns.has("word 16") and nouns.parents("word 3") == ("entity", "animal")  # the count of words is hexadecimal
    assert not nouns.has("This software")


def test_an_ambiguous_word_counts_by_its_best_sense(nouns: Hierarchy) -> None:
    assert nouns.parents("crane") == ("bird", "tool")
    assert nouns.names("crane") == ("crane", "Kran")
    assert nouns.relation("crane", "bird") == nouns.relation("crane", "tool") == "narrower"
    assert nouns.depth("crane") == 3  # as a tool; as a bird it is 4
    assert nouns.similarity("crane", "bird") == pytest.approx(2 * 3 / (4 + 3))
    assert nouns.similarity("crane", "tool") == pytest.approx(2 * 2 / (3 + 2))


def test_the_content_tells_wordnet_from_a_table_and_a_folder_will_do(tmp_path: Path) -> None:
    data = wordnet_bytes(NOUNS)
    assert load_hierarchy(write(tmp_path, data, "anything.csv")).has("beast")
    assert load_hierarchy(write(tmp_path, data.replace(b"\n", b"\r\n"), "windows")).parents("dog") == ("animal",)
    write(tmp_path, data, "data.noun")
    assert load_hierarchy(tmp_path).has("beast")


def test_a_cut_wordnet_file_is_told(tmp_path: Path) -> None:
    data = wordnet_bytes(NOUNS)
    lines = data.split(b"\n")
    with pytest.raises(EvaluationError, match=r"points to synset \d{8}, which it does not have"):
        load_hierarchy(write(tmp_path, b"\n".join(lines[:3] + lines[4:])))
    with pytest.raises(EvaluationError, match="broken in line 6: expected a synset"):
        load_hierarchy(write(tmp_path, b"\n".join([*lines[:5], lines[5][:40]])))


@st.composite
def forests(draw: st.DrawFn) -> Hierarchy:
    size = draw(st.integers(1, 12))
    parents = [sorted(draw(st.sets(st.integers(0, node - 1), max_size=2))) if node else [] for node in range(size)]
    names = [[f"n{draw(st.integers(0, 8))}" if draw(st.booleans()) else f"m{node}"] for node in range(size)]
    return Hierarchy(names, parents)


@settings(max_examples=40, deadline=None)
@given(forests(), st.data())
def test_similarity_is_symmetric_within_0_and_1_and_1_for_equals(tree: Hierarchy, data: st.DataObject) -> None:
    texts = sorted({name for names in tree._names for name in names})
    a, b = data.draw(st.sampled_from(texts)), data.draw(st.sampled_from(texts))
    value = tree.similarity(a, b)
    assert value == tree.similarity(b, a) and 0 <= value <= 1
    assert (value == 1) == (tree.relation(a, b) == "same")
    opposite = {"broader": ("narrower", "broader"), "narrower": ("broader",)}
    relation = tree.relation(a, b)
    assert tree.relation(b, a) in opposite.get(relation, (relation,))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30), st.data())
def test_similarity_in_a_tree_equals_the_textbook_formula(draws: list[int], data: st.DataObject) -> None:
    above = {0: -1} | {node: draw % node for node, draw in enumerate(draws, 1)}
    tree = Hierarchy([[f"n{node}"] for node in above], [[p] if p >= 0 else [] for p in above.values()])

    def chain(node: int) -> list[int]:
        return [node, *chain(above[node])] if node >= 0 else []

    a, b = data.draw(st.sampled_from(sorted(above))), data.draw(st.sampled_from(sorted(above)))
    lowest = next(node for node in chain(a) if node in chain(b))
    expected = 2 * len(chain(lowest)) / (len(chain(a)) + len(chain(b)))
    assert tree.similarity(f"n{a}", f"n{b}") == pytest.approx(expected)
    assert tree.depth(f"n{a}") == len(chain(a))


@pytest.mark.parametrize("count", [8_000, pytest.param(80_000, marks=pytest.mark.slow)])
def test_thousands_of_synsets_load_and_answer_fast(tmp_path: Path, count: int) -> None:
    words = count * 7 // 8
    synsets = [(f"s{i}", [f"lemma_{i}", f"word_{i % words}"], [("@", f"s{i // 7}")] if i else []) for i in range(count)]
    path = write(tmp_path, wordnet_bytes(synsets), "data.noun")
    start = time.process_time()
    tree = load_hierarchy(path)
    loaded = time.process_time() - start
    assert len(tree) == count and loaded < 5
    start = time.process_time()
    for i in range(2000):
        tree.similarity(f"lemma {i * 37 % count}", f"word {i}")
    assert time.process_time() - start < 2
