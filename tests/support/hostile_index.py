"""An index as a stranger may have made it: columns overwritten with what no csp_index writes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import fakes
import pyarrow as pa
import pytest

from csp_index import NetworkSource, open_index
from csp_index.indexing import commit
from csp_index.models import trust
from csp_index.proposers.answer_store import JOURNAL
from csp_index.store import originals, schema
from csp_index.store.tables import Store

CODE = """
from pathlib import Path
Path({ran!r}).write_text("the code of the index ran")
import fakes, namers
from fakes import encoder, network
from namers import namer
"""
SECRET = "TOKEN=abc123"
ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\r\n"
EVIL = f"<script>alert(1)</script>'\"{{{{7*7}}}}{ESCAPES}"
WORDS = ["red", f"<img src=x onerror=alert(2)>{ESCAPES}", "=1+1", f"x'); DROP TABLE labels; --{ESCAPES}"]
NAME = "net<b>'\"\x1b[31m{}&?#"  # of the network; no slash and no space
SPECS = ("python:evil:encoder", "python:evil:network", "python:evil:encoder", "python:evil:namer")


def overwrite(store: Store, table: str, /, **columns: object) -> None:
    """Give every row of a table the same value in some columns, or the values of a list."""
    rows = store.read(table)
    for name, value in columns.items():
        values: Sequence[object] = value if isinstance(value, list) else [value] * len(rows)
        kind = rows.schema.field(name).type
        rows = rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), pa.array(values, kind))
    with store.write_lock():
        store.delete(table, f"{rows.column_names[0]} IS NOT NULL")
        store.append(table, rows)


def make_hostile(folder: Path) -> Path:
    """Fill a folder as a stranger's archive might: an index `db`, the module it names, links; return the index.

    The reader's own files are `secret.txt` and `secret.png`; `ran` exists once code of the stranger has run.
    """
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    patch.setattr(commit, "check_address", lambda key: None)  # a stranger's program takes any name
    (folder / "evil.py").write_text(CODE.format(ran=str(folder / "ran")))
    (folder / "secret.txt").write_text(f"{SECRET}\n")
    index = open_index(folder / "db")
    network = NetworkSource(SPECS[1], ("concepts",), name=NAME)
    index.add_images(fakes.write_images(folder / "images", 41), encoders=[SPECS[0]], networks=[network])
    for method in ("csp", "mean-centred"):
        index.label(f"{NAME}/concepts", method, vocabulary=WORDS, templates="none", examples=5)
    index.propose(f"{NAME}/concepts/0", vlm=SPECS[3])
    assert (folder / "ran").exists(), "the code runs where it is ordered"
    (folder / "ran").unlink()
    _spoil(index.store, folder)
    forget()
    patch.undo()
    return folder / "db"


def forget() -> None:
    """Make this process that of another user, who has ordered nothing."""
    trust._given.clear(), trust._announced.clear(), originals._named.clear()
    sys.modules.pop("evil", None)


def _spoil(store: Store, folder: Path) -> None:
    images = store.read(schema.IMAGES)
    metadata = json.dumps({EVIL: EVIL, "list": [EVIL], "number": 1e308})
    uris = [f"{folder}/secret.png", "/etc/passwd", "/dev/zero", "s3://bucket/key.png", "https://example.org/x.png"]
    uris += [f"/tmp/{EVIL}{number}.png" for number in range(len(images) - len(uris))]
    overwrite(store, schema.IMAGES, uri=uris, metadata=metadata, split=EVIL)
    overwrite(store, schema.LABELS, note=EVIL)
    runs = store.read(schema.RUNS, ["settings"])["settings"].to_pylist()
    for number, text in enumerate(runs):
        said = json.loads(text)
        said["examples"] = said.get("examples", {}) | {"generator": SPECS[2]}
        runs[number] = json.dumps(said | {"vlm": SPECS[3], "prompt": f"{folder}/secret.txt", EVIL: EVIL})
    overwrite(store, schema.RUNS, settings=runs, message=EVIL)
    overwrite(store, schema.VOCABULARIES, template_set=f"{folder}/secret.txt")
    overwrite(store, schema.LAYERS, weights=f"{folder}/weights.pt", pool=EVIL)
    overwrite(store, schema.ANSWERS, proposer=SPECS[3], raw=EVIL, reason=EVIL)
    overwrite(store, schema.CANDIDATES, proposer=SPECS[3], text=EVIL)
    (folder / "mine").write_text("my thesis")
    os.symlink(folder / "mine", folder / "db" / ".writer.json")
    os.symlink(folder / "mine", folder / "db" / JOURNAL)
