"""`verify --repair`: re-does only what is broken, from sources that are still there, as one commit.

What no source is left of is not touched: its finding stays, and says what to do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from csp_index.errors import CspIndexError, StoreError, one_line
from csp_index.integrity import column_repair, row_repair
from csp_index.integrity.commit_checks import newest_version
from csp_index.integrity.findings import LOG, Finding, Remedy
from csp_index.store import schema
from csp_index.store.connect import open_store
from csp_index.store.history.commits import CommitLog
from csp_index.store.history.recovery import forget_newer, go_back, leave_out, list_again
from csp_index.store.locations import Location
from csp_index.store.locks import hold
from csp_index.store.runs import record_run
from csp_index.store.tables import Store

_IN_ORDER: tuple[Remedy, ...] = (  # what others rest on comes first
    "name runs",
    "mark again",
    "read again",
    "recompute",
    "recount",
    "drop lists",
    "build index",
    "embed again",
    "take from texts",
    "delete rows",
    "delete results",
)
_DELETING: tuple[Remedy, ...] = ("delete rows", "delete results")

Grouped = dict[Remedy, list[Finding]]


def repair(location: Location, findings: Sequence[Finding]) -> list[str]:
    """Repair what was found, and return what was done, a line each; the index is to be verified again after that.

    Errors: StoreError if somebody else writes the index.
    """
    grouped: Grouped = defaultdict(list)
    for finding in findings:
        grouped[finding.remedy].append(finding)
    if grouped["go back"] or grouped["drop table"]:
        with hold(location):
            return _make_openable(location, grouped)
    lines: list[str] = []
    if grouped["make list"] or grouped["forget version"]:
        with hold(location):
            lines += _mend_log(location, grouped)
    if not any(grouped[remedy] for remedy in ("undo", *_IN_ORDER)):
        return lines
    lines += _make_readable(location, grouped["undo"])
    store = open_store(location.uri)
    if store.commit_seen is None:
        raise StoreError(f"{location.uri} has format 2: run `csp-index migrate {location.uri}` before --repair")
    settings = {"repairs": {remedy: len(found) for remedy, found in grouped.items()}}
    with store.write_lock(), record_run(store, "verify --repair", settings, {}) as run:
        lines += [f"{finding.table}: the change of another program is undone" for finding in grouped["undo"]]
        for remedy in _of_this_round(grouped):
            if grouped[remedy]:
                lines += _repair_rows(store, remedy, grouped[remedy], run.run_id)
                store.checkpoint()
    return lines


def _of_this_round(grouped: Grouped) -> Sequence[Remedy]:
    """Return what is done now: rows are deleted only when all that they refer to is whole again."""
    first = [remedy for remedy in _IN_ORDER if grouped[remedy] and remedy not in _DELETING]
    return first or _DELETING


def _make_openable(location: Location, grouped: Grouped) -> list[str]:
    """Bring the index to a commit whose tables are all there; what that leaves to do is found by the next round."""
    log = CommitLog(location)
    if grouped["go back"]:
        record = go_back(log)
        if record is None:
            return _without(location, log, sorted({finding.table for finding in grouped["go back"]}))
        return [
            f"commits: took version {record.number}, made by {record.command or 'a command'} at "
            f"{record.when:%Y-%m-%d %H:%M:%S} UTC: what was written after it is lost; run those commands again"
        ]
    names = sorted({finding.table for finding in grouped["drop table"]})
    leave_out(location, log, names)
    return [f"{name}: the table is left out" for name in names]


def _without(location: Location, log: CommitLog, lost: Sequence[str]) -> list[str]:
    """Go on without tables of results that no commit has any more; without the others there is no index."""
    if {LOG, schema.IMAGES, schema.ENCODERS, schema.LAYERS} & set(lost):
        return ["commits: no commit is whole: restore the index from a copy"]
    leave_out(location, log, lost)
    return [f"{name}: the table is left out, no commit has it: what it held is lost" for name in lost]


def _mend_log(location: Location, grouped: Grouped) -> list[str]:
    """Write lists of files again, and forget earlier versions and tags that cannot be read."""
    log, lines = CommitLog(location), []
    for finding in grouped["make list"]:
        (name,) = finding.key
        if list_again(location, log, name):
            lines.append(f"commits: the list of the files of {name} is made again")
        else:
            lines.append(f"commits: the files of {name} are not those of its list: restore the index from a copy")
    for finding in grouped["forget version"]:
        kind, name = finding.key
        if kind == "tag":
            log.untag(name)
        else:
            log.forget(name)
        lines.append(f"commits: {kind} {name} is forgotten")
    return lines


def _make_readable(location: Location, undo: Sequence[Finding]) -> list[str]:
    """Remove what another program left so broken that the write lock could not undo it."""
    lines, latest = [], CommitLog(location).latest()
    for finding in undo:
        known = latest.tables.get(finding.table) if latest is not None else None
        if known is not None:
            with hold(location):
                removed = forget_newer(location, finding.table, known.version, newest_version(location, finding.table))
            if removed:
                lines.append(f"{finding.table}: {removed} versions of another program cannot be read: removed")
    return lines


def _repair_rows(store: Store, remedy: Remedy, findings: Sequence[Finding], run_id: str) -> list[str]:
    repairs = {
        "name runs": row_repair.name_runs,
        "mark again": column_repair.mark_again,
        "read again": column_repair.read_again,
        "recompute": column_repair.recompute,
        "recount": column_repair.recount,
        "drop lists": row_repair.empty_tables,
        "build index": row_repair.drop_indexes,
        "embed again": row_repair.drop_texts,
        "take from texts": row_repair.take_vocabularies,
        "delete rows": row_repair.delete_rows,
        "delete results": row_repair.delete_results,
    }
    try:
        return repairs[remedy](store, findings, run_id)
    except CspIndexError as exc:
        return [f"{findings[0].table}: not repaired: {one_line(exc)}"]
