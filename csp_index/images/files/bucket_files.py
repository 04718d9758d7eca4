"""Files of object stores as a source of images sees them: listed in order, read whole or from their beginning.

A file has the address `s3://bucket/folder/a.jpg`. One that cannot be read is an error about it alone; a server that
does not answer, or keys that have expired, end the work, which goes on later where it stopped. Knows nothing about
pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote

from csp_index.errors import SourceError
from csp_index.files.object_stores import SCHEMES, connect, reason, told
from csp_index.images.files.formats import HEAD
from csp_index.settings import Count

_QUICK, _PATIENT = 1, 8  # tries: a wrong endpoint fails soon, a hiccup must not end an hour's work
_SECONDS: Final = 120  # for one request: a picture may be large and the line slow
_SOON: Final = 15  # seconds, where somebody waits for the picture


def is_in_bucket(address: str) -> bool:
    """Return whether an address is one of an object store.

    >>> is_in_bucket("s3://photos/2024"), is_in_bucket("/data/photos")
    (True, False)
    """
    scheme, separator, rest = address.partition("://")
    return bool(separator and rest) and scheme in SCHEMES


def bucket_names(uri: str) -> Iterator[tuple[str, int]]:
    """Yield the names of all files below an address, relative to it, sorted as whole strings, with their sizes.

    A page of them is in memory at a time. Raises SourceError where they cannot be listed, or not in this order.
    """
    last = b""
    for item in _listed(uri):
        name = str(item["path"])
        if name.encode() < last:
            raise SourceError(
                f"{uri} lists its files in no fixed order ({name!r} comes late), by which images are numbered: copy "
                "them to a folder, or to a bucket of another kind"
            )
        last = name.encode()
        yield name, int(item["size"])


def _listed(uri: str) -> Iterator[Any]:
    client = connect(_literal(uri), _QUICK, error=SourceError)
    import obstore
    from obstore.exceptions import InvalidPathError

    with told(uri, "cannot be listed", SourceError):
        try:
            for page in obstore.list(client):
                yield from page
        except InvalidPathError as exc:
            raise SourceError(f"{uri} cannot be listed ({str(exc).splitlines()[0]}): rename that object") from exc


def _literal(uri: str) -> str:
    """Return an address that names what is written in it: in a URL, what follows # or ? is no part of a name.

    Raises SourceError for folders that a URL leaves out, . and .. .

    >>> _literal("s3://photos/100%/a b#2")
    's3://photos/100%25/a%20b%232'
    """
    scheme, _, rest = uri.partition("://")
    bucket, slash, name = rest.partition("/")
    if {".", ".."} & set(name.split("/")):
        raise SourceError(f"{uri} has . or .. in it, which an object store takes for names: write the folder itself")
    return f"{scheme}://{bucket}{slash}{quote(name)}"


def is_file_in_bucket(address: str) -> bool:
    """Return whether there is a file. Raises SourceError if that cannot be known."""
    client, name = _client(address)
    import obstore

    with told(address, "cannot be read", SourceError):
        try:
            obstore.head(client, name)
        except FileNotFoundError:
            return False
        return True


def bucket_head(address: str) -> bytes:
    """Return the first bytes of a file, as many as `kind_of` looks at. Raises OSError if it cannot be read."""
    client, name = _client(address)
    import obstore

    try:
        with told(address, "cannot be read", SourceError):
            return bytes(obstore.get_range(client, name, start=0, end=HEAD))
    except SourceError as exc:
        raise OSError(str(exc)) from exc


def read_bucket(address: str, limit: Count, *, patient: bool = True) -> bytes:
    """Return the content of a file within a limit of bytes; without `patient` soon or not at all.

    Raises SourceError, which is about this file alone, if it is missing, too large or may not be read; StoreError where
    nothing can be read just now.
    """
    client, name = _client(address, patient)
    import obstore
    from obstore.exceptions import PermissionDeniedError

    with told(address, "cannot be read"):
        try:
            response = obstore.get(client, name)
            size = int(response.meta["size"])
            if size <= limit.value():
                return bytes(response.bytes())
        except FileNotFoundError as exc:
            if "NoSuchBucket" in str(exc):
                raise
            raise SourceError("it is no longer in the bucket") from exc
        except PermissionDeniedError as exc:
            raise SourceError(reason(exc)) from exc
    raise SourceError(f"it has {size:,} bytes, more than the setting {limit.name} allows ({limit.value():,})")


def _client(address: str, patient: bool = True) -> tuple[Any, str]:
    """Return the client of a bucket, and the name of a file in it."""
    scheme, _, rest = address.partition("://")
    bucket, _, name = rest.partition("/")
    return _bucket_client(f"{scheme}://{bucket}", patient), name


@lru_cache(maxsize=8)
def _bucket_client(uri: str, patient: bool) -> Any:
    return connect(uri, _PATIENT if patient else _QUICK, seconds=_SECONDS if patient else _SOON)
