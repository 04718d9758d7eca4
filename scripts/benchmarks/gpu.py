"""Try every path that a CUDA card takes, and measure it: `python scripts/benchmarks/gpu.py`, at most six minutes.

paths   the card against the CPU: labels, nearest images, embeddings, activations, latents, an index, the live models
layer   labels of a layer over as many images as ImageNet-1k has, embeddings on the card, from arrays made there:
        seconds, and shares of the peaks that the card reaches in a plain product and a plain copy
models  indexing with the shapes of ViT-B/32 and ResNet-50, random weights: decoding alone, the models alone, both
live    one neuron, one text, one picture, answered by a process that has everything in memory

Each part runs in a process of its own, within a limit; a part for which too little of `--budget` is left is skipped,
and its row says so. Rows are printed as soon as they are known. `--quick` takes small sizes. `--device cpu` runs all of
it on the CPU, which shows only that every path is reached: nothing about a card is tested or measured.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_data import Bench
from bench_machine import load
from bench_rows import Row, as_json, table
from card.run import Run

BUDGET = 345.0  # seconds of all parts together; some are left of the six minutes for starting and ending
_CPU = "on a CPU: these rows show only that every path is reached, and nothing about a card"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the run: what it measures, the seconds it is worth starting with, and those after which it is ended."""

    what: str
    least: float
    limit: float


PARTS = {
    "paths": Part("every path of the card against the CPU", 45, 110),
    "layer": Part("label a layer over ImageNet's number of images", 30, 80),
    "models": Part("indexing with ViT-B/32 and ResNet-50", 40, 90),
    "live": Part("live latency", 25, 60),
}


def parts(run: Run, names: Sequence[str], budget: float) -> Iterator[list[Row]]:
    """Yield the rows of each part in turn; a part that fails, or for which there is no time, has a row too."""
    ends = time.monotonic() + budget
    for name in names:
        part, left = PARTS[name], ends - time.monotonic()
        if left < part.least:
            why = f"skipped: {max(0.0, left):.0f} of {budget:.0f} s are left, {part.least:.0f} are needed"
            yield [Row(f"gpu.{name}.skipped", part.what, None, "", "", None, {"why": why})]
        else:
            yield _ran(run, name, part, min(part.limit, left))


def _ran(run: Run, name: str, part: Part, seconds: float) -> list[Row]:
    command = [sys.executable, __file__, "part", name, run.with_seconds(seconds).as_json()]
    output, errors, status = _ended(command, seconds)
    rows = [Row(**json.loads(line)) for line in output.splitlines() if line.startswith('{"name"')]
    if status == 0:
        return rows
    print(errors, file=sys.stderr, end="", flush=True)
    last = (errors.strip().splitlines() or [f"ended with {status}"])[-1]
    why = f"stopped after its limit of {seconds:.0f} s" if status is None else f"failed: {last}"
    return [*rows, Row(f"gpu.{name}.failed", part.what, None, "", "", False, {"why": why})]


def _ended(command: Sequence[str], seconds: float) -> tuple[str, str, int | None]:
    """Return what a command printed, and its exit status, None if it took too long; its own processes end with it."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        output, errors = process.communicate(timeout=seconds)
        return output, errors, process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return *process.communicate(), None
    finally:
        if process.poll() is None:  # this process was told to end
            os.killpg(process.pid, signal.SIGKILL)


def gpu(bench: Bench) -> list[Row]:
    """Return the rows as a group of the benchmark; where there is no card, or all is quick, a row that says so."""
    if bench.quick or shutil.which("nvidia-smi") is None:
        return [Row("gpu.label-all", PARTS["layer"].what, None, "s", "< 2 s", None, {"why": "no GPU"})]
    place = bench.folder / "gpu"
    place.mkdir(exist_ok=True)
    return [row for rows in parts(Run("cuda", False, str(place)), list(PARTS), BUDGET) for row in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts and print; the exit status is 1 if a part failed or the card differs from the CPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, or cpu.")
    parser.add_argument("--quick", action="store_true", help="Small sizes: half a minute on a CPU for each part.")
    parser.add_argument("--parts", help=f"Those to run, with commas: {', '.join(PARTS)}.")
    parser.add_argument("--budget", type=float, default=BUDGET, help="Seconds for all parts.")
    parser.add_argument("--json", type=Path, help="Write every figure, and what is behind it, to this file.")
    options = parser.parse_args(arguments)
    names = options.parts.split(",") if options.parts else list(PARTS)
    if unknown := sorted(set(names) - set(PARTS)):
        parser.error(f"no parts {', '.join(unknown)} (has: {', '.join(PARTS)})")
    if options.device != "cpu" and shutil.which("nvidia-smi") is None:
        parser.error(f"device {options.device!r}, but no nvidia-smi is here: a CPU can only be tried, by --device cpu")
    notes = [str(load()), *([_CPU] if options.device == "cpu" else [])]
    print("\n".join(notes), flush=True)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for some in parts(Run(options.device, options.quick, folder), names, options.budget):
            rows += some
            print("\n".join(table(some).splitlines()[2 if len(rows) > len(some) else 0 :]), flush=True)
            if options.json:  # so that what was measured is there if this process is ended
                options.json.write_text(json.dumps({"notes": notes, "rows": as_json(rows)}, indent=1))
    print("\n".join(notes[1:]), flush=True)
    return int(
        any((row.holds is False and row.name.startswith("gpu.paths")) or row.name.endswith(".failed") for row in rows)
    )


def run_part(name: str, run: Run) -> None:
    """Run a part in this process, and print each row as a line of JSON."""
    import importlib

    module = f"card.{'models' if name == 'live' else name}"
    for row in getattr(importlib.import_module(module), name)(run):
        print(json.dumps(as_json([row])[0]), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "part":
        run_part(sys.argv[2], Run.from_json(sys.argv[3]))
    else:
        sys.exit(main())
