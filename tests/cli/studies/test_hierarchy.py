"""`csp-index hierarchy` on planted neurons: groups, JSON, notes, and what is wrong in one line."""

from __future__ import annotations

import json
from pathlib import Path

import families
import numpy as np
import pytest
from click.testing import CliRunner

from csp_index.cli import cli

DATA = """  1 This software and database is being provided
00000010 05 n 01 animal 0 000 | a living thing
00000020 05 n 02 dog 0 domestic_dog 0 001 @ 00000010 n 0000 | barks
00000030 05 n 01 poodle 0 001 @ 00000020 n 0000 | curly
00000040 05 n 01 beagle 0 001 @ 00000020 n 0000 | hunts
00000050 05 n 01 husky 0 001 @ 00000020 n 0000 | pulls
00000060 05 n 01 siamese 0 001 @ 00000010 n 0000 | meows
00000070 05 n 01 persian 0 001 @ 00000010 n 0000 | sleeps
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    families.make_families(folder)
    families.write_table(folder / "animals.csv")
    words = families.words("dog", "cat", "animal")
    np.save(folder / "T.npy", words.embeddings)
    (folder / "T.txt").write_text("\n".join(words.texts) + "\n")
    return folder


def run(folder: Path, file: str, *more: str) -> tuple[int, str, str]:
    arrays = ["--text-embeddings", str(folder / "T.npy"), "--texts", str(folder / "T.txt")]
    given = ["hierarchy", str(folder / "db"), "--layer", families.LAYER, "--hierarchy", str(folder / file), *arrays]
    result = CliRunner().invoke(cli, [*given, *more])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_groups_are_printed_and_what_stands_outside_is_said(folder: Path) -> None:
    status, out, err = run(folder, "animals.csv")
    assert status == 0
    assert out.splitlines() == [
        "animal: 4 (3 siamese)",
        "  dog: 3 (0 poodle)",
        "    beagle: 1 (1)",
        "    poodle: 1 (2)",
    ]
    assert "1 labels of 1 neurons are no words of the hierarchy, and stand outside it: 'tractor'" in err
    assert "net/pooled: 5 neurons, 2 climbed, 1 kept, 1 unexplained, 1 unknown; judged on 300 images" in err


def test_json_has_a_row_per_neuron(folder: Path) -> None:
    rows = [json.loads(line) for line in run(folder, "animals.csv", "--json")[1].splitlines()]
    assert [row["level_title"] for row in rows] == ["dog", "beagle", "poodle", "animal", None]
    assert rows[1]["ended_at"] == "dog" and rows[1]["ended_correlation"] < rows[1]["correlation"]


def test_wordnet_is_read_as_it_is_published(folder: Path) -> None:
    (folder / "wordnet").mkdir()
    (folder / "wordnet" / "data.noun").write_text(DATA)
    status, out, err = run(folder, "wordnet")
    assert status == 0 and out.splitlines()[:2] == ["animal: 4 (3 siamese)", "  dog: 3 (0 poodle)"], err


def test_embeddings_go_with_their_texts(folder: Path) -> None:
    given = ["hierarchy", str(folder / "db"), "--layer", families.LAYER, "--hierarchy", str(folder / "animals.csv")]
    result = CliRunner().invoke(cli, [*given, "--texts", str(folder / "T.txt")])
    assert result.exit_code == 2 and "--text-embeddings and --texts go together" in result.stderr
