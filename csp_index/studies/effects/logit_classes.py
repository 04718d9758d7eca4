"""Which class each image belongs to, by a column of its metadata; what the classes are called. Loads no torch."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from csp_index.errors import SourceError, one_line
from csp_index.files.regular_files import read_text, user_path
from csp_index.store.image_metadata import check_columns, image_records
from csp_index.store.tables import Store

_log = logging.getLogger(__name__)

_DIGITS = 9  # of a class's number
_SHOWN = 4  # values in a message


def read_names(names: Sequence[str] | str | Path | None) -> tuple[str, ...]:
    """Return the names of classes, in the order of the logits: those given, or the lines of a text file."""
    if names is None:
        return ()
    if not isinstance(names, str | Path):
        return tuple(names)
    try:
        return tuple(read_text(user_path(names)).splitlines())
    except (OSError, ValueError) as exc:
        raise SourceError(f"the class names {names} cannot be read: {one_line(exc)}") from exc


def classes_of_images(store: Store, column: str, images: int, classes: Sequence[str | None]) -> np.ndarray:
    """Return the class of each of the first `images` images by its value in a column, -1 without one: [N] int64.

    A value is a class's name, case ignored, or else its number among the logits. Values that name no class are
    counted in a warning. Raises NotFoundError for an unknown column, SourceError if no value names a class.
    """
    check_columns(store, [column])
    numbers = {name.strip().lower(): number for number, name in reversed(list(enumerate(classes))) if name}
    result, unknown = np.full(images, -1, dtype=np.int64), Counter[str]()
    for image, record in image_records(store, images):
        value = record.get(column)
        if value is None or value == "":
            continue
        number = _class_of(value, numbers, len(classes))
        if number is None:
            unknown[str(value)] += 1
        else:
            result[image] = number
    few = ", ".join(repr(value) for value, _ in unknown.most_common(_SHOWN))
    named = ", ".join(name for name in classes[:_SHOWN] if name) or f"0 to {len(classes) - 1}"
    if (result < 0).all():
        raise SourceError(
            f"no value of the column {column!r} names one of the {len(classes):,} classes ({named}, ...); it has "
            f"{few or 'no values'}: name the classes by --class-names, or leave the column out"
        )
    if unknown:
        _log.warning(
            "%d images have a value in %s that names no class of the network, and are left out: %s",
            *(unknown.total(), column, few),
        )
    return result


def _class_of(value: object, numbers: dict[str, int], classes: int) -> int | None:
    text = str(value).strip()
    if text.lower() in numbers:
        return numbers[text.lower()]
    whole = text.removesuffix(".0") if isinstance(value, float) else text
    if whole.isascii() and whole.isdigit() and len(whole) <= _DIGITS and int(whole) < classes:
        return int(whole)
    return None
