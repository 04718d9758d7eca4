"""The original pictures of an index: their addresses are opened only below places that the user named.

An index may come from a stranger, who may write any path of the reader's files into it. The user names places by
`csp-index index DB SOURCE` (remembered per user, outside the index), by `--images`, or by the setting `image_roots`.
Pictures in memory have no address to open.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from csp_index import settings
from csp_index.errors import SourceError, one_line
from csp_index.files.regular_files import user_path
from csp_index.images.decode import (
    IN_MEMORY,
    ImageFailure,
    ImageRead,
    Picture,
    decode_picture,
    fetch,
    read_image,
    read_images,
    read_plain,
    same_file,
)
from csp_index.images.files.containers import ContainerReader, container_of
from csp_index.images.memory_images import MemoryImage, is_in_memory
from csp_index.store import catalog, schema
from csp_index.store.tables import Store

_FOLDER: Final = "image-roots"
_URL = rf"[A-Za-z][\w+.-]*://[^/{os.pathsep}]*(?::\d+(?![^/{os.pathsep}]))?(?:/[^{os.pathsep}]*)?"
_ARRAY = re.compile(r"array#\d+")
_log = logging.getLogger(__name__)
_named: dict[str, tuple[str, ...]] = {}  # by the index's location: places named in this process


def allow(index: str | Path, places: str | Path | Iterable[str | Path]) -> None:
    """Let this process open the images of an index below some places: folders, files, or the beginnings of URLs."""
    key, some = _location(str(index)), [places] if isinstance(places, str | Path) else places
    _named[key] = tuple(dict.fromkeys([*_named.get(key, ()), *(_settled(str(place)) for place in some)]))


@contextmanager
def coming_from(store: Store, places: Iterable[str]) -> Iterator[None]:
    """Allow images below the places of a source that the user gives; remember them for this user at the end."""
    settled = [_settled(place) for place in places]
    allow(store.address, settled)
    try:
        yield
    finally:
        _remember(store, settled)


def _remember(store: Store, places: list[str]) -> None:
    """Remember places beside those known; what cannot be written is logged."""
    run = _first_run(store)
    if run is None or set(places) <= set(known := _remembered(store, run)):
        return
    file = _file(store, run)
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = {"index": _location(store.address), "first_run": run, "roots": list(dict.fromkeys([*known, *places]))}
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as draft:
            json.dump(content, draft)
        os.replace(draft.name, file)
    except OSError as exc:
        _log.warning("where the images are cannot be remembered in %s (%s): name it by --images", file, one_line(exc))


class ImageRoots:
    """The places below which the images of one index may be opened."""

    def __init__(self, store: Store) -> None:
        """Collect them: those named in this process, by the setting, and when images were indexed on this machine."""
        run = _first_run(store)
        listed = _places(settings.IMAGE_ROOTS.value())
        remembered = () if run is None else _remembered(store, run)
        self._index = store.uri
        self.places = tuple(
            dict.fromkeys([*_named.get(_location(store.address), ()), *map(_settled, listed), *remembered])
        )

    def allow(self, uri: str) -> bool:
        """Return whether an image may be opened."""
        if uri.startswith(IN_MEMORY) or _ARRAY.fullmatch(uri) or is_in_memory(uri):
            return True
        if "://" in uri:
            climbs = ".." in re.split(r"[/\\]", unquote(uri))
            return not climbs and any("://" in place and _below(uri, place, "/") for place in self.places)
        container = container_of(uri)
        file = _real(uri if container is None else container.path)
        return file is not None and any(_below(file, place, os.sep) for place in self.places)

    def checked(self, uri: str) -> str:
        """Return an address that may be opened. Raises SourceError, which says how to allow it, for another."""
        if not self.allow(uri):
            raise self.refusal(uri)
        return uri

    def refusal(self, uri: str) -> SourceError:
        """Return the error for an address that may not be opened."""
        return SourceError(
            f"the image {uri} is not opened: its address comes from the index {self._index}, and it lies in no "
            "place that you named: name the folder of the images by --images DIR (CSP_INDEX_IMAGE_ROOTS)"
        )


def read_originals(store: Store, uris: Iterable[str]) -> Iterator[ImageRead | ImageFailure]:
    """Yield the images of an index at their addresses, in order, or their failures; decoded as for the index.

    Raises SourceError at the first one that lies in no place the user named.
    """
    return read_images(map(ImageRoots(store).checked, uris), catalog.draft(catalog.columns(store)))


def read_indexed(roots: ImageRoots, uri: str, sha256: str) -> Callable[[int | None], Picture]:
    """Return what decodes the picture at an address, if it is still the one that was indexed, by its hash.

    The bytes are read at once, and compared before anything decodes them. The function that comes back takes the
    `draft` of `decode_picture`, and returns upright RGB. Both raise SourceError, for a picture that lies in no place
    the user named, that is another file now, or that cannot be read soon.
    """
    reader = ContainerReader()
    try:
        payload = fetch(reader, roots.checked(uri))
        if isinstance(payload, MemoryImage):
            picture = _unchanged(read_image(uri, payload), sha256)
            return lambda _: picture
        if isinstance(payload, SourceError):
            raise payload
        data = read_plain(uri, patient=False) if payload is None else payload
    except OSError as exc:
        raise SourceError(f"{uri} cannot be read: {one_line(exc)}") from exc
    finally:
        reader.close()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise SourceError(f"{uri} is another file than the one indexed")
    return lambda draft: decode_picture(data, draft=draft)


def _unchanged(read: ImageRead | ImageFailure, sha256: str) -> Picture:
    same = same_file(read, sha256)
    if isinstance(same, ImageFailure):
        raise SourceError(same.reason)
    return Picture(same.image, same.width, same.height)


def _below(place: str, root: str, separator: str) -> bool:
    return place == root or place.startswith(root.rstrip(separator) + separator)


def _places(listed: str) -> list[str]:
    """Return places listed as in PATH; URLs, which may have a port, stay whole."""
    return re.findall(rf"{_URL}|[^{os.pathsep}]+", listed)


def _settled(place: str) -> str:
    """Return a place that the user names: absolute, without links."""
    return place if "://" in place else os.path.realpath(os.path.expanduser(place))


def _real(file: str) -> str | None:
    """Return where a file lies, None for no path; folders are looked up once: an index has many files in few."""
    folder, name = os.path.split(file)
    if "\0" in file:
        return None
    if name in ("", ".", "..") or os.path.islink(file):
        return os.path.realpath(file)
    return os.path.join(_real_folder(folder or os.curdir), name)


@lru_cache(maxsize=4096)
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _location(address: str) -> str:
    return address.rstrip("/") if "://" in address else os.path.realpath(os.path.expanduser(address))


def _first_run(store: Store) -> str | None:
    runs = store.read(schema.RUNS, ["run_id"])["run_id"].to_pylist()
    return min(runs, default=None)


def _file(store: Store, run: str) -> Path:
    """Return the user's file about an index, which another index at the same place does not have."""
    name = hashlib.sha256(f"{_location(store.address)}\n{run}".encode()).hexdigest()[:32]
    folder = settings.STATE.value()
    if not folder:
        import platformdirs

        folder = platformdirs.user_state_dir("csp_index")
    return user_path(folder) / _FOLDER / f"{name}.json"


def _remembered(store: Store, run: str) -> tuple[str, ...]:
    try:
        content = json.loads(_file(store, run).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, RecursionError) as exc:
        _log.warning("the file %s cannot be read (%s): delete it", _file(store, run), one_line(exc))
        return ()
    roots = content.get("roots", ()) if isinstance(content, dict) else ()
    return tuple(root for root in roots if isinstance(root, str)) if isinstance(roots, list) else ()
