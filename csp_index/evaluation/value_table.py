"""The table of values that the steps of an evaluation fill; a missing value is null with a reason, never NaN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from csp_index.contrast.selection import Selection
from csp_index.evaluation.evaluation import VALUES
from csp_index.evaluation.metrics.table import METRICS

_NO_LABEL = "no label: the neuron never fires, or lacks contrast, on the choosing images"


class ValueTable:
    """Collects values [M] of selected neurons.

    `kinds` [M] groups the neurons; `constant` [M] marks activations that never change on the judging images.
    """

    def __init__(self, selection: Selection, kinds: Sequence[str], constant: torch.Tensor) -> None:
        self._selection = selection
        self._kinds = kinds
        self._constant = constant.numpy()
        self._parts: list[pa.Table] = []
        self._unlabeled: dict[str, Sequence[str]] = {}

    def explain(self, method: str, reasons: Sequence[str]) -> None:
        """Say why each neuron [M] has no label by a method, if it has none; by default, as of a method that labels."""
        self._unlabeled[method] = reasons

    def add(
        self,
        method: str,
        metric: str,
        values: torch.Tensor,
        labels: Sequence[str | None] | None = None,
        notes: str | Sequence[str] | None = None,
    ) -> None:
        """Add a metric's values [M].

        `labels` are the evaluated labels, None for a metric of the neurons themselves. `notes` say why a value is
        missing where neither the label nor the activation explains it; by default the metric's own reason.
        """
        numbers = values.double().numpy()
        missing = ~np.isfinite(numbers)
        texts = [None] * len(numbers) if labels is None else list(labels)
        default = notes if notes is not None else METRICS[metric].undefined
        reasons = [default] * len(numbers) if isinstance(default, str) else list(default)
        column = []
        for row, absent in enumerate(missing.tolist()):
            if not absent:
                column.append("")
            elif labels is not None and texts[row] is None:
                column.append(self._unlabeled[method][row] if method in self._unlabeled else _NO_LABEL)
            elif self._constant[row]:
                column.append("its activation is constant on the judging images")
            else:
                column.append(reasons[row] or "undefined on these images")
        key, size = self._selection.target.key, len(numbers)
        columns = {
            "model": pa.array([key.model] * size),
            "layer": pa.array([key.layer] * size),
            "neuron": pa.array(self._selection.neurons.astype(np.int32)),
            "kind": pa.array(list(self._kinds), pa.string()),
            "method": pa.array([method] * size),
            "text": pa.array(texts, pa.string()),
            "metric": pa.array([metric] * size),
            "value": pa.array(np.where(missing, 0.0, numbers), mask=missing),
            "note": pa.array(column, pa.string()),
        }
        self._parts.append(pa.table(columns, schema=VALUES))

    def take(self) -> pa.Table:
        """Return all rows added since the last call, and forget them."""
        parts, self._parts = self._parts, []
        return pa.concat_tables(parts) if parts else VALUES.empty_table()
