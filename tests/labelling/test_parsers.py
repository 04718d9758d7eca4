"""Properties of what labelling reads: vocabularies in files and tables, text arrays, kinds of candidates."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import QUICK, damaged, like, refusing
from pyarrow import parquet

from csp_index.errors import ArrayError, LabelError, SettingError
from csp_index.labelling.candidates import read_text_arrays
from csp_index.labelling.methods import check_method
from csp_index.labelling.texts.candidate_names import Mix
from csp_index.labelling.vocabularies import Vocabulary, clean_text, load_vocabulary, make_vocabulary


def _check(vocabulary: Vocabulary) -> None:
    """Check what every vocabulary is: texts that show something, clean, each once however it is spelled."""
    texts = vocabulary.texts
    assert texts and all(text and clean_text(text) == text for text in texts)
    assert len({text.casefold() for text in texts}) == len(texts)
    assert vocabulary.key and make_vocabulary(vocabulary.name, texts).texts == texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabularies")


@QUICK
@given(st.one_of(like("red", "Red ", "star", "\n", "cafe\u0301").map(str.encode), st.binary(max_size=30)))
@example("\u0130\ni\u0307".encode())
@example("\u1e9e\nss\n".encode())
@example(b"red\x0bstar\nblue\n")
def test_any_file_is_a_vocabulary_or_refused(folder: Path, data: bytes) -> None:
    file = folder / "words.txt"
    file.write_bytes(data)
    with refusing(LabelError):
        _check(load_vocabulary(file))


@QUICK
@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8), max_size=5))
def test_a_list_is_read_as_it_is_written(folder: Path, texts: list[str]) -> None:
    (folder / "words.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8", newline="")
    with refusing(LabelError):
        expected = make_vocabulary("words", texts).texts
        if not texts[0].startswith("\ufeff"):
            assert load_vocabulary(folder / "words.txt").texts == expected


@QUICK
@given(
    st.one_of(like("name", "label", ",", "\t", '"', "\n", "red", "'=1").map(str.encode), st.binary(max_size=30)),
    st.sampled_from(["words.csv", "words.tsv"]),
    st.sampled_from(["", ":name", ":label", ":a:b"]),
)
@example(b'"a\nb",c\nd,e\n', "words.csv", ":name")
@example(b"a,b\nc,d\n", "words.csv", "")
def test_any_table_is_a_vocabulary_or_refused(folder: Path, data: bytes, name: str, column: str) -> None:
    (folder / name).write_bytes(data)
    with refusing(LabelError):
        _check(load_vocabulary(f"{folder / name}{column}"))


def _parquet(**columns: pa.Array) -> bytes:
    file = io.BytesIO()
    parquet.write_table(pa.table(columns), file)
    return file.getvalue()


WHOLE = _parquet(name=pa.array(["red", "blue"]), lists=pa.array([["a"], ["b", "c"]]), number=pa.array([1, 2]))


@QUICK
@given(st.one_of(damaged(WHOLE), st.binary(max_size=40)), st.sampled_from(["name", "lists", "number", "other"]))
@example(_parquet(name=pa.array(["x"]), lists=pa.array([None, None], pa.list_(pa.string())).slice(1)), "lists")
@example(_parquet(name=pa.array([b"\xff"]).view(pa.string())), "name")
@example(_parquet(name=pa.array([None], pa.string()).dictionary_encode()), "name")
@example(_parquet(**{"name.x": pa.array(["wrong"]), "name": pa.array(["right"])}), "name")
def test_any_parquet_file_is_a_vocabulary_or_refused(folder: Path, data: bytes, column: str) -> None:
    file = folder / "words.parquet"
    file.write_bytes(data)
    with refusing(LabelError):
        vocabulary = load_vocabulary(f"{file}:{column}")
        _check(vocabulary)
        assert "wrong" not in vocabulary.texts


@QUICK
@given(like("imagenet", ".csv", ":", "metadata:", "~", "/", "x", ".parquet"))
@example("~nobody-here/words.txt")
@example("~nobody-here/words.csv:a")
@example("\0")
@example("\0.csv:a")
@example("a" * 300)
def test_any_name_is_a_vocabulary_or_refused(name: str) -> None:
    with refusing(LabelError):
        _check(load_vocabulary(name))


@QUICK
@given(st.one_of(like("red", "\n", "star").map(str.encode), st.binary(max_size=20)))
@example(b"a\nb\n")
def test_any_texts_go_with_their_rows_or_are_refused(folder: Path, data: bytes) -> None:
    np.save(folder / "texts.npy", np.eye(2, dtype=np.float32))
    (folder / "texts.txt").write_bytes(data)
    with refusing(LabelError, ArrayError):
        candidates = read_text_arrays(folder / "texts.npy", folder / "texts.txt")
        assert len(candidates.texts) == 2 and candidates.key


@QUICK
@given(like("vocabulary", "vlm", "captioner", "neighbours", ",", " "), st.booleans())
def test_any_text_is_kinds_of_candidates_or_refused(text: str, pooled: bool) -> None:
    with refusing(SettingError):
        mix = Mix.parse(text, pooled)
        assert mix.kinds and len(set(mix.kinds)) == len(mix.kinds)
        assert Mix.parse(",".join(mix.kinds), pooled) == mix


@QUICK
@given(like("csp", "pmi", "-", "clip", "\n"))
def test_any_text_is_a_method_or_refused(text: str) -> None:
    with refusing(LabelError):
        assert check_method(text) == text
