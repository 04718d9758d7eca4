"""Real pictures for `search_graded.py`: arrays of `scripts/real_pictures`, read as worlds with graded truth.

A file holds one model seed and one condition (`seed0-biased.npz`). Regions are sets of (emoji, background), each pair
counted once whatever the probing set's bias; the agreement of a label is the overlap of its region and the neuron's,
over the best overlap in the vocabulary. Trained outputs that do not know their word (AP below .5) are left out, as are
neurons for whose truth the vocabulary has no word that overlaps by half.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from search_categories import Graded, overlaps, relative
from search_worlds import World
from torch.nn.functional import normalize

REAL_FAMILIES: Final = ("real-net", "real-planted")
REAL_VOCABULARIES: Final = ("words", "keywords", "full")
CONDITIONS: Final = ("unbiased", "biased")
_IMAGES: Final = 3000  # at most, drawn at random: the search needs many passes
_NEURONS: Final = {"keyword": 40}  # at most of each kind, drawn at random
_NEURONS_OF_A_KIND: Final = 12
_LEAST_OVERLAP: Final = 0.5


def array_files(folder: Path) -> list[Path]:
    """Return the files of the conditions that are searched, by name; FileNotFoundError where there is none."""
    files = [f for f in sorted(folder.glob("seed*.npz")) if f.stem.partition("-")[2] in CONDITIONS]
    if not files:
        raise FileNotFoundError(f"{folder} has no seed*-unbiased.npz: expected the arrays of scripts/real_pictures")
    return files


def _sampled(kinds: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return which neurons [M] are looked at: of the good ones of each kind a random few."""
    result = np.zeros(len(kinds), dtype=bool)
    for kind in np.unique(kinds):
        rows = np.flatnonzero((kinds == kind) & good)
        order = np.random.default_rng(len(rows)).permutation(rows)
        result[order[: _NEURONS.get(str(kind), _NEURONS_OF_A_KIND)]] = True
    return result


def read_pictures(file: Path) -> Iterator[Graded]:
    """Yield a world of every vocabulary, with trained outputs and planted neurons one after another."""
    with np.load(file, allow_pickle=False) as stored:
        condition = file.stem.partition("-")[2]
        images = len(stored["embeddings"])
        rows = np.sort(np.random.default_rng(images).permutation(images)[:_IMAGES])
        vectors = normalize(torch.from_numpy(stored["embeddings"][rows]), dim=1)
        texts = normalize(torch.from_numpy(stored["text_embeddings"]), dim=1)
        scale, activations, truths, names = float(stored["logit_scale"]), [], [], []
        for layer in ("net", "planted"):
            fired, kinds = stored[f"activations_{layer}"][rows].T, stored[f"kind_{layer}"]
            good = stored["good_net"] if layer == "net" else np.ones(len(kinds), dtype=bool)
            good &= ((fired > 0).sum(1) >= 5) & _sampled(kinds, good)
            activations.append(torch.from_numpy(fired[good]).float().clamp(min=0))
            truths.append(stored[f"truth_{layer}"][good])
            names += [(f"real-{layer}", str(kind)) for kind in kinds[good]]
        truth = np.concatenate(truths)
        for vocabulary in REAL_VOCABULARIES:
            mask = stored[f"in_{vocabulary}"]
            regions = stored["text_emoji"][mask][:, :, None] & stored["text_background"][mask][:, None]
            overlap = overlaps(truth.reshape(len(truth), -1), regions.reshape(int(mask.sum()), -1))
            known = overlap.amax(1) >= _LEAST_OVERLAP
            agreement = relative(overlap[known])
            world = World(
                vectors,
                torch.cat(activations)[known],
                texts[torch.from_numpy(mask)],
                scale,
                agreement.argmax(1),
                torch.ones(len(agreement)).long(),
            )
            cells = [
                ("real", family, vocabulary, family, condition, kind)
                for (family, kind), alive in zip(names, known.tolist(), strict=True)
                if alive
            ]
            yield Graded(world, agreement, cells, overlap[known].amax(1))
