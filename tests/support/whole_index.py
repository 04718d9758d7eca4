"""A small index with rows in every kind of table, and what its commands answer: for tests that damage it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from namers import Namer
from planted import CONCEPTS, PLANTED, WORDS, make_planted

from csp_index import EvaluationOptions, Index, open_index
from csp_index.evaluation.options import parse_methods
from csp_index.store import originals
from csp_index.store.connect import open_version

TAG = "paper"


def build(folder: Path) -> Path:
    """Make the index, and its copy before the last two commands as `early.db`; return the index."""
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "broken.png").write_bytes(b"no picture")
    db = make_planted(folder)
    index = opened(db)
    index.propose(f"{CONCEPTS}/0", vlm=Namer())
    index.evaluate(
        CONCEPTS, EvaluationOptions(methods=parse_methods(["semanticlens"])), vocabulary=WORDS, templates="none"
    )
    index.optimize(kind="ivf_flat", keep_hours=0)
    index.store.log.tag(TAG, index.store.log.find(str(index.store.commit_seen.number)))
    shutil.copytree(db, folder / "early.db")
    index.label(f"{CONCEPTS}/0", "pmi", vocabulary=WORDS, templates="none")
    index.label(f"{CONCEPTS}/1", "csp", vocabulary=WORDS, templates="none", recompute=True)
    return db


def opened(db: Path) -> Index:
    index = open_index(db, trust=True)
    originals.allow(db, [db.parent / "images"])
    return index


def answers(db: Path) -> dict[str, str]:
    """Return what nine commands answer, or `error: ...`; the last one writes."""
    commands: dict[str, Callable[[], Any]] = {
        "status": lambda: _status(open_index(db, trust=True).status()),
        "show": lambda: opened(db).view(f"{PLANTED}/1").label.as_json(),
        "label": lambda: [one.as_json() for one in opened(db).label(PLANTED, "csp", vocabulary=WORDS, keep=False)],
        "search": lambda: opened(db).search("red star", top=5).to_arrow().to_pylist(),
        "sql": lambda: [opened(db).sql(statement).to_arrow().to_pylist() for statement in _STATEMENTS],
        "export": lambda: opened(db).labels(method="all").to_arrow().to_pylist(),
        "pictures": lambda: opened(db).store.read("images").to_pylist(),
        "version": lambda: open_version(db, TAG).read("labels").to_pylist(),
        "index": lambda: _added(db),
    }
    return {name: _answer(command) for name, command in commands.items()}


_STATEMENTS = (
    "SELECT * FROM images ORDER BY image_id",
    "SELECT * FROM neurons ORDER BY ALL",
    "SELECT * FROM examples ORDER BY ALL",
    "SELECT * FROM evaluations ORDER BY ALL",
    f"SELECT * FROM activations('{CONCEPTS}/2') ORDER BY image_id",
    f"SELECT * FROM activations('{PLANTED}/2') ORDER BY image_id",
)


def _status(status: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in status.items() if name not in ("index", "writing", "runs")}


def _added(db: Path) -> Any:
    """Index again, and return what the index holds then: nothing new."""
    index = opened(db)
    summary = index.add_images(db.parent / "images")
    rows = index.store.read("shards").to_pylist()
    return summary.images, summary.added, summary.shards, sorted((row["what"], row["digest"]) for row in rows)


def _answer(command: Callable[[], Any]) -> str:
    try:
        text = json.dumps(command(), default=repr, sort_keys=True)
    except Exception as exc:  # what a command ends with is its answer
        return f"error: {type(exc).__name__}: {exc}"
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":
            raise
        return f"error: {type(exc).__name__}: {exc}"
    return hashlib.sha256(text.encode()).hexdigest()
