"""Damages planted into an index: each is found by opening or by `verify --full`, or changes no answer. None is silent.

The answers of nine commands, asked after each damage, are compared with those of the sound index.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import whole_index
from damages import Damage, all_damages

from csp_index.errors import CspIndexError
from csp_index.integrity.verify import encoder_at_hand, verify
from csp_index.models.index_models import Models

DAMAGES = all_damages()
QUICK = (
    "newest manifest deleted-labels",
    "table gone-embeddings",
    "data file deleted-examples",
    "data file emptied-images",
    "data file cut-neurons",
    "8 bytes-embeddings data at 0.1",
    "HEAD-deleted",
    "record-rows changed",
    "rows doubled by Lance-images",
    "values-embeddings x 3",
    "committed-statistics stale",
    "committed-label of no run",
)
_results: Counter[str] = Counter()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder of the sound index, and the answers of its commands."""
    folder = tmp_path_factory.mktemp("whole")
    whole_index.build(folder)
    (folder / "elsewhere").mkdir()
    shutil.move(whole_index.build(folder / "elsewhere" / "built"), folder / "other.db")
    copy = copied(folder, tmp_path_factory.mktemp("asked"))
    answers = whole_index.answers(copy)
    assert not [answer for answer in answers.values() if answer.startswith("error")]
    return folder, answers


def copied(folder: Path, place: Path) -> Path:
    """Return a copy of the index, with the images and the other indexes beside it."""
    shutil.copytree(folder / "planted.db", place / "planted.db")
    for name in ("images", "early.db", "other.db"):
        os.symlink(folder / name, place / name)
    return place / "planted.db"


def found(db: Path) -> list[str]:
    """Return what `verify --full` finds."""
    try:
        models = Models("cpu", None, trust=True)
        return list(map(str, verify(db, full=True, find_encoder=partial(encoder_at_hand, models)).findings))
    except CspIndexError as exc:
        return [str(exc)]


def outcome(made: tuple[Path, dict[str, str]], place: Path, damage: Damage) -> str:
    """Plant a damage into a copy, ask all commands, verify, and return what came of it."""
    folder, expected = made
    db = copied(folder, place)
    damage.plant(db)
    findings = found(db)
    answers = whole_index.answers(db)
    refused = {name: answer for name, answer in answers.items() if answer.startswith("error")}
    for answer in refused.values():
        assert any(word in answer for word in ("table", "commits", "damaged", "not in", "index", "registered as")), (
            answer
        )
    wrong = [name for name, answer in answers.items() if answer != expected[name] and name not in refused]
    if wrong and not findings:
        return f"silent: {', '.join(wrong)}"
    if refused and not wrong:
        return "found by opening" + (" and verify" if findings else "")
    return "found by verify" if findings else "without effect"


@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if str(damage) in QUICK], ids=str)
def test_a_damage_is_not_silent(made, tmp_path, damage):
    assert outcome(made, tmp_path, damage).startswith("found")


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_no_damage_is_silent(made, tmp_path, damage):
    result = outcome(made, tmp_path, damage)
    _results[result.partition(":")[0]] += 1
    assert not result.startswith("silent"), result


@pytest.mark.slow
def test_the_counts_of_damages(capsys):
    """Print the table of counts; the tests above must have run before."""
    if sum(_results.values()) != len(DAMAGES):
        pytest.skip("only after all damages")
    with capsys.disabled():
        print(f"\n{len(DAMAGES)} damages: " + ", ".join(f"{name} {count}" for name, count in _results.most_common()))
    assert len({str(damage) for damage in DAMAGES}) == len(DAMAGES) >= 119
    assert _results["silent"] == 0
