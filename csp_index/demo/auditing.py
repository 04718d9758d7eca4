"""Audits of classifiers with a planted shortcut, and of one without: train, index, audit, compare with the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from csp_index.demo.classifier import POOLED, SPEC, Accuracies, measure, save, train
from csp_index.demo.network import CLIP_FOLDER
from csp_index.demo.shortcuts import (
    CLASSES,
    FILLS,
    METADATA,
    SHAPES,
    SHORTCUTS,
    Part,
    ShortcutKind,
    leaked_class,
    write_shortcut_set,
)
from csp_index.demo.world import VOCABULARY
from csp_index.index import open_index
from csp_index.models.index_models import NetworkSource
from csp_index.studies.auditing.stored_audits import Audit, StoredFinding

NETWORK: Final = "classifier"
EXPECTED: Final = (*SHAPES, *FILLS)
"""What a classifier of shapes and fills should rely on."""
SIZES: Final[Mapping[Part, int]] = {"train": 1_000, "test": 1_500}
_NAMES: Final = "classes.txt"


@dataclass(frozen=True, slots=True)
class ShortcutAudit:
    """One audited classifier: how often it is right, what was found, and the place of the planted shortcut.

    `place` counts from 1 among all findings, None where the shortcut is not among them; `score` is that of the first
    finding, 0 without any.
    """

    kind: ShortcutKind
    seed: int
    leaked: str | None
    accuracies: Accuracies
    audit: Audit
    place: int | None
    score: float

    @property
    def right(self) -> bool:
        """Whether the planted shortcut is first and above the threshold; without one, whether nothing is above."""
        return not self.audit.above if self.leaked is None else self.place == 1 and bool(self.audit.above)


def audit_shortcut(folder: str | Path, kind: ShortcutKind, seed: int, tell: Callable[[str], None]) -> ShortcutAudit:
    """Train a classifier in a folder, index images of its set, and audit it; about two minutes on one core.

    Files that are there are used again; `tell` receives a line per step.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    network = train(kind, seed)
    accuracies, leaked = measure(network, kind, seed), leaked_class(kind, seed)
    weights = save(network, root / "classifier.safetensors")
    tell(f"{kind} {seed}: trained, right on {accuracies.usual:.0%} of fresh images, {accuracies.broken:.0%} if broken")
    images = root / "images"
    if not (images / METADATA).exists():
        write_shortcut_set(images, kind, seed, SIZES)
    (root / _NAMES).write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    index = open_index(root / "index.db")
    source = NetworkSource(SPEC, (POOLED,), weights=str(weights), name=NETWORK)
    index.add_images(images, encoders=[f"open_clip:{CLIP_FOLDER}"], networks=[source])
    audit = index.audit(
        NETWORK, EXPECTED, by="class", vocabulary=list(VOCABULARY), templates="none", class_names=str(root / _NAMES)
    )
    place = next((one.rank + 1 for one in audit.findings if is_planted(one, kind, leaked)), None)
    score = audit.findings[0].score if audit.findings else 0.0
    tell(
        f"{kind} {seed}: {len(audit.above)} findings above {audit.threshold:g}; the planted one is at {place or 'none'}"
    )
    return ShortcutAudit(kind, seed, leaked, accuracies, audit, place, score)


def is_planted(finding: StoredFinding, kind: ShortcutKind, leaked: str | None) -> bool:
    """Return whether a finding names the planted shortcut: its column and value, and the class that it leaks."""
    return (
        leaked is not None and finding.class_name == leaked and (finding.column_name, finding.value) == SHORTCUTS[kind]
    )
