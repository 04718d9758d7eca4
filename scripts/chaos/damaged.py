"""Damages planted into an index, each asked about by nine commands and by `verify --full`: none may be silent.

The damages and the index are those of the tests, in tests/support.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path

from outcome import Outcome

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))


def run(folder: Path, *, quick: bool = False) -> list[Outcome]:
    """Return the outcome: how many damages were found, and how."""
    from damage_outcomes import make_sound, outcome
    from damages import all_damages

    planted = all_damages()[:: 28 if quick else 1]
    sound = make_sound(folder / "sound")
    counts: Counter[str] = Counter()
    silent = []
    for number, damage in enumerate(planted):
        place = folder / f"damage{number}"
        place.mkdir()
        result = outcome(sound, place, damage)
        counts[result.partition(":")[0]] += 1
        silent += [f"{damage}: {result}"] if result.startswith("silent") else []
        shutil.rmtree(place)
    parts = ", ".join(f"{name} {count}" for name, count in counts.most_common())
    harmless = counts["without effect"]
    found = len(planted) - harmless - len(silent)
    figure = f"{found} of {len(planted) - harmless} ({parts})"
    return [Outcome("damages found, of those with an effect", figure, not silent, tuple(silent))]
