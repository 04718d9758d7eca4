"""What tests of the command line share: small indexes, and the environment of a process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import fakes
import pytest
from checkout import python_path

from csp_index import open_index
from csp_index.cli import main

ENCODER = "python:fakes:encoder"
NETWORK = ["--network", "python:fakes:network", "--layers", "conv,concepts", "--name", "net"]


def make_world(folder: Path) -> Path:
    """Fill a folder with images, an index of them with labels (`db`), and one of arrays (`arrays`); return it."""
    fakes.write_images(folder / "images", 23)
    (folder / "images" / "broken.png").write_bytes(b"no picture")
    (folder / "words.txt").write_text("red\ngreen\nblue\nstriped\n")
    patch = pytest.MonkeyPatch()
    for arguments in (
        ["index", "db", "images", "--encoder", ENCODER, *NETWORK, "--shard-size", "10"],
        ["label", "db", "--layer", "net/concepts", "--vocabulary", "words.txt", "--templates", "none"],
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["csp-index", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
    patch.undo()
    paths = fakes.write_arrays(folder / "made")
    open_index(folder / "arrays").import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    return folder


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"} | more
