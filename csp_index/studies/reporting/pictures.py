"""The pictures of a report: the small ones that the index has, inside the page, within a bound of bytes.

Loads no torch. An index may come from a stranger: nothing but JPEG and PNG of a plausible size is shown, and no file
is opened.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from csp_index.errors import SourceError
from csp_index.evaluation.report.rendering import data_uri
from csp_index.images.decode import stored_size
from csp_index.images.files.formats import stored_type
from csp_index.store import schema
from csp_index.store.tables import Store
from csp_index.store.values.derived_images import derived_rows, describe_recipe, is_derived

_TINY: Final = 64  # pixels of the longer side: such pictures are enlarged without blur
_MOST_PIXELS: Final = 2**24
_AT_ONCE: Final = 2_000  # ids in one condition


@dataclass(frozen=True, slots=True)
class StoredPicture:
    """A picture of the index: the name of its file, the hash of that file, and the small picture, b"" without one."""

    name: str
    sha256: str | None
    kind: str  # of the small picture, as browsers call it
    data: bytes
    tiny: bool

    def facts(self) -> dict[str, Any]:
        """Return what a digest is of."""
        return {"name": self.name, "sha256": self.sha256, "picture": hashlib.sha256(self.data).hexdigest()}


def stored_pictures(store: Store, ids: Iterable[int]) -> dict[int, StoredPicture]:
    """Return the pictures of images, indexed or derived, by id; ids that the index does not have are left out."""
    wanted = sorted(set(ids))
    indexed, derived = ([i for i in wanted if is_derived(i) == made] for made in (False, True))
    pictures = {}
    for start in range(0, len(indexed), _AT_ONCE):
        listed = ",".join(map(str, indexed[start : start + _AT_ONCE]))
        columns = ["image_id", "uri", "sha256", "thumbnail"]
        for row in store.read(schema.IMAGES, columns, f"image_id IN ({listed})").to_pylist():
            name = str(row["uri"]).rpartition("/")[2]
            pictures[int(row["image_id"])] = _picture(name, row["sha256"], row["thumbnail"])
    for image, row in derived_rows(store, derived, ["recipe", "picture"]).items():
        pictures[image] = _picture(describe_recipe(str(row["recipe"])), None, row["picture"])
    return pictures


def _picture(name: str, sha256: str | None, data: object) -> StoredPicture:
    kind = stored_type(data)
    try:
        width, height = stored_size(data) if kind else (0, 0)
    except SourceError:
        width = height = 0
    if not isinstance(data, bytes) or not 0 < width * height <= _MOST_PIXELS:
        return StoredPicture(name, sha256, "", b"", False)
    return StoredPicture(name, sha256, kind, data, max(width, height) <= _TINY)


@dataclass
class Album:
    """Pictures as a page shows them, in its order, until they have taken `most` bytes of it.

    `without` counts those that the index has no picture of, `beyond` those for which there was no room.
    """

    pictures: Mapping[int, StoredPicture]
    most: int
    taken: int = 0
    without: set[int] = field(default_factory=set)
    beyond: int = 0

    def address(self, image: int) -> str:
        """Return the address that contains a picture; "" without one."""
        picture = self.pictures.get(image)
        if picture is None or not picture.data:
            self.without.add(image)
            return ""
        return self._placed(picture.data, picture.kind)

    def map_address(self, data: bytes) -> str:
        """Return the address that contains a heat map (PNG); "" where there is no room."""
        return self._placed(data, "image/png")

    def name(self, image: int) -> str:
        """Return the name of an image's file."""
        return self.pictures[image].name if image in self.pictures else f"image {image}"

    def tiny(self, image: int) -> bool:
        """Return whether a picture is enlarged without blur."""
        return image in self.pictures and self.pictures[image].tiny

    def _placed(self, data: bytes, kind: str) -> str:
        address = data_uri(data, kind)
        if self.taken + len(address) > self.most:
            self.beyond += 1
            return ""
        self.taken += len(address)
        return address


@dataclass(frozen=True, slots=True)
class HeatMaps:
    """Pictures as PNG by neuron and image id, and what is to be said of those that are missing: "" if none is."""

    pictures: dict[tuple[int, int], bytes] = field(default_factory=dict)
    note: str = ""

    def of(self, neuron: int, image: int) -> bytes | None:
        """Return the heat map of a neuron on an image, None without one."""
        return self.pictures.get((neuron, image))


NOT_ASKED: Final = HeatMaps(note="Heat maps were not asked for (csp-index report --heat-maps).")
