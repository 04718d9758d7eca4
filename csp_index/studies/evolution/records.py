"""The evolution of a layer as a value: each neuron's label, firing rate and drift at every checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from csp_index.query.results import SqlResult, Tabular
from csp_index.records import LayerKey
from csp_index.studies.evolution.paths import label_changes, settled_at


@dataclass(frozen=True)
class Evolution(Tabular):
    """S checkpoints of a layer of M neurons; `rows` are those of the table `evolution`, by checkpoint and neuron."""

    network: str
    layer: str
    checkpoints: tuple[str, ...]
    rows: pa.Table
    run_id: str = ""

    @property
    def layers(self) -> list[LayerKey]:
        """The layer at each checkpoint, as one of a network of its own."""
        models = self.rows["model"].to_pylist()[:: self.rows.num_rows // len(self.checkpoints)]
        return [LayerKey(model, self.layer) for model in models]

    @cached_property
    def labels(self) -> list[list[str | None]]:
        """The label of each neuron at each checkpoint, [S][M]."""
        texts = self.rows["label"].to_pylist()
        size = len(texts) // len(self.checkpoints)
        return [texts[start : start + size] for start in range(0, len(texts), size)]

    def _numbers(self, name: str) -> np.ndarray:
        column = self.rows[name].to_numpy()
        result: np.ndarray = np.asarray(column, dtype=np.float64).reshape(len(self.checkpoints), -1)
        return result

    @cached_property
    def _events(self) -> np.ndarray:
        """What happened to each neuron at each checkpoint, [S, M] str."""
        return np.array(self.rows["event"].to_pylist()).reshape(len(self.checkpoints), -1)

    def _last(self, event: str) -> list[str | None]:
        """Return the last checkpoint at which an event happened to each neuron, None where it did not."""
        names = [*self.checkpoints, None]  # -1 is the last of them
        steps = np.arange(len(self.checkpoints))[:, None]
        return [names[step] for step in np.where(self._events == event, steps, -1).max(0).tolist()]

    def neurons(self) -> pa.Table:
        """Return a row per neuron: its labels, when the last one settled, how far its vector moved, birth and death.

        `drift` is the sum of 1 - cosine over consecutive checkpoints, null of a neuron without vectors at two of them;
        `born` and `died` are the last checkpoints at which that happened, null if it did not.
        """
        moved = 1 - self._numbers("cosine")
        drift = np.where(np.isfinite(moved).any(0), np.nansum(moved, axis=0), np.nan)
        return pa.table(
            {
                "neuron": pa.array(range(len(self.labels[0])), pa.int32()),
                "labels": pa.array(list(map(list, zip(*self.labels, strict=True))), pa.list_(pa.string())),
                "settled": pa.array([self.checkpoints[step] for step in settled_at(self.labels).tolist()]),
                "changes": pa.array(label_changes(self.labels).sum(0)),
                "drift": pa.array(drift, from_pandas=True),
                "born": pa.array(self._last("born"), pa.string()),
                "died": pa.array(self._last("died"), pa.string()),
            }
        )

    def steps(self) -> list[dict[str, Any]]:
        """Return what the layer was at each checkpoint.

        alive: neurons that fire; born, died: since the checkpoint before; labels: distinct ones; changed: neurons with
        another label than before; settled: those that keep their label from here on; cosine: the mean with the vectors
        of the checkpoint before, None at the first.
        """
        alive, cosines = self._numbers("firing_rate") > 0, self._numbers("cosine")
        changed, settled = label_changes(self.labels), settled_at(self.labels)
        return [
            {
                "checkpoint": name,
                "alive": int(alive[step].sum()),
                "born": int((self._events[step] == "born").sum()),
                "died": int((self._events[step] == "died").sum()),
                "labels": len({text for text in self.labels[step] if text}),
                "changed": int(changed[step].sum()),
                "settled": int((settled <= step).sum()),
                "cosine": float(np.nanmean(cosines[step])) if np.isfinite(cosines[step]).any() else None,
            }
            for step, name in enumerate(self.checkpoints)
        ]

    def to_arrow(self) -> pa.Table:
        """Return the rows of the table `evolution`."""
        return self.rows

    def _repr_html_(self) -> str:
        return SqlResult(self.neurons())._repr_html_()
