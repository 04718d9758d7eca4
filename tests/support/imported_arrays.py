"""A small index of imported arrays: what labels are computed from, without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fakes import write_arrays

from csp_index import Index, open_index


def build(folder: Path, shard_size: int = 17, **sizes: int) -> tuple[Index, dict[str, np.ndarray], dict[str, Path]]:
    paths = write_arrays(folder, **sizes)
    index = open_index(folder / "db")
    index.import_arrays(
        paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=shard_size, logit_scale=30.0
    )
    arrays = {name: np.load(paths[name]) for name in ("embeddings", "activations", "text_embeddings")}
    return index, arrays, paths
