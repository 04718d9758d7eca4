"""Real pictures for `search_graded.py`: arrays of `scripts/real_pictures`, read as worlds with graded truth."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import torch
from search_categories import Graded, relative
from search_worlds import World
from torch.nn.functional import normalize

REAL_FAMILIES: Final = ("real-net", "real-planted")
REAL_VOCABULARIES: Final = ("150", "keywords", "full")


def array_files(folder: Path) -> list[Path]:
    """Return the array files of a folder, by name; FileNotFoundError where there is none."""
    files = sorted(folder.glob("*.npz"))
    if not files:
        raise FileNotFoundError(f"{folder} has no .npz files: expected the arrays of scripts/real_pictures")
    return files


def read_pictures(file: Path) -> Graded:
    """Read one file."""
    with np.load(file) as stored:
        vectors, texts, activations, overlap = (
            torch.from_numpy(stored[name]).float() for name in ("vectors", "texts", "activations", "overlap")
        )
        scale, family, vocabulary, bias = (stored[name].item() for name in ("scale", "family", "vocabulary", "bias"))
        what = [str(word) for word in stored["what"]]
    agreement = relative(overlap)
    world = World(
        normalize(vectors, dim=1),
        activations.clamp(min=0),
        normalize(texts, dim=1),
        float(scale),
        agreement.argmax(1),
        torch.ones(len(agreement)).long(),
    )
    return Graded(world, agreement, [("real", family, vocabulary, family, bias, word) for word in what])
