"""Measure facets and formulas of a layer: `python scripts/benchmarks/measure.py meanings`.

2,048 neurons x 50,000 images of 512 dimensions x 1,000 texts: each neuron fires where an image shows the first of two
things, every second one also where it shows the other. Both commands whole: seconds, CPU seconds, peak memory, and how
many neurons of each kind have several facets, or a formula. 2 GB of free disk, some ten minutes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from bench_data import CLI, LAYER, run

IMAGES, NEURONS, TEXTS, WIDTH = 50_000, 2_048, 1_000, 512
_SHOWN = 5  # things on each image
_NOISE = 0.5
_SCALE = 60.0  # of the made-up encoder
_ROWS = 1000  # images made at a time


def make_layer(folder: Path, images: int, neurons: int, texts: int, width: int) -> None:
    """Write images that show five of the things that texts name, and neurons of one thing or of two, in turn."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    names = rng.standard_normal((texts, width), dtype=np.float32)
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    things = np.stack([rng.permutation(texts)[:2] for _ in range(neurons)])
    embeddings = np.lib.format.open_memmap(folder / "E.npy", "w+", np.float32, (images, width))
    values = np.lib.format.open_memmap(folder / "A.npy", "w+", np.float32, (images, neurons))
    for start in range(0, images, _ROWS):
        count = min(_ROWS, images - start)
        shown = np.zeros((count, texts), np.float32)
        np.put_along_axis(shown, rng.integers(0, texts, (count, _SHOWN)), 1, 1)
        noise = rng.standard_normal((count, width), dtype=np.float32) / np.sqrt(width)
        rows = shown @ names / np.sqrt(_SHOWN) + _NOISE * noise
        embeddings[start : start + count] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        fires = shown[:, things[:, 0]] + shown[:, things[:, 1]] * (np.arange(neurons) % 2)
        values[start : start + count] = np.minimum(fires, 1) * rng.uniform(0.4, 1, fires.shape)
    embeddings.flush()
    values.flush()
    np.save(folder / "T.npy", names)
    (folder / "T.txt").write_text("".join(f"thing {place}\n" for place in range(texts)))


def report(folder: Path) -> None:
    """Import the arrays of a folder, and print what the facets and the formulas of all neurons take."""
    db = str(folder / "db")
    arrays = ["--embeddings", f"{folder}/E.npy", "--activations", f"{folder}/A.npy", "--logit-scale", f"{_SCALE}"]
    run([*CLI, "import", db, *arrays, "--layer", LAYER])
    texts = ["--text-embeddings", f"{folder}/T.npy", "--texts", f"{folder}/T.txt", "--json"]
    neurons = np.load(folder / "A.npy", mmap_mode="r").shape[1]
    for name, more in (("facets", ["--several"]), ("formulas", [])):
        ran = run([*CLI, name, db, "--layer", LAYER, *texts, *more])
        several = np.zeros(neurons, bool)
        several[[int(json.loads(line)["neuron"].rsplit("/", 1)[1]) for line in ran.output.splitlines()]] = True
        print(
            f"{name}: {neurons:,} neurons, {ran.seconds:.1f} s, {ran.cpu:.1f} CPU s, peak {ran.peak / 1e9:.2f} GB; "
            f"several meanings: {several[::2].sum():,} of {len(several[::2]):,} neurons of one thing, "
            f"{several[1::2].sum():,} of {len(several[1::2]):,} of two",
            flush=True,
        )


def measure(root: Path) -> None:
    """Make the layer, and print the figures."""
    make_layer(root / "meanings", IMAGES, NEURONS, TEXTS, WIDTH)
    report(root / "meanings")


if __name__ == "__main__":
    sys.exit(__doc__)
