"""Sheets: the strongest image of each of many neurons in one picture, so that a page of them needs one request.

A sheet depends on the layer's statistics, thumbnails and maps alone, not on labels: at one version of the index the
same neurons have the same sheet, whatever a page is sorted by.
"""

from __future__ import annotations

import io
from typing import Any, Final

from PIL import Image

from csp_index.errors import NotFoundError, SettingError, SourceError
from csp_index.images.decode import decode_stored
from csp_index.images.veils import lay_veil
from csp_index.records import LayerKey
from csp_index.service.layer_table import LayerTable
from csp_index.service.snapshot import Snapshot
from csp_index.store import catalog
from csp_index.store.values.activation_maps import NeuronMaps, read_maps

COLUMNS: Final = 24
"""Pictures beside each other in a sheet; one that has fewer is as wide."""
MOST: Final = 600
"""Pictures in a sheet."""
TILE: Final = 96  # pixels of the longer side of a picture, at most
MEDIA_TYPE: Final = "image/webp"
_QUALITY: Final = 72
_METHOD: Final = 0  # of WebP, the fastest: 504 pictures in 0.4 s of one core instead of 0.6 s, in 337 kB instead of 259


def places(numbers: list[int]) -> dict[int, tuple[int, int]]:
    """Return the column and row of each neuron's picture in the sheet of some neurons.

    >>> places([7, 3])
    {3: (0, 0), 7: (1, 0)}
    """
    return {neuron: (at % COLUMNS, at // COLUMNS) for at, neuron in enumerate(sorted(set(numbers)))}


def sheet(snapshot: Snapshot, key: LayerKey, numbers: list[int], *, veiled: bool = False) -> bytes:
    """Return the sheet of some neurons, in the order of their numbers, as WebP; clear where there is no picture.

    With `veiled` the places of a picture where its neuron does not fire are hidden, of neurons with a stored map.
    Pictures are whole: what is not square has clear margins. Raises SettingError for none or more than `MOST` neurons,
    NotFoundError for one that is not there, and where the layer has no pictures.
    """
    wanted = sorted(set(numbers))
    if not 1 <= len(wanted) <= MOST:
        raise SettingError(f"a sheet of {len(wanted):,} neurons: expected 1 to {MOST}")
    table = snapshot.layer(key)
    catalog.check_neurons(table.info, wanted)
    images = {neuron: int(table.top_images[neuron, 0]) for neuron in wanted if table.maxima[neuron] > 0}
    rows = snapshot.image_rows(images.values(), ["thumbnail", "width", "height"])
    maps = read_maps(snapshot.store, table.info, wanted) if veiled else {}
    pictures = {
        neuron: picture
        for neuron, image in images.items()
        if (picture := _picture(rows.get(image), maps.get(neuron), image)) is not None
    }
    if not pictures and not _has_pictures(table, rows):
        raise NotFoundError(f"the images of {key} have no pictures in the index: they came as arrays")
    side = max((max(picture.size) for picture in pictures.values()), default=1)
    canvas = Image.new("RGBA", (COLUMNS * side, -(-len(wanted) // COLUMNS) * side))
    for neuron, (across, down) in places(wanted).items():
        if (picture := pictures.get(neuron)) is not None:
            left, top = ((side - length) // 2 for length in picture.size)
            canvas.paste(picture, (across * side + left, down * side + top))
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", quality=_QUALITY, method=_METHOD)
    return buffer.getvalue()


def _picture(row: dict[str, Any] | None, maps: NeuronMaps | None, image: int) -> Image.Image | None:
    """Return a small picture with the veil of a map over it, where there is one; None without a picture."""
    if row is None or not row["thumbnail"]:
        return None
    try:
        picture = decode_stored(row["thumbnail"])
    except SourceError:  # no picture: `csp-index verify` says so
        return None
    picture.thumbnail((TILE, TILE), Image.Resampling.BILINEAR, reducing_gap=None)
    heat = None if maps is None else maps.of(image)
    box = None if maps is None else maps.frame.box((row["width"] or 0, row["height"] or 0))
    if heat is not None and box is not None:
        lay_veil(picture, heat, box)
    return picture


def _has_pictures(table: LayerTable, rows: dict[int, dict[str, Any]]) -> bool:
    """Return whether a layer's images may have pictures: none of some neurons do where all of these are dead."""
    return not rows or any(row["thumbnail"] for row in rows.values())
