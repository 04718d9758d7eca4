"""The records of commits against what is on the disk: HEAD, records, tags, manifests, lists of files, the files.

Knows nothing about rows. In an object store, which keeps checksums of its own, only names and records are compared.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from csp_index.errors import CspIndexError, StoreError
from csp_index.integrity.findings import LOG, Finding, Remedy, Verification, cause, is_newer, remedy_of
from csp_index.store import column_tables, schema
from csp_index.store.foreign import odd_files
from csp_index.store.history.commits import CommitLog
from csp_index.store.history.records import Head, Record
from csp_index.store.history.table_files import digest_of
from csp_index.store.history.table_versions import NewestTables
from csp_index.store.layout import HEAD, INDICES, LISTED, VERSIONS, is_listed, version_of
from csp_index.store.locations import LocalLocation, Location
from csp_index.store.locks import is_held

_HASHED = 256 * 2**20  # bytes of files whose sha256 is taken without `full`
_SMALL = 2**20  # a file of which it is always taken
# left out if gone, and made again
_MADE_AGAIN = (
    *("neighbours_", "sums_", "texts_", "embeddings_"),
    *(column_tables.MAPS, column_tables.CROPS, *column_tables.ACTIVATIONS),
)


@dataclass(slots=True)
class Committed:
    """The commit that is read, None if it cannot be; `damaged` are its files that are not as they were written."""

    record: Record | None
    damaged: dict[str, list[str]] = field(default_factory=dict)


def check_commits(location: Location, result: Verification) -> Committed:
    """Check HEAD, the records and the manifests; without them nothing else of an index can be read.

    StoreError for an index that a later csp_index made.
    """
    log = CommitLog(location)
    try:
        head = log.head()
    except StoreError as exc:
        if is_newer(exc):
            raise
        result.findings.append(Finding(LOG, cause(exc), "go back", HEAD))
        return Committed(None)
    if head is None:
        return Committed(None)
    if not is_held(location):
        try:
            log.check_reached(head, cut_off=_is_cut_off(location))
        except StoreError as exc:
            result.findings.append(Finding(LOG, cause(exc), "go back", HEAD))
            return Committed(None)
    record, latest = _named(log, head, result)
    if record is None or latest is None:
        return Committed(None)
    for name, table in [*record.tables.items(), *latest.tables.items()]:
        try:
            log.check({name: table})
        except StoreError as exc:
            finding = Finding(name, cause(exc).removeprefix(f"table {name}: "), _lost(name), key=(name,))
            if finding not in result.findings:
                result.findings.append(finding)
    result.count("tables", len(record.tables))
    _check_history(log, head, result)
    return Committed(record if result.sound or _only_history(result) else None)


def _named(log: CommitLog, head: Head, result: Verification) -> tuple[Record | None, Record | None]:
    records: list[Record | None] = []
    for number, digest in ((head.commit, head.commit_digest), (head.latest, head.latest_digest)):
        try:
            records.append(log.record(number, digest))
        except StoreError as exc:
            records.append(None)
            finding = Finding(LOG, cause(exc), "go back", f"commit {number}")
            if finding not in result.findings:
                result.findings.append(finding)
    return records[0], records[1]


def _lost(table: str) -> Remedy:
    """Return what is done about a table whose committed version is gone."""
    made_again = table.startswith(_MADE_AGAIN) or table in (schema.NEURONS, schema.SHARDS)
    return "drop table" if made_again else "go back"


def _only_history(result: Verification) -> bool:
    return all(finding.remedy in ("forget version", "give up tag") for finding in result.findings)


def _of_version(log: CommitLog, number: int, what: str) -> Finding:
    """Return the finding about an earlier version; one with a tag is somebody's, and not forgotten."""
    tags = []
    for name in log.tag_names():
        with suppress(StoreError):
            tags += [name] if log.commit_of(name) == number else []
    where = f"version {number}" + (f", tagged {', '.join(tags)}" if tags else "")
    return Finding(LOG, what, "give up tag" if tags else "forget version", where, ("record", number))


def _check_history(log: CommitLog, head: Head, result: Verification) -> None:
    """Check that the earlier commits that are still named can be read."""
    for number in log.numbers():
        if number in (head.commit, head.latest) or number > head.latest:
            continue
        try:
            log.check(log.record(number).tables)
        except StoreError as exc:
            result.findings.append(_of_version(log, number, cause(exc)))
        result.count("earlier versions")
    for tag in log.tag_names():
        known = [finding.where for finding in result.findings if finding.remedy == "give up tag"]
        try:
            log.find(tag)
        except CspIndexError as exc:
            if not any(f"tagged {tag}" in where for where in known):
                result.findings.append(Finding(LOG, cause(exc), "forget version", f"tag {tag}", ("tag", tag)))
        result.count("tags")


def check_kinds(location: Location, result: Verification) -> bool:
    """Return whether the tables consist of folders and regular files: others are never read."""
    regular = True
    for name in NewestTables(location).names():
        for file, kind in odd_files(name, location):
            regular = False
            text = f"it is {kind}, expected a regular file: no table with it is read"
            result.findings.append(Finding(name, text, "restore", file.removeprefix(f"{name}.lance/"), (name,)))
    return regular


