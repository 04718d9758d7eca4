"""What `verify` finds: what is wrong, what it affects, and what repairs it.

One table, `REMEDIES`, says of each way of repair what the fault affects and what the repair does; the command line, the
manual and `repair` read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import pyarrow as pa

from csp_index.errors import CspIndexError, StoreError, one_line
from csp_index.store import column_tables, schema
from csp_index.store.study_tables import NOTES, RATINGS

Remedy = Literal[
    "go back",
    "drop table",
    "undo",
    "forget version",
    "give up tag",
    "make list",
    "mark again",
    "recount",
    "recompute",
    "read again",
    "drop lists",
    "build index",
    "embed again",
    "take from texts",
    "name runs",
    "delete rows",
    "delete results",
    "restore",
]

LOG: Final = "commits"  # in place of a table's name, for the records of commits

REMEDIES: Final[dict[Remedy, tuple[str, str]]] = {
    "go back": (
        "every command",
        "the newest commit whose tables are all there is taken, and what came after it is lost; or the table is left "
        "out",
    ),
    "drop table": ("every command", "the table is left out and made again, as far as its sources are there"),
    "undo": ("nothing that is read; the next command that writes undoes it", "the change is undone"),
    "forget version": ("this earlier version or tag", "the version is forgotten; the present state stays as it is"),
    "give up tag": (
        "reading this tagged version",
        "it is left as it is: restore it from a copy, or give it up by `csp-index tag DB NAME --remove`",
    ),
    "make list": ("the next command that writes", "the list is made again, if the files are those that it named"),
    "mark again": ("which images and shards exist", "the marks are made again from the rows, if those are whole"),
    "recount": ("the statistics and top images of neurons", "they are counted again from the activations"),
    "recompute": (
        "labels, search and statistics that use these values",
        "the shards from there on are marked as missing; then `csp-index index DB` computes them from the images, or "
        "the arrays are imported again",
    ),
    "read again": ("pictures on pages, cards and proposals", "the rows are made again from the original images"),
    "drop lists": (
        "contrastive images found by stored lists, scores by stored sums",
        "the lists or sums are dropped; labelling makes them again",
    ),
    "build index": ("answers by vector search", "the vector index is dropped; `csp-index optimize DB` builds it"),
    "embed again": ("labels by these texts", "the embeddings are dropped; labelling embeds the texts again"),
    "take from texts": (
        "the vocabulary that `label` takes by default",
        "it is taken from the embedded texts, or dropped",
    ),
    "name runs": ("which command made a row, and the preferred method", "lost runs get a row without settings"),
    "delete rows": (
        "answers that show these rows",
        "the rows are deleted; the command that made them makes them again",
    ),
    "delete results": (
        "the labels of this run",
        "its labels and pairs are deleted; `csp-index label DB` makes them again",
    ),
    "restore": ("whatever uses the table", "nothing here has these data: restore the index from a copy"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault: in which table, what is wrong, where, and how it is repaired; `key` says to `repair` what to do."""

    table: str
    what: str
    remedy: Remedy
    where: str = ""  # a file, a shard, a neuron, an image, a run; "" for the table as a whole
    key: tuple[Any, ...] = ()

    @property
    def affects(self) -> str:
        """What may be answered wrongly, or not at all."""
        return REMEDIES[self.remedy][0]

    @property
    def repair(self) -> str:
        """What `--repair` does about it."""
        return REMEDIES[self.remedy][1]

    def as_json(self) -> dict[str, str]:
        """Return the finding for machines."""
        names = ("table", "where", "what", "affects", "repair")
        return {name: str(getattr(self, name)) for name in names}

    def __str__(self) -> str:
        place = f"{self.table}, {self.where}" if self.where else self.table
        return f"{place}: {self.what}; affects {self.affects}; repair: {self.repair}"


@dataclass(slots=True)
class Verification:
    """What one verification looked at (`checked`, counts by kind), found, and noted; and what a repair did."""

    index: str
    full: bool
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # nothing is wrong about these
    checked: dict[str, int] = field(default_factory=dict)
    repaired: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings

    def count(self, what: str, number: int = 1) -> None:
        """Count things as checked."""
        self.checked[what] = self.checked.get(what, 0) + number

    def as_json(self) -> dict[str, Any]:
        """Return the verification for machines."""
        fields = asdict(self) | {"sound": self.sound}
        return fields | {"findings": [finding.as_json() for finding in self.findings]}

    def summary(self) -> str:
        """Return what was checked and whether it is whole, in one line."""
        checked = ", ".join(f"{number:,} {what}" for what, number in self.checked.items()) or "nothing"
        result = "all whole" if self.sound else f"{len(self.findings):,} findings"
        return f"checked {checked}: {result}"


def remedy_of(table: str) -> Remedy:
    """Return what repairs a table whose rows cannot be relied on, or cannot be read."""
    kinds: dict[str, Remedy] = {
        schema.IMAGES: "read again",
        schema.SHARDS: "mark again",
        schema.NEURONS: "recount",
        schema.VOCABULARIES: "take from texts",
        schema.RUNS: "name runs",
        schema.ENCODERS: "restore",
        schema.LAYERS: "restore",
        NOTES: "restore",  # nothing makes again what people said
        RATINGS: "restore",
    }
    prefixes: dict[str, Remedy] = {
        "embeddings_": "recompute",
        **dict.fromkeys(column_tables.ACTIVATIONS, "recompute"),
        "neighbours_": "drop lists",
        "sums_": "drop lists",
        "texts_": "embed again",
    }
    for prefix, remedy in prefixes.items():
        if table.startswith(prefix):
            return remedy
    return kinds.get(table, "delete rows")


def cause(exc: BaseException) -> str:
    """Return what is wrong, without the place of the index and the advice that an error of the store adds."""
    text = one_line(exc)
    return text.partition(" is damaged: ")[2].partition("; restore it")[0] or text


@contextmanager
def reading(findings: list[Finding], table: str) -> Iterator[None]:
    """Turn an error of reading a table inside the block into a finding."""
    try:
        yield
    except (CspIndexError, pa.ArrowException, ValueError, TypeError, KeyError, IndexError) as exc:
        findings.append(Finding(table, f"it cannot be read: {cause(exc)}", remedy_of(table), key=(table,)))
    except BaseException as exc:
        if type(exc).__name__ != "PanicException":  # a fault of Lance on bytes it does not expect
            raise
        findings.append(Finding(table, "it cannot be read: its bytes make no sense", remedy_of(table), key=(table,)))


def is_newer(exc: StoreError) -> bool:
    """Return whether an index was refused because a later csp_index made it."""
    return "it needs csp_index" in str(exc)
