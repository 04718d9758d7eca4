"""The result of an evaluation: one value per neuron, method and metric, and the settings behind the values.

A value that cannot be computed is None, and its `note` says why; it never enters a mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from csp_index.store import schema

ALL = "all"  # the kind that means every neuron

#: The columns of `Evaluation.values`: those of the store's table `evaluations` after run_id and settings_hash.
VALUES = pa.schema(list(schema.table_schema(schema.EVALUATIONS))[2:])


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All values of one evaluation [rows of VALUES], and the settings and provenance they depend on.

    `settings` has at least: methods, layer, encoder, judge (the encoder that judges), split (seed, share, images for
    labels, images held out), candidates, and what each family needed (generator, truth, concepts, ...).
    `skipped` names what was left out for lack of data, with the reason. `null` has rows of `report.nulls.null_rows`.
    """

    values: pa.Table
    settings: Mapping[str, object]
    run_id: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)
    null: tuple[Mapping[str, object], ...] = ()


def judged_texts(evaluation: Evaluation) -> dict[tuple[str, str], str]:
    """Return the evaluated labels by neuron address and method."""
    columns = evaluation.values.select(["model", "layer", "neuron", "method", "text"])
    rows = columns.group_by(columns.column_names).aggregate([]).to_pylist()
    return {
        (f"{row['model']}/{row['layer']}/{row['neuron']}", row["method"]): row["text"] for row in rows if row["text"]
    }
