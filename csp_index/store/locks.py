"""One writer at a time, in each kind of location.

A directory is locked by the kernel, which frees the lock when its process dies. A prefix of an object store is locked
by a lease: an object with the writer's name and the lease's duration, taken and renewed only by conditional writes, so
that two writers can never both have it. A killed writer's lease expires. Only the server's times are compared, except
in `is_held`, which is informational. A writer that lost its lease, for example while its machine slept, fails at the
check before its next write. Not covered: a writer that sleeps within one write for longer than the lease; Lance still
keeps that table intact, and readers report rows that were written twice.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from csp_index import settings
from csp_index.errors import LockedError, SettingError, StoreError, one_line
from csp_index.store.bucket import BucketLocation
from csp_index.store.foreign import is_plain
from csp_index.store.layout import StoredObject
from csp_index.store.locations import Location
from csp_index.store.stored_json import parse_json, read_object

Check = Callable[[], None]  # raises StoreError if the lock was lost


@dataclass(slots=True)
class Lock:
    """The write lock while it is held."""

    check: Check
    cut_off: bool  # whether the last holder died, or could not undo what it had written
    clean: bool = True  # False makes the next holder find `cut_off`; so does one who undid nothing of it


_LOCK, _OWNER = ".writer.lock", ".writer.json"
_LONGEST = 10**9  # seconds of a lease; a longer one is none
_TRIES = 4
_WAIT = 1.0  # seconds: who asks whether the lock is free takes it for a moment
_COARSE = 1.0  # seconds: the resolution of times in object stores


@contextmanager
def hold(location: Location) -> Iterator[Lock]:
    """Lock a location for writing; a second writer gets an error that names the holder.

    Call the lock's `check` before each write.
    """
    if isinstance(location, BucketLocation):
        lease = Lease(location, settings.LEASE_SECONDS.value(), settings.LEASE_RENEWAL.value())
        with lease.hold():
            yield lease.lock
        return
    with _kernel_lock(location.root, location.uri) as lock:
        yield lock


def is_held(location: Location) -> bool:
    """Return whether a process holds the location for writing."""
    if isinstance(location, BucketLocation):
        record = location.read(_OWNER)
        return record is not None and not _is_free(record) and datetime.now(UTC) <= _end(record)
    path = location.root / _LOCK
    if not path.exists() or not is_plain(path) or not os.access(path, os.W_OK):
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def forget(location: Location) -> None:
    """Remove what the lock has written, while it is held, where no index was made."""
    for name in (_OWNER,) if isinstance(location, BucketLocation) else (_OWNER, _LOCK):
        location.remove(name)


def check_free(location: Location) -> None:
    """Raise LockedError, which names the holder, if a process holds the location for writing; takes no lock.

    For what prepares long before it writes: a minute of loading models for nothing. `hold` asks again.
    """
    if not isinstance(location, BucketLocation):
        until = time.monotonic() + _WAIT
        while is_held(location):  # a moment, where somebody notes something or asks what this asks
            if time.monotonic() > until:
                raise _taken(location.uri, _owner(location.root))
            time.sleep(_WAIT / 20)
        return
    record = location.read(_OWNER)
    if record is not None:
        _check_ended(location, record)


class Lease:
    """The right to write below a prefix for `seconds` since the last renewal; renewed every `renewal` seconds."""

    def __init__(self, location: BucketLocation, seconds: float, renewal: float) -> None:
        """Prepare a lease without taking it."""
        if renewal * 2 > seconds:
            raise SettingError(
                f"setting lease_renewal is {renewal:g}: expected at most half of lease_seconds ({seconds:g})"
            )
        self._location, self._seconds, self._renewal = location, seconds, renewal
        self._owner = {"token": secrets.token_hex(8), **_myself()}
        self._renewals = 0
        self._version: object = None
        self._lost = ""
        self.lock = Lock(self.check, cut_off=False)
        self._mutex = threading.Lock()  # between the thread that renews and the writer that checks

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Take the lease, renew it in a thread, and release it at the end."""
        self._take()
        done = threading.Event()
        thread = threading.Thread(target=self._keep, args=(done,), name="csp-index lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with suppress(StoreError):  # it expires by itself
                self._give_up()

    def check(self) -> None:
        """Renew the lease, so that its full time remains. StoreError if it was lost."""
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
                version = record.version  # a renewal whose response was lost
            self._version = version

    def _take(self) -> None:
        for _ in range(_TRIES):
            record = self._location.read(_OWNER)
            if record is not None and _content(record).get("token") == self._owner["token"]:
                self._version = record.version  # taken already, but the response was lost
                return
            self.lock.cut_off = record is None or not _is_free(record) or bool(_content(record).get("unclean"))
            self.lock.clean = not self.lock.cut_off
            if record is not None:
                _check_ended(self._location, record)
            self._version = self._location.write(_OWNER, self._content(), record and record.version)
            if self._version is not None:
                return
        raise LockedError(f"{self._location.uri} is being taken by other writers: try again")

    def _keep(self, done: threading.Event) -> None:
        while not done.wait(self._renewal) and not self._lost:
            with suppress(StoreError):  # the next check raises it, or the next renewal succeeds
                self.check()

    def _give_up(self) -> None:
        """Mark the lease as free; deleting it could hit the lease of the next writer."""
        with self._mutex:
            if not self._lost:
                free = {"free": True, "unclean": not self.lock.clean, **self._owner}
                self._location.write(_OWNER, json.dumps(free).encode(), self._version)

    def _content(self) -> bytes:
        self._renewals += (
            1  # makes every renewal a new object, so that a writer that saw the last one expire cannot win
        )
        return json.dumps({**self._owner, "seconds": self._seconds, "renewals": self._renewals}).encode()


def _check_ended(location: BucketLocation, record: StoredObject) -> None:
    """Raise LockedError if a lease is neither free nor expired by the clock of the server, which an object tells."""
    if _is_free(record):
        return
    name = f".clock-{secrets.token_hex(8)}"
    location.write(name, b"")
    now = location.read(name)
    location.remove(name)
    if now is None or now.modified <= _end(record) + timedelta(seconds=_COARSE):
        raise _taken(
            location.uri,
            _named(_content(record)),
            f"; its hold ends at {_end(record):%Y-%m-%dT%H:%M:%SZ} unless it renews it",
        )


def _content(record: StoredObject) -> Mapping[str, object]:
    try:
        content = parse_json(record.data.decode())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _is_free(record: StoredObject) -> bool:
    return bool(_content(record).get("free"))


def _end(record: StoredObject) -> datetime:
    """Return when a lease expires, by the server's clock."""
    seconds = _content(record).get("seconds")
    if not isinstance(seconds, int | float) or not 0 <= seconds <= _LONGEST:
        seconds = settings.LEASE_SECONDS.value()
    return record.modified + timedelta(seconds=seconds)


@contextmanager
def _kernel_lock(root: Path, uri: str) -> Iterator[Lock]:
    if not is_plain(root / _LOCK):
        raise StoreError(f"{root / _LOCK} is no regular file, expected the lock of the index: remove it")
    try:
        lock = FileLock(root / _LOCK)
        lock.acquire(timeout=_WAIT)
    except Timeout:
        raise _taken(uri, _owner(root)) from None
    except OSError as exc:
        raise StoreError(f"no permission to write {uri}: {one_line(exc)}") from exc
    cut_off = os.path.lexists(root / _OWNER)
    held = Lock(_sure, cut_off, clean=not cut_off)
    try:
        try:
            _write_owner(root / _OWNER)
        except OSError as exc:
            raise StoreError(f"{uri} cannot be written: {one_line(exc)}") from exc
        yield held
    finally:
        if held.clean:
            (root / _OWNER).unlink(missing_ok=True)
        lock.release()


def _write_owner(path: Path) -> None:
    """Write who holds the lock into a new file: what is there may be a link to a file that is not ours."""
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o644), "w") as file:
        json.dump(_myself(), file)


def _sure() -> None:
    """Do nothing: the kernel keeps the lock while this process lives."""


def _taken(uri: str, owner: str, more: str = "") -> LockedError:
    return LockedError(f"{uri} is being written by {owner}: wait until it ends, or stop it{more}")


def _owner(root: Path) -> str:
    path = root / _OWNER
    try:
        owner = read_object(path.read_text(), "owner", path.name) if is_plain(path) else {}
    except (OSError, ValueError, StoreError):
        return "another process"
    return _named(owner)


def _myself() -> dict[str, object]:
    since = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _named(owner: Mapping[str, object]) -> str:
    if "pid" not in owner:
        return "another process"
    return f"process {owner['pid']} on {owner.get('host')} since {owner.get('since')}"
