"""What every benchmark row needs: arrays of a given shape, indexes of them, commands run and measured, shared places.

The benchmark's own process imports neither NumPy nor torch: a child's peak memory counts that of the parent it was
split from. So arrays are made in children: `python scripts/benchmarks/bench_data.py prepare JSON`.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

CLI = [sys.executable, "-c", "from csp_index.cli import main; main()"]
START_UP = [sys.executable, "-c", "import torch, lance"]
LAYER = "m/l"
# Commands are timed as they are installed, with their bytecode; without it each start compiles every module again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
_CHUNK = 8192  # images made at a time
_PROMINENCE = 0.34  # spread of how strongly images excite neurons: 61,440 top places go to some 10,000 of 50,000 images


@dataclass(frozen=True, slots=True)
class Shape:
    """How large arrays are; `first` confines the 100 most activating images of every neuron to those below that id."""

    images: int
    neurons: int
    width: int
    texts: int
    first: int | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """Arrays and the index of them."""

    shape: Shape
    folder: Path  # E.npy, A.npy, T.npy, T.txt, and the index in db

    @property
    def db(self) -> str:
        """The index."""
        return str(self.folder / "db")

    def facts(self) -> dict[str, Any]:
        """Return what was measured while it was made: import seconds, bytes on disk, distinct activating images."""
        found: dict[str, Any] = json.loads((self.folder / "made.json").read_text())
        return found

    def import_command(self, db: str) -> list[str]:
        """Return the command that imports the arrays into `db`."""
        arrays = ["--embeddings", f"{self.folder}/E.npy", "--activations", f"{self.folder}/A.npy"]
        return [*CLI, "import", db, *arrays, "--layer", LAYER, "--logit-scale", "30"]

    def label_command(self, neurons: str = "all", *more: str) -> list[str]:
        """Return the command that labels neurons anew."""
        texts = ["--text-embeddings", f"{self.folder}/T.npy", "--texts", f"{self.folder}/T.txt"]
        chosen = ["--layer", LAYER, "--neurons", neurons, "--recompute", "--json"]
        return [*CLI, "label", self.db, *chosen, *texts, "--method", "csp", *more]

    def forget_lists(self) -> None:
        """Remove lists of neighbours and sums that an earlier command kept: the next one has all its work to do."""
        from csp_index.store.connect import open_store

        store = open_store(self.db)
        for table in store.table_names():
            if table.startswith(("neighbours_", "sums_")):
                store.delete(table, "true")


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended well: wall-clock seconds, peak memory in bytes, what it printed, CPU seconds."""

    seconds: float
    peak: int
    output: str
    cpu: float = 0.0


@dataclass(slots=True)
class Bench:
    """One run of the benchmark: where data lies, how many turns, and what one row measured that another one needs."""

    folder: Path
    shapes: Mapping[str, Shape]
    turns: int
    quick: bool  # the smallest size, which only shows that the figures can be made
    memo: dict[str, Any] = field(default_factory=dict)
    lock: Any = field(default_factory=threading.RLock)  # groups of rows run side by side where they are quick

    def made(self, *names: str) -> list[Made]:
        """Return the named data, made and imported where they are not there yet, all in one child."""
        found = [Made(self.shapes[name], self.folder / name) for name in names]
        wanted = {str(made.folder): asdict(made.shape) for made in found if not _is_made(made)}
        if wanted:
            child(__file__, "prepare", json.dumps(wanted))
        return found

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return what `measure` found, measured once a run."""
        with self.lock:
            if name not in self.memo:
                self.memo[name] = measure()
            return self.memo[name]

    def beside_start_up(self, commands: Mapping[str, Sequence[str]], *fresh: Made) -> dict[str, list[Ran]]:
        """Run the commands in turn beside bare start-up, `start-up`; one start-up does for all where quick.

        Before every turn the indexes `fresh` forget what a turn before it kept.
        """

        def before() -> None:
            for made in fresh:
                made.forget_lists()

        if not self.quick:
            return in_turn({"start-up": START_UP} | dict(commands), self.turns, before)
        with self.lock:  # two groups must not write one index at a time
            bare: list[Ran] = self.once("start-up", lambda: [run(START_UP)])
            return {"start-up": bare * self.turns} | in_turn(commands, self.turns, before)


def run(command: Sequence[str]) -> Ran:
    """Run a command to its end, and measure it alone; RuntimeError tells what it printed if it fails."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            told = err.read().decode(errors="replace").strip()[-2000:]
            raise RuntimeError(f"{' '.join(command)[:300]} ended with {process.returncode}: {told}")
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Ran(seconds, peak, out.read().decode(), usage.ru_utime + usage.ru_stime)


def child(file: str, *arguments: str) -> Any:
    """Run a step of a benchmark file in a process of its own and return the JSON it prints last."""
    printed = run([sys.executable, file, *arguments]).output.strip().splitlines()
    return json.loads(printed[-1]) if printed else None


def in_turn(
    commands: Mapping[str, Sequence[str]], turns: int, before: Callable[[], None] = lambda: None
) -> dict[str, list[Ran]]:
    """Run the commands side by side: each once in every turn, one at a time; `before` is called before each turn."""
    found: dict[str, list[Ran]] = {name: [] for name in commands}
    for turn in range(turns):
        before()
        names = list(commands)
        for name in names if turn % 2 == 0 else names[::-1]:  # what one leaves in the caches favours no other
            found[name].append(run(commands[name]))
    return found


