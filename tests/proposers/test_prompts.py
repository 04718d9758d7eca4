"""Prompts, and answers read strictly."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp_index.errors import ProposerError
from csp_index.labelling.vocabularies import make_vocabulary
from csp_index.proposers.prompts import PROMPTS, Prompt, load_prompt, parse_answer, prompt_hash, read_answer

WORD = st.text(st.characters(categories=("Ll", "Lu", "Lo", "Nd")), min_size=1, max_size=12)
CONCEPT = st.lists(WORD, min_size=1, max_size=4).map(" ".join).filter(lambda text: not _refuses(text))
CONCEPTS = st.lists(CONCEPT, min_size=1, max_size=3)


def _refuses(text: str) -> bool:
    return unicodedata.normalize("NFC", text).casefold() in ("none", "nothing", "unknown", "unclear", "na")


def test_the_built_in_prompt_asks_for_what_the_first_set_has_and_the_second_lacks() -> None:
    said = PROMPTS["concepts"].say(9, 8, 3, 4)
    assert "present in all images of set A and absent from set B" in said
    assert "(images: 9)" in said
    assert "(images: 8)" in said
    assert "list of 3 strings" in said
    assert "most 4 words" in said
    assert "{" not in said


def test_without_contrastive_images_nothing_is_said_of_a_second_set() -> None:
    said = PROMPTS["concepts"].say(9, 0)
    assert "9 images" in said
    assert "set B" not in said
    assert "{" not in said


def test_the_example_of_the_form_is_no_answer() -> None:
    form = PROMPTS["concepts"].positive.rpartition("Form: ")[2]
    with pytest.raises(ProposerError, match="no word in it"):
        parse_answer(form, 3, 4)


def test_a_file_holds_one_text_or_two(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(
        'Of {examples} against { contrasts }: {"concepts": [..]}\n---\nOf {examples}, {concepts} x {words}\n'
    )
    prompt = load_prompt(str(file))
    assert prompt.name == "mine"
    assert prompt.say(9, 8) == 'Of 9 against 8: {"concepts": [..]}'
    assert prompt.say(9, 0, 2, 5) == "Of 9, 2 x 5"
    file.write_text("Of {examples}, what?")
    assert load_prompt(str(file)).say(9, 8) == load_prompt(str(file)).say(9, 0) == "Of 9, what?"
    file.write_text("Of {examples} against {contrasts}, what?")
    assert load_prompt(str(file)).positive == PROMPTS["concepts"].positive


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Of {example}, what?", "unknown placeholder {example} (has: {examples}, {contrasts}, {concepts}, {words})"),
        ("Of {}, what?", "unknown placeholder {} "),
        ("A {examples}\n---\nB {label}", "unknown placeholder {label}"),
        ("A\n---\nB {contrasts}", "has {contrasts} in its text for activating images only"),
        ("A\n---\nB\n---\nC", "has 2 lines '---'"),
        ("", "has an empty text"),
        ("A\n---\n \n", "has an empty text"),
    ],
)
def test_a_file_that_cannot_be_said_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(text)
    with pytest.raises(ProposerError) as raised:
        load_prompt(str(file))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unknown_prompt_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    for name in ("concept", str(tmp_path), str(tmp_path / "binary")):
        with pytest.raises(ProposerError, match=r"not built in \(has: concepts\) and not a readable text file"):
            load_prompt(name)


def test_equal_texts_have_equal_hashes() -> None:
    assert prompt_hash("a") == prompt_hash("a") != prompt_hash("b")
    assert prompt_hash(PROMPTS["concepts"].text) != prompt_hash(Prompt("x", "A", "B").text)


@pytest.mark.parametrize(
    ("raw", "texts"),
    [
        ('["red star", "star"]', ("red star", "star")),
        ('  \n["Red Star", "red  star", "RED STAR"]\n', ("Red Star",)),
        ('{"concepts": ["a", "b"], "why": 1}', ("a", "b")),
        ('```json\n["a"]\n```', ("a",)),
        ('```\n{"concepts": ["a"]}\n  ```', ("a",)),
        ("1. red star\n2) star\n(3) sky", ("red star", "star", "sky")),
        ("- red star\n\n* **star**\n\u2022 \u201csky\u201d.", ("red star", "star", "sky")),
        ('<think>\nMaybe ["wrong"]?\n</think>\n\n["a"]', ("a",)),
        ('so ["wrong"]</think>["a"]', ("a",)),
        ('["a", "b", "c", "d", "e"]', ("a", "b", "c")),
        (
            '["I-beam", "no entry sign", "U.S. flag", "7", "caf\\u00e9", "cafe\\u0301"]',
            ("I-beam", "no entry sign", "U.S. flag"),
        ),
        ('["cafe\\u0301", "caf\\u00e9", "\\u732b"]', ("caf\u00e9", "\u732b")),
        ('["AC/DC poster, old"]', ("AC/DC poster, old",)),
    ],
)
def test_the_forms_asked_for_are_read(raw: str, texts: tuple[str, ...]) -> None:
    assert parse_answer(raw, 3, 4) == texts


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("[]", "an empty list"),
        ('{"concepts": []}', "an empty list"),
        ("``` \n\n```", "empty"),
        ("The images all show red stars.", "prose"),
        ("red star", "prose"),
        ("red star\nstar", "prose"),
        ('Here you are: ["a"]', "prose"),
        ('Sure!\n```json\n["a"]\n```', "prose"),
        ("I'm sorry, but I can't help with that.", "prose"),
        ("1. red star\nThese fit best.", "prose"),
        ("1. Star: five points in red", "not a short phrase"),
        ("- red star - all images have one", "not a short phrase"),
        ("- Is it red?", "not a short phrase"),
        ("- I cannot tell", "names no concept"),
        ('["none"]', "names no concept"),
        ('["a", "N/A"]', "names no concept"),
        ('["No common feature"]', "names no concept"),
        ('["a", "a very big red star"]', "has 5 words, at most 4"),
        ('["a"', "not valid JSON"),
        ('["a"] because', "not valid JSON"),
        ("['a']", "not valid JSON"),
        ("[" * 200_000, "not valid JSON"),
        ('{"labels": ["a"]}', "not a JSON list of strings"),
        ('{"concepts": "a"}', "not a JSON list of strings"),
        ('["a", 3]', "not a JSON list of strings"),
        ('[["a"]]', "not a JSON list of strings"),
        ("[NaN]", "not a JSON list of strings"),
        ('["a", " "]', "an empty concept"),
        ('["..."]', "no word in it"),
        ('["\\ud83d"]', "characters that are not text"),
        ('["a\\u0000b"]', "characters that are not text"),
        ('["a\\ufffdb"]', "characters that are not text"),
        ('["' + "a" * 300 + '"]', "300 characters"),
        ("<think>It may be", "inside its thoughts"),
        ("<think>a</think>", "empty"),
    ],
)
def test_everything_else_is_refused_with_the_reason(raw: str, reason: str) -> None:
    with pytest.raises(ProposerError, match=reason) as raised:
        parse_answer(raw, 3, 4)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 200
    assert str(raised.value).encode()


@pytest.mark.parametrize(
    ("raw", "texts", "odd"),
    [
        ("- red star\n- blue pat", ("red star",), "the last line of the answer is left out (short)"),
        ("- red star\n- blue sky\n", ("red star", "blue sky"), ""),
        ("1. red star\n2", ("red star",), "the last line of the answer is left out (short)"),
        ("- red st", (), "the only item of the answer may be half a word (short)"),
        ('["red star"]', ("red star",), ""),
        ("```\n- red star\n```", ("red star",), ""),
        ('["red star", "bl', (), 'the answer is not valid JSON: \'["red star", "bl\' (short)'),
        ("It reacts to red st", (), "the answer is prose, not a JSON list of strings: 'It reacts to red st' (short)"),
        ("<think>Two", (), "the answer ends inside its thoughts: allow more new tokens (short)"),
        ("", (), "the answer is empty (short)"),
    ],
)
def test_of_an_answer_that_was_cut_only_what_is_whole_is_read(raw: str, texts: tuple[str, ...], odd: str) -> None:
    assert read_answer(raw, 3, 4, cut=True, note="short") == (texts, odd)


@given(CONCEPTS)
def test_a_list_as_asked_for_is_read_as_a_vocabulary_is(concepts: list[str]) -> None:
    assert parse_answer(json.dumps(concepts), 3, 4) == make_vocabulary("v", concepts).texts


@given(
    CONCEPTS,
    st.sampled_from(["{0}", "{0}\n", " {0} ", "```json\n{0}\n```", "<think>x</think>{0}", '{{"concepts": {0}}}']),
)
def test_what_surrounds_an_answer_does_not_change_it(concepts: list[str], form: str) -> None:
    body = json.dumps(concepts, ensure_ascii=False)
    assert parse_answer(form.format(body), 3, 4) == parse_answer(body, 3, 4)


@given(CONCEPTS, st.sampled_from(["{n}. {text}", "{n}) {text}", "- {text}", "* {text}", "  \u2022 {text}"]))
def test_a_list_of_lines_says_the_same_as_json(concepts: list[str], form: str) -> None:
    lines = "\n".join(form.format(n=n, text=text) for n, text in enumerate(concepts, 1))
    assert parse_answer(lines, 3, 4) == parse_answer(json.dumps(concepts), 3, 4)


@given(
    st.text()
    | st.text(alphabet='[]{}",:-*1.\n` aI').map(lambda text: text)
    | st.text().map(lambda text: json.dumps([text]))
)
def test_whatever_comes_is_read_within_bounds_or_refused(raw: str) -> None:
    try:
        texts = parse_answer(raw, 3, 4)
    except ProposerError as exc:
        assert str(exc).encode()
        return
    assert 1 <= len(texts) <= 3
    assert len({text.casefold() for text in texts}) == len(texts)
    for text in texts:
        assert text == " ".join(text.split()) == unicodedata.normalize("NFC", text)
        assert 1 <= len(text.split()) <= 4
        assert text.encode()
