"""The truth of neurons from files, and agreement with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csp_index.errors import EvaluationError
from csp_index.evaluation import ground_truth as module
from csp_index.evaluation.ground_truth import Truth, agreement, read_truth
from csp_index.evaluation.hierarchy import Hierarchy
from csp_index.evaluation.metrics.table import METRICS, named
from csp_index.records import LayerKey

LAYER = LayerKey("m", "l")


def write(folder: Path, text: str | bytes, name: str = "truth.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- the truth file


def test_a_table_gives_synonyms_kinds_and_full_or_bare_addresses(tmp_path: Path) -> None:
    text = "neuron,label,kind\nm/l/7,red star,pair\n2,striped,single\n7,Scarlet  Star,\n7,RED-STAR,pair\nm/other/1,x,\n"
    found = read_truth(write(tmp_path, text), LAYER, 8)
    assert found.accepted == {2: ("striped",), 7: ("red star", "Scarlet Star")}
    assert [found.kind(neuron) for neuron in (2, 7, 5)] == ["single", "pair", ""]
    assert found.layer == LAYER and found.elsewhere == 1


def test_a_table_with_bom_quotes_crlf_and_other_columns(tmp_path: Path) -> None:
    text = '\ufeffnote,Label, NEURON\r\n"a\nb","tench, Tinca ""tinca""",0\r\n,été,1\r\n'
    path = write(tmp_path, text)
    assert read_truth(path, LAYER, 2).accepted == {0: ('tench, Tinca "tinca"',), 1: ("été",)}
    assert read_truth(path, LAYER, 2, synonyms=True).accepted[0] == ("tench", 'Tinca "tinca"')


def test_class_names_are_the_truth_of_output_neurons(tmp_path: Path) -> None:
    path = write(tmp_path, "tench, Tinca tinca\r\n\r\ngreat white shark\n\n", "names.txt")
    assert read_truth(path, LAYER, 3).accepted == {0: ("tench, Tinca tinca",), 2: ("great white shark",)}
    assert read_truth(path, LAYER, 9, synonyms=True).accepted[0] == ("tench", "Tinca tinca")
    with pytest.raises(EvaluationError, match=r"has 3 lines, m/l 2 neurons: expected at most one per neuron"):
        read_truth(path, LAYER, 2)


