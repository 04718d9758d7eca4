"""Stored sums over the dataset: whether they are complete, and whether what must hold of any such sums holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from csp_index.integrity.column_checks import Marks
from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject, many
from csp_index.store import column_tables

_ROUNDING = 1e-3  # of a sum over images, relative


def check_sums(subject: Subject, marks: Marks) -> None:
    """Check the sums of every encoder whose embeddings are in order."""
    for info in subject.encoders:
        table = column_tables.sums_table(info.name)
        if info.what in marks and subject.is_readable(table):
            with reading(subject.result.findings, table):
                _check_table(subject, table, info.width)


def _check_table(subject: Subject, table: str, width: int) -> None:
    rows = subject.store.read(table)
    parts: dict[tuple[str, int, int], dict[str, np.ndarray]] = {}
    keys = zip(*(rows[name].to_pylist() for name in ("key", "first_image", "images")), strict=True)
    for place, (key, name) in enumerate(zip(keys, rows["part"].to_pylist(), strict=True)):
        parts.setdefault(key, {})[name] = rows["values"][place].values.to_numpy()
    subject.result.count("sums", len(parts))
    wrong = [key for (key, _, images), values in parts.items() if not _holds(values, images, width)]
    if wrong:
        subject.find(table, "these sums are not those of images and texts", many(wrong, "key"), key=(table,))


def _holds(values: Mapping[str, np.ndarray], images: int, width: int) -> bool:
    """Return whether the sums are whole: the shares of all texts add up to 1 for each image."""
    if not all(np.isfinite(part).all() for part in values.values()):
        return False
    if set(values) == set(column_tables.PRESENCE_PARTS):
        return _are_statistics(values)
    if set(values) != set(column_tables.SUMS_PARTS):
        return False
    sizes = {"totals": images, "root": len(values["share"]), "embedding": width, "products": width * width}
    if any(len(values[name]) != size for name, size in sizes.items()):
        return False
    return bool(abs(values["share"].sum() - images) <= _ROUNDING * max(1, images))


def _are_statistics(values: Mapping[str, np.ndarray]) -> bool:
    """Return whether these are means and deviations of presence, in [0, 1], of as many texts as there are sigmoids."""
    mean, deviation = values["mean"], values["deviation"]
    same = len({len(part) for part in values.values()}) == 1
    return same and bool(((mean >= 0) & (mean <= 1) & (deviation >= 0) & (deviation <= 0.5 + _ROUNDING)).all())
