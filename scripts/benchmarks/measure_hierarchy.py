"""How long `csp-index hierarchy` takes: a layer of arrays whose labels are leaves of a made-up tree.

    python scripts/benchmarks/measure_hierarchy.py OUT [--images 20000] [--neurons 2048] [--words 1000]

Each word above the leaves has four below it. Half of the neurons fire for a leaf, the others for all leaves below a
word two steps up. What is printed: seconds of CPU and wall time of the computation alone, the peak memory of the
process, and how many neurons of each kind are at the word that they fire for.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import numpy as np

from csp_index import open_index
from csp_index.labelling.texts.candidate_names import TextArrays

_BELOW = 4  # words below a word
_WIDTH = 128


def main() -> None:
    """Make the index where it is not there, put its labels into the tree, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--neurons", type=int, default=2_048)
    parser.add_argument("--words", type=int, default=1_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((options.words, _WIDTH)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    leaves = rng.integers(options.words, size=options.neurons)
    broad = np.arange(options.neurons) % 2 == 1
    index = open_index(options.out / "db")
    if not (options.out / "db").exists():
        _write(options, rng, directions, leaves, broad)
        index.import_arrays(options.out / "A.npy", "net/layer", embeddings=options.out / "E.npy")
        index.import_labels("net/layer", options.out / "labels.json", "made-up")
    words = TextArrays(tuple(f"leaf {word}" for word in range(options.words)), directions, "arrays@leaves")
    started, used = time.perf_counter(), time.process_time()
    found = index.hierarchy("net/layer", options.out / "tree.csv", vocabulary=words, recompute=True)
    wall, cpu = time.perf_counter() - started, time.process_time() - used
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    titles = [row["level_title"] for row in found.rows]
    right = [
        title == (_title(leaf // _BELOW**2, 2) if up else _title(leaf, 0))
        for title, leaf, up in zip(titles, leaves, broad, strict=True)
    ]
    print(f"CPU {cpu:.1f} s, wall {wall:.1f} s, peak {memory:.2f} GB, {len(found.words):,} words")
    for up, name in ((False, "fire for a leaf"), (True, "fire for a word two steps up")):
        own = [one for one, is_up in zip(right, broad, strict=True) if is_up is np.bool_(up)]
        print(f"{len(own):,} {name}, {sum(own):,} of them at that word")


def _title(word: int, steps: int) -> str:
    return f"leaf {word}" if not steps else f"word {steps}.{word}"


def _write(
    options: argparse.Namespace, rng: np.random.Generator, directions: np.ndarray, leaves: np.ndarray, broad: np.ndarray
) -> None:
    """Write embeddings, activations, labels and the tree."""
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    shown = rng.integers(options.words, size=options.images)
    noise = rng.standard_normal((options.images, _WIDTH)).astype(np.float32) * (0.5 / np.sqrt(_WIDTH))
    np.save(out / "E.npy", directions[shown] + noise)
    step = np.where(broad, _BELOW**2, 1)
    fires = shown[:, None] // step == leaves // step
    np.save(out / "A.npy", fires * rng.uniform(0.5, 1, fires.shape).astype(np.float32))
    (out / "labels.json").write_text(json.dumps({str(neuron): f"leaf {leaf}" for neuron, leaf in enumerate(leaves)}))
    lines, width, steps = ["child,parent"], options.words, 0
    while width > 1:
        lines += [f"{_title(word, steps)},{_title(word // _BELOW, steps + 1)}" for word in range(width)]
        width, steps = -(-width // _BELOW), steps + 1
    (out / "tree.csv").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
