"""What an evaluation consists of: metrics by name, values one a (neuron, method, metric), and the settings behind them.

A value that cannot be computed is None and says why in `note`; it never enters a mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

Family = Literal[
    "simulation", "detection", "generation", "agreement", "contrast", "specificity", "robustness", "structure"
]

#: The columns of `Evaluation.values`; the store's table `evaluations` has run_id and settings_hash before them.
VALUES = pa.schema(
    [
        ("model", pa.string()),
        ("layer", pa.string()),
        ("neuron", pa.int32()),
        ("kind", pa.string()),  # the truth file's own grouping, for example single or pair; "" without one
        ("method", pa.string()),  # "" for what belongs to the neuron itself, whatever its label
        ("text", pa.string()),  # the label judged; null where the neuron has none
        ("metric", pa.string()),
        ("value", pa.float64()),  # null where it cannot be computed
        ("note", pa.string()),  # why not; else ""
    ]
)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric: what it measures, which way is better, and the range of its values."""

    name: str
    family: Family
    summary: str
    higher_is_better: bool = True
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All values of one evaluation [rows of VALUES], and the settings and provenance they depend on.

    `settings` holds at least: methods, layer, encoder, judge (the encoder that judges), split (seed, share, images
    for labels, images held out), candidates, and what each family needed (generator, truth, concepts, ...).
    `skipped` names the families that were asked for or usual but lacked their data, with the reason.
    """

    values: pa.Table
    settings: Mapping[str, object]
    run_id: str = ""
    skipped: Mapping[str, str] = field(default_factory=dict)
