"""Logical labels of neurons as they are stored and read again: AND, OR, AND NOT of concepts. Loads no torch.

`make_formulas` makes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from csp_index.labelling.texts.candidate_names import texts_in_prose
from csp_index.query.results import Tabular
from csp_index.records import LayerKey
from csp_index.store import schema
from csp_index.store.study_tables import FORMULA_NUMBERS, FORMULAS
from csp_index.store.tables import Store
from csp_index.studies.newest_rows import newest_rows
from csp_index.studies.staleness import outgrown

_SHOWN: Final = ("formula", "terms", "single", *FORMULA_NUMBERS, "kept", "fired")


@dataclass(frozen=True, slots=True)
class LayerFormulas(Tabular):
    """Formulas of some neurons of a layer; `rows` are those of the table `formulas`, one per neuron.

    Numbers of a row: `iou` and `single_iou` of fired images with those of the formula and of the best concept alone, in
    [0, 1], on the images that chose them; `correlation` and `single_correlation` of activations with both, -1 to 1, on
    held-out images; `gain`, their difference, with its 95 % interval `low` to `high`. A formula is `kept` if the
    interval lies above 0. A neuron that fires too rarely, or is told best by one concept, has no formula.
    """

    layer: LayerKey
    concepts: str
    images: int
    firing: str
    rows: pa.Table
    settings_hash: str

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def kept(self) -> list[dict[str, Any]]:
        """Return the rows of formulas that explain held-out activations better than one concept, most first."""
        rows = self.rows.filter(pc.fill_null(self.rows["kept"], False))
        found: list[dict[str, Any]] = rows.sort_by([("gain", "descending"), ("neuron", "ascending")]).to_pylist()
        return found

    @property
    def made_of(self) -> str:
        """What the concepts are, in prose: values of metadata columns, or texts of a vocabulary."""
        if self.rows["encoder"][0].as_py() is None:
            columns = self.concepts.split(", ")
            return f"values of the metadata column{'s' * (len(columns) > 1)} {' and '.join(columns)}"
        return texts_in_prose(self.concepts)

    def about(self, store: Store) -> str:
        """Return what a reader should know: whether the index has other images or values by now."""
        return outgrown(store, self.layer, self.images, self.rows["run_id"][0].as_py(), "formulas")

    def to_arrow(self) -> pa.Table:
        """Return the rows as an Arrow table."""
        return self.rows


def read_formulas(
    store: Store, layer: LayerKey, neurons: Iterable[int] | None = None, *, settings_hash: str | None = None
) -> LayerFormulas | None:
    """Return stored formulas of a layer's neurons (default all that were looked at), None if there are none.

    They are those with this settings hash, by default the newest.
    """
    rows = newest_rows(store, FORMULAS, layer, neurons, settings_hash)
    if rows is None:
        return None
    names = ("concepts", "of_images", "firing", "settings_hash")
    concepts, images, firing, hashed = (rows[name][0].as_py() for name in names)
    return LayerFormulas(layer, concepts, images, firing, rows, hashed)


def formula_document(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row as pages and `csp-index formulas --json` show it."""
    return {"neuron": f"{row['model']}/{row['layer']}/{row['neuron']}", **{name: row[name] for name in _SHOWN}}


def formula_rows(rows: list[dict[str, Any]]) -> pa.Table:
    """Return the rows of the table `formulas`; what a row does not have is null."""
    return pa.Table.from_pylist(rows, schema=schema.table_schema(FORMULAS))