def test_json_lists_and_objects(tmp_path: Path) -> None:
    listed = write(tmp_path, '["red", ["star", "pentagram"]]', "a.json")
    assert read_truth(listed, LAYER, 2).accepted == {0: ("red",), 1: ("star", "pentagram")}
    named = write(tmp_path, '{"m/l/4": "red", "1": ["star"], "m/k/0": "x"}', "b.json")
    found = read_truth(named, LAYER, 5)
    assert found.accepted == {1: ("star",), 4: ("red",)} and found.elsewhere == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", r"no column 'neuron' \(has: nothing: it is empty\)"),
        ("t.csv", "neuron,text\n1,a\n", r"no column 'label' \(has: neuron, text\): expected neuron,label\[,kind\]"),
        ("t.csv", "neuron,label\n", r"names no neuron of m/l \(has: nothing"),
        ("t.csv", "neuron,label\nm/k/1,a\nm/j/1,a\n", r"names no neuron of m/l \(has: m/j, m/k\)"),
        ("t.csv", "neuron,label\nm/l/four,a\n", r"names the neuron 'm/l/four': expected an index such as 7"),
        ("t.csv", "neuron,label\n-1,a\n", r"names the neuron '-1'"),
        ("t.csv", "neuron,label\n1\n", "empty label for neuron 1"),
        ("t.csv", "neuron,label\n1,a\n1, \n", "empty label for neuron 1"),
        ("t.csv", "neuron,label,kind\n1,a,x\n1,b,y\n", "two kinds of neuron 1: 'x', 'y': expected one"),
        ("t.csv", "neuron,label\n3,a\n4,a\n4,b\n", r"2 unknown neurons \(3, 4\): m/l has 3, from 0 to 2"),
        (
            "t.csv",
            "neuron,label\n" + "".join(f"{n},a\n" for n in range(50)),
            r"47 unknown neurons \(3, 4, 5, 6, 7, \.\.\.\)",
        ),
        ("t.csv", b"neuron,label\n1,\xff\n", "is not UTF-8 text"),
        ("t.txt", "\n\n", r"names no neuron of m/l \(has: nothing: it is empty\)"),
        ("t.json", "{", "is not JSON"),
        ("t.json", "7", "holds a int: expected a list of names or an object"),
        ("t.json", '["a", 5]', "has 5 for neuron 1: expected a text or a list of texts"),
    ],
)
def test_a_file_that_does_not_fit_is_told_in_one_line(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(EvaluationError, match=message) as caught:
        read_truth(write(tmp_path, content, name), LAYER, 3)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot be read: No such file"):
        read_truth(tmp_path / "none.csv", LAYER, 3)


# --- agreement

TRUTH = Truth(LAYER, {0: ("red star",), 1: ("stripe", "striped"), 2: ("wolf",), 5: ("red",)})
VOCABULARY = ("red", "Red-Star", "striped", "stripe", "dot", "dog")


def by_name(texts: Sequence[str]) -> torch.Tensor:
    """Unit vectors that depend on the text's letters alone."""
    rows = [[1.0 + text.lower().count(letter) for letter in "aeiourstdg"] for text in texts]
    return torch.nn.functional.normalize(torch.tensor(rows), dim=1)


def test_exact_and_top_five_compare_normal_forms() -> None:
    ranked = {
        0: ["red_STAR", "dot"],
        1: ["dog", "dot", "red", "a", "Striped"],
        5: ["a", "b", "c", "d", "e", "red"],
        3: ["dog"],
        2: [],
    }
    found = agreement(TRUTH, ranked)
    assert found.neurons == (0, 1, 5, 3, 2)
    nan = np.nan
    np.testing.assert_array_equal(found.values["agreement-exact"], [1, 0, 0, nan, nan])
    np.testing.assert_array_equal(found.values["agreement-top5"], [1, 1, 0, nan, nan])
    np.testing.assert_array_equal(found.values["agreement-rank"], [1, 5, 6, nan, nan])
    np.testing.assert_allclose(found.values["agreement-reciprocal-rank"], [1, 1 / 5, 1 / 6, nan, nan])
    assert found.notes["agreement-exact"] == ("", "", "", "no truth for this neuron", "no label")
    assert "agreement-text" not in found.values and not found.relations


def test_the_rank_is_that_of_the_best_accepted_text_among_all_candidates() -> None:
    scores = torch.tensor(
        [
            [0.9, 0.5, 0.5, 0.5, 0.1, 0.6],  # Red-Star: after two better ones, before its equals
            [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],  # stripe is third
            [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
            [torch.nan] * 6,
        ]
    )
    ranked = {0: ["red"], 1: ["dog"], 2: ["dog"], 5: ["red"]}
    found = agreement(TRUTH, ranked, VOCABULARY, scores)
    np.testing.assert_array_equal(found.values["agreement-rank"], [3, 3, np.nan, np.nan])
    assert found.notes["agreement-rank"] == ("", "", "the truth is not among the candidates", "the truth has no score")
    np.testing.assert_array_equal(found.values["agreement-exact"], [0, 0, 0, 1])


def test_without_scores_a_truth_beyond_the_labels_kept_has_no_rank() -> None:
    found = agreement(TRUTH, {0: ["dog"], 2: ["dog"]}, VOCABULARY)
    assert found.values["agreement-rank"].isnan().all() and found.values["agreement-reciprocal-rank"].isnan().all()
    notes = ("the truth is not among the ranked labels", "the truth is not among the candidates")
    assert found.notes["agreement-rank"] == found.notes["agreement-reciprocal-rank"] == notes


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 2**20]))
def test_ranks_equal_those_of_a_sorted_list(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    vocabulary = [f"w{i}" for i in range(9)]
    scores = rng.integers(0, 4, (6, 9)).astype(np.float32)
    accepted = {n: tuple(f"w{i}" for i in rng.choice(12, rng.integers(1, 4), replace=False)) for n in range(6)}
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = {n: [vocabulary[i] for i in order[n]] for n in range(6)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK_BYTES", block)
        whole = agreement(Truth(LAYER, accepted), ranked, vocabulary, torch.from_numpy(scores))
    listed = agreement(Truth(LAYER, accepted), ranked, vocabulary)
    for name in ("agreement-rank", "agreement-reciprocal-rank", "agreement-exact"):
        np.testing.assert_array_equal(whole.values[name], listed.values[name])
    expected = [min((row.index(t) + 1 for t in accepted[n] if t in row), default=np.nan) for n, row in ranked.items()]
    np.testing.assert_array_equal(whole.values["agreement-rank"], expected)


def test_text_similarity_is_the_greatest_cosine_with_an_accepted_text_and_embeds_each_text_once() -> None:
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> torch.Tensor:
        asked.extend(texts)
        return by_name(texts)

    found = agreement(TRUTH, {1: ["stars"], 3: ["x"], 0: ["stars"], 2: ["wolf"]}, embed=embed)
    stars, stripe, striped, red_star = by_name(["stars", "stripe", "striped", "red star"])
    expected = [max((stars @ stripe).item(), (stars @ striped).item()), np.nan, (stars @ red_star).item(), 1.0]
    np.testing.assert_allclose(found.values["agreement-text"], expected, atol=1e-6)
    assert len(asked) == len(set(asked)) == 5


def test_the_hierarchy_gives_similarity_and_relation_to_the_closest_accepted_text() -> None:
    tree = Hierarchy([["pattern"], ["stripe"], ["zebra stripe"], ["dot"], ["red"]], [[], [0], [1], [0], []])
    ranked = {1: ["zebra stripe"], 5: ["pattern"], 0: ["dot"], 3: ["dot"]}
    found = agreement(TRUTH, ranked, hierarchy=tree)
    np.testing.assert_allclose(found.values["hierarchy-similarity"], [4 / 5, 0, np.nan, np.nan])
    assert found.relations == ("narrower", "other", "unknown", "unknown")
    assert found.notes["hierarchy-similarity"] == (
        "",
        "",
        "the label or its truth is not in the hierarchy",
        "no truth for this neuron",
    )


def test_every_nan_has_a_note_and_no_other_value_has_one() -> None:
    tree = Hierarchy([["red"]], [[]])
    ranked = {0: ["red"], 1: [], 2: ["dog"], 4: ["dog"], 5: ["red"]}
    scores = torch.rand(5, 6, generator=torch.Generator().manual_seed(0))
    found = agreement(TRUTH, ranked, VOCABULARY, scores, by_name, tree)
    assert set(found.values) == set(found.notes) == set(named("agreement")) - {"agreement-overlap", "agreement-set"}
    for name, values in found.values.items():
        assert [bool(note) for note in found.notes[name]] == values.isnan().tolist()
        inside = values[~values.isnan()]
        metric = METRICS[name]
        assert metric.low is None or (inside >= metric.low).all()
        assert metric.high is None or (inside <= metric.high).all()


def test_no_neurons_and_no_common_neurons() -> None:
    for ranked in ({}, {3: ["dog"]}):
        scores = torch.zeros(len(ranked), len(VOCABULARY))
        found = agreement(TRUTH, ranked, VOCABULARY, scores, by_name, Hierarchy([["red"]], [[]]))
        assert all(values.shape == (len(ranked),) and values.isnan().all() for values in found.values.values())


def test_scores_that_do_not_fit_are_told() -> None:
    with pytest.raises(EvaluationError, match=r"scores are \[1, 2\]: expected 1 neurons x 6 candidates"):
        agreement(TRUTH, {0: ["red"]}, VOCABULARY, torch.zeros(1, 2))
