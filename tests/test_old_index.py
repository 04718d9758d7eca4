"""An index that commit 2d73c0c made is read as it is: the same labels, nothing computed again, nothing written."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from planted import PLANTED, WORDS

from csp_index import Index, open_index
from csp_index.labelling.methods import METHODS

ARCHIVE = Path(__file__).parent / "data" / "index_of_2d73c0c.tar.gz"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, dict[str, Any]]:
    """The index, opened, and what that commit's `Index.label` returned for each method."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return open_index(folder / "index"), json.loads((folder / "expected.json").read_text())


@pytest.mark.parametrize("method", METHODS)
def test_labels_are_read_and_not_made_again(old, method):
    index, expected = old
    versions = index.store.versions()
    labels = index.label(PLANTED, method, vocabulary=WORDS, templates="none")
    read = [label.as_json() | {"run": label.run_id} for label in labels]
    assert json.loads(json.dumps(read)) == expected["labels"][method]
    assert index.store.versions() == versions == expected["versions"]


def test_what_was_made_since_goes_into_it(old):
    index, expected = old
    index.prefer("pmi")
    (label,) = index.label(f"{PLANTED}/0", vocabulary=WORDS, templates="none", examples=7, keep=False)
    assert (label.method, len(label.pairs)) == ("pmi", 7)
    assert index.view(f"{PLANTED}/0").label.as_json()["labels"] == expected["labels"]["pmi"][0]["labels"]
