"""A copy of one version of an index, whole by construction: while others write, and checked as it is made.

Only what the version's record names is copied: its tables, their manifests, the record. The files of a version never
change, and clean-up leaves them alone while this process has the version open.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from csp_index.errors import StoreError, one_line
from csp_index.files.regular_files import open_file, user_path
from csp_index.records import Progress
from csp_index.store.history.commits import CommitLog
from csp_index.store.history.records import Record, TableRecord
from csp_index.store.layout import BEGUN, is_listed, list_name, manifest_names, record_name
from csp_index.store.locations import LocalLocation
from csp_index.store.tables import Store

_BLOCK = 2**20


@dataclass(frozen=True, slots=True)
class Backup:
    """What was copied: a version, how many tables, files and bytes, and to where."""

    version: int
    tables: int
    files: int
    bytes: int
    place: str


def back_up(
    store: Store, place: str | Path, version: str | int | None = None, progress: Progress | None = None
) -> Backup:
    """Copy a version, by default the last one, to a new directory, every file compared with its digest.

    The copy is made beside `place`, synced, and gets its name last, so that a copy that was cut off is none. Errors:
    StoreError for a place that exists, a file that differs from the record, a disk that is full, and an index in an
    object store, which copies prefixes itself; NotFoundError for a version that is not there.
    """
    record = store.commit_seen if version is None else store.log.find(str(version))
    location = store.location
    if not isinstance(location, LocalLocation):
        raise StoreError(f"{store.uri} is in an object store: name a version (csp-index tag) and copy the prefix there")
    if record is None:
        raise StoreError(f"{store.uri} has format 2, without versions: run `csp-index migrate {store.uri}` first")
    log, held = store.log, store.fixed(record)  # which clean-up leaves alone until the copy is made
    target = user_path(place).absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} exists and is not empty: name a new directory for the copy")
    unfinished = target.with_name(f"{target.name}.unfinished")
    files = _listed(log, record)
    total, done = sum(size for _, size, _ in files), 0
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        copy = LocalLocation(unfinished)
        copy.prepare()
        names = []
        for name, size, digest in files:
            _copy(location.root / name, unfinished / name, digest)
            names.append(name)
            done += size
            if progress is not None:
                progress(done, total, "bytes")
        for name, table in record.tables.items():
            names += [_copied_manifest(location, copy, name, table), _copied_list(location, copy, table)]
        own = record_name(record.number)
        _copy(location.root / own, unfinished / own, record.digest)
        copy.sync([*names, own])
        CommitLog(copy).point_to(record)
        copy.remove(BEGUN)
        if target.exists():
            target.rmdir()
        os.rename(unfinished, target)
    except OSError as exc:
        raise StoreError(f"the copy at {target} cannot be made: {one_line(exc)}") from exc
    del held
    return Backup(record.number, len(record.tables), len(files), total, str(target))


def _listed(log: CommitLog, record: Record) -> list[tuple[str, int, str]]:
    """Return the name, size and digest of every file of a version, each once."""
    files: dict[str, tuple[int, str]] = {}
    for name, table in record.tables.items():
        for file, (size, digest) in log.files(table.files).items():
            if not is_listed(file):  # an index may come from a stranger
                raise StoreError(f"commits/files names {file!r} of table {name}, which is no file of a table")
            files[f"{name}.lance/{file}"] = int(str(size)), str(digest)
    return [(name, *facts) for name, facts in files.items()]


def _copied_manifest(location: LocalLocation, copy: LocalLocation, name: str, table: TableRecord) -> str:
    for manifest in manifest_names(table.version):
        path = f"{name}.lance/{manifest}"
        if (location.root / path).exists():
            _copy(location.root / path, copy.root / path, table.manifest)
            return path
    raise StoreError(f"{location.uri} is damaged: table {name} has no manifest of version {table.version}")


def _copied_list(location: LocalLocation, copy: LocalLocation, table: TableRecord) -> str:
    path = list_name(table.files)
    _copy(location.root / path, copy.root / path, table.files)
    return path


def _copy(source: Path, target: Path, digest: str) -> None:
    """Copy a file; StoreError if it is not the one of the digest."""
    target.parent.mkdir(parents=True, exist_ok=True)
    actual = sha256()
    with open_file(source, links=False) as file, open(target, "wb") as out:
        while block := file.read(_BLOCK):
            actual.update(block)
            out.write(block)
    if actual.hexdigest() != digest:
        raise StoreError(
            f"{source} was changed after it was committed, and is not copied: see what it affects by "
            "`csp-index verify`, or copy another version"
        )
