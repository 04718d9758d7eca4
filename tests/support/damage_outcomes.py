"""What comes of a damage: whether opening or `verify --full` finds it, and whether commands answer wrongly."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import whole_index
from damages import Damage

from csp_index.errors import CspIndexError
from csp_index.integrity.verify import encoder_at_hand, verify
from csp_index.models.index_models import Models

Sound = tuple[Path, dict[str, str]]  # the folder of the sound index, and the answers of its commands


def make_sound(folder: Path) -> Sound:
    """Make the sound index, an early copy of it and another one, and ask its commands."""
    whole_index.build(folder)
    (folder / "elsewhere").mkdir()
    shutil.move(whole_index.build(folder / "elsewhere" / "built"), folder / "other.db")
    (folder / "asked").mkdir()
    answers = whole_index.answers(copied(folder, folder / "asked"))
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


def outcome(made: Sound, place: Path, damage: Damage) -> str:
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
