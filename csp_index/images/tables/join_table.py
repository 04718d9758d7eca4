"""A table about image files, joined to them by path, by name, or by name without ending.

Knows nothing about pixels. The table stays columnar in memory; a row becomes a dictionary only when its image is
listed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import basename, dirname, normpath
from typing import Any

import numpy as np

from csp_index.errors import SourceError
from csp_index.images.tables.read_table import read_metadata_file

_USUAL = (
    *(
        "path",
        "file_name",
        "filename",
        "file",
        "filepath",
        "file_path",
        "image_path",
        "image",
        "image_id",
        "image_name",
    ),
    *("img", "img_path", "image_file", "image_index", "isic_id", "uri", "url", "name", "id", "key"),
)
_TRIED = 2_000  # rows, spread over the table, by which a column is chosen
_MOST_CLASSES = 10_000


@dataclass(frozen=True, slots=True)
class _Fit:
    """How well a cell names an image; the larger the better."""

    exact: bool  # the same path, below the folder of the source
    folders: int  # equal folders before the name, counted from the name
    ending: bool  # whether the endings are equal, too
    case: bool

    def rank(self) -> tuple[bool, int, bool, bool]:
        return (self.exact, self.folders, self.ending, self.case)


class PathTable:
    """The rows of a table by image path.

    The column ``key`` names the images: by default the one that names the most of them. Its values are paths relative
    to ``root``, absolute ones, bare file names, or names without their ending. A path whose last folder is another one
    than the image's is about another image (`train/1.jpg` is not `test/1.jpg`), unless ``key`` vouches for the names.
    Of two rows about one image the first counts. Raises SourceError if no image is named, or if a name fits several
    images equally well. ``notes`` says what joined, what did not, and what was guessed; ``complete`` whether every row
    and every image found each other.
    """

    def __init__(
        self, file: Path, root: Path, images: Iterable[str], endings: Iterable[str], key: str | None = None
    ) -> None:
        self._file, self._root = file, root
        self._name_alone = key is not None
        self._endings = frozenset(endings)
        table = read_metadata_file(file)
        self._images = list(images)
        self._by_stem: dict[str, list[int]] = {}
        for place, path in enumerate(self._images):
            self._by_stem.setdefault(self._stem(path).casefold(), []).append(place)
        column = self.key = self._key(table.columns, key)
        self._rows, counts = self._join(table.columns[column].to_pylist())
        if not self._rows:
            raise self._nothing(table.columns, column)
        columns = table.columns.drop_columns([column])
        hot = _one_hot(columns)
        if hot is not None:
            columns = columns.append_column(*hot[0])
        self._columns = columns
        self.complete = len(self._rows) == len(self._images) == table.columns.num_rows and not table.notes
        self.notes = [self._joined(column, counts, table.columns.num_rows), *table.notes, *([hot[1]] if hot else [])]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns that images get."""
        return tuple(self._columns.column_names)

    def row(self, relative: str) -> dict[str, object]:
        """Return the table's columns for an image; empty if it has no row."""
        index = self._rows.get(relative)
        if index is None:
            return {}
        return {name: self._columns[name][index].as_py() for name in self._columns.column_names}

    def _stem(self, path: str) -> str:
        name = basename(path)
        start, dot, ending = name.rpartition(".")
        return start if start and f"{dot}{ending}".lower() in self._endings else name

    def _fits(self, value: object) -> tuple[list[int], _Fit | None]:
        """Return the images that a cell names best, and how well it does."""
        if value is None or isinstance(value, bool | float) or not str(value).strip():
            return [], None
        path = _relative(value, self._root)
        stem = self._stem(path)
        best: list[int] = []
        best_fit: _Fit | None = None
        for place in self._by_stem.get(stem.casefold(), ()):
            fit = self._fit(path, stem, self._images[place])
            if fit is None:
                continue
            if best_fit is None or fit.rank() > best_fit.rank():
                best, best_fit = [place], fit
            elif fit.rank() == best_fit.rank():
                best.append(place)
        return best, best_fit

    def _fit(self, path: str, stem: str, image: str) -> _Fit | None:
        """Compare a cell's path with an image's; None if their folders contradict each other."""
        folders = [part for part in dirname(path).split("/") if part not in ("", ".", "..")]
        own = [part for part in dirname(image).split("/") if part]
        full = [*self._root.parts, *own]
        equal = 0
        while equal < min(len(folders), len(full)) and folders[-1 - equal] == full[-1 - equal]:
            equal += 1
        if folders and equal == 0 and not self._name_alone:
            return None
        return _Fit(path == image, equal, basename(path) == basename(image), self._stem(image) == stem)

    def _key(self, columns: Any, key: str | None) -> str:
        """Return the column that names the images."""
        names: list[str] = columns.column_names
        if key is not None:
            if key in names:
                return key
            raise SourceError(f"the metadata table {self._file} has no column {key!r} (has: {', '.join(names)})")
        step = max(1, columns.num_rows // _TRIED)
        sample = columns.take(np.arange(0, columns.num_rows, step))
        usual = {name: place for place, name in enumerate(_USUAL)}
        for tried in (sample, columns) if step > 1 else (sample,):
            images = {name: self._named(tried[name]) for name in names}
            most = max(images.values(), default=0)
            if most:
                return min(
                    (name for name in names if images[name] == most),
                    key=lambda name: usual.get(name.casefold().replace(" ", "_").replace("-", "_"), len(usual)),
                )
        named = sorted((usual[name.casefold()], name) for name in names if name.casefold() in usual)
        if named:
            return named[0][1]
        raise self._nothing(columns, None)

    def _named(self, column: Any) -> int:
        """Return how many images a column names."""
        import pyarrow as pa

        kind = column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
            return 0
        return len({best[0] for value in column.to_pylist() if len(best := self._fits(value)[0]) == 1})

    def _join(self, values: Sequence[object]) -> tuple[dict[str, int], dict[str, int]]:
        """Return the row of each image that has one, and how many rows have no image, repeat one, or lack an ending."""
        rows: dict[int, tuple[int, _Fit]] = {}
        counts = {"missing": 0, "repeated": 0, "by stem": 0}
        for row, value in enumerate(values):
            places, fit = self._fits(value)
            if fit is None:
                counts["missing"] += 1
                continue
            if len(places) > 1:
                raise SourceError(
                    f"{self._file} names {str(value)!r}, but {len(places)} images share it "
                    f"({self._images[places[0]]}, {self._images[places[1]]}{', ...' if len(places) > 2 else ''}): "
                    "give paths relative to the folder"
                )
            before = rows.get(places[0])
            if before is None:
                rows[places[0]] = row, fit
                continue
            if fit.rank() > before[1].rank():
                rows[places[0]] = row, fit
            same = fit.rank() == before[1].rank()
            self._check_same_folder(values, before[0], row, same)
            counts["repeated" if same else "missing"] += 1
        counts["by stem"] = sum(not fit.ending for _, fit in rows.values())
        return {self._images[place]: row for place, (row, _) in rows.items()}, counts

    def _check_same_folder(self, values: Sequence[object], first: int, second: int, same: bool) -> None:
        one, other = (_relative(values[row], self._root) for row in (first, second))
        if same and dirname(one) != dirname(other):
            raise SourceError(
                f"{self._file} names {one!r} and {other!r}, which both fit one image of {self._root}: give paths "
                "relative to the folder"
            )

    def _joined(self, column: str, counts: Mapping[str, int], rows: int) -> str:
        joined = len(self._rows)
        text = f"{self._file.name}: {rows - counts['missing']:,} of {rows:,} rows joined to {joined:,} of "
        text += f"{len(self._images):,} images by column {column!r}"
        if counts["by stem"]:
            text += f", {counts['by stem']:,} of them without the ending of their file"
        if counts["repeated"]:
            text += f"; {counts['repeated']:,} rows repeat an image, whose first row counts"
        bare = next((path for path in self._images if path not in self._rows), None)
        if bare is not None:
            text += f"; without a row: {len(self._images) - joined:,}, first {bare}"
        return text

    def _nothing(self, columns: Any, column: str | None) -> SourceError:
        """Say that no row names an image, with a row and the name of a file."""
        listed = ", ".join(columns.column_names) or "none"
        image = self._images[0] if self._images else "no image"
        if column is None:
            first = columns.slice(0, 1).to_pylist()
            row = ", ".join(f"{name}={value}" for name, value in first[0].items()) if first else "no row"
            return SourceError(
                f"the metadata table {self._file} has no column with image paths (has: {listed}): its first row is "
                f"{row}, the first image is {image}; name the column by --metadata-key"
            )
        value = next((cell for cell in columns[column].to_pylist() if cell is not None), "empty")
        step = (
            "name the column by --metadata-key, then names alone count"
            if not self._name_alone
            else "name another column"
        )
        return SourceError(
            f"no row of the metadata table {self._file} names an image: its column {column!r} has {value!r}, the first "
            f"image is {image!r}; {step} (has: {listed})"
        )


def _one_hot(columns: Any) -> tuple[tuple[str, Any], str] | None:
    """Return a column `label` made of neighboring columns of which one is 1 in every row, and a line about it."""
    import pyarrow as pa

    name = next((name for name in ("label", "class") if name not in columns.column_names), None)
    if name is None or columns.num_rows < 2:
        return None
    runs: list[list[str]] = [[]]
    for column in columns.column_names[:_MOST_CLASSES]:
        if _is_binary(columns[column]):
            runs[-1].append(column)
        elif runs[-1]:
            runs.append([])
    best: list[str] = []
    for run in runs:
        values = np.stack([columns[column].to_numpy().astype(np.int8) for column in run]) if len(run) > 1 else None
        if values is not None:
            start, end = _exclusive(values)
            best = max(best, run[start:end], key=len)
    if len(best) < 2 or (len(best) == 2 and sum(map(len, runs)) > 2):  # two of many: a yes and its no, not classes
        return None
    classes = np.stack([columns[column].to_numpy() for column in best]).argmax(0)
    line = f"columns {best[0]} to {best[-1]} are one class per image: it stands in the new column {name!r}"
    return (name, pa.array(best).take(pa.array(classes))), line


def _exclusive(values: np.ndarray) -> tuple[int, int]:
    """Return the longest run of rows of 0 and 1 [K, N] of which one is 1 at every place, and several are somewhere."""
    sums = np.concatenate([np.zeros((1, values.shape[1]), np.int32), values.cumsum(0, dtype=np.int32)])
    for length in range(len(values), 1, -1):
        for start in range(len(values) - length + 1):
            few = sums[start + length, :_TRIED] - sums[start, :_TRIED]
            single = (few == 1).all() and (sums[start + length] - sums[start] == 1).all()
            if single and values[start : start + length].any(1).sum() > 1:
                return start, start + length
    return 0, 0


def _is_binary(column: Any) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if column.null_count or not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        return False
    if pa.types.is_boolean(kind):
        return True
    return bool(pc.all(pc.or_(pc.equal(column, 0), pc.equal(column, 1))).as_py())


def _relative(value: object, root: Path) -> str:
    path = normpath(str(value).strip().replace("\\", "/").removeprefix("file://"))
    if not os.path.isabs(path):
        return path
    below = os.path.relpath(path, root).replace(os.sep, "/")
    return path if below.startswith("../") else below
