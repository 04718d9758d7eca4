"""Which classes of images a word names, where `csp-index associations` compared neurons with them. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from csp_index.records import LayerKey
from csp_index.store.tables import Store
from csp_index.studies.classes.associations import ClassSet, class_figures
from csp_index.studies.concepts.words import normal

YES: Final = ("true", "yes", "1")
"""The class of a column of truth values that its name names."""


@dataclass(frozen=True, slots=True)
class KnownClass:
    """A class of images that a word names: its column and name, and how well each neuron of a layer tells it.

    `auroc` [M] float64 is in [0, 1], NaN where there is none; a neuron tells the class above 0.5 + `chance`.
    """

    layer: LayerKey
    by: str
    class_name: str
    images: int
    others: int
    chance: float
    auroc: np.ndarray

    @property
    def tells(self) -> np.ndarray:
        """Which neurons [M] tell the class: AUROC above 0.5 by more than chance."""
        tells: np.ndarray = np.nan_to_num(self.auroc, nan=0.0) > 0.5 + self.chance
        return tells


def class_named(classes: ClassSet, word: str) -> str | None:
    """Return the class that a word names: one of its name, or the true one of a column of its name. None without."""
    wanted = normal(word)
    if classes.by and normal(classes.by) == wanted:
        for name in classes.names:
            if name.casefold() in YES:
                return name
    return next((name for name in classes.names if normal(name) == wanted), None)


def known_classes(store: Store, sets: Iterable[ClassSet], word: str) -> list[KnownClass]:
    """Return the classes that a word names among those that neurons were compared with, the last comparison first."""
    known = []
    for one in sorted(sets, key=lambda one: one.run_id, reverse=True):
        name = class_named(one, word)
        if name is not None:
            place = one.position(name)
            figures = class_figures(store, one, name, ["auroc"])["auroc"]
            counts = int(one.images[place]), int(one.others[place])
            known.append(KnownClass(one.layer, one.by, name, *counts, float(one.chance[place]), figures))
    return known
