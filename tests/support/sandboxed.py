"""An index for SQL in processes of its own, and what runs it there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fakes import write_arrays

from csp_index import Index, open_index
from csp_index.labelling.candidates import CandidateTexts
from csp_index.query.reader import Reader
from csp_index.service.config import ServiceSettings
from csp_index.service.sql_sandbox import SqlRunner

LAYER = "net/layer1"


def make_index(folder: Path) -> Index:
    """60 images in three shards, 8 neurons, labelled once; no index is changed by SQL."""
    paths = write_arrays(folder)
    made = open_index(folder / "a secret place")
    made.import_arrays(paths["activations"], LAYER, embeddings=paths["embeddings"], shard_size=25)
    texts = tuple(paths["texts"].read_text().splitlines())
    vectors = torch.from_numpy(np.load(paths["text_embeddings"]))
    made.label(LAYER, vocabulary=CandidateTexts(texts, vectors, "texts"))
    return made


def runner_over(index: Reader, **limits: Any) -> SqlRunner:
    return SqlRunner(index.uri, index.store.versions(), ServiceSettings(**limits))


def children(of: int | None = None) -> list[int]:
    """Return the processes for SQL that a process (this one by default) started and that still run."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            command = (place / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == (of or os.getpid()) and b"csp_index.service.sql_sandbox_child" in command:
            found.append(int(place.name))
    return found
