"""A table about image files, joined to them by path, by name, or by name without ending.

Knows nothing about pixels. The table stays columnar in memory; a row becomes a dictionary only when its image is
listed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from posixpath import dirname
from typing import Any

import numpy as np

from csp_index.errors import SourceError
from csp_index.images.files.formats import known_endings
from csp_index.images.tables.image_names import ADDRESS, NUMBER, OTHER_ENDING, WITHOUT_ENDING, Fit, ImageNames
from csp_index.images.tables.read_table import read_metadata_file
from csp_index.images.tables.table import MetadataFile

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
_NAMED = 6  # columns in a message


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
        self,
        file: Path,
        root: Path,
        images: Iterable[str],
        endings: Iterable[str],
        key: str | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """Read the table and join it; ``name`` is the table's in notes, by default that of its file."""
        self._file, self._root, self._name = file, root, file.name if name is None else name
        self._name_alone = key is not None
        self._names = ImageNames(images, root, {*endings, *known_endings()}, name_alone=self._name_alone)
        self._images = self._names.images
        table, column = self._read(key)
        self.key = column
        rows = table.columns
        self._rows, counts, repeated = self._join(rows[column].to_pylist())
        if not self._rows:
            raise self._nothing(rows, column)
        columns = rows.drop_columns([column])
        hot = _one_hot(columns)
        if hot is not None:
            columns = columns.append_column(*hot[0])
        self._columns = columns
        self.complete = len(self._rows) == len(self._images) == rows.num_rows and not table.notes
        joined = self._joined(column, counts, rows.num_rows, _different(columns, repeated))
        self.notes = [joined, *table.notes, *([hot[1]] if hot else [])]

    def _read(self, key: str | None) -> tuple[MetadataFile, str]:
        """Return the table and its column that names the images; if its name is an image's, the file has no header."""
        table = read_metadata_file(self._file)
        names = table.columns.column_names
        try:
            column = self._key(table.columns, key)
        except SourceError:
            if key is not None or not table.has_header or not any(self._names.fits(name)[0] for name in names):
                raise
            column = ""
        if column and not (table.has_header and (self._names.has_ending(column) or self._names.fits(column)[0])):
            return table, column
        table = read_metadata_file(self._file, header=False)
        table.notes.append(
            f"its first line is a row, not names of columns: they are called {', '.join(table.columns.column_names)}"
        )
        return table, self._key(table.columns, None)

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
            images = {name: self._named(tried[name], name) for name in names}
            most = max(images.values(), default=0)
            if most:
                return min(
                    (name for name in names if images[name] == most),
                    key=lambda name: usual.get(_as_usual(name), len(usual)),
                )
        named = sorted((usual[name.casefold()], name) for name in names if name.casefold() in usual)
        if named:
            return named[0][1]
        raise self._nothing(columns, None)

    def _named(self, column: Any, name: str) -> int:
        """Return how many images a column names; of an odd name, numbers must be distinct and those of the files."""
        import pyarrow as pa

        kind = column.type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        if not (text or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            return 0
        cells, odd = column.to_pylist(), _as_usual(name) not in _USUAL
        if odd and not text and len(set(cells)) < len(cells):
            return 0
        fits = map(self._names.fits, cells)
        return len({places[0] for places, fit in fits if len(places) == 1 and not (odd and fit and fit.how == NUMBER)})

    def _join(self, values: Sequence[object]) -> tuple[dict[str, int], Counter[str], list[tuple[int, int]]]:
        """Return the row of each image that has one; how many rows have no image or name one in another way.

        The pairs of rows are those of which the second repeats the image of the first.
        """
        rows: dict[int, tuple[int, Fit]] = {}
        counts, repeated = Counter[str](), list[tuple[int, int]]()
        for row, value in enumerate(values):
            places, fit = self._names.fits(value)
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
            if same:
                repeated.append((before[0], row))
            else:
                counts["missing"] += 1
        counts.update(fit.how for _, fit in rows.values())
        return {self._images[place]: row for place, (row, _) in rows.items()}, counts, repeated

    def _check_same_folder(self, values: Sequence[object], first: int, second: int, same: bool) -> None:
        one, other = (self._names.relative(values[row]) for row in (first, second))
        if same and dirname(one) != dirname(other):
            raise SourceError(
                f"{self._file} names {one!r} and {other!r}, which both fit one image of {self._root}: give paths "
                "relative to the folder"
            )

    def _joined(self, column: str, counts: Mapping[str, int], rows: int, repeated: str) -> str:
        joined = len(self._rows)
        text = f"{self._name}: {rows - counts['missing']:,} of {rows:,} rows joined to {joined:,} of "
        text += f"{len(self._images):,} images by column {column!r}"
        for how in (WITHOUT_ENDING, OTHER_ENDING, ADDRESS, NUMBER):
            text += f", {counts[how]:,} of them {how}" if counts[how] else ""
        text += repeated
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


def _as_usual(name: str) -> str:
    return name.casefold().replace(" ", "_").replace("-", "_")


def _different(columns: Any, repeated: Sequence[tuple[int, int]]) -> str:
    """Return what to say about rows that repeat an image: how many, and in which columns they differ from the first."""
    if not repeated:
        return ""
    first, second = (np.array(places) for places in zip(*repeated, strict=True))
    names = [
        name
        for name in columns.column_names
        if columns[name].take(first).to_pylist() != columns[name].take(second).to_pylist()
    ]
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"; {len(repeated):,} rows repeat an image, whose first row counts" + (
        f", and differ from it in {listed}" if names else ""
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
