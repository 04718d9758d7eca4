"""Values as they come in, neuron by neuron, and why one is missing: no NaN leaves this file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch

from csp_index.contrast.selection import Selection
from csp_index.evaluation.evaluation import VALUES
from csp_index.evaluation.metrics.table import METRICS


class ValueTable:
    """Collects values [M] of selected neurons; `kinds` [M] groups them, `constant` [M] tells activations that never
    change on the judging images.
    """

    def __init__(self, selection: Selection, kinds: Sequence[str], constant: torch.Tensor) -> None:
        self._selection = selection
        self._kinds = kinds
        self._constant = constant.numpy()
        self._parts: list[pa.Table] = []

    def add(
        self,
        method: str,
        metric: str,
        values: torch.Tensor,
        labels: Sequence[str | None] | None = None,
        notes: str | Sequence[str] | None = None,
    ) -> None:
        """Take in a metric's values [M]; `labels` are the labels judged (None: it judges no label), `notes` say why a
        value is missing where the label and the activation do not.
        """
        found = values.double().numpy()
        missing = ~np.isfinite(found)
        texts = [None] * len(found) if labels is None else list(labels)
        why = notes if notes is not None else METRICS[metric].undefined
        reasons = [why] * len(found) if isinstance(why, str) else list(why)
        told = []
        for place, absent in enumerate(missing.tolist()):
            if not absent:
                told.append("")
            elif labels is not None and texts[place] is None:
                told.append("no label: the neuron never fires, or lacks contrast, on the choosing images")
            elif self._constant[place]:
                told.append("its activation is constant on the judging images")
            else:
                told.append(reasons[place] or "undefined on these images")
        key, size = self._selection.target.key, len(found)
        columns = {
            "model": pa.array([key.model] * size),
            "layer": pa.array([key.layer] * size),
            "neuron": pa.array(self._selection.neurons.astype(np.int32)),
            "kind": pa.array(list(self._kinds), pa.string()),
            "method": pa.array([method] * size),
            "text": pa.array(texts, pa.string()),
            "metric": pa.array([metric] * size),
            "value": pa.array(np.where(missing, 0.0, found), mask=missing),
            "note": pa.array(told, pa.string()),
        }
        self._parts.append(pa.table(columns, schema=VALUES))

    def take(self) -> pa.Table:
        """Return all rows taken in since the last call."""
        parts, self._parts = self._parts, []
        return pa.concat_tables(parts) if parts else VALUES.empty_table()
