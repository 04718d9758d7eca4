"""One writer at a time, in each kind of location.

A directory is held by a lock of the kernel, which frees it when the holder dies. A prefix of an object store is held by
a lease: an object that says who writes and for how long, taken and renewed by conditional writes only, so that two can
never both take it. A killed writer's lease runs out. All times compared are the server's; clocks of machines play no
part, but in `is_held`, which only informs. A writer that lost its lease, for example while its machine slept, is
stopped by the check before its next write. What is not covered: a writer that sleeps within one write for longer than
the lease lasts; Lance then still keeps that table whole, and rows written twice are told by whoever reads them.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from csp_index import settings
from csp_index.errors import SettingError, StoreError, one_line
from csp_index.store.locations import BucketLocation, Location, StoredObject

Check = Callable[[], None]  # raises StoreError if the lock was lost

_LOCK, _OWNER = ".writer.lock", ".writer.json"
_TRIES = 4
_COARSE = 1.0  # seconds: object stores tell times in whole ones


@contextmanager
def hold(location: Location) -> Iterator[Check]:
    """Lock a location for writing; a second writer gets an error that names the holder.

    Yields the check to call before each write.
    """
    if isinstance(location, BucketLocation):
        lease = Lease(location, settings.LEASE_SECONDS.value(), settings.LEASE_RENEWAL.value())
        with lease.held():
            yield lease.check
        return
    with _kernel_lock(location.root, location.uri):
        yield _sure


def is_held(location: Location) -> bool:
    """Return whether a process holds the location for writing."""
    if isinstance(location, BucketLocation):
        record = location.read(_OWNER)
        return record is not None and not _is_free(record) and datetime.now(UTC) <= _end(record)
    path = location.root / _LOCK
    if not path.exists() or not os.access(path, os.W_OK):
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


class Lease:
    """The right to write below a prefix for `seconds` since the last renewal; renewed every `renewal` seconds."""

    def __init__(self, location: BucketLocation, seconds: float, renewal: float) -> None:
        """Prepare a lease; nothing is taken yet."""
        if renewal * 2 > seconds:
            raise SettingError(
                f"setting lease_renewal is {renewal:g}: expected at most half of lease_seconds ({seconds:g})"
            )
        self._location, self._seconds, self._renewal = location, seconds, renewal
        self._owner = {"token": secrets.token_hex(8), **_myself()}
        self._renewals = 0
        self._version: object = None
        self._lost = ""
        self._mutex = threading.Lock()  # the thread that renews, and the writer that checks

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lease, renewed by a thread of its own, and give it up at the end."""
        self._take()
        done = threading.Event()
        thread = threading.Thread(target=self._keep, args=(done,), name="csp-index lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with suppress(StoreError):  # it runs out by itself
                self._give_up()

    def check(self) -> None:
        """Renew the lease: afterwards it is held for the whole of its time. StoreError where it was lost."""
        with self._mutex:
            if self._lost:
                raise StoreError(self._lost)
            version = self._location.write(_OWNER, self._content(), self._version)
            if version is None:
                record = self._location.read(_OWNER)
                if record is None or _content(record).get("token") != self._owner["token"]:
                    to = f" to {_named(_content(record))}" if record and not _is_free(record) else ""
                    self._lost = (
                        f"the hold on {self._location.uri} was lost{to}: "
                        "stopped before writing more; run the command again when nobody writes"
                    )
                    raise StoreError(self._lost)
                version = record.version  # a renewal whose answer got lost
            self._version = version

    def _take(self) -> None:
        for _ in range(_TRIES):
            record = self._location.read(_OWNER)
            if record is not None and _content(record).get("token") == self._owner["token"]:
                self._version = record.version  # taken before, but the answer got lost
                return
            if record is not None and not _is_free(record) and not self._has_ended(record):
                uri = self._location.uri
                raise StoreError(
                    f"{uri} is being written by {_named(_content(record))}: wait until it ends, or stop it; "
                    f"its hold ends at {_end(record):%Y-%m-%dT%H:%M:%SZ} unless it renews it"
                )
            self._version = self._location.write(_OWNER, self._content(), record and record.version)
            if self._version is not None:
                return
        raise StoreError(f"{self._location.uri} is being taken by other writers: try again")

    def _has_ended(self, record: StoredObject) -> bool:
        """Tell whether a lease ran out by the server's clock, which an object written now shows."""
        name = f".clock-{secrets.token_hex(8)}"
        self._location.write(name, b"")
        now = self._location.read(name)
        self._location.remove(name)
        return now is not None and now.modified > _end(record) + timedelta(seconds=_COARSE)

    def _keep(self, done: threading.Event) -> None:
        while not done.wait(self._renewal) and not self._lost:
            with suppress(StoreError):  # the next check tells it, or the next renewal mends it
                self.check()

    def _give_up(self) -> None:
        """Mark the lease as free; deleting it could hit the lease of the next writer."""
        with self._mutex:
            if not self._lost:
                self._location.write(_OWNER, json.dumps({"free": True, **self._owner}).encode(), self._version)

    def _content(self) -> bytes:
        self._renewals += 1  # so that every renewal is another object: who took the last one for ended must not win
        return json.dumps({**self._owner, "seconds": self._seconds, "renewals": self._renewals}).encode()


def _content(record: StoredObject) -> Mapping[str, object]:
    try:
        content = json.loads(record.data)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _is_free(record: StoredObject) -> bool:
    return bool(_content(record).get("free"))


def _end(record: StoredObject) -> datetime:
    """Return when a lease runs out, by the server's clock."""
    seconds = _content(record).get("seconds")
    if not isinstance(seconds, int | float):
        seconds = settings.LEASE_SECONDS.value()
    return record.modified + timedelta(seconds=seconds)


@contextmanager
def _kernel_lock(root: Path, uri: str) -> Iterator[None]:
    try:
        lock = FileLock(root / _LOCK)
        lock.acquire(timeout=1)  # a look at whether it is held takes it for a moment
    except Timeout:
        raise StoreError(f"{uri} is being written by {_owner(root)}: wait until it ends, or stop it") from None
    except OSError as exc:
        raise StoreError(f"no permission to write {uri}: {one_line(exc)}") from exc
    try:
        try:
            (root / _OWNER).write_text(json.dumps(_myself()))
        except OSError as exc:
            raise StoreError(f"{uri} cannot be written: {one_line(exc)}") from exc
        yield
    finally:
        (root / _OWNER).unlink(missing_ok=True)
        lock.release()


def _sure() -> None:
    """Check nothing: while this process lives, the kernel keeps its lock."""


def _owner(root: Path) -> str:
    try:
        return _named(json.loads((root / _OWNER).read_text()))
    except (OSError, ValueError):
        return "another process"


def _myself() -> dict[str, object]:
    since = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _named(owner: Mapping[str, object]) -> str:
    if "pid" not in owner:
        return "another process"
    return f"process {owner['pid']} on {owner.get('host')} since {owner.get('since')}"
