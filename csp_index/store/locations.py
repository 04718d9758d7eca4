"""Where an index can be: a directory, or a prefix of an object store such as s3://bucket/db (`bucket`).

A location knows whether an index is there and whether one can be made there, and nothing about its contents.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from csp_index.errors import StoreError, one_line
from csp_index.files.object_stores import SCHEMES
from csp_index.files.regular_files import open_file, user_path
from csp_index.settings import MAX_TEXT_BYTES
from csp_index.store.bucket import BucketLocation
from csp_index.store.layout import (
    BEGUN,
    COMMITS,
    HEAD,
    OLD_TABLE,
    StoredObject,
    first_alone,
    has_manifest,
    is_left_over,
    manifest_names,
)

_SYNCED_AT_ONCE = 8
_UNSUPPORTED = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class LocalLocation:
    """A directory."""

    options: dict[str, str] = {}  # noqa: RUF012  # storage options for Lance: none

    def __init__(self, root: Path) -> None:
        """Name the directory without reading it."""
        self.uri = str(root)  # for messages
        self.root = root.absolute()  # valid after a change of the working directory
        self.address = str(self.root)  # for Lance

    def exists(self) -> bool:
        """Return whether anything is there."""
        return self.root.exists()

    def is_index(self) -> bool:
        """Return whether there is an index; False, too, without permission to look."""
        marked = os.path.isfile(self.root / HEAD) or os.path.isfile(self.root / BEGUN)
        return marked or has_manifest(f"{self.address}/{OLD_TABLE}")

    def is_begun(self) -> bool:
        """Return whether the first command of an index was cut off before its first commit."""
        begun = os.path.isfile(self.root / BEGUN) and not os.path.isfile(self.root / HEAD)
        return begun and first_alone(self.listed(COMMITS))

    def tables(self) -> list[str] | None:
        """Return the names of the tables, sorted; a folder without a manifest is none."""
        with os.scandir(self.root) as entries:
            folders = [entry for entry in entries if entry.name.endswith(".lance")]
        return sorted(entry.name.removesuffix(".lance") for entry in folders if has_manifest(entry.path))

    def stamp(self, table: str, version: int) -> object:
        """Return what identifies the manifest of a table's commit; None if it no longer exists."""
        for name in manifest_names(version):
            try:
                status = os.stat(f"{self.address}/{table}.lance/{name}")
            except OSError:
                continue
            return status.st_ino, status.st_mtime_ns
        return None

    def state_of(self, name: str) -> object:
        """Return what changes whenever a small file is written anew; None if it does not exist."""
        try:
            status = os.stat(f"{self.address}/{name}")
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def read(self, name: str) -> StoredObject | None:
        """Return a file, or None if it does not exist."""
        try:
            with open_file(f"{self.address}/{name}", MAX_TEXT_BYTES, links=False) as file:
                status = os.fstat(file.fileno())
                when = datetime.fromtimestamp(status.st_mtime, UTC)
                return StoredObject(file.read(), (status.st_ino, status.st_mtime_ns), when)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise StoreError(f"{self.uri}/{name} cannot be read: {one_line(exc)}") from exc

    def write(self, name: str, data: bytes, over: Any = None, *, synced: bool = True) -> Any | None:
        """Write a small file whole, if it does not exist or, with `over`, in place of the one that does.

        Returns the new version; None means that the file exists and nothing was written. One that is not `synced` may
        be lost or empty after a power cut, until `sync` has it.
        """
        path = self.root / name
        beside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(beside, "xb") as file:
                file.write(data)
                if synced:
                    file.flush()
                    os.fsync(file.fileno())
            try:
                if over is None:
                    _place(beside, path)
                else:
                    os.replace(beside, path)
            except FileExistsError:
                return None
            finally:
                with suppress(FileNotFoundError):
                    beside.unlink()
            if synced:
                _sync(str(path.parent))
            return self.state_of(name)
        except OSError as exc:
            raise StoreError(f"{self.uri} cannot be written: {one_line(exc)}") from exc

    def remove(self, name: str) -> None:
        """Delete a file, if it exists."""
        try:
            (self.root / name).unlink(missing_ok=True)
        except OSError as exc:
            raise StoreError(f"{self.uri} cannot be written: {one_line(exc)}") from exc

    def listed(self, folder: str) -> list[str]:
        """Return the names of the files directly in a folder, sorted, without those being written."""
        try:
            with os.scandir(self.root / folder) as entries:
                return sorted(e.name for e in entries if e.is_file() and not e.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def sync(self, names: Iterable[str]) -> None:
        """Wait until files and their folders are on the disk, so that a power cut cannot take them any more."""
        files = {f"{self.address}/{name}" for name in names}
        folders = {folder for path in files for folder in _folders(path, self.address)}
        try:
            with ThreadPoolExecutor(min(len(files) + len(folders), _SYNCED_AT_ONCE)) as pool:  # one wait serves several
                deque(pool.map(_sync, files), maxlen=0)
                deque(pool.map(_sync, folders), maxlen=0)
        except OSError as exc:
            raise StoreError(f"{self.uri} cannot be written: {one_line(exc)}") from exc

    def check_writable(self) -> None:
        """Raise StoreError if the index is read-only."""
        if not os.access(self.root, os.W_OK):
            raise StoreError(f"no permission to write {self.uri}: expected a directory you own")

    def check_empty(self) -> None:
        """Raise StoreError, changing nothing, if no index can be created here."""
        root = self.root
        if root.exists() and not (root.is_dir() and all(map(is_left_over, root.iterdir()))):
            raise StoreError(f"{self.uri} is not a csp_index database and not empty: choose a new or empty directory")
        nearest = next(parent for parent in (root, *root.parents) if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise StoreError(f"no permission to create {self.uri}: {nearest} is not a directory you can write")

    def prepare(self) -> Callable[[Callable[[], None]], None] | None:
        """Make the directory, and note in it that an index is being made; return what undoes that, None if it was.

        That calls its argument, which forgets the lock, when the note is gone: who takes the lock then writes another.
        """
        made = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreError(f"no permission to create {self.uri}: {one_line(exc)}") from exc
        if self.write(BEGUN, b"") is None:
            return None

        def undo(forget: Callable[[], None]) -> None:
            self.remove(BEGUN)
            forget()
            with suppress(OSError):  # of a folder with something else in it
                for folder in (self.root / COMMITS, *made):
                    folder.rmdir()

        return undo


def _place(file: Path, path: Path) -> None:
    """Give a file a second name; FileExistsError if the name is taken."""
    try:
        os.link(file, path)
    except OSError as exc:
        if exc.errno not in _UNSUPPORTED:
            raise
        if path.exists():  # a file system without links: only the holder of the lock writes, so nobody is faster
            raise FileExistsError(exc.errno, "exists", str(path)) from exc
        os.replace(file, path)


def _sync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _folders(path: str, root: str) -> Iterator[str]:
    """Yield the folders of a file, up to the root."""
    while path != root:
        path = os.path.dirname(path)
        yield path


Location = LocalLocation | BucketLocation


def location_of(uri: str | Path) -> Location:
    """Return the location that a path or URI names; StoreError if it names none.

    >>> location_of("s3://bucket/db/").uri, location_of("here/db").uri
    ('s3://bucket/db', 'here/db')
    """
    text = str(uri)
    if "://" in text:
        return BucketLocation(text)
    mangled = re.match(r"(\w+):/(?=\w)", text)
    if mangled and mangled[1] in SCHEMES:
        raise StoreError(f"{text} lost a slash, as a Path does to a URI: give {mangled[1]}://... as a string")
    return LocalLocation(user_path(uri))
