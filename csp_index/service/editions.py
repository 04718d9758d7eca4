"""The editions of an index that a service shows: the newest version, and earlier ones that an address names.

An edition is the whole of the service over one fixed version. A thread looks for a new version now and then, loads it,
and only then puts it in the place of the one before, so that no request waits for it. Knows nothing about requests.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from csp_index.concurrency import go_on
from csp_index.errors import CspIndexError, NotFoundError, one_line
from csp_index.lru_cache import LRUCache
from csp_index.service.warm_up import read_first_page
from csp_index.store.connect import open_store
from csp_index.store.locks import is_held
from csp_index.store.study_tables import NOTES, RATINGS

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from csp_index.service.live.engine import Engine
    from csp_index.service.snapshot import Snapshot
    from csp_index.service.sql_sandbox import SqlRunner
    from csp_index.store.history.records import Record

_OLD: Final = 2  # earlier versions that are open at once
_PATIENCE: Final = 30.0  # seconds that a command may go on writing until a version between its steps is shown
_REST: Final = 5.0  # seconds after the models are loaded, for the requests that waited for them
_SAID: Final = frozenset({NOTES, RATINGS, "runs"})  # tables of what readers say, which pages show as it is anyway
_log = logging.getLogger("csp_index.service")


@dataclass(frozen=True, slots=True)
class Edition:
    """One version of an index as an application without the guard around it."""

    app: ASGIApp
    snapshot: Snapshot
    engine: Engine
    sql: SqlRunner | None

    def load(self) -> None:
        """Read what pages need, then begin to load models."""
        try:
            read_first_page(self.snapshot, self.engine)
        finally:
            self.engine.start()

    def close(self) -> None:
        """End the processes of its SQL."""
        if self.sql is not None:
            self.sql.close()

    def forget(self) -> None:
        """Close it, and let go of what it holds in memory."""
        self.close()
        self.engine.close()
        self.snapshot.cache.remove()


class Editions:
    """The edition that is shown, and those that an address names; many threads may ask."""

    def __init__(
        self,
        first: Edition,
        make: Callable[[Record], Edition],
        make_old: Callable[[Record], Edition],
        *,
        seconds: float,
        linger: float,
        alone: bool = False,
        idle: Callable[[], None] = go_on,
    ) -> None:
        """Show `first`, and with `alone` no other; with `seconds` above 0, look that often for a new version.

        `make` opens the edition of a version that will be shown, `make_old` that of an earlier one. An edition that is
        shown no more, or that others have replaced among the earlier ones, is closed `linger` seconds later, when its
        requests have ended. `idle` is called once, some seconds after the models of the first edition are loaded.
        """
        self.shown = first
        self._make, self._make_old, self._seconds, self._linger = make, make_old, seconds, linger
        self._alone, self._idle = alone, idle
        self._uri, self._stop = first.snapshot.store.uri, threading.Event()
        self._retired: deque[tuple[float, Edition]] = deque()
        self._old = LRUCache(_OLD, self._retire)
        self._refused: Record | None = None  # the version that could not be opened
        self._newest, self._since = first.snapshot.store.commit_fixed, time.monotonic()
        self._failure = ""  # of the last look, to log one that lasts only once

    def start(self) -> None:
        """Begin to look for new versions, and to load what the shown one needs."""
        self._stop.clear()
        threading.Thread(target=self._warm_up, name="warm-up", daemon=True).start()
        if self._seconds:
            threading.Thread(target=self._follow, name="editions", daemon=True).start()

    def close(self) -> None:
        """Look no more, and close all editions."""
        self._stop.set()
        self._old.remove()  # retires them
        for edition in (*(edition for _, edition in self._retired), self.shown):
            edition.close()

    def named(self, version: str) -> Edition:
        """Return the edition of a version, by its number or tag.

        Raises NotFoundError for a version that is not there any more, or is not shown here, StoreError for one that
        cannot be read.
        """
        self._forget_retired()
        store = open_store(self._uri)
        try:
            record = store.log.find(version)
        except NotFoundError:  # its message names a folder of this machine
            raise NotFoundError(
                f"version {version!r} is not there: `csp-index versions` lists those that are"
            ) from None
        if record == self.shown.snapshot.store.commit_fixed:
            return self.shown
        if self._alone:
            raise NotFoundError(f"version {version!r} is not shown: `csp-index serve --version` chose another one")
        edition: Edition = self._old.get((record.number, record.digest), lambda: self._make_old(record))
        return edition

    def look(self, newest: Record | None = None) -> bool:
        """Show the newest version, or the one given, if it is another than the one shown; return whether it is."""
        record = newest or open_store(self._uri).commit_seen
        if record is None or not self._is_new(record):
            return False
        try:
            edition = self._make(record)
        except CspIndexError as exc:
            self._refused = record
            _log.error("version %d of the index cannot be shown: %s", record.number, one_line(exc))
            return False
        edition.load()
        edition.engine.wait()  # loaded or failed, it is as ready as it will be
        self._retire(self.shown)
        self.shown = edition
        _log.info('{"edition": %d, "command": "%s"}', record.number, record.command)
        return True

    def _is_new(self, record: Record) -> bool:
        shown = self.shown.snapshot.store.commit_fixed
        return record != self._refused and _manifests(record) != _manifests(shown)

    def _warm_up(self) -> None:
        first = self.shown
        first.load()
        first.engine.wait()
        if not self._stop.wait(_REST):
            self._idle()

    def _follow(self) -> None:
        while not self._stop.wait(self._seconds):
            try:
                self._forget_retired()
                if (newest := self._settled()) is not None:
                    self.look(newest)
            except BaseException as exc:  # at the boundary of the thread: a panic of Lance, too, is no Exception
                self._tell(exc)
            else:
                self._failure = ""

    def _settled(self) -> Record | None:
        """Return the newest version if it is to be shown now: of those that a command writes, the last one counts.

        So not while a writer is at work, but for one that has been for long.
        """
        store = open_store(self._uri)
        newest, stood = store.commit_seen, store.commit_seen == self._newest
        self._newest = newest
        if newest is None or not self._is_new(newest):
            self._since = time.monotonic()
            return None
        if time.monotonic() - self._since < _PATIENCE and (not stood or is_held(store.location)):
            return None
        self._since = time.monotonic()
        return newest

    def _tell(self, error: BaseException) -> None:
        """Log why a look failed, unless the one before failed so, too; what none expected with its trace."""
        message = f"{type(error).__name__}: {one_line(error)}"
        if message == self._failure:
            return
        self._failure = message
        if isinstance(error, CspIndexError | OSError):
            _log.error("the index cannot be read: %s", one_line(error))
        else:
            _log.error("the look for a new version of the index failed, the service goes on", exc_info=error)

    def _retire(self, edition: Edition) -> None:
        self._retired.append((time.monotonic(), edition))

    def _forget_retired(self) -> None:
        while True:
            try:
                when, edition = self._retired.popleft()
            except IndexError:
                return
            if time.monotonic() - when <= self._linger:
                self._retired.appendleft((when, edition))
                return
            edition.forget()


def _manifests(record: Record | None) -> dict[str, str]:
    """Return what tells the tables of a version from those of another, by name, without what readers said.

    That is the digest of a table's manifest: an index that was deleted and made again may have the same numbers.
    """
    return {} if record is None else {name: t.manifest for name, t in record.tables.items() if name not in _SAID}


def check_version(text: str) -> str:
    """Return a version's name as an address has it. Raises NotFoundError for what can be none."""
    if not 0 < len(text) <= 100 or not text.isprintable():
        raise NotFoundError(f"version {text[:20]!r} is no number or tag: `csp-index versions` lists those that are")
    return text
