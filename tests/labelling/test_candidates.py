"""Candidate labels: vocabularies from files and libraries, and embeddings that are made once and kept."""

from __future__ import annotations

from pathlib import Path

import fakes
import numpy as np
import pytest
import torch

from csp_index import Index, NetworkSource, Vocabulary, open_index
from csp_index.errors import ArrayError, LabelError, ModelError, SettingError, SourceError
from csp_index.labelling import candidates
from csp_index.labelling.candidates import read_text_arrays
from csp_index.labelling.texts import candidate_names
from csp_index.labelling.vocabularies import load_vocabulary, make_vocabulary
from csp_index.models import index_models
from csp_index.store import catalog, column_tables, schema

ENCODER = "python:fakes:encoder"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of 12 images that no test writes to."""
    folder = tmp_path_factory.mktemp("candidates")
    source = fakes.write_images(folder / "images", 12)
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    open_index(folder / "db").add_images(source, encoders=[ENCODER], networks=[network])
    return folder


@pytest.fixture
def built(made: Path, tmp_path: Path) -> Index:
    import shutil

    shutil.copytree(made / "db", tmp_path / "db")
    return open_index(tmp_path / "db")


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_text_file_is_a_vocabulary(tmp_path):
    found = load_vocabulary(write(tmp_path / "my words.txt", "striped\n  red   star \nblue"))
    assert found.texts == ("striped", "red star", "blue")
    assert found.name == "my words"
    assert found.key.startswith("my words@")


@pytest.mark.parametrize("text", ["\ufeffstriped\nred\n", "striped\r\nred\r\n", "striped\nred"])
def test_a_mark_of_byte_order_and_foreign_line_ends_are_not_part_of_a_label(tmp_path, text):
    assert load_vocabulary(write(tmp_path / "v.txt", text)).texts == ("striped", "red")


def test_texts_that_differ_in_case_spacing_or_form_are_merged(tmp_path):
    found = load_vocabulary(write(tmp_path / "v.txt", "Straße\nSTRASSE\nred  star\nRed Star\ncafé\ncafe\u0301\n"))
    assert found.texts == ("Straße", "red star", "café")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("red\n\nblue\n", "has an empty label in line 2: expected one label a line"),
        ("red\n \t\nblue\n\n", "empty label in line 2"),
        ("", "is empty: expected one label a line"),
        ("\n\n", "is empty"),
        ("\ufeff\n", "is empty"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path, text, told):
    path = write(tmp_path / "v.txt", text)
    with pytest.raises(LabelError, match=told) as error:
        load_vocabulary(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_name_that_is_nothing_is_told_with_the_built_in_ones(tmp_path):
    with pytest.raises(LabelError, match=r"neither a file nor built in .has: imagenet1k, imagenet21k."):
        load_vocabulary("imagenet2k")
    with pytest.raises(LabelError, match="cannot be read"):
        load_vocabulary(tmp_path)


def test_lists_are_vocabularies_and_an_empty_one_is_refused():
    assert make_vocabulary("list", ["a", "A", "b"]).texts == ("a", "b")
    with pytest.raises(LabelError, match="vocabulary list is empty"):
        make_vocabulary("list", [])


def test_built_in_vocabularies_load():
    imagenet1k = load_vocabulary("imagenet1k").texts
    assert 990 <= len(imagenet1k) <= 1000
    assert "goldfish" in imagenet1k
    assert len({text.casefold() for text in imagenet1k}) == len(imagenet1k)
    imagenet21k = load_vocabulary("imagenet21k").texts
    assert 15_000 < len(imagenet21k) <= 21_843
    assert all(text.strip() == text and text for text in imagenet21k)


def test_a_vocabulary_is_its_content():
    assert make_vocabulary("v", ["a", "b"]).key == make_vocabulary("v", ["a", "b"]).key
    assert make_vocabulary("v", ["a", "b"]).key != make_vocabulary("v", ["b", "a"]).key
    assert make_vocabulary("v", ["a"]).key != make_vocabulary("w", ["a"]).key


def embed(built: Index, vocabulary: Vocabulary, template_set: str, load=fakes.encoder):
    source = catalog.encoder(built.store)
    return candidates.embed_vocabulary(built.store, source, vocabulary, template_set, load)


def fail():
    raise AssertionError("the encoder was loaded")


def test_embeddings_are_kept_and_read_without_the_encoder(built):
    words = make_vocabulary("v", ["red", "green", "blue"])
    first = embed(built, words, "csp")
    again = embed(built, words, "csp", fail)
    assert again.texts == words.texts
    assert torch.equal(first.embeddings, again.embeddings)
    assert torch.equal(first.empty, again.empty)
    assert first.key == again.key == candidate_names.texts_key(words, "csp")
    expected = fakes.encoder().embed_texts(["red", "green", "blue", ""], candidates.templates("csp"))
    torch.testing.assert_close(torch.cat([first.embeddings, first.empty[None]]), expected)
    assert bool((first.embeddings.norm(dim=1) < 0.99).all())  # the mean over templates keeps its length


def test_a_later_process_labels_without_loading_the_encoder(built, monkeypatch):
    first = built.label("net/concepts/0", vocabulary=["red", "green"], templates="none")
    monkeypatch.setattr(index_models, "load_encoder", lambda *given, **options: fail())
    fresh = open_index(built.uri)
    assert fresh.label("net/concepts/1", vocabulary=["red", "green"], templates="none")[0].state == "labelled"
    assert fresh.label("net/concepts/0")[0] == first[0]  # vocabulary and templates are those used last
    with pytest.raises(AssertionError, match="was loaded"):
        fresh.label("net/concepts/0", vocabulary=["red", "blue"])


def test_templates_and_texts_change_the_key(built, tmp_path):
    words = make_vocabulary("v", ["red"])
    plain, wrapped = embed(built, words, "none"), embed(built, words, "csp")
    assert plain.key != wrapped.key
    assert not torch.allclose(plain.embeddings, wrapped.embeddings)
    sheet = write(tmp_path / "none.txt", "a drawing of {}\n")
    assert embed(built, words, str(sheet)).key not in (plain.key, wrapped.key)
    table = column_tables.texts_table(ENCODER)
    assert built.store.count(table) == 3 * 2  # the text and the empty template under each set
    assert [row["text"] for row in built.sql("SELECT DISTINCT text FROM texts").rows()] == ["red"]


def test_trap_6_several_templates_and_several_texts_do_not_mix(built):
    many = make_vocabulary("v", [f"word {i}" for i in range(9)])
    whole = embed(built, many, "csp").embeddings
    for place, text in enumerate(many.texts):
        alone = embed(built, make_vocabulary("one", [text]), "csp").embeddings[0]
        torch.testing.assert_close(alone, whole[place])


def test_half_written_texts_are_made_anew(built):
    words = make_vocabulary("v", ["red", "green", "blue"])
    first = embed(built, words, "none")
    built.store.delete(column_tables.texts_table(ENCODER), "position = 1")
    again = embed(built, words, "none")
    assert torch.equal(again.embeddings, first.embeddings)
    assert built.store.count(column_tables.texts_table(ENCODER)) == 4


def test_another_encoder_under_the_name_is_refused(built, monkeypatch):
    monkeypatch.setenv("FAKE_SEED", "1")
    with pytest.raises(ModelError, match="is not the encoder the index was built with: its weights is"):
        built.label("net/concepts/0", vocabulary=["red"])
    assert built.store.count(schema.LABELS) == 0
    assert [run["command"] for run in built.status()["runs"]] == ["index"]


def test_unknown_template_sets_are_refused_and_nothing_is_written(built):
    before = built.store.versions()
    with pytest.raises(SettingError, match="template set 'nope' is unknown"):
        built.label("net/concepts/0", vocabulary=["red"], templates="nope")
    with pytest.raises(LabelError, match="vocabulary list is empty"):
        built.label("net/concepts/0", vocabulary=[])
    assert built.store.versions() == before


def test_the_vocabulary_used_last_is_the_default(built):
    assert candidate_names.chosen_templates(built.store) == "csp"
    built.label("net/concepts/0", vocabulary=["red", "green"], templates="none")
    built.label("net/concepts/0", vocabulary=["blue"], templates="csp")
    assert candidate_names.last_vocabulary(built.store).texts == ("blue",)
    assert candidate_names.chosen_templates(built.store) == "csp"
    built.label("net/concepts/1", vocabulary=["red", "green"], templates="none")  # used again, newest again
    assert candidate_names.last_vocabulary(built.store).texts == ("red", "green")
    assert candidate_names.chosen_templates(built.store) == "none"


def test_text_arrays(tmp_path):
    paths = fakes.write_arrays(tmp_path, texts=5)
    found = read_text_arrays(paths["text_embeddings"], paths["texts"])
    assert found.texts == tuple(f"text {i}" for i in range(5))
    np.testing.assert_array_equal(found.embeddings, np.load(paths["text_embeddings"]))
    assert found.empty is None
    write(paths["texts"], "a\nb\n")
    with pytest.raises(ArrayError, match="texts have 2 lines and text embeddings 5 rows"):
        read_text_arrays(paths["text_embeddings"], paths["texts"])
    write(paths["texts"], "\n")
    with pytest.raises(LabelError, match="is empty"):
        read_text_arrays(paths["text_embeddings"], paths["texts"])
    with pytest.raises(LabelError, match="cannot be read"):
        read_text_arrays(paths["text_embeddings"], tmp_path / "none.txt")
    vectors = np.load(paths["text_embeddings"])
    vectors[3] = 0
    np.save(paths["text_embeddings"], vectors)
    write(paths["texts"], "a\nb\nc\nd\ne\n")
    with pytest.raises(ArrayError, match="all zero in row 3"):
        read_text_arrays(paths["text_embeddings"], paths["texts"])
    vectors[3, 1] = np.nan
    np.save(paths["text_embeddings"], vectors)
    with pytest.raises(ArrayError, match="NaN or infinity, first in row 3"):
        read_text_arrays(paths["text_embeddings"], paths["texts"])


def test_a_mark_of_byte_order_is_not_part_of_a_text_made_elsewhere(tmp_path):
    paths = fakes.write_arrays(tmp_path, texts=2)
    write(paths["texts"], "\ufeffred\nblue\n")
    assert read_text_arrays(paths["text_embeddings"], paths["texts"]).texts == ("red", "blue")


def test_pictures_that_cannot_be_read(tmp_path):
    with pytest.raises(SourceError, match="cannot be read"):
        candidates.embed_picture(fakes.encoder(), tmp_path / "none.png")
    with pytest.raises(SourceError):
        candidates.embed_picture(fakes.encoder(), write(tmp_path / "broken.png", "no picture"))
