"""Measure the figures that the project promises: `python scripts/benchmarks/benchmark.py --size medium`.

Prints a table, a line for each figure, and writes JSON where asked. Each comparison runs side by side in one process
tree, medians of several turns. `small` only shows that every figure can be made; `medium` are the sizes the bars are
about; `large` goes on to more images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import bench_costs
import bench_index
import bench_label
import bench_store
import gpu
from bench_data import Bench, Shape
from bench_rows import Row, as_json, table

GROUPS: dict[str, Callable[[Bench], list[Row]]] = {
    "label-all": bench_label.label_all,
    "methods": bench_label.methods,
    "one-neuron": bench_label.one_neuron,
    "start-up": bench_label.start_up,
    "growth": bench_label.growth,
    "index": bench_index.rows,
    "import": bench_store.import_speed,
    "memory": bench_store.memory,
    "gpu": gpu.gpu,
    "cost": bench_costs.costs,
}


def _grown(sizes: Sequence[int], neurons: int, width: int, texts: int) -> dict[str, Shape]:
    return {f"growth-{size}": Shape(size, neurons, width, texts, first=sizes[0]) for size in sizes}


SHAPES: dict[str, dict[str, Shape]] = {
    "small": {
        "main": Shape(600, 32, 16, 50),
        "million": Shape(2_000, 16, 8, 20),
        **_grown((200, 800), 32, 16, 50),
    },
    "medium": {
        "main": Shape(50_000, 2_048, 512, 10_000),
        "million": Shape(1_000_000, 256, 64, 1_000),
        **_grown((12_500, 25_000, 50_000, 100_000), 2_048, 512, 10_000),
    },
}
SHAPES["large"] = SHAPES["medium"] | _grown((12_500, 25_000, 50_000, 100_000, 200_000, 400_000), 2_048, 512, 10_000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows asked for; the exit status is 0 whether their bars hold or not, and 1 if a command failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SHAPES), default="small")
    parser.add_argument("--only", help=f"Groups of rows, with commas: {', '.join(GROUPS)}.")
    parser.add_argument("--json", type=Path, help="Write every figure, and what is behind it, to this file.")
    parser.add_argument("--folder", type=Path, help="Keep the made data here, for the next run.")
    parser.add_argument("--turns", type=int, help="Turns of each comparison (5; 1 for small).")
    parser.add_argument("--imagenet", type=Path, help="Folder of imagenet_size.py, whose figures `cost` fits as well.")
    asked = parser.parse_args(arguments)
    names = asked.only.split(",") if asked.only else list(GROUPS)
    if unknown := sorted(set(names) - set(GROUPS)):
        parser.error(f"no rows {', '.join(unknown)} (has: {', '.join(GROUPS)})")
    quick = asked.size == "small"
    if quick:
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # commands run two at a time
    with tempfile.TemporaryDirectory() as folder:
        place = (asked.folder or Path(folder)).absolute()
        place.mkdir(parents=True, exist_ok=True)
        bench = Bench(place, SHAPES[asked.size], asked.turns or (1 if quick else 5), quick)
        if asked.imagenet:
            bench.memo[bench_costs.IMAGENET] = {
                name: json.loads((asked.imagenet / f"{name}.json").read_text()) for name in ("figures", "facts")
            }
        rows = measure(bench, names)
    print(table(rows))
    if asked.json:
        asked.json.write_text(json.dumps({"size": asked.size, **machine(), "rows": as_json(rows)}, indent=1))
    return int(any(row.name.endswith(".failed") for row in rows))


def measure(bench: Bench, names: Sequence[str]) -> list[Row]:
    """Return the rows of the named groups, in the table's order."""
    chosen = [name for name in GROUPS if name in names]
    if not bench.quick:
        return [row for name in chosen for row in _group(bench, name)]
    bench.made(*bench.shapes)
    with ThreadPoolExecutor(2) as pool:  # nobody reads times of the smallest size
        early = [name for name in chosen if name != "cost"]  # which rests on what the others measure
        found = dict(zip(early, pool.map(lambda name: _group(bench, name), early), strict=True))
    return [row for name in chosen for row in found.get(name) or _group(bench, name)]


def _group(bench: Bench, name: str) -> list[Row]:
    """Return the rows of one group; a failure is a row too, so that the others are not lost."""
    started = time.monotonic()
    try:
        rows = GROUPS[name](bench)
    except RuntimeError as exc:
        rows = [Row(f"{name}.failed", str(exc).replace("\n", " "), None, "", "", False, {"why": "failed"})]
    bench.memo[f"rows of {name}"] = rows
    print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return rows


def machine() -> dict[str, object]:
    """Return what the figures depend on: cores, versions of the libraries."""
    packages = ("torch", "lancedb", "pylance", "duckdb", "pyarrow", "numpy")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {package: version(package) for package in packages}
    return {"cores": cores, "python": platform.python_version(), "versions": versions}


if __name__ == "__main__":
    sys.exit(main())
