"""Which class each image is in: by a column of its metadata, or by the output of a classifier that is highest on it.

Loads no torch.
"""

from __future__ import annotations

import math
import re
from array import array
from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np

from csp_index.errors import NotFoundError, SettingError, StudyError
from csp_index.records import LayerKey
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.image_metadata import check_columns, image_records, metadata_state, number_text
from csp_index.store.tables import Store
from csp_index.store.values.arrays import fetch_tiles
from csp_index.store.values.class_names import class_names
from csp_index.studies.classes.number_bins import (
    BINS,
    MOST_BINS,
    TO,
    are_measured,
    as_numbers,
    binned,
    no_number,
    not_measured,
)

OUTPUTS: Final = "outputs:"  # before the layer of a classifier, in place of a column's name
MOST_CLASSES: Final = 1000
_BOUND = 10_000  # of the classes that may be asked for
_VALUES = 200_000  # different values of a column; more name images, and no classes
_NAMED = 3  # classes that a note names
_OUTPUTS_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class ImageClasses:
    """Which of the images 0 .. N - 1 are in which of C classes: P memberships, grouped by class, images rising.

    `present` are the sorted ids of all images that have a class, also one that is left out of `names`; `note` says
    what a reader should know about the classes.
    """

    names: tuple[str, ...]  # [C], distinct
    images: np.ndarray  # [P] ids
    offsets: np.ndarray  # [C + 1]
    present: np.ndarray
    total: int  # N
    note: str

    @property
    def sizes(self) -> np.ndarray:
        """The number of images in each class [C]."""
        return np.diff(self.offsets)


def classes_described(store: Store, by: str) -> dict[str, object]:
    """Return what changes when images change their classes: part of the settings of what depends on them.

    Raises NotFoundError for an output layer that is not there, AddressError for one that is no address.
    """
    if not by.startswith(OUTPUTS):
        return {"by": by, **metadata_state(store)}
    target = _outputs(store, by)
    names = class_names(store, target.key)
    return {"by": by, "outputs": target.identity, "class_names": [names[place] for place in sorted(names)]}


def read_classes(store: Store, by: str, images: int, most: int = MOST_CLASSES, bins: int | None = None) -> ImageClasses:
    """Return the classes of the first `images` images by a metadata column, or by `outputs:MODEL/LAYER`.

    Of more than `most` classes those with the most images are kept; images of the others count as images outside. A
    list, or a text with `;` or `|`, is in several classes. A column of measured numbers is divided into 10 bins with as
    many images each, as far as equal numbers allow; `bins` divides any column of numbers. Errors: NotFoundError for a
    column or a layer that is not there; StudyError for a column without values, where all images are in the same class,
    and for bins of what are no numbers.
    """
    if not 1 <= most <= _BOUND:
        raise SettingError(f"classes is {most}: expected 1 to {_BOUND:,}")
    if bins is not None and not 2 <= bins <= MOST_BINS:
        raise SettingError(f"bins is {bins}: expected 2 to {MOST_BINS:,}")
    if bins is not None and by.startswith(OUTPUTS):
        raise SettingError(f"{by} are classes, and no column of numbers: leave --bins out")
    if by.startswith(OUTPUTS):
        return _chosen(*_output_classes(store, _outputs(store, by), images), images, most, by)
    if not by:
        raise SettingError("the column has no name: write --by COLUMN, or --by outputs:MODEL/LAYER")
    check_columns(store, [by])
    names, owners, ids, notes = _column_classes(store, by, images)
    numbers = as_numbers(names)
    if bins is None and numbers is None and (why := not_measured(names, len(ids), MOST_CLASSES)):
        notes.append(f"{by!r} {why}")
    if bins is None and numbers is not None and are_measured(numbers, len(ids), MOST_CLASSES):
        bins = BINS
        notes.append(f"{by!r} has {len(numbers):,} different numbers, divided into {BINS} bins (--bins)")
    if bins is None:
        return _chosen(names, owners, ids, notes, images, most, by)
    if numbers is None:
        raise StudyError(f"{by!r} has values that are no numbers, such as {no_number(names)!r}: leave --bins out")
    names, owners = binned(numbers, owners, bins)
    pairs = np.unique(np.stack([owners, ids]), axis=1)  # an image with two numbers of a bin is in it once
    return _chosen(names, pairs[0], pairs[1], notes, images, most, by)


def value_texts(value: object) -> tuple[str, ...] | None:
    """Return the classes that a metadata value names, none for an empty one, None for nested data.

    >>> value_texts(7.0), value_texts(True), value_texts("red; star"), value_texts([" a", None, "b"]), value_texts({})
    (('7',), ('true',), ('red', 'star'), ('a', 'b'), None)
    """
    if value is None:
        return ()
    if isinstance(value, bool):
        return ("true" if value else "false",)
    if isinstance(value, int | float):
        return (number_text(value),)
    if isinstance(value, str):
        return tuple(dict.fromkeys(text for part in re.split("[;|]", value) if (text := part.strip())))
    if isinstance(value, list):
        parts = [value_texts(item) for item in value if not isinstance(item, list)]
        known = [part for part in parts if part is not None]
        return tuple(dict.fromkeys(text for part in known for text in part)) if len(known) == len(value) else None
    return None


