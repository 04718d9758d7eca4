"""The columns of the images' metadata as factors: which image has which value of which column; loads no torch."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from csp_index.errors import SettingError
from csp_index.store.image_metadata import check_columns, image_records
from csp_index.store.tables import Store
from csp_index.studies.classes.image_classes import value_texts

MOST_VALUES = 50  # of a column that is looked at
FEWEST = 5  # images that have a value, and that lack it
MOST_FACTORS = 1_000  # values of all columns together
_LONGEST = 200  # characters of a value


@dataclass(frozen=True, slots=True)
class Factors:
    """Which of N images have which of V values: `rows` [V, N] bool, `values` [V] the column and value of each.

    `left_out` says why columns are not looked at, by column.
    """

    values: tuple[tuple[str, str], ...]
    rows: np.ndarray
    left_out: dict[str, str]


@dataclass
class _Column:
    """The values of one column while it is read: the images that have each; None once there are too many."""

    images: dict[str, array[int]] | None = field(default_factory=dict)

    def add(self, image: int, value: object) -> None:
        for text in value_texts(value) or ():
            if self.images is None:
                return
            if (text not in self.images and len(self.images) >= MOST_VALUES) or len(text) > _LONGEST:
                self.images = None
                return
            self.images.setdefault(text, array("q")).append(image)


def read_factors(store: Store, images: int, classes: str, chosen: Sequence[str] = ()) -> Factors:
    """Return the values of metadata columns as factors: of the `chosen` columns, by default of all but `classes`.

    A column with more than `MOST_VALUES` values is left out, and so are values of fewer than `FEWEST` images, or of all
    but as many. Errors: NotFoundError for a chosen column that no image has, SettingError for that of the classes.
    """
    if classes in chosen:
        raise SettingError(f"column {classes!r} has the classes: name other columns as artefacts")
    if chosen:
        check_columns(store, chosen)
    columns: dict[str, _Column] = {}
    for image, record in image_records(store, images):
        for name, value in record.items():
            if name != classes and (not chosen or name in chosen):
                columns.setdefault(name, _Column()).add(image, value)
    values: list[tuple[str, str]] = []
    rows: list[np.ndarray] = []
    left_out: dict[str, str] = {}
    for name, column in columns.items():
        own = _rows_of(column, images)
        if column.images is None:
            left_out[name] = f"it has more than {MOST_VALUES} values, or long texts: join a column of groups instead"
        elif not own:
            left_out[name] = f"none of its values is on {FEWEST} images or more and missing on as many"
        elif len(values) + len(own) > MOST_FACTORS:
            left_out[name] = f"the columns before it have {len(values):,} values: name the columns that matter"
        else:
            values += [(name, value) for value, _ in own]
            rows += [row for _, row in own]
    table = np.stack(rows) if rows else np.zeros((0, images), dtype=bool)
    return Factors(tuple(values), table, left_out)


def _rows_of(column: _Column, images: int) -> list[tuple[str, np.ndarray]]:
    """Return the values that part the images, with their rows, in the order of the values."""
    rows = []
    for value, ids in sorted((column.images or {}).items()):
        if FEWEST <= len(ids) <= images - FEWEST:
            row = np.zeros(images, dtype=bool)
            row[np.frombuffer(ids, np.int64)] = True
            rows.append((value, row))
    return rows
