"""Measure layers stored sparse: `python scripts/benchmarks/measure.py latents`.

16,384 latents over 50,000 images, 32 active on each: bytes beside those of the pairs, one latent read, all labeled with
10,000 texts. 4 GB of free disk, some 5 minutes.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

IMAGES, LATENTS, ACTIVE, WIDTH, TEXTS = 50_000, 16_384, 32, 512, 10_000
PAIR = 8  # bytes: an int32 for the latent or the image, a float32
CLI = [sys.executable, "-c", "from csp_index.cli import main; main()"]
START_UP = [sys.executable, "-c", "import torch, lance"]
_ROWS = 1000  # images made at a time


def make_latents(folder: Path) -> None:
    """Write seeded embeddings, latents of which the 32 strongest are kept on each image, and texts."""
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((IMAGES, WIDTH), dtype=np.float32)
    directions = rng.standard_normal((WIDTH, LATENTS), dtype=np.float32) / np.sqrt(WIDTH)
    latents = np.lib.format.open_memmap(folder / "A.npy", mode="w+", dtype=np.float32, shape=(IMAGES, LATENTS))
    for start in range(0, IMAGES, _ROWS):
        values = embeddings[start : start + _ROWS] @ directions
        active = np.argpartition(values, -ACTIVE, axis=1)[:, -ACTIVE:]
        block = np.zeros_like(values)
        np.put_along_axis(block, active, np.take_along_axis(values, active, 1), 1)
        latents[start : start + _ROWS] = block
    latents.flush()
    np.save(folder / "E.npy", embeddings)
    np.save(folder / "T.npy", rng.standard_normal((TEXTS, WIDTH), dtype=np.float32))
    (folder / "T.txt").write_text("".join(f"text {i}\n" for i in range(TEXTS)))


def measure(folder: Path) -> None:
    """Make and import the arrays, and print the three figures."""
    make_latents(folder)
    db = str(folder / "db")
    arrays = ["--embeddings", f"{folder}/E.npy", "--activations", f"{folder}/A.npy", "--layer", "net/sae"]
    print(f"import: {_seconds([*CLI, 'import', db, *arrays]):.1f} s")
    (table,) = Path(db).glob("sparse_*.lance")
    size, pairs = sum(file.stat().st_size for file in table.rglob("*") if file.is_file()), PAIR * IMAGES * ACTIVE
    print(f"bytes: {size:,}, {size / pairs:.2f} x the {pairs:,} of the pairs ({4 * IMAGES * LATENTS:,} dense)")
    times = one_latent(db)
    print(f"one latent read: median {1e3 * statistics.median(times):.1f} ms, 95 % within {1e3 * times[-6]:.1f} ms")
    texts = ["--text-embeddings", f"{folder}/T.npy", "--texts", f"{folder}/T.txt"]
    label = [*CLI, "label", db, "--layer", "net/sae", "--neurons", "all", "--recompute", "--json", "--method", "csp"]
    for what in ("the first time", "again, with kept lists of neighbors", "again"):
        bare, whole = _seconds(START_UP), _seconds([*label, *texts])
        print(f"label all, {what}: {whole:.1f} s, {whole - bare:.1f} s beyond start-up of {bare:.1f} s")


def one_latent(db: str) -> list[float]:
    """Return the seconds in which 100 latents were read in a warm process, ascending."""
    from csp_index.records import LayerKey
    from csp_index.store import catalog
    from csp_index.store.connect import open_store
    from csp_index.store.values.arrays import activations_of

    store = open_store(db)
    target = catalog.layer(store, LayerKey("net", "sae"))
    times = []
    for number in np.random.default_rng(1).integers(0, LATENTS, 110).tolist():
        started = time.perf_counter()
        activations_of(store, target, number, IMAGES)
        times.append(time.perf_counter() - started)
    return sorted(times[10:])


def _seconds(command: Sequence[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    return time.monotonic() - started