def check_files(location: Location, committed: Committed, result: Verification) -> None:
    """Compare the files of every table with the lists of the commits; all bytes of them with `full`, else of a part.

    A damaged file of an earlier version alone makes that version unreadable, and nothing else.
    """
    record, log = committed.record, CommitLog(location)
    if record is None:
        return
    listed = dict.fromkeys(_listed(log, record, result))
    present = {(name, file) for name, file, _, _ in listed}
    result.count("files", len(present))
    earlier: dict[int, list[tuple[str, str]]] = {}
    for number in log.numbers():
        other = _or_none(log, number)
        if other is not None and number < record.number:
            own = list(_listed(log, other, None))
            listed |= dict.fromkeys(own)
            earlier[number] = [(name, file) for name, file, _, _ in own]
    faults = (
        _damaged(location, list(listed), result) if isinstance(location, LocalLocation) else _gone(location, listed)
    )
    why = {(name, file): text for name, file, text in faults}
    for (name, file), text in sorted(why.items()):
        if (name, file) in present:
            of_index = file.startswith(f"{INDICES}/")  # rows are read without it
            if not of_index:
                committed.damaged.setdefault(name, []).append(file)
            remedy: Remedy = "build index" if of_index else remedy_of(name)
            result.findings.append(Finding(name, text, remedy, file, (name,)))
    for number, files in earlier.items():
        wrong = [(name, file) for name, file in files if (name, file) in why]
        if wrong:
            result.findings.append(_of_version(log, number, f"its table {wrong[0][0]}: {why[wrong[0]]}"))


def _listed(log: CommitLog, record: Record, result: Verification | None) -> Iterator[tuple[str, str, int, str]]:
    """Yield table, file, size and digest of all files of a commit; `result` gets the lists that cannot be read."""
    for name, table in record.tables.items():
        try:
            files = log.files(table.files)
        except StoreError as exc:
            if result is not None:
                result.findings.append(Finding(LOG, cause(exc), "make list", f"the files of {name}", (name,)))
            continue
        yield from (
            (name, file, -1 if size is None else int(str(size)), str(sha)) for file, (size, sha) in files.items()
        )


def _gone(location: Location, listed: Iterable[tuple[str, str, int, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield the objects of an object store that are missing."""
    there: dict[str, set[str]] = {}
    for name, file, _, _ in listed:
        folder, _, last = f"{name}.lance/{file}".rpartition("/")
        if folder not in there:
            there[folder] = set(location.listed(folder))
        if last not in there[folder]:
            yield name, file, "the file is missing"


def _damaged(
    location: LocalLocation, listed: list[tuple[str, str, int, str]], result: Verification
) -> Iterator[tuple[str, str, str]]:
    hashed = 0
    for place in np.random.default_rng(0).permutation(len(listed)):
        name, file, size, sha = listed[place]
        path = f"{location.address}/{name}.lance/{file}"
        try:
            status = os.lstat(path)
        except (OSError, ValueError):
            yield name, file, "the file is missing"
            continue
        present = status.st_size
        if not stat.S_ISREG(status.st_mode) or not is_listed(file):
            yield name, file, "this is no file of the table, and is not read"
        elif size >= 0 and present != size:
            yield name, file, f"the file has {present:,} bytes, had {size:,}"
        elif size >= 0 and (result.full or size <= _SMALL or hashed + size <= _HASHED):
            hashed += size
            result.count("bytes", size)
            try:
                if digest_of(path)[1] != sha:
                    yield name, file, "the file was changed after it was committed"
            except StoreError as exc:
                yield name, file, cause(exc)


def check_foreign(location: Location, result: Verification) -> None:
    """Find what other programs changed since the last commit; what a killed command left is only noted."""
    log = CommitLog(location)
    with suppress(StoreError):
        latest = log.latest()
        if latest is None or is_held(location):
            return
        names = NewestTables(location).names()
        cut_off = isinstance(location, LocalLocation) and _is_cut_off(location)
        for name in sorted(set(names) | latest.tables.keys()):
            newest = newest_version(location, name)
            known = latest.tables.get(name)
            if known is not None and newest <= known.version:
                continue
            if not (known or cut_off or schema.is_own(name)):
                result.notes.append(f"{name} is no table of csp_index, which leaves it alone")
                continue
            what = "was made" if known is None else f"has version {newest}, the last commit rests on {known.version}"
            if cut_off:
                result.notes.append(
                    f"{name} {what}: a command that was cut off; the next command that writes undoes it"
                )
            else:
                text = f"it {what}: another program wrote it since"
                result.findings.append(Finding(name, text, "undo", key=(name,)))
        _note_left_overs(location, log, latest, result)


def _is_cut_off(location: Location) -> bool:
    """Return whether the last writer was cut off; True in an object store, where its lease says so only for a time."""
    return not isinstance(location, LocalLocation) or os.path.lexists(location.root / ".writer.json")


def newest_version(location: Location, table: str) -> int:
    """Return the highest version of a table whose manifest is there, readable or not; 0 without one."""
    return max(map(version_of, location.listed(f"{table}.lance/{VERSIONS}")), default=0)


def _note_left_overs(location: Location, log: CommitLog, latest: Record, result: Verification) -> None:
    """Note the files of tables that no commit names: they take room, and nothing reads them."""
    if not isinstance(location, LocalLocation):
        return
    count = size = 0
    records = [record for number in log.numbers() if (record := _or_none(log, number))]
    for name in latest.tables:
        try:
            lists = {record.tables[name].files for record in records if name in record.tables}
            named = {file for digest in lists for file in log.files(digest)}
        except StoreError:
            continue
        root = Path(location.address) / f"{name}.lance"
        for path in (path for folder in LISTED for path in (root / folder).rglob("*")):
            if path.is_file() and str(path.relative_to(root)) not in named:
                count, size = count + 1, size + path.lstat().st_size
    if count:
        result.notes.append(
            f"{count:,} files of {size:,} bytes belong to no commit: commands that were cut off left them, and "
            "`csp-index optimize` removes them"
        )


def _or_none(log: CommitLog, number: int) -> Record | None:
    with suppress(StoreError):
        return log.record(number)
    return None