def median(runs: Sequence[Ran]) -> float:
    """Return the median seconds."""
    return statistics.median(ran.seconds for ran in runs)


def beyond(runs: Sequence[Ran], start_up: Sequence[Ran]) -> list[float]:
    """Return the seconds of each turn beyond that turn's start-up."""
    return [max(1e-3, ran.seconds - bare.seconds) for ran, bare in zip(runs, start_up, strict=True)]


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the exponent of y = c x^k, fitted to points (x, y) on logarithmic axes.

    >>> round(slope([(1, 3), (2, 6), (4, 12)]), 6)
    1.0
    """
    from math import log

    xs, ys = [log(x) for x, _ in points], [log(y) for _, y in points]
    return statistics.linear_regression(xs, ys).slope


def _is_made(made: Made) -> bool:
    path = made.folder / "made.json"
    return path.is_file() and json.loads(path.read_text())["shape"] == asdict(made.shape)


# What follows runs in children.


def prepare(wanted: Mapping[str, Mapping[str, Any]]) -> None:
    """Make the arrays of every folder and import them; made.json, written last, holds the facts."""
    from csp_index import open_index

    for place, shape in wanted.items():
        made = Made(Shape(**shape), Path(place))
        shutil.rmtree(made.folder, ignore_errors=True)
        made.folder.mkdir(parents=True)
        make_arrays(made.folder, made.shape)
        started = time.monotonic()
        index = open_index(made.db)
        index.import_arrays(
            made.folder / "A.npy", LAYER, embeddings=made.folder / "E.npy", encoder="arrays", logit_scale=30.0
        )
        facts = {"shape": asdict(made.shape), "import_seconds": time.monotonic() - started}
        facts["distinct"] = write_distinct(made)
        facts["bytes"] = table_bytes(made.db)
        (made.folder / "made.json").write_text(json.dumps(facts))


def make_arrays(folder: Path, shape: Shape, dtype: str = "float32") -> None:
    """Write seeded arrays: clustered unit embeddings, rectified activations that follow them, texts of length < 1.

    `dtype` is that of the activations.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, shape.width), dtype=np.float32)
    directions = rng.standard_normal((shape.width, shape.neurons), dtype=np.float32)
    vectors = rng.standard_normal((shape.texts, shape.width), dtype=np.float32)
    vectors *= rng.uniform(0.8, 1.0, (shape.texts, 1)).astype(np.float32) / np.linalg.norm(
        vectors, axis=1, keepdims=True
    )
    np.save(folder / "T.npy", vectors)
    (folder / "T.txt").write_text("".join(f"text {i}\n" for i in range(shape.texts)))
    create = np.lib.format.open_memmap
    embeddings = create(folder / "E.npy", "w+", np.float32, (shape.images, shape.width))
    activations = create(folder / "A.npy", "w+", np.dtype(dtype), (shape.images, shape.neurons))
    cap = None
    edges = sorted({*range(0, shape.images, _CHUNK), min(shape.first or 0, shape.images), shape.images})
    for start, stop in pairwise(edges):
        count = stop - start
        noise = rng.standard_normal((count, shape.width), dtype=np.float32)
        rows = centres[rng.integers(0, 200, count)] + 1.5 * noise
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        prominence = np.exp(_PROMINENCE * rng.standard_normal((count, 1), dtype=np.float32))
        made = rows @ directions
        made += 0.3 * rng.standard_normal(made.shape, dtype=np.float32) - 0.5
        made *= prominence
        np.maximum(made, 0, out=made)
        if cap is None and shape.first is not None and start >= shape.first:
            kept = min(100, shape.first)
            blocks = [activations[: shape.first, m : m + 256] for m in range(0, shape.neurons, 256)]
            cap = np.concatenate([np.partition(block, -kept, axis=0)[-kept] for block in blocks])
        embeddings[start:stop], activations[start:stop] = rows, made if cap is None else np.minimum(made, 0.99 * cap)
    embeddings.flush()
    activations.flush()


def write_distinct(made: Made, examples: int = 30) -> int:
    """Write the ids of the distinct activating images of all neurons, and return how many there are."""
    import numpy as np

    from csp_index import open_index

    picked = f"unnest(top_images[1:{examples}]) AS id, unnest(top_activations[1:{examples}]) AS a"
    statement = f"SELECT DISTINCT id FROM (SELECT {picked} FROM neurons) WHERE a > 0 ORDER BY id"
    ids = np.array([row["id"] for row in open_index(made.db).sql(statement).rows()], dtype=np.int64)
    if made.shape.first is not None and len(ids) and ids[-1] >= made.shape.first:
        raise RuntimeError(f"image {ids[-1]} is among the top ones: expected only images below {made.shape.first}")
    np.save(made.folder / "distinct.npy", ids)
    return len(ids)


def table_bytes(db: str) -> dict[str, int]:
    """Return the bytes on disk of every table of an index."""
    return {
        table.stem: sum(path.stat().st_size for path in table.rglob("*") if path.is_file())
        for table in sorted(Path(db).glob("*.lance"))
    }


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "prepare":
        prepare(json.loads(sys.argv[2]))
    else:
        sys.exit(f"usage: {__doc__}")
