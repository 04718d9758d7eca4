"""A prefix of an object store as the place of an index, by obstore, the library that Lance uses, too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from csp_index.errors import StoreError
from csp_index.files.object_stores import SCHEMES, connect, plain_http, told
from csp_index.store.layout import BEGUN, COMMITS, HEAD, OLD_TABLE, VERSIONS, StoredObject, first_alone

_QUICK, _PATIENT = 1, 8  # retries: a wrong endpoint fails soon, but a hiccup must not end an hour's work


class BucketLocation:
    """A prefix of a bucket. Every call is a request; a server that does not answer is a StoreError within seconds.

    The object store must support conditional writes, as AWS S3, MinIO, R2, Google and Azure do.
    """

    def __init__(self, uri: str) -> None:
        """Name the prefix without a request. StoreError if the URI names no bucket."""
        self.uri = self.address = uri.rstrip("/")
        self.scheme, _, rest = self.uri.partition("://")
        self.bucket = rest.partition("/")[0]
        if self.scheme not in SCHEMES or not self.bucket:
            known = ", ".join(f"{name}://" for name in SCHEMES)
            raise StoreError(f"{uri} names no place for an index: expected a directory, or bucket/name after {known}")

    @property
    def options(self) -> dict[str, str]:
        """Storage options for Lance, which reads keys and endpoint from the environment itself."""
        return {"allow_http": "true"} if plain_http() else {}

    def tables(self) -> list[str] | None:
        """Return None: Lance lists them page by page."""
        return None

    def stamp(self, table: str, version: int) -> object:
        """Return None: it would cost a request per read. Do not remove and recreate an index while others read it."""
        return None

    def exists(self) -> bool:
        """Return whether anything is there."""
        return self._has("")

    def is_index(self) -> bool:
        """Return whether there is an index; StoreError if the bucket cannot be read."""
        return self._has(COMMITS) or self._has(f"{OLD_TABLE}/{VERSIONS}")

    def is_begun(self) -> bool:
        """Return whether the first command of an index was cut off before its first commit."""
        begun = self._state_of(HEAD, self._look) is None and self._state_of(BEGUN, self._look) is not None
        return begun and first_alone(self.listed(COMMITS))

    def state_of(self, name: str) -> object:
        """Return what changes whenever a small object is written anew; None if it does not exist."""
        return self._state_of(name, self._work)

    def _state_of(self, name: str, objects: Any) -> object:
        import obstore

        with self._told("cannot be read"):
            try:
                return _version(obstore.head(objects, name))
            except FileNotFoundError as exc:
                if "NoSuchBucket" in str(exc):
                    raise
                return None

    def check_writable(self) -> None:
        """Do nothing: the first write finds out, and leaves nothing behind if it is refused."""

    def check_empty(self) -> None:
        """Raise StoreError, changing nothing, if no index can be created here."""
        if self.exists():
            raise StoreError(f"{self.uri} is not a csp_index database and not empty: choose another name in the bucket")

    def prepare(self) -> Callable[[Callable[[], None]], None] | None:
        """Note that an index is being made; return what undoes that, None if it was noted before.

        That calls its argument, which forgets the lock, when the note is gone: who takes the lock then writes another.
        """
        if self.write(BEGUN, b"") is None:
            return None

        def undo(forget: Callable[[], None]) -> None:
            self.remove(BEGUN)
            forget()

        return undo

    def listed(self, folder: str) -> list[str]:
        """Return the names of the objects directly below a prefix, sorted."""
        objects = self._work
        import obstore

        with self._told("cannot be read"):
            listing = obstore.list_with_delimiter(objects, folder)
        return sorted(item["path"].rpartition("/")[2] for item in listing["objects"])

    def sync(self, names: Iterable[str]) -> None:
        """Do nothing: an object that was written is stored."""

    def read(self, name: str) -> StoredObject | None:
        """Return a small object, or None if it does not exist."""
        objects = self._work
        import obstore

        with self._told("cannot be read"):
            try:
                response = obstore.get(objects, name)
                return StoredObject(bytes(response.bytes()), _version(response.meta), response.meta["last_modified"])
            except FileNotFoundError as exc:
                if "NoSuchBucket" in str(exc):
                    raise
                return None

    def write(self, name: str, data: bytes, over: Any = None, *, synced: bool = True) -> Any | None:
        """Write a small object if it does not exist, or replace exactly the version `over`; return the new version.

        None means that another writer was faster; nothing is written then.
        """
        objects = self._work
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._told("cannot be written"):
            try:
                return _version(obstore.put(objects, name, data, mode=over or "create", use_multipart=False))
            except (AlreadyExistsError, PreconditionError):
                return None
            except FileNotFoundError as exc:
                if over is None or "NoSuchBucket" in str(exc):
                    raise
                return None  # the object was removed, so the version is gone

    def remove(self, name: str) -> None:
        """Delete an object."""
        objects = self._work
        import obstore

        with self._told("cannot be written"):
            obstore.delete(objects, name)

    def _has(self, prefix: str) -> bool:
        objects = self._look
        import obstore

        with self._told("cannot be read"):
            return bool(next(iter(obstore.list(objects, prefix or None, chunk_size=1)), ()))

    @cached_property
    def _look(self) -> Any:
        return self._connect(_QUICK)

    @cached_property
    def _work(self) -> Any:
        return self._connect(_PATIENT)

    def _connect(self, tries: int) -> Any:
        return connect(self.uri, tries)

    def _told(self, failure: str) -> AbstractContextManager[None]:
        return told(self.uri, failure)


def _version(meta: Any) -> Any:
    return {name: meta[name] for name in ("e_tag", "version") if meta.get(name) is not None}
