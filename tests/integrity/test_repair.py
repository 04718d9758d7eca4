"""`verify --repair`: what has sources is as before, what has none is named, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import damages
import pytest
import whole_index
from damages import all_damages
from few import few
from planted import ENCODER

from csp_index import NetworkSource
from csp_index.integrity.findings import Verification
from csp_index.integrity.verify import encoder_at_hand, verify
from csp_index.models.index_models import Models
from csp_index.store import originals

DAMAGES = {str(damage): damage for damage in all_damages()}
AS_BEFORE = (  # everything is answered as before the damage
    "data file deleted-shards",
    "data file deleted-neurons",
    "data file deleted-vocabularies",
    "data file cut-neighbours",
    "data file emptied-texts",
    "newest manifest deleted-shards",
    "table gone-neurons",
    "8 bytes-images data at 0.45",
    "HEAD-deleted",
    "list of files deleted-images",
    "rows doubled by Lance-images",
    "values with their digests-thumbnail",
    "committed-mark lost",
    "committed-statistics stale",
    "committed-top lists of other neurons",
    "committed-text vectors moved",
    "committed-vocabulary changed",
    "committed-neighbours of other images",
)
WITH_LOSS = {  # what the repair says
    "newest manifest deleted-labels": "took version",
    "table gone-evaluations": "left out, no commit has it",
    "record-deleted": "took version",
    "data file deleted-examples": "rows were in damaged files and are deleted",
    "8 bytes-embeddings index at 0.3": "its vector index is dropped",
    "committed-label of no run": "(no such run is recorded)",
    "committed-label of no neuron": "labels of run_id",
    "committed-pair of no image": "label these neurons again",
    "committed-evaluation of no layer": "rows are deleted (this neuron does not exist)",
    "committed-run lost": "have a row without settings",
}
RECOMPUTED = ("data file deleted-embeddings", "values-activations NaN", "table gone-activations@concepts")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of the sound index, without a tag that keeps damaged files, and the answers of its commands."""
    folder = tmp_path_factory.mktemp("repaired")
    db = whole_index.build(folder)
    whole_index.opened(db).store.log.untag(whole_index.TAG)
    return folder, asked(copied(folder, tmp_path_factory.mktemp("asked")))


def copied(folder: Path, place: Path) -> Path:
    shutil.copytree(folder / "planted.db", place / "planted.db")
    os.symlink(folder / "images", place / "images")
    return place / "planted.db"


def asked(db: Path) -> dict[str, str]:
    answers = whole_index.answers(db)
    answers.pop("version")
    return answers


def repaired(db: Path, name: str) -> Verification:
    """Plant a damage and repair it."""
    DAMAGES[name].plant(db)
    originals.allow(db, [db.parent / "images"])
    find = partial(encoder_at_hand, Models("cpu", None, trust=True))
    return verify(db, full=True, repair=True, find_encoder=find)


@pytest.mark.parametrize("name", few(AS_BEFORE, 1))
def test_what_has_sources_is_as_before(made, tmp_path, name):
    folder, expected = made
    db = copied(folder, tmp_path)
    result = repaired(db, name)
    assert (result.findings, bool(result.repaired)) == ([], True)
    answers = asked(db)
    if name.startswith(("HEAD", "list", "rows")):
        assert answers == expected
    assert [key for key in expected if answers[key] != expected[key]] == []


@pytest.mark.parametrize("name", few(WITH_LOSS, 1))
def test_what_is_lost_is_said(made, tmp_path, name):
    folder, expected = made
    db = copied(folder, tmp_path)
    result = repaired(db, name)
    assert result.findings == []
    assert any(WITH_LOSS[name] in line for line in result.repaired), result.repaired
    answers = asked(db)
    assert not [answer for answer in answers.values() if answer.startswith("error")]
    assert answers["pictures"] == expected["pictures"]


@pytest.mark.parametrize("name", few(RECOMPUTED, 1))
def test_columns_are_computed_again_by_index(made, tmp_path, name):
    folder, expected = made
    db = copied(folder, tmp_path)
    result = repaired(db, name)
    assert any("shards are marked as missing" in line or "left out" in line for line in result.repaired)
    if "planted" in name or "NaN" in name:
        assert any("import the arrays again" in line for line in result.repaired)
        return
    assert any("has 0 of 40 images" in note for note in result.notes)
    network = NetworkSource("python:fakes:network", ("concepts",), name="net")
    whole_index.opened(db).add_images(db.parent / "images", encoders=[ENCODER], networks=[network])
    assert verify(db, full=True).findings == []
    answers = asked(db)
    same = ("label", "pictures", "show")
    assert [key for key in same if answers[key] != expected[key]] == [], "rounding, and no vector index, apart"


@pytest.mark.parametrize("name", ["table gone-images", "data file deleted-encoders", "data file deleted-images"])
def test_what_has_no_source_is_left_alone_and_named(made, tmp_path, name):
    db = copied(made[0], tmp_path)
    result = repaired(db, name)
    assert not result.sound
    text = " ".join([*map(str, result.findings), *result.repaired])
    assert "from a copy" in text


@pytest.mark.slow
def test_a_tagged_version_is_not_forgotten(made, tmp_path):
    db = copied(made[0], tmp_path)
    log = whole_index.opened(db).store.log
    log.tag("mine", log.find(str(log.head().commit)))
    whole_index.opened(db).prefer("csp")
    result = repaired(db, "data file deleted-labels")
    (finding,) = result.findings
    assert "tagged mine" in finding.where and "--remove" in finding.repair
    log.untag("mine")
    assert verify(db, full=True, repair=True).sound


def test_repairs_are_one_version_and_a_run(made, tmp_path):
    db = copied(made[0], tmp_path)
    before = whole_index.opened(db).store.log.head().commit
    assert repaired(db, "committed-statistics stale").sound
    index = whole_index.opened(db)
    runs = [run for run in index.status()["runs"] if run["command"] == "verify --repair"]
    assert [run["state"] for run in runs] == ["done"]
    shown = [record for record in index.store.log.records() if record.shown and record.number > before + 1]
    assert len(shown) == 2, "the start of the run, and all that it did"


def test_a_second_repair_finds_nothing(made, tmp_path):
    db = copied(made[0], tmp_path)
    assert repaired(db, "committed-label doubled").repaired
    assert verify(db, full=True, repair=True).repaired == []


def test_damages_that_tests_name_exist():
    assert {*AS_BEFORE, *WITH_LOSS, *RECOMPUTED} <= DAMAGES.keys()
    assert len(damages.TABLES) == 22
