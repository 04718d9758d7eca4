"""Pairs of indexed images that differ in what some texts say, read from a table, and the neurons' activations on them.

The columns of the table are image_a, image_b and word: image_a shows the word and image_b does not. Several words are
separated by `;`. An image is named by its id or by its path, whole or from some folder on. Words are compared in the
form of `hierarchy.normal_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from csp_index.contrast.pool import pool_tiles
from csp_index.errors import EvaluationError, SourceError
from csp_index.evaluation.hierarchy import normal_text
from csp_index.files.regular_files import user_path
from csp_index.images.tables.read_table import read_metadata_file
from csp_index.store import schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store

_COLUMNS = ("image_a", "image_b", "word")
_BLOCK = 2**24  # activations of a block of neurons


@dataclass(frozen=True, slots=True)
class ImagePairs:
    """P pairs of images: ids [P] of the one that shows the words and of the one that does not, and the words' rows.

    `words` are the T distinct words in normal form; `differs` [T, P] says which pair differs in which. `passed_over`
    says how many rows of the table name no indexed image, "" if none does.
    """

    shown: np.ndarray
    other: np.ndarray
    words: tuple[str, ...]
    differs: torch.Tensor
    passed_over: str = ""

    def rows(self, labels: Sequence[str | None]) -> torch.Tensor:
        """Return each label's row of `differs` [M]: -1 for no label, -2 for one that no pair differs in."""
        row_of = {word: row for row, word in enumerate(self.words)}
        rows = [-1 if label is None else row_of.get(normal_text(label), -2) for label in labels]
        return torch.tensor(rows, dtype=torch.int64)

    def mask(self, images: int) -> torch.Tensor:
        """Return which of the images 0 .. N - 1 are in a pair, [N]."""
        mask = torch.zeros(images, dtype=torch.bool)
        mask[torch.from_numpy(np.concatenate([self.shown, self.other]))] = True
        return mask


def read_pairs(path: str | Path, store: Store, images: int) -> ImagePairs:
    """Return a table's pairs among the images 0 .. N - 1.

    Errors: EvaluationError, in one line, for a table that cannot be used, and where no row names two indexed images.
    """
    file = user_path(path)
    where = f"the table of pairs {file}"
    try:
        table = read_metadata_file(file).columns
    except SourceError as exc:
        raise EvaluationError(str(exc).replace("the metadata table", "the table of pairs", 1)) from exc
    columns = {name.strip().casefold(): name for name in table.column_names}
    if not table.num_rows:
        raise EvaluationError(f"{where} has no row: expected {','.join(_COLUMNS)} in each")
    if not set(_COLUMNS) <= columns.keys():
        has = ", ".join(table.column_names)
        raise EvaluationError(f"{where} lacks the columns {','.join(_COLUMNS)} (has: {has})")
    rows = list(zip(*(table[columns[name]].to_pylist() for name in _COLUMNS), strict=True))
    names = [_cleaned(name) for row in rows for name in row[:2]]
    ids = np.array(_ids(store, images, names), dtype=np.int64).reshape(-1, 2)
    known = np.all(ids >= 0, axis=1)
    if not known.any():
        raise EvaluationError(
            f"{where} names no two images of {store.uri} in any of its {len(rows)} rows (the first: {names[0]}, "
            f"{names[1]}): name images by their path or id"
        )
    words: dict[str, int] = {}
    cells = []
    for number, (_, _, word) in enumerate(rows, start=1):
        own = {normal_text(part) for part in str("" if word is None else word).split(";")} - {""}
        if not own:
            raise EvaluationError(f"{where} has no word in row {number}: name what image_a shows and image_b does not")
        cells.append([words.setdefault(word, len(words)) for word in sorted(own)])
    kept = np.flatnonzero(known).tolist()
    differs = torch.zeros(len(words), len(kept), dtype=torch.bool)
    for column, row_number in enumerate(kept):
        differs[cells[row_number], column] = True
    lost = len(rows) - len(kept)
    first = names[2 * int((~known).argmax()) + int(ids[int((~known).argmax()), 0] >= 0)] if lost else ""
    note = f"{lost:,} of {len(rows):,} pairs name an image that the index lacks (the first: {first})" if lost else ""
    return ImagePairs(ids[known, 0], ids[known, 1], tuple(words), differs, note)


def rises_of(store: Store, target: LayerInfo, neurons: np.ndarray, pairs: ImagePairs, images: int) -> torch.Tensor:
    """Return which neurons activate more on the first image of each pair than on the second, bool [M, P]."""
    mask = pairs.mask(images)
    place = (mask.cumsum(0) - 1).numpy()
    first, second = (torch.from_numpy(place[ids]) for ids in (pairs.shown, pairs.other))
    parts = []
    size = max(1, _BLOCK // max(1, int(mask.sum())))
    for start in range(0, len(neurons), size):
        values = torch.cat(list(pool_tiles(store, target, neurons[start : start + size], mask)), 1)
        parts.append(values[:, first] > values[:, second])
    return torch.cat(parts)


def _cleaned(name: object) -> str:
    return str("" if name is None else name).replace("\\", "/").strip().removeprefix("./")


def _ids(store: Store, images: int, names: Sequence[str]) -> list[int]:
    """Return the image id of each name, -1 for one that names no image, or several."""
    wanted = set(names)
    ends = {name.rsplit("/", 1)[-1] for name in wanted}
    found: dict[str, set[int]] = {}
    for batch in store.scan(schema.IMAGES, ["image_id", "uri"], where=f"image_id < {images}"):
        columns = (batch.column(name).to_pylist() for name in ("image_id", "uri"))
        for number, uri in zip(*columns, strict=True):
            parts = uri.replace("\\", "/").split("/")
            if parts[-1] in ends:
                for depth in range(1, len(parts) + 1):
                    tail = "/".join(parts[-depth:])
                    if tail in wanted:
                        found.setdefault(tail, set()).add(number)
    result = []
    for name in names:
        places = found.get(name, set())
        if not places and name.isdecimal() and len(name) < 19 and int(name) < images:
            places = {int(name)}
        result.append(next(iter(places)) if len(places) == 1 else -1)
    return result
