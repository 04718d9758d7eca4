"""Measure neurons against classes: `python scripts/benchmarks/measure.py associations`.

2,048 neurons x 100 classes x 50,000 images, and 16,384 latents of which 32 are active on each image: the whole command,
its peak memory, bytes on disk, a class and a neuron read, and AUROCs of random neurons and classes by plain NumPy.
6 GB of free disk, some 5 minutes.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import numpy as np
from bench_data import CLI, LAYER, run

IMAGES, NEURONS, LATENTS, ACTIVE, CLASSES, TURNS = 50_000, 2_048, 16_384, 32, 100, 3
_ROWS = 1000  # images made at a time
_CHECKED = 200  # AUROCs


def make_classes(folder: Path, images: int, classes: int) -> np.ndarray:
    """Write the names of images and a table of their classes, one in fifty without; return the class of each, or -1."""
    rng = np.random.default_rng(1)
    kinds = np.where(rng.random(images) < 0.02, -1, rng.integers(0, classes, images))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "uris.txt").write_text("".join(f"/pictures/{i:07d}.png\n" for i in range(images)))
    rows = (f"{i:07d}.png,{f'kind {kind}' if kind >= 0 else ''}\n" for i, kind in enumerate(kinds.tolist()))
    (folder / "kinds.csv").write_text("path,kind\n" + "".join(rows))
    return kinds


def make_arrays(folder: Path, kinds: np.ndarray, neurons: int, active: int | None = None) -> None:
    """Write rectified activations that follow the classes; with `active`, only so many on each image are not 0."""
    rng = np.random.default_rng(0)
    own = rng.standard_normal((int(kinds.max()) + 2, neurons), dtype=np.float32)
    values = np.lib.format.open_memmap(folder / "A.npy", "w+", np.float32, (len(kinds), neurons))
    for start in range(0, len(kinds), _ROWS):
        some = kinds[start : start + _ROWS]
        block = own[some] + rng.standard_normal((len(some), neurons), dtype=np.float32) - 0.5
        if active is not None:
            least = np.partition(block, -active, axis=1)[:, -active, None]
            block[block < least] = 0
        values[start : start + _ROWS] = np.maximum(block, 0)
    values.flush()
    np.save(folder / "E.npy", rng.standard_normal((len(kinds), 8), dtype=np.float32))


def import_all(folder: Path) -> str:
    """Make the index of the arrays with the classes as metadata; return it."""
    db = str(folder / "db")
    arrays = ["--embeddings", f"{folder}/E.npy", "--activations", f"{folder}/A.npy", "--uris", f"{folder}/uris.txt"]
    run([*CLI, "import", db, *arrays, "--layer", LAYER])
    run([*CLI, "metadata", db, f"{folder}/kinds.csv"])
    return db


def furthest(db: str, folder: Path, kinds: np.ndarray, checked: int) -> float:
    """Return how far AUROCs of random neurons and classes are from those of all pairs counted one by one, at most."""
    from csp_index.store.connect import open_store
    from csp_index.studies.classes.associations import read_associations

    result, rng = read_associations(open_store(db), LAYER, "kind"), np.random.default_rng(2)
    auroc, activations = result.matrix("auroc"), np.load(folder / "A.npy", mmap_mode="r")
    distances: list[float] = []
    for neuron in rng.integers(0, len(auroc), checked).tolist():
        place = int(rng.integers(0, auroc.shape[1]))
        inside = kinds == int(result.classes.names[place].removeprefix("kind "))
        values = activations[:, neuron]
        others = np.sort(values[~inside & (kinds >= 0)])
        below = np.searchsorted(others, values[inside]) + np.searchsorted(others, values[inside], side="right")
        distances.append(float(abs(below.mean() / 2 / len(others) - auroc[neuron, place])))
    return max(distances)


def read_seconds(db: str) -> tuple[float, float]:
    """Return the median seconds in which the rows of a class, and of a neuron, are read in a warm process."""
    from csp_index.records import LayerKey
    from csp_index.store.connect import open_store
    from csp_index.studies.classes.associations import class_rows, find_class_set, neuron_rows

    store = open_store(db)
    classes = find_class_set(store, LayerKey.parse(LAYER))
    times: tuple[list[float], list[float]] = ([], [])
    for place in range(12):
        started = time.perf_counter()
        class_rows(store, classes, classes.names[place % len(classes.names)])
        between = time.perf_counter()
        neuron_rows(store, classes, [place])
        times[0].append(between - started)
        times[1].append(time.perf_counter() - between)
    return statistics.median(times[0][2:]), statistics.median(times[1][2:])


def measure(root: Path) -> None:
    """Make both layers, and print the figures of each."""
    sizes = {"dense": (NEURONS, None), "sparse": (LATENTS, ACTIVE)}
    for name, (neurons, active) in sizes.items():
        folder = root / name
        kinds = make_classes(folder, IMAGES, CLASSES)
        make_arrays(folder, kinds, neurons, active)
        report(folder, kinds, name)


def report(folder: Path, kinds: np.ndarray, name: str, turns: int = TURNS, checked: int = _CHECKED) -> None:
    """Import the arrays of a folder, and print what comparing them with the classes takes."""
    db = import_all(folder)
    command = [*CLI, "associations", db, "--layer", LAYER, "--by", "kind"]
    ran = [run([*command, "--recompute", "--json"]) for _ in range(turns)]
    seconds, cpu = (statistics.median(times) for times in zip(*((one.seconds, one.cpu) for one in ran), strict=True))
    peak = max(one.peak for one in ran) / 1e9
    neurons = np.load(folder / "A.npy", mmap_mode="r").shape[1]
    what = f"{name}: {neurons:,} neurons x {kinds.max() + 1} classes x {len(kinds):,} images"
    print(f"{what}: {seconds:.1f} s, {cpu:.1f} CPU s, peak {peak:.2f} GB (median of {turns} turns)")
    again = run([*command, "--json"])
    size = sum(file.stat().st_size for file in Path(db, "associations.lance").rglob("*") if file.is_file())
    one_class, one_neuron = (1e3 * value for value in read_seconds(db))
    print(f"the command where they are stored: {again.seconds:.1f} s; {size / 1e6:.0f} MB on disk with old versions")
    print(f"warm: a class read in {one_class:.0f} ms, a neuron in {one_neuron:.0f} ms")
    print(
        f"AUROC beside pairs counted one by one: {furthest(db, folder, kinds, checked):.1e} apart at most", flush=True
    )


if __name__ == "__main__":
    sys.exit(__doc__)
