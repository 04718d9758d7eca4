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

_WAYS = ("plain", "fsync")
_SLOW = (
    "label-one",
    "show",
    "sql-activations",
    "optimize",
    "verify",
)  # left out at the smallest size: each loads torch


def import_speed(bench: Bench) -> list[Row]:
    """Measure the import of arrays beyond start-up beside np.save of the same arrays from memory, turn by turn."""
    (main,) = bench.made("main")
    ratios, synced, taken, saved, flushed = [], [], [], [], []
    for turn in range(bench.turns):
        place = bench.folder / f"imported-{turn}"
        save, sync = (child(__file__, "save", str(main.folder), str(bench.folder / "saved"), way) for way in _WAYS)
        bare = bench.once("start-up", lambda: [run(START_UP)]) if bench.quick else [run(START_UP)]
        (more,) = beyond([run(main.import_command(str(place)))], bare)
        shutil.rmtree(place)
        taken.append(more)
        saved.append(save)
        flushed.append(sync)
        ratios.append(more / save)
        synced.append(more / sync)
    ratio, shape = statistics.median(ratios), main.shape
    detail = {
        "import beyond start-up, s": taken,
        "np.save, s": saved,
        "np.save and fsync, s": flushed,
        "against np.save and fsync, x": statistics.median(synced),
    }
    what = f"import {shape.images:,} x ({shape.width} + {shape.neurons:,}) float32 beyond start-up, against np.save"
    return [Row("import.ratio", what, ratio, "x", "<= 2 x", ratio <= 2, detail)]


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
    """Return the seconds in which np.save writes the arrays from memory into new files, `plain` or with `fsync`."""
    import numpy as np

    arrays = [np.load(f"{folder}/{name}.npy") for name in "EA"]
    os.makedirs(place)
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


if __name__ == "__main__":
    if len(sys.argv) == 5 and sys.argv[1] == "save":
        print(json.dumps(save(*sys.argv[2:])))
    else:
        sys.exit(f"usage: {__doc__}")
