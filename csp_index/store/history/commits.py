"""The record of commits: which version of every table belongs together. Knows nothing about what tables hold.

`commits/HEAD` names two records, `commits/<number>.json`: the commit that readers see, and the latest one, from which a
writer goes on that was cut off; the latest holds finished parts of a command in progress, too. A record names the
version of every table, with a digest of its manifest and of the list of its files, `commits/files/<digest>.json`. All
of it is written in that order, tables first and HEAD last, and each file is synced before the next one is written.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib.metadata import version
from typing import Any

from csp_index.errors import NotFoundError, SettingError, StoreError
from csp_index.store import schema
from csp_index.store.bucket import BucketLocation
from csp_index.store.foreign import check_commits, check_name
from csp_index.store.history.read_hold import ReadHold
from csp_index.store.history.records import Head, Record, TableRecord, head_data, head_of, number_of, record_of
from csp_index.store.layout import (
    BEGUN,
    COMMITS,
    FILE_LISTS,
    HEAD,
    MIGRATING,
    TAGS,
    first_alone,
    list_name,
    manifest_names,
    record_name,
    record_numbers,
)
from csp_index.store.locations import LocalLocation, Location

_TRIES = 8  # readings of HEAD, whose record may be cleaned up in between
_TAG = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_FOREVER = 24 * 365 * 100  # hours
_AT_ONCE = 16  # requests to an object store
_GRACE = timedelta(minutes=10)  # in an object store nobody sees who reads: a commit replaced so lately may be in use


class CommitLog:
    """The records of one index."""

    def __init__(self, location: Location) -> None:
        """Name the place; nothing is read."""
        self._location = location

    def state(self) -> object:
        """Return what changes with every commit, for a cheap look; None without a commit."""
        return self._location.state_of(HEAD)

    def head(self) -> Head | None:
        """Return what HEAD names, or None in a place without commits; StoreError if it is damaged or too new."""
        check_commits(self._location)
        content = self._location.read(HEAD)
        if content is None:
            listed = self._location.listed(COMMITS)
            begun = {BEGUN, MIGRATING} & {f"{COMMITS}/{name}" for name in listed}
            if listed and not (begun and first_alone(listed)):
                raise self._damaged(HEAD, "is missing")
            return None
        fields = self._parsed(HEAD, content.data)
        if (made := fields.get("format")) not in tuple(schema.READ_SINCE):  # it may be of any type
            raise StoreError(
                f"{self._location.uri} has format {made}, csp_index {version('csp_index')} reads formats "
                f"{' and '.join(schema.READ_SINCE)}: it needs csp_index {fields.get('needs', 'of a later version')} or "
                "later"
            )
        try:
            return head_of(fields, content.version)
        except ValueError:
            raise self._damaged(HEAD, "is incomplete") from None

    def record(self, number: int, digest: str | None = None) -> Record:
        """Return a record; StoreError if it is missing or not the one with this digest."""
        name = record_name(number)
        content = self._location.read(name)
        if content is None:
            raise self._damaged(name, "is missing")
        own = hashlib.sha256(content.data).hexdigest()
        if digest is not None and own != digest:
            raise self._damaged(name, "was changed after it was written")
        fields = self._parsed(name, content.data)
        try:
            record = record_of(number, fields, own)
        except ValueError:
            raise self._damaged(name, "is incomplete") from None
        for table in record.tables:
            check_name(table, self._location)
        return record

    def current(self) -> tuple[Head, Record] | None:
        """Return HEAD and the commit that readers see, or None in a place without commits."""
        for _ in range(_TRIES):
            head = self.head()
            if head is None:
                return None
            with suppress(StoreError):
                return self._shown(head)
            if self.head() == head:
                break
        head = self.head()
        if head is None:
            return None
        return self._shown(head)

    def _shown(self, head: Head) -> tuple[Head, Record]:
        if isinstance(self._location, LocalLocation):  # in a bucket it costs every reader a request
            self.check_reached(head)
        return head, self.record(head.commit, head.commit_digest)

    def check_reached(self, head: Head, *, cut_off: bool = True) -> None:
        """Raise StoreError if HEAD is older than the index: restored, or copied before it changed.

        One record above the latest is what a writer leaves that is `cut_off` before it writes HEAD, but not a second.
        """
        newest = max(self.numbers(), default=0)
        if newest > head.latest + cut_off:
            raise self._damaged(HEAD, f"is older than the index: it names commit {head.latest}, {newest} is there")

    def latest(self, *, cut_off: bool = True) -> Record | None:
        """Return the latest record, from which a writer goes on; None in a place without commits.

        StoreError if HEAD is older than the index (`check_reached`): what later commits name would be undone.
        """
        head = self.head()
        if head is None:
            return None
        self.check_reached(head, cut_off=cut_off)
        return self.record(head.latest, head.latest_digest)

    def write(self, tables: Mapping[str, TableRecord], run_id: str, command: str, *, shown: bool) -> Record:
        """Write the next record, and HEAD over the present one. The caller holds the write lock."""
        head = self.head()
        number = 1 if head is None else head.latest + 1
        now = datetime.now(UTC)
        fields = {"number": number, "when": now.isoformat(), "run_id": run_id, "command": command, "shown": shown}
        fields |= {"tables": {name: asdict(table) for name, table in sorted(tables.items())}}
        data = json.dumps(fields, separators=(",", ":")).encode()
        name = record_name(number)
        if self._location.write(name, data) is None:  # left by a writer that was cut off before HEAD
            self._location.remove(name)
            self._location.write(name, data)
        digest = hashlib.sha256(data).hexdigest()
        seen = (number, digest) if shown or head is None else (head.commit, head.commit_digest)
        try:
            written = self._location.write(HEAD, head_data(*seen, number, digest, tables), head and head.state)
        except BaseException:  # Ctrl-C, a full disk: without HEAD the record is none
            with suppress(StoreError):
                present = self.head()
                if present is None or present.latest < number:
                    self._location.remove(name)
            raise
        if written is None:
            raise StoreError(
                f"{self._location.uri} was written by another writer at the same time: nothing of this command is "
                "visible; run it again"
            )
        if (head is None or head.latest == 1) and self._location.state_of(BEGUN) is not None:
            self._location.remove(BEGUN)  # also one that a kill after the first HEAD has left
        return Record(number, now, run_id, command, shown, dict(tables), digest)

    def point_to(self, record: Record) -> None:
        """Make HEAD name a record as the commit that readers see, and as the latest one, whatever HEAD says now.

        Only to repair a damaged log. The caller holds the lock of the location.
        """
        present = self._location.read(HEAD)
        data = head_data(record.number, record.digest, record.number, record.digest, record.tables)
        if self._location.write(HEAD, data, present and present.version) is None:
            raise StoreError(f"{self._location.uri} was written by another writer at the same time: run it again")

    def is_migrating(self) -> bool:
        """Return whether a migration to the present format was begun and not finished."""
        return self._location.state_of(MIGRATING) is not None

    def check_migrated(self, *, committed: bool) -> None:
        """Raise StoreError, which names `csp-index migrate`, if an index must be migrated before it can be written.

        `committed` is whether HEAD is there.
        """
        uri = self._location.uri
        if self.is_migrating():
            raise StoreError(
                f"{uri} is half migrated: run `csp-index migrate {uri}` again, it goes on where it stopped"
            )
        if not committed and not self._location.is_begun():
            raise StoreError(
                f"{uri} has format 2, without commits: run `csp-index migrate {uri}` once; nothing of it is lost"
            )

    def end_migration(self) -> None:
        """Note that a migration is finished."""
        self._location.remove(MIGRATING)

    def records(self) -> list[Record]:
        """Return all records that are there, oldest first, without those that HEAD has not reached."""
        head = self.head()
        numbers = self.numbers()
        return [self.record(number) for number in numbers if head is not None and number <= head.latest]

    def numbers(self) -> list[int]:
        """Return the numbers of all records that are there, ascending, readable or not."""
        return record_numbers(self._location.listed(COMMITS))

    def find(self, name: str) -> Record:
        """Return the commit with a number or a tag. NotFoundError if there is none, or no reader ever saw it."""
        number = self.tags().get(name, int(name) if name.isascii() and name.isdigit() and len(name) < 10 else None)
        if number in self.numbers() and number is not None:
            record = self.record(number, self._tag(name).get("digest"))
            if record.shown:
                return record
        raise NotFoundError(
            f"version {name!r} is not in {self._location.uri}: `csp-index versions` lists those that are"
        )

    def tags(self) -> dict[str, int]:
        """Return the number of the commit that each tag names."""
        return {name: self.commit_of(name) for name in self.tag_names()}

    def commit_of(self, tag: str) -> int:
        """Return the number of the commit that a tag names, 0 without such a tag."""
        try:
            return number_of(self._tag(tag).get("commit", 0))
        except ValueError:
            raise self._damaged(f"{TAGS}/{tag}", "names no commit") from None

    def tag_names(self) -> list[str]:
        """Return the names of all tags, sorted, readable or not."""
        return self._location.listed(TAGS)

    def _tag(self, name: str) -> dict[str, Any]:
        """Return what a tag names: the commit, and the digest of its record; empty without such a tag."""
        content = self._location.read(f"{TAGS}/{name}") if _TAG.fullmatch(name) else None
        return {} if content is None else self._parsed(f"{TAGS}/{name}", content.data)

    def tag(self, name: str, record: Record) -> None:
        """Name a commit, so that no clean-up removes it. SettingError for a name that cannot be one, or is taken."""
        if not _TAG.fullmatch(name):
            raise SettingError(
                f"tag {name!r} is no name: expected a letter, then letters, digits, . _ or -, 64 at most"
            )
        data = json.dumps({"commit": record.number, "digest": record.digest}).encode()
        if self._location.write(f"{TAGS}/{name}", data) is None:
            raise SettingError(f"tag {name!r} names version {self.tags().get(name)} already: remove it first")

    def untag(self, name: str) -> None:
        """Remove a tag; NotFoundError if there is none."""
        if name not in self.tag_names():
            raise NotFoundError(
                f"tag {name!r} is not in {self._location.uri} (has: {', '.join(self.tag_names()) or 'none'})"
            )
        self._location.remove(f"{TAGS}/{name}")

    def files(self, digest: str) -> dict[str, list[object]]:
        """Return a list of a table's files: size and sha256 (null in an object store) by name."""
        content = self._location.read(list_name(digest))
        if content is None:
            raise self._damaged(list_name(digest), "is missing")
        if hashlib.sha256(content.data).hexdigest() != digest:
            raise self._damaged(list_name(digest), "was changed after it was written")
        return self._parsed(list_name(digest), content.data)

    def keep_files(self, files: Mapping[str, list[object]]) -> tuple[str, str]:
        """Write a list of a table's files, unless it is there; return its digest, and its name, to be synced."""
        data = _list(files)
        digest = hashlib.sha256(data).hexdigest()
        name = list_name(digest)
        if self._location.write(name, data, synced=False) is None:
            content = self._location.read(name)
            if content is not None and content.data != data:  # cut off by a power cut before it was named
                self._location.write(name, data, content.version, synced=False)
        return digest, name

    def replace_list(self, digest: str, files: Mapping[str, list[object]]) -> bool:
        """Write a damaged list again; return False, changing nothing, if its digest is not that of these files."""
        if hashlib.sha256(_list(files)).hexdigest() != digest:
            return False
        self._location.sync([self.keep_files(files)[1]])
        return True

    def forget(self, number: int) -> None:
        """Remove a record, readable or not, that HEAD does not name."""
        self._location.remove(record_name(number))

    def check(self, tables: Mapping[str, TableRecord]) -> None:
        """Raise StoreError if a table is missing, older than the commit says, or another one."""
        if not isinstance(self._location, BucketLocation) or len(tables) < 2:
            for name, table in tables.items():
                self._check(name, table)
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            deque(pool.map(self._check, *zip(*tables.items(), strict=True)), maxlen=0)

    def _check(self, name: str, table: TableRecord) -> None:
        for manifest in manifest_names(table.version):
            content = self._location.read(f"{name}.lance/{manifest}")
            if content is not None:
                if hashlib.sha256(content.data).hexdigest() != table.manifest:
                    raise self._damaged(f"table {name}:", f"version {table.version} was changed after it was committed")
                return
        raise self._damaged(f"table {name}:", f"version {table.version}, which the last commit rests on, is missing")

    def drop_old(self, keep_hours: float) -> list[Record]:
        """Remove the records replaced for `keep_hours` that are not tagged and not in use; return those that are left.

        Records that readers never saw go as soon as one that they see has replaced them. The versions of tables that
        only removed records name are unused then, and so are the lists of their files.
        """
        head, records, tagged = self.head(), self.records(), set(self.tags().values())
        oldest = datetime.now(UTC) - max(timedelta(hours=min(keep_hours, _FOREVER)), self._grace())
        replaced: dict[int, datetime] = {}  # when the next shown commit came
        following: datetime | None = None
        for record in reversed(records):
            if following is not None:
                replaced[record.number] = following
            following = record.when if record.shown else following
        kept = []
        for record in records:
            keep = head is None or record.number in (head.commit, head.latest) or record.number in tagged
            since = replaced.get(record.number)
            recent = since is None or (record.shown and since > oldest)
            if keep or recent or not self._remove(record):
                kept.append(record)
        named = {table.files for record in kept for table in record.tables.values()}
        for name in self._location.listed(FILE_LISTS):
            if name.removesuffix(".json") not in named:
                self._location.remove(f"{FILE_LISTS}/{name}")
        return kept

    def _remove(self, record: Record) -> bool:
        name = record_name(record.number)
        if isinstance(self._location, BucketLocation):
            self._location.remove(name)
            return True
        tagged = partial(self._is_tagged, record.number)  # again: a tag is given without the lock of the writer
        return ReadHold.remove_unread(f"{self._location.address}/{name}", tagged)

    def _is_tagged(self, number: int) -> bool:
        return number in self.tags().values()

    def reading(self, number: int) -> ReadHold | None:
        """Mark a commit as being read until the result is dropped; None where that cannot be marked, or it is gone."""
        if isinstance(self._location, BucketLocation):
            return None
        return ReadHold.take(f"{self._location.address}/{record_name(number)}")

    def _grace(self) -> timedelta:
        return _GRACE if isinstance(self._location, BucketLocation) else timedelta(0)

    def _parsed(self, name: str, data: bytes) -> dict[str, Any]:
        try:
            fields = json.loads(data)
        except (ValueError, RecursionError):
            fields = None
        if not isinstance(fields, dict):
            raise self._damaged(name, "is not readable")
        return fields

    def _damaged(self, name: str, what: str) -> StoreError:
        return StoreError(
            f"{self._location.uri} is damaged: {name} {what}; restore it from a copy, or run "
            f"`csp-index verify {self._location.uri} --repair`"
        )


def _list(files: Mapping[str, list[object]]) -> bytes:
    return json.dumps(dict(sorted(files.items())), separators=(",", ":")).encode()
