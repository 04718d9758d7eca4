"""What the path of a neuron through S checkpoints says: when its label settled, birth, death, drift. NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def events(firing_rates: np.ndarray) -> np.ndarray:
    """Return what happened to each neuron at each checkpoint, [S, M] str, from firing rates [S, M].

    "born" where it fires and did not at the checkpoint before, "died" the reverse, "" otherwise; at the first
    checkpoint nothing has happened yet.

    >>> events(np.array([[0.0, 0.2], [0.1, 0.0], [0.3, 0.0]])).tolist()
    [['', ''], ['born', 'died'], ['', '']]
    """
    alive = firing_rates > 0
    before = np.concatenate([alive[:1], alive[:-1]])
    result: np.ndarray = np.where(alive & ~before, "born", np.where(~alive & before, "died", ""))
    return result


def cosines_to_previous(vectors: Sequence[np.ndarray], alive: np.ndarray) -> np.ndarray:
    """Return the cosine of each neuron's unit concept vector with that of the checkpoint before, [S, M] float64.

    `vectors` has S arrays [M, D], `alive` [S, M] bool. NaN at the first checkpoint, and where a neuron is dead at one
    of the two, because a dead neuron has no concept vector.
    """
    result = np.full(alive.shape, np.nan)
    for step in range(1, len(vectors)):
        both = alive[step] & alive[step - 1]
        cosines = np.einsum("md,md->m", vectors[step], vectors[step - 1], dtype=np.float64)
        result[step, both] = np.clip(cosines, -1, 1)[both]
    return result


def settled_at(labels: Sequence[Sequence[str | None]]) -> np.ndarray:
    """Return the checkpoint from which on each neuron has the label that it ends with, [M] int64, from labels [S][M].

    No label counts as a label of its own.

    >>> settled_at([["red", "a", None], ["blue", "a", None], ["blue", "a", "c"]]).tolist()
    [1, 0, 2]
    """
    changed = label_changes(labels)
    steps = np.arange(len(changed))[:, None]
    result: np.ndarray = np.where(changed, steps, 0).max(0)
    return result


def label_changes(labels: Sequence[Sequence[str | None]]) -> np.ndarray:
    """Return whether each neuron has another label than at the checkpoint before, [S, M] bool; none at the first."""
    table = np.array([list(row) for row in labels], dtype=object)
    result = np.zeros(table.shape, bool)
    result[1:] = table[1:] != table[:-1]
    return result
