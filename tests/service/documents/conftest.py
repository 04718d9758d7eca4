"""The index of squares, as the documents read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from indexed import label_squares

from csp_index.service.snapshot import Snapshot


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and the index `db` of them, as `label_squares` makes it; nobody writes into it."""
    folder = tmp_path_factory.mktemp("squares")
    label_squares(folder)
    return folder


@pytest.fixture(scope="session")
def snapshot(squares: Path) -> Snapshot:
    """The index of squares as the service opens it."""
    return Snapshot(squares / "db")
