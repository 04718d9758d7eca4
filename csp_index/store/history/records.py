"""What a commit is: the version of every table that belongs together, and what HEAD says; to and from JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import Any

from csp_index.store import schema

_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class TableRecord:
    """A table as a commit names it."""

    version: int
    rows: int
    manifest: str  # sha256 of the manifest of that version
    files: str  # sha256 of the list of files that the version rests on


@dataclass(frozen=True, slots=True)
class Record:
    """One commit: the tables that belong together, and which command made it."""

    number: int
    when: datetime
    run_id: str
    command: str
    shown: bool  # whether readers see it; False for a finished part of a command in progress
    tables: Mapping[str, TableRecord]
    digest: str = field(default="", compare=False)  # of the record's own file

    @property
    def versions(self) -> dict[str, int]:
        """The version of every table."""
        return {name: table.version for name, table in self.tables.items()}


@dataclass(frozen=True, slots=True)
class Head:
    """What HEAD names: the number and digest of the commit that readers see, and of the latest one."""

    commit: int
    commit_digest: str
    latest: int
    latest_digest: str
    state: object = field(compare=False)  # what changes when HEAD is written anew


def head_of(fields: Mapping[str, Any], state: object) -> Head:
    """Return what the fields of HEAD say. Raises ValueError for fields that no csp_index wrote."""
    try:
        commit, latest = number_of(fields["commit"]), number_of(fields["latest"])
        return Head(commit, str(fields["commit_digest"]), latest, str(fields["latest_digest"]), state)
    except KeyError as exc:
        raise ValueError(f"no {exc}") from None


def head_data(commit: int, commit_digest: str, latest: int, latest_digest: str, tables: Iterable[str]) -> bytes:
    """Return the content of HEAD; `tables` are those of the latest commit, which say what a reader must know."""
    made = schema.format_with(tables)
    fields = {"format": made, "made_by": _made_by(), "needs": schema.READ_SINCE[made], "commit": commit}
    fields |= {"commit_digest": commit_digest, "latest": latest, "latest_digest": latest_digest}
    return json.dumps(fields).encode()


@cache
def _made_by() -> str:
    """Return this package's version, read once: a hundredth of a second, and each commit names it."""
    return version("csp_index")


def record_of(number: int, fields: Mapping[str, Any], digest: str) -> Record:
    """Return the record that fields describe. Raises ValueError for fields that no csp_index wrote."""
    try:
        tables = {str(table): _table_record(entry) for table, entry in fields["tables"].items()}
        when = datetime.fromisoformat(fields["when"]).astimezone(UTC)
        run, command, shown = str(fields["run_id"]), str(fields["command"]), bool(fields["shown"])
    except (KeyError, TypeError, AttributeError, OverflowError) as exc:
        raise ValueError("incomplete") from exc
    return Record(number, when, run, command, shown, tables, digest)


def number_of(value: object) -> int:
    """Return a number of a commit, a version or rows. Raises ValueError for what cannot be one."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("no number")
    return value


def _table_record(entry: Mapping[str, Any]) -> TableRecord:
    """Return the record of a table. Raises TypeError or ValueError for one that no csp_index wrote."""
    table = TableRecord(**entry)
    number_of(table.version), number_of(table.rows)
    if not (_DIGEST.fullmatch(table.manifest) and _DIGEST.fullmatch(table.files)):
        raise ValueError("no digest")
    return table
