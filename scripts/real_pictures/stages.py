"""Stages of a long run: each keeps its result in a file or folder with a fingerprint of the settings that made it.

A stage whose mark says the same fingerprint is not run again; one that was interrupted has no mark and is repeated.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path


def fingerprint(*settings: object) -> str:
    """Return a short digest of settings of plain values.

    >>> fingerprint(1, "a") == fingerprint(1, "a"), fingerprint(1) == fingerprint(2)
    (True, False)
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Stages:
    """The marks of one run's stages in a folder."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        """Keep marks in `folder/stages`; `say` prints a line of progress."""
        self._marks = folder / "stages"
        self._marks.mkdir(parents=True, exist_ok=True)
        self._say = say

    def run(self, name: str, mark: str, work: Callable[[], None]) -> bool:
        """Do the work unless it was done under the same fingerprint; return whether it was done now."""
        file = self._marks / f"{name.replace('/', '-')}.json"
        if file.is_file() and json.loads(file.read_text()).get("fingerprint") == mark:
            self._say(f"{name}: kept from an earlier run")
            return False
        file.unlink(missing_ok=True)
        started, used = time.monotonic(), time.process_time()
        self._say(f"{name}: started")
        work()
        seconds, processor = time.monotonic() - started, time.process_time() - used
        part = file.with_suffix(".part")
        part.write_text(json.dumps({"fingerprint": mark, "seconds": round(seconds, 1), "cpu": round(processor, 1)}))
        part.rename(file)
        self._say(f"{name}: done in {seconds:.0f} s")
        return True

    def seconds(self) -> dict[str, float]:
        """Return the wall seconds of every finished stage."""
        return {file.stem: json.loads(file.read_text())["seconds"] for file in sorted(self._marks.glob("*.json"))}
