"""Properties of what an evaluation reads: hierarchies, truth files, methods with their options, metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import JSON, QUICK, damaged, like, refusing

from csp_index.errors import EvaluationError, LabelError, SettingError, SourceError
from csp_index.evaluation.ground_truth import Truth, read_truth
from csp_index.evaluation.hierarchy import Hierarchy, load_hierarchy, normal_text, read_wordnet
from csp_index.evaluation.metadata_concepts import concept_presence
from csp_index.evaluation.options import MethodChoice
from csp_index.labelling.request import make_request
from csp_index.records import LayerKey
from csp_index.store.catalog import EncoderInfo

LAYER = LayerKey("net", "fc")
WORDNET = (
    b"  1 license\n"
    b"00000001 03 n 01 entity 0 000 | all there is  \n"
    b"00000002 03 n 02 red_star 0 star 0 001 @ 00000001 n 0000 | a star  \n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


def _check(tree: Hierarchy, texts: tuple[str, ...]) -> None:
    assert len(tree) > 0
    for text in texts:
        assert not tree.has(text) or tree.depth(text) >= 1
        assert text not in tree.ancestors(text) or len(tree.names(text)) != 1
        assert tree.relation(text, text) == "same"


@QUICK
@given(
    st.one_of(
        like("child,parent\n", "dog,animal\n", "animal,\n", "animal,dog\n", '"', ",").map(str.encode),
        damaged(WORDNET),
        like("00000001 03 n 01 ", "entity 0 ", "000 ", "001 @ 00000001 n 0000", " | ", "\n", "ff").map(str.encode),
        st.binary(max_size=40),
    )
)
@example(b"child,parent,x\n" + b'"a\nb",c\n' * 2)
@example(b'child,"par\nent"\na,b\n')
@example(WORDNET.replace(b"001 @", b"-01 @"))
@example(WORDNET.replace(b"n 02 red", b"n " + b"f" * 5000 + b" red"))
def test_any_file_is_a_hierarchy_or_refused(folder: Path, data: bytes) -> None:
    file = folder / "tree.csv"
    file.write_bytes(data)
    with refusing(EvaluationError):
        _check(load_hierarchy(file), ("dog", "animal", "entity", "star", "red star"))
    with refusing(EvaluationError):
        read_wordnet(data, "the hierarchy x")


@QUICK
@given(like("~", "/", "x", ".csv"))
@example("~nobody-here/tree.csv")
@example("\0")
@example("a" * 300)
def test_any_name_of_a_file_is_read_or_refused(name: str) -> None:
    with refusing(EvaluationError):
        load_hierarchy(name)
    with refusing(EvaluationError):
        read_truth(name, LAYER, 4)


@QUICK
@given(st.text())
def test_the_normal_form_is_one(text: str) -> None:
    normal = normal_text(text)
    assert normal_text(normal) == normal == normal.strip() and "_" not in normal and "  " not in normal


def _check_truth(truth: Truth) -> None:
    assert truth.layer == LAYER and truth.accepted and truth.elsewhere >= 0
    for neuron, texts in truth.accepted.items():
        assert 0 <= neuron < 4 and texts and all(" ".join(text.split()) == text for text in texts)
        assert len({normal_text(text) for text in texts}) == len(texts)


@QUICK
@given(
    st.one_of(
        like("neuron,label,kind\n", "0,red,a\n", "net/fc/1,blue,b\n", "other/fc/1,x,\n", ",", '"').map(str.encode),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(st.sampled_from(["0", "3", "net/fc/2"]), JSON).map(lambda value: json.dumps(value).encode()),
        like("[", '"red"', ",", "]", "{", '"0":', "}").map(str.encode),
        st.binary(max_size=40),
    ),
    st.sampled_from([".csv", ".txt", ".json", ""]),
    st.booleans(),
)
@example(b"[" * 100_000, ".json", False)
@example(b'{"' + b"9" * 5000 + b'": "x"}', ".json", False)
@example(b"neuron,label\n" + b"9" * 5000 + b",x\n", ".csv", False)
@example(b'"neu\nron",label\n0,x\n', ".csv", False)
@example(b'["\\ud800"]', ".json", False)
def test_any_file_is_a_truth_or_refused(folder: Path, data: bytes, suffix: str, synonyms: bool) -> None:
    file = folder / f"truth{suffix}"
    file.write_bytes(data)
    with refusing(EvaluationError):
        truth = read_truth(file, LAYER, 4, synonyms=synonyms)
        _check_truth(truth)
        json.dumps(list(truth.accepted.values()), ensure_ascii=False).encode()


WORD = st.text(st.characters(categories=("Ll", "Lo", "Nd")), min_size=1, max_size=5).filter(normal_text)


@QUICK
@given(st.dictionaries(st.integers(0, 3), st.lists(WORD, min_size=1, max_size=3, unique_by=normal_text), min_size=1))
def test_a_truth_is_read_as_it_is_written(folder: Path, accepted: dict[int, list[str]]) -> None:
    (folder / "t.json").write_text(json.dumps(accepted))
    rows = [f"{neuron},{text}" for neuron, texts in accepted.items() for text in texts]
    (folder / "t.csv").write_text("\n".join(["neuron,label", *rows]), encoding="utf-8")
    expected = {neuron: tuple(texts) for neuron, texts in accepted.items()}
    assert read_truth(folder / "t.json", LAYER, 4).accepted == expected
    assert read_truth(folder / "t.csv", LAYER, 4).accepted == expected


OPTIONS = (
    "csp",
    ":",
    "gamma=0.5",
    ",",
    "examples=",
    "20",
    "variant-prompt=5",
    "reuse=",
    "contrast=random",
    "[1]",
    "seed=1",
)
OPTIONS += ("true", '"x"', "generator=[]", "threshold=max:0.5", "prior=", "images", "floor=1e999")


@QUICK
@given(like(*OPTIONS))
@example("csp:variant-prompt=5")
@example("csp:reuse=maybe")
@example("csp:generator=[]")
@example("csp:caption-column={}")
@example("csp:subtract-empty=0")
@example("csp:logit-scale=1")
def test_any_text_is_a_method_with_options_or_refused(text: str) -> None:
    with refusing(EvaluationError, SettingError, LabelError):
        choice = MethodChoice.parse(text)
        assert MethodChoice.parse(choice.text) == choice
        request = make_request(choice.method, EncoderInfo("e", 4, None, {}, "embeddings_e"), 1, choice.options)
        assert request.examples.kinds


@QUICK
@given(st.dictionaries(st.sampled_from(["gamma", "alpha"]), st.one_of(st.floats(0, 1), st.integers(0, 1))))
def test_options_of_a_method_are_read_as_they_are_written(options: dict[str, Any]) -> None:
    text = ",".join(f"{name}={json.dumps(value)}" for name, value in options.items())
    assert MethodChoice.parse(f"csp:{text}").options == options


@QUICK
@given(
    st.one_of(
        JSON.map(json.dumps),
        st.dictionaries(st.sampled_from(["red", "color"]), JSON).map(json.dumps),
        st.text(max_size=9),
    )
)
def test_any_metadata_shows_concepts_or_is_refused(text: str) -> None:
    with refusing(SourceError):
        present, known = concept_presence([(0, text)], ["red", "1"]).presence(["red", "1"])
        assert present.shape == (2, 1) and not present[~known].any()
