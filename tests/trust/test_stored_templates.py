"""A stored template set is a name of ours or its own text: no file is opened because an index names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pyarrow as pa
import pytest
from indexed import ENCODER, NETWORK

from csp_index import open_index
from csp_index.errors import LabelError
from csp_index.labelling.texts.candidate_names import template_key
from csp_index.models.prompt_templates import as_stored
from csp_index.service.live.text_vectors import TextVectors
from csp_index.store import catalog, schema

LABEL = ["label", "db", "--layer", "net/concepts", "--neurons", "0-3"]
SECRET = "TOKEN=abc123"


@pytest.fixture
def labelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., Any]) -> Path:
    """Return a folder with an index labelled within the templates of a file."""
    monkeypatch.chdir(tmp_path)
    index = open_index("db")
    index.add_images(fakes.write_images(tmp_path / "images", 23), encoders=[ENCODER], networks=[NETWORK])
    Path("sheet.txt").write_text("a drawing of {}\n\nthe {}\n")
    Path("words.txt").write_text("red\nblue\nstriped\n")
    assert run(*LABEL, "--vocabulary", "words.txt", "--templates", "sheet.txt").status == 0
    return tmp_path


def name_the_file(folder: Path) -> None:
    """Make the index name a file of the reader as its template set, as a stranger's may."""
    (folder / "secret.txt").write_text(f"{SECRET}\n")
    store = open_index("db").store
    rows = store.read(schema.VOCABULARIES)
    place = rows.schema.get_field_index("template_set")
    path = pa.array([str(folder / "secret.txt")] * len(rows))
    with store.write_lock():
        store.delete(schema.VOCABULARIES, "position >= 0")
        store.append(schema.VOCABULARIES, rows.set_column(place, "template_set", path).cast(rows.schema))


def test_later_labels_use_the_text_of_the_file(labelled: Path, run: Callable[..., Any]) -> None:
    first = run(*LABEL).out
    store = open_index("db").store
    (stored,) = set(store.read(schema.VOCABULARIES)["template_set"].to_pylist())
    assert stored == "sheet\na drawing of {}\nthe {}"
    assert template_key(stored) == template_key("sheet.txt")
    Path("sheet.txt").unlink()
    assert run(*LABEL).out == first
    assert run(*LABEL, "--recompute").out == first
    assert run("search", "db", "purple").status == 0


@pytest.mark.parametrize("command", [LABEL, ["search", "db", "purple"]], ids=lambda command: command[0])
def test_no_file_is_opened_because_an_index_names_it(
    labelled: Path, run: Callable[..., Any], command: list[str]
) -> None:
    name_the_file(labelled)
    said = run(*command)
    assert said.status == 1
    assert said.err.count("\n") == 1
    assert "--templates" in said.err
    assert SECRET not in said.err + said.out
    assert run(*command, "--templates", "sheet.txt").status == 0


def test_the_service_opens_none(labelled: Path) -> None:
    name_the_file(labelled)
    store = open_index("db").store

    def load() -> Any:
        raise LabelError("no encoder is needed")

    texts = TextVectors(store, catalog.encoder(store), load)
    for ask in (texts.vocabulary, lambda: texts.embed("purple"), lambda: texts.of_run("words@1 secret@2")):
        with pytest.raises(LabelError) as error:
            ask()
        assert SECRET not in str(error.value)


def test_a_text_is_stored_as_it_is() -> None:
    assert as_stored("none") == "none"
    assert as_stored("sheet\n{}") == "sheet\n{}"
