"""Rows on the store: import against np.save, and the peak memory of every command at a large number of images."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time

from bench_data import CLI, LAYER, START_UP, Bench, Made, beyond, child, run
from bench_rows import Row

_WAYS = ("plain", "fsync", "floor")
_BLOCK = 2048  # images that the floor of import takes at a time: a shard
_TILE = 64
_SLOW = (
    "label-one",
    "show",
    "sql-activations",
    "optimize",
    "verify",
)  # left out at the smallest size: each loads torch


def import_speed(bench: Bench) -> list[Row]:
    """Measure the import of arrays beyond start-up beside what it cannot do without and np.save, turn by turn."""
    (main,) = bench.made("main")
    taken: list[float] = []
    bare_work: dict[str, list[float]] = {way: [] for way in _WAYS}
    for turn in range(bench.turns):
        place = bench.folder / f"imported-{turn}"
        for way in _WAYS:
            bare_work[way].append(child(__file__, "save", str(main.folder), str(bench.folder / "saved"), way))
        bare = bench.once("start-up", lambda: [run(START_UP)]) if bench.quick else [run(START_UP)]
        taken += beyond([run(main.import_command(str(place)))], bare)
        shutil.rmtree(place)
    shape, ratios = main.shape, {}
    for way, seconds in bare_work.items():
        ratios[way] = statistics.median(more / one for more, one in zip(taken, seconds, strict=True))
    detail = {"import beyond start-up, s": taken} | {f"{way}, s": seconds for way, seconds in bare_work.items()}
    what = f"import {shape.images:,} x ({shape.width} + {shape.neurons:,}) float32 beyond start-up"
    least = "its floor: read, transpose, hash input, rows and files, write, sync"
    return [
        Row("import.ratio", f"{what}, against {least}", ratios["floor"], "x", "<= 2 x", ratios["floor"] <= 2, detail),
        Row("import.save", f"{what}, against np.save and fsync", ratios["fsync"], "x", "", None, detail),
    ]


def memory(bench: Bench) -> list[Row]:
    """Measure the peak memory of each command on many images of few dimensions."""
    (made,) = bench.made("million")
    shape = made.shape
    place = str(bench.folder / "imported-many")
    shutil.rmtree(place, ignore_errors=True)
    bare = bench.once("start-up", lambda: [run(START_UP)])
    peaks, seconds = {}, {}
    for name, command in _commands(made, place).items():
        if bench.quick and name in _SLOW:
            continue
        ran = run(command)
        peaks[name], seconds[name] = ran.peak / 1e9, ran.seconds
        if name == "label":
            bench.memo["label-all seconds of million"] = beyond([ran], bare[:1])[0]
            bench.memo["label-all peak of million"] = float(ran.peak)
    shutil.rmtree(place)
    size = f"{shape.images:,} images x {shape.width} dims x {shape.neurons} neurons"
    rows = [
        Row(f"memory.{name}", f"peak memory of {name}, {size}", peak, "GB", "<= 2 GB", peak <= 2, {"s": seconds[name]})
        for name, peak in peaks.items()
    ]
    return rows


def _commands(made: Made, place: str) -> dict[str, list[str]]:
    """Return the commands whose memory is measured, in an order in which each finds what it needs."""
    db = made.db
    texts = ["--text-embeddings", f"{made.folder}/T.npy", "--texts", f"{made.folder}/T.txt", "--json"]
    known = {
        line.split()[0] for line in run([*CLI, "--help"]).output.splitlines() if line.startswith("  ") and line.split()
    }
    found = {
        "import": made.import_command(place),
        "label": made.label_command(),
        "label-one": made.label_command("7"),
        "show": [*CLI, "show", db, f"{LAYER}/7"],
        "status": [*CLI, "status", db],
        "export": [*CLI, "export", db, "--json"],
        "sql": [*CLI, "sql", db, "SELECT count(*) AS n, max(uri) AS u FROM images"],
        "sql-activations": [*CLI, "sql", db, f"SELECT max(activation) AS a FROM activations('{LAYER}/7')"],
        "evaluate": [*CLI, "evaluate", db, "--layer", LAYER, *texts, "--method", "csp", "--recompute"],
    }
    later = {"optimize": [*CLI, "optimize", place], "verify": [*CLI, "verify", place]}
    return found | {name: command for name, command in later.items() if name in known}


# What follows runs in a child.


def save(folder: str, place: str, way: str) -> float:
    """Return the seconds in which np.save writes the arrays from memory into new files, `plain` or with `fsync`.

    With `floor`, the seconds of what `import` cannot do without: see `_floor`.
    """
    import numpy as np

    os.makedirs(place)
    if way == "floor":
        return _floor(folder, place)
    arrays = [np.load(f"{folder}/{name}.npy") for name in "EA"]
    started = time.monotonic()
    for number, array in enumerate(arrays):
        with open(f"{place}/{number}.npy", "wb") as file:
            np.save(file, array)
            if way == "fsync":
                file.flush()
                os.fsync(file.fileno())
    seconds = time.monotonic() - started
    shutil.rmtree(place)
    return seconds


def _floor(folder: str, place: str) -> float:
    """Return the seconds in which the arrays are read from their files, transposed, hashed and written, by all cores.

    Hashed are the input (what the arrays are), the rows (each shard's digest) and the files written (the commit's).
    """
    import hashlib
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    def transposed(rows: np.ndarray) -> np.ndarray:
        made = np.empty(rows.shape[::-1], rows.dtype)
        for left in range(0, rows.shape[1], _TILE):
            for top in range(0, len(rows), _TILE):
                made[left : left + _TILE, top : top + _TILE] = rows[top : top + _TILE, left : left + _TILE].T
        return made

    def shard(name: str, start: int) -> None:
        rows = np.load(f"{folder}/{name}.npy", mmap_mode="r")[start : start + _BLOCK]
        hashlib.sha256(rows.data)
        made = transposed(rows) if name == "A" else rows
        hashlib.sha256(made.data)
        path = f"{place}/{name}-{start}"
        with open(path, "wb") as file:
            file.write(made.data)
            file.flush()
            os.fsync(file.fileno())
        with open(path, "rb") as file:
            hashlib.file_digest(file, "sha256")

    images = len(np.load(f"{folder}/E.npy", mmap_mode="r"))
    started = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for name in "EA":
            list(pool.map(shard, [name] * len(range(0, images, _BLOCK)), range(0, images, _BLOCK)))
    seconds = time.monotonic() - started
    shutil.rmtree(place)
    return seconds


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == "save":
        print(json.dumps(save(*sys.argv[2:])))
    else:
        sys.exit(f"usage: {__doc__}")
