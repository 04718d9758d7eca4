"""Images in this process's memory: those of the caller's datasets, found by their URIs.

Knows nothing about datasets. A holder is registered by a weak reference: its images can be read again (for a new
network, for edited images) as long as the caller of `register` keeps it, and no longer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from csp_index.errors import SourceError, one_line


@dataclass(frozen=True, slots=True)
class MemoryImage:
    """A picture that an object returned, with its metadata."""

    image: Image.Image
    metadata: dict[str, object] = field(default_factory=dict)


class ImageHolder(Protocol):
    """An object that has images which are in no file."""

    def find(self, uri: str) -> Callable[[], MemoryImage] | None:
        """Return a function that reads the image of a URI, or None if the holder does not have it."""
        ...


_holders: list[weakref.ref[ImageHolder]] = []


def register(holder: ImageHolder) -> None:
    """Make a holder's images readable by their URIs while the holder lives; the newest holder comes first."""
    _holders[:] = [weakref.ref(holder), *(known for known in _holders if known() not in (None, holder))]


def find_image(uri: str) -> MemoryImage | SourceError | None:
    """Return the image of a URI that a holder has, or why it cannot be read; None if no holder has it."""
    for known in tuple(_holders):  # another thread may register one meanwhile
        holder = known()
        read = None if holder is None else holder.find(uri)
        if read is not None:
            return read_image_of(read)
    return None


def is_in_memory(uri: str) -> bool:
    """Return whether a holder has the image of a URI, so that no file is opened for it."""
    holders = (known() for known in tuple(_holders))
    return any(holder is not None and holder.find(uri) is not None for holder in holders)


def read_image_of(read: Callable[[], MemoryImage]) -> MemoryImage | SourceError:
    """Return the image that the caller's code returns, or an error that says why there is none."""
    try:
        return read()
    except SourceError as exc:
        return exc
    except Exception as exc:  # it is the caller's code
        return SourceError(f"{type(exc).__name__}: {one_line(exc)}")
