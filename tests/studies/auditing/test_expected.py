"""The list of expected concepts: files, lists, and words that no vocabulary has."""

from __future__ import annotations

from pathlib import Path

import pytest

from csp_index.errors import LabelError
from csp_index.studies.auditing.expected import ExpectedConcepts, read_expected


def test_a_file_has_a_concept_per_line_and_a_list_is_one(tmp_path: Path) -> None:
    file = tmp_path / "concepts.txt"
    file.write_text("star\nstriped ring\n")
    assert read_expected(file).texts == ("star", "striped ring") == read_expected(["star", "striped ring"]).texts


@pytest.mark.parametrize("text", ["", "star\n\nring\n"])
def test_an_empty_file_or_line_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "concepts.txt"
    file.write_text(text)
    with pytest.raises(LabelError, match="empty"):
        read_expected(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="neither a file nor built in"):
        read_expected(tmp_path / "nothing.txt")


def test_words_are_compared_whole_whatever_their_form() -> None:
    concepts = ExpectedConcepts(("striped_ring",))
    assert concepts.covers("a Striped ring") and not concepts.covers("ring") and not concepts.covers("striped rings")
    assert concepts.with_classes(["moon"]).covers("red moon")