def _column_classes(store: Store, by: str, images: int) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """Return names, the code and the image of each membership, and notes."""
    codes: dict[str, int] = {}
    owners, ids = array("q"), array("q")
    nested = 0
    for image, record in image_records(store, images):
        texts = value_texts(record.get(by))
        nested += texts is None
        for text in texts or ():
            owners.append(codes.setdefault(text, len(codes)))
            ids.append(image)
        if len(codes) > _VALUES:
            raise StudyError(
                f"the column {by!r} has more than {_VALUES:,} different values: it names images, and no classes"
            )
    notes = [f"{nested:,} images have nested data in {by!r}, which is no class"] if nested else []
    return list(codes), np.asarray(owners, np.int64), np.asarray(ids, np.int64), notes


def _outputs(store: Store, by: str) -> LayerInfo:
    return catalog.layer(store, LayerKey.parse(by.removeprefix(OUTPUTS)))


def _output_classes(
    store: Store, target: LayerInfo, images: int
) -> tuple[list[str], np.ndarray, np.ndarray, list[str]]:
    """Return names, the highest output of each image (the first of equals), the images, and notes.

    An image whose outputs are all the same has no class. Errors: NotFoundError where the layer lacks images.
    """
    if catalog.image_count(store, target.what) < images:
        raise NotFoundError(
            f"{target.key} has the outputs of {catalog.image_count(store, target.what):,} of {images:,} images: "
            "run `csp-index index` again, it goes on where it stopped"
        )
    highest, lowest = np.full(images, -np.inf, np.float32), np.full(images, np.inf, np.float32)
    winner = np.zeros(images, np.int64)
    marks = [mark for mark in catalog.shards(store, target.what) if mark.first_image < images]
    for first in range(0, target.neurons, _OUTPUTS_AT_ONCE):
        numbers = np.arange(first, min(first + _OUTPUTS_AT_ONCE, target.neurons))
        for mark, tile in zip(marks, fetch_tiles(store, target, marks, numbers), strict=True):
            inside = slice(mark.first_image, min(mark.first_image + mark.rows, images))
            part = tile[:, : inside.stop - inside.start]
            best = part.argmax(0)
            values = part[best, np.arange(part.shape[1])]
            better = values > highest[inside]
            winner[inside] = np.where(better, best + first, winner[inside])
            highest[inside] = np.maximum(values, highest[inside])
            lowest[inside] = np.minimum(part.min(0), lowest[inside])
    ids = np.flatnonzero(highest > lowest)
    notes = [f"{images - len(ids):,} images have equal outputs"] if len(ids) < images else []
    absent = target.neurons - len(np.unique(winner[ids]))
    notes += [f"{absent:,} of {target.neurons:,} outputs are highest on no image"] if absent else []
    return _output_names(store, target), winner[ids], ids, notes


def _output_names(store: Store, target: LayerInfo) -> list[str]:
    """Return the name of each output: its class name, with its number where two are called the same."""
    known = class_names(store, target.key)
    names = [known.get(number, f"output {number}") for number in range(target.neurons)]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} (output {place})" for place, name in enumerate(names)]


def _chosen(
    names: list[str], owners: np.ndarray, ids: np.ndarray, notes: list[str], images: int, most: int, by: str
) -> ImageClasses:
    """Return the classes with the most images, `most` of them at most, in the order of their names or numbers."""
    present = np.unique(ids)
    if not len(present):
        raise StudyError(f"no image has a value of {by!r}: there are no classes to compare")
    sizes = np.bincount(owners, minlength=len(names))
    used = np.flatnonzero(sizes).tolist()
    if len(used) == 1:
        raise StudyError(
            f"all {len(present):,} images with a value of {by!r} are in one class, {names[used[0]]!r}: expected two "
            "classes or more"
        )
    kept = sorted(used, key=lambda code: (-int(sizes[code]), _order(names[code])))[:most]
    left_out = len(used) - len(kept)
    if left_out:
        largest = max(int(sizes[code]) for code in set(used) - set(kept))
        notes = [
            *notes,
            f"{left_out:,} of {len(used):,} classes are left out, of at most {largest:,} images each (--classes)",
        ]
    kept.sort(key=lambda code: _order(names[code]))
    if len(present) < images:
        notes = [f"{images - len(present):,} of {images:,} images have no class and count nowhere", *notes]
    notes = [*notes, *_lonely([names[code] for code in kept if sizes[code] == 1])]
    places = np.full(len(names), -1)
    places[kept] = np.arange(len(kept))
    positions = places[owners]
    order = np.lexsort((ids, positions))
    order = order[np.searchsorted(positions[order], 0) :]  # without the memberships of classes that are left out
    offsets = np.concatenate([[0], np.cumsum(sizes[kept])])
    chosen = tuple(names[code] for code in kept)
    return ImageClasses(chosen, ids[order], offsets, present, images, "; ".join(notes))


def _lonely(names: list[str]) -> list[str]:
    """Return a note about classes with one image, if there are any."""
    if not names:
        return []
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    what = "1 class has" if len(names) == 1 else f"{len(names):,} classes have"
    return [f"{what} one image ({listed}): their figures rest on it alone"]


def _order(name: str) -> tuple[bool, float, str, str]:
    """Return what names are sorted by: numbers by value, then texts, whatever their case."""
    try:
        number = float(name.partition(TO)[0])
    except ValueError:
        number = math.nan
    return (False, number, "", name) if math.isfinite(number) else (True, 0.0, name.casefold(), name)
