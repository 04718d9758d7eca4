"""The pictures of images that an index holds: thumbnails, and derived images. Knows nothing of who shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from csp_index.errors import SourceError
from csp_index.records import NeuronKey
from csp_index.store import catalog, schema
from csp_index.store.tables import Store
from csp_index.store.values.activation_maps import neuron_maps
from csp_index.store.values.derived_images import derived_rows, is_derived


class StoredPictures:
    """Returns the encoded pictures of images of a store by id: empty where it keeps none, unknown ids left out.

    A copied or pickled one returns none: what reads them stays with its index. No dataclass: `dataclasses.asdict` of
    what holds one would take the store apart.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, ids: Iterable[int]) -> dict[int, bytes]:
        """Return the pictures of these images."""
        requested = sorted(set(ids))
        if not requested:
            return {}
        where = f"image_id IN ({','.join(map(str, requested))})"
        rows = self.store.read(schema.IMAGES, ["image_id", "thumbnail"], where).to_pylist()
        pictures: dict[int, bytes] = {row["image_id"]: row["thumbnail"] or b"" for row in rows}
        made = derived_rows(self.store, (image for image in requested if is_derived(image)), ["picture"])
        return pictures | {image: row["picture"] for image, row in made.items() if isinstance(row["picture"], bytes)}

    def __reduce__(self) -> tuple[object, ...]:
        return (_without_index, ())


class StoredVeils:
    """Returns the pictures of images veiled where a neuron does not fire, by id; those without a map are left out.

    A copied or pickled one returns none, as of `StoredPictures`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, neuron: NeuronKey, ids: Iterable[int]) -> dict[int, bytes]:
        """Return the veiled pictures of these images as PNG; StoreError for damaged maps."""
        from csp_index.images.veils import veiled

        maps = neuron_maps(self.store, catalog.layer(self.store, neuron.layer_key), neuron.neuron)
        shown = [] if maps is None else [image for image in sorted(set(ids)) if image in maps.images]
        if maps is None or maps.frame.side is None or not shown:
            return {}
        where = f"image_id IN ({','.join(map(str, shown))})"
        rows = self.store.read(schema.IMAGES, ["image_id", "width", "height", "thumbnail"], where).to_pylist()
        pictures = {}
        for row in rows:
            heat, box = maps.of(row["image_id"]), maps.frame.box((row["width"] or 0, row["height"] or 0))
            if heat is not None and box is not None and row["thumbnail"]:
                with suppress(SourceError):  # it is no picture, and without a veil its box is empty, too
                    pictures[row["image_id"]] = veiled(row["thumbnail"], heat, box)
        return pictures

    def __reduce__(self) -> tuple[object, ...]:
        return (_without_maps, ())


def no_veils(neuron: NeuronKey, ids: Iterable[int]) -> dict[int, bytes]:
    """Return no veiled picture: for what has no index behind it."""
    return {}


def _without_maps() -> Callable[[NeuronKey, Iterable[int]], dict[int, bytes]]:
    return no_veils


def no_pictures(ids: Iterable[int]) -> dict[int, bytes]:
    """Return no picture of any image: for what has no index behind it."""
    return {}


def _without_index() -> Callable[[Iterable[int]], dict[int, bytes]]:
    return no_pictures


def pictures_or_originals(store: Store, ids: Iterable[int]) -> dict[int, bytes]:
    """Return what `StoredPictures` does; images without a thumbnail are read where they lie, if that is allowed.

    Errors: SourceError for an image in no place that the user named.
    """
    pictures = StoredPictures(store)(ids)
    absent = [image for image, picture in pictures.items() if not picture and not is_derived(image)]
    if not absent:
        return pictures
    from csp_index.images.decode import ImageRead, thumbnail  # Pillow: what needs no original does not wait for it
    from csp_index.store.originals import read_originals

    where = f"image_id IN ({','.join(map(str, absent))})"
    rows = store.read(schema.IMAGES, ["image_id", "uri"], where).to_pylist()
    for row, item in zip(rows, read_originals(store, (row["uri"] for row in rows)), strict=True):
        if isinstance(item, ImageRead):
            pictures[row["image_id"]] = thumbnail(item.image)
    return pictures
