"""Measure every command at ImageNet's size: `python scripts/benchmarks/imagenet_size.py FOLDER`.

1,281,167 images x 1,024 neurons x 512 dimensions of made arrays, stored in float16, 10,000 texts. Prints seconds, CPU
seconds and peak memory of each stage. A stage that FOLDER holds figures of is not run again, so a run that was ended
goes on where it stopped; `--stages` runs the named ones anew. Some 16 GB of disk; `--clean` removes all but figures.
`benchmark.py --imagenet FOLDER` fits them with those of smaller sizes.

Peak memory is what processes have of their own (RssAnon: without pages of mapped files, which the system can drop),
looked at every 20 ms, of a command and its children together. Beside it stands the largest resident size of the
command, mapped files included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench_data import CLI, LAYER, START_UP, Made, Shape
from load_service import Server

BAR = 2e9  # bytes of memory of each stage
_EVERY = 0.02  # seconds between two looks at memory
_TREE = 25  # looks after which new children are searched
_PAGES, _ONE = 50, 20  # pages that are asked for; neurons that are labeled one by one
_RECOMMENDED = "firing-contrast"
_PORT = 18_771


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage took."""

    seconds: float
    cpu: float  # seconds, of the process and the children it waited for
    own: int  # bytes at most, without mapped files
    resident: int  # bytes at most, with them
    load: float  # the machine's load average at the end: one above the number of cores makes `seconds` too large
    note: str = ""


class Memory(threading.Thread):
    """Looks at the memory of a process and its children until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._ended, self.own = pid, threading.Event(), 0

    def run(self) -> None:
        """Keep the largest sum."""
        look = 0
        while not self._ended.wait(_EVERY):
            if look % _TREE == 0:
                processes = [self._pid, *_children(self._pid)]
            look += 1
            self.own = max(self.own, sum(map(_own_bytes, processes)))

    def end(self) -> int:
        """Return the largest sum in bytes, 0 where the system does not say."""
        self._ended.set()
        self.join()
        return self.own


def _children(pid: int) -> list[int]:
    """Return the ids of a process's descendants.

    >>> _children(2**22 + 1)
    []
    """
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(child) for child in path.read_text().split()]
        except OSError:  # a thread that has ended
            continue
    return found + [grandchild for child in found for grandchild in _children(child)]


def _own_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


@contextmanager
def watched(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], tuple[Cost, str]]]]:
    """Start a command; give the process, and a function that waits for its end and returns what it took and printed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err)
        memory = Memory(process.pid)
        memory.start()

        def ended() -> tuple[Cost, str]:
            _, status, usage = os.wait4(process.pid, 0)
            seconds, own = time.monotonic() - started, memory.end()
            process.returncode = os.waitstatus_to_exitcode(status)
            out.seek(0)
            err.seek(0)
            if process.returncode not in (0, -signal.SIGTERM):
                message = err.read().decode(errors="replace").strip()[-2000:]
                raise RuntimeError(f"{' '.join(command)[:300]} ended with {process.returncode}: {message}")
            resident = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            cpu = usage.ru_utime + usage.ru_stime
            return Cost(seconds, cpu, own, resident, os.getloadavg()[0]), out.read().decode()

        try:
            yield process, ended
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()


def run(command: Sequence[str]) -> tuple[Cost, str]:
    """Run a command to its end; return what it took, and what it printed."""
    with watched(command) as (_, ended):
        return ended()


def _steps(made: Made) -> dict[str, Callable[[], Cost]]:
    """Return the stages in their order: each finds what those before it left."""
    db, last = made.db, made.shape.neurons - 1
    texts = ["--text-embeddings", f"{made.folder}/T.npy", "--texts", f"{made.folder}/T.txt"]

    def label(neurons: str, method: str) -> Callable[[], Cost]:
        chosen = ["--layer", LAYER, "--neurons", neurons, "--method", method, "--recompute", "--json"]
        return lambda: run([*CLI, "label", db, *chosen, *texts])[0]

    def command(*arguments: str) -> Callable[[], Cost]:
        return lambda: run([*CLI, *arguments])[0]

    one = f"{LAYER}/{last}"
    of_activations = f"SELECT count(*) AS n, max(activation) AS a FROM activations('{one}') WHERE activation > 0"
    return {
        "start-up (import torch, lance)": lambda: run(START_UP)[0],
        "make": lambda: _own(made, "make")[0],
        "import": lambda: _imported(made),
        "label all, csp": label("all", "csp"),
        "label all, csp, again": label("all", "csp"),
        f"label all, {_RECOMMENDED}": label("all", _RECOMMENDED),
        "label one, csp": label(str(last), "csp"),
        f"label one, {_RECOMMENDED}": label(str(last), _RECOMMENDED),
        "label one, csp, warm": lambda: _warm(made, "csp"),
        "show": command("show", db, one),
        "status": command("status", db),
        "sql, images": command("sql", db, "SELECT count(*) AS n, max(uri) AS u FROM images"),
        "sql, labels": command("sql", db, "SELECT text, count(*) AS n FROM labels WHERE rank = 0 GROUP BY text"),
        "sql, one neuron's activations": command("sql", db, of_activations),
        "pages of neurons": lambda: _pages(made, texts),
        "export": command("export", db, "--json"),
        "optimize": command("optimize", db),
        "label one, csp, by the vector index": lambda: _warm(made, "csp"),
        "verify": command("verify", db),
    }


def _own(made: Made, step: str, *arguments: str) -> tuple[Cost, str]:
    """Run a step of this file in a process of its own."""
    return run(
        [sys.executable, __file__, str(made.folder), "--child", json.dumps([step, asdict(made.shape), *arguments])]
    )


def _imported(made: Made) -> Cost:
    shutil.rmtree(made.db, ignore_errors=True)
    cost, _ = run([*made.import_command(made.db), "--dtype", "float16"])
    size = sum(path.stat().st_size for path in Path(made.db).rglob("*") if path.is_file())
    facts = _own(made, "facts")[1].splitlines()[-1]
    (made.folder / "facts.json").write_text(facts)
    return replace(cost, note=f"{size / 1e9:.2f} GB on disk")


def _warm(made: Made, method: str) -> Cost:
    cost, printed = _own(made, "warm", method)
    times = json.loads(printed.splitlines()[-1])
    return replace(cost, note=f"{len(times)} neurons: {_quantiles(times)}")


def _pages(made: Made, texts: Sequence[str]) -> Cost:
    """Serve the index and ask for pages of neurons, then for labels of other neurons by `csp`."""
    neurons = [number * made.shape.neurons // _PAGES for number in range(min(_PAGES, made.shape.neurons))]
    with watched([*CLI, "serve", made.db, "--port", str(_PORT), *texts]) as (process, ended):
        server, started = Server(process, _PORT), time.monotonic()
        while True:
            try:
                server.get("/readyz")
                break
            except OSError:
                if process.poll() is not None:
                    ended()  # raises, with what it printed
                time.sleep(0.02)
        ready, times = time.monotonic() - started, []
        for neuron in neurons:
            started = time.monotonic()
            server.get(f"/neurons/{LAYER}/{neuron}.json")
            times.append(time.monotonic() - started)
        process.send_signal(signal.SIGINT)
        cost, _ = ended()
    pages = f"{len(times)} pages: first {1e3 * times[0]:.0f} ms, {_quantiles(times[1:])}"
    return replace(cost, note=f"ready after {ready:.1f} s; {pages}")


def _quantiles(times: Sequence[float]) -> str:
    """Return median and 95th percentile in words.

    >>> _quantiles([0.1, 0.2, 0.3])
    'p50 200 ms, p95 300 ms'
    """
    ordered = sorted(times)
    return f"p50 {1e3 * statistics.median(ordered):.0f} ms, p95 {1e3 * ordered[round(0.95 * (len(times) - 1))]:.0f} ms"


def table(costs: dict[str, Cost]) -> str:
    """Return the costs as a Markdown table.

    >>> print(table({"import": Cost(2.0, 3.0, 10**9, 2 * 10**9, 0.5)}))
    | stage | seconds | CPU seconds | peak memory, GB | with mapped files, GB | <= 2 GB | load | |
    |---|---|---|---|---|---|---|---|
    | import | 2.0 | 3.0 | 1.00 | 2.00 | yes | 0.5 |  |
    """
    lines = ["| stage | seconds | CPU seconds | peak memory, GB | with mapped files, GB | <= 2 GB | load | |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for name, cost in costs.items():
        peak = cost.own or cost.resident
        figures = f"{cost.seconds:,.1f} | {cost.cpu:,.1f} | {peak / 1e9:.2f} | {cost.resident / 1e9:.2f}"
        lines.append(f"| {name} | {figures} | {'yes' if peak <= BAR else 'NO'} | {cost.load:.1f} | {cost.note} |")
    return "\n".join(lines)


def measure(made: Made, stages: Sequence[str] | None) -> dict[str, Cost]:
    """Run the stages that have no figures yet, or the named ones; keep each figure as it comes."""
    path = made.folder / "figures.json"
    kept: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    if kept.get("shape", asdict(made.shape)) != asdict(made.shape):
        raise SystemExit(f"{made.folder} has figures of another size: {kept['shape']}; choose another folder")
    costs = {name: Cost(**cost) for name, cost in kept.get("costs", {}).items()}
    steps = _steps(made)
    if unknown := sorted(set(stages or []) - set(steps)):
        raise SystemExit(f"no stage {', '.join(unknown)} (has: {'; '.join(steps)})")
    for name, step in steps.items():
        if name in (stages or []) or (stages is None and name not in costs):
            print(f"{name} ...", file=sys.stderr, flush=True)
            costs[name] = step()
            path.write_text(
                json.dumps({"shape": asdict(made.shape), "costs": {n: asdict(c) for n, c in costs.items()}})
            )
    return {name: costs[name] for name in steps if name in costs}


def _check_disk(made: Made) -> None:
    """Refuse to start where arrays, index and vector index have no room."""
    shape = made.shape
    needed = shape.images * (2 * 2 * shape.neurons + 3 * 4 * shape.width) * 1.1
    free = shutil.disk_usage(made.folder).free
    if not (made.folder / "A.npy").exists() and needed > free:
        raise SystemExit(f"{made.folder} has {free / 1e9:.1f} GB free: expected {needed / 1e9:.1f} GB")


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where arrays, index and figures lie.")
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--neurons", type=int, default=1_024)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--stages", help="Run these anew, with semicolons between their names.")
    parser.add_argument("--clean", action="store_true", help="Remove the arrays and the index at the end.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        _child(asked.folder, *json.loads(asked.child))
        return
    made = Made(Shape(asked.images, asked.neurons, asked.width, asked.texts), asked.folder.absolute())
    made.folder.mkdir(parents=True, exist_ok=True)
    _check_disk(made)
    print(table(measure(made, [name.strip() for name in asked.stages.split(";")] if asked.stages else None)))
    if asked.clean:
        shutil.rmtree(made.db, ignore_errors=True)
        for name in ("A.npy", "E.npy", "T.npy", "T.txt", "distinct.npy"):
            (made.folder / name).unlink(missing_ok=True)


# What follows runs in children.


def _child(folder: Path, step: str, shape: dict[str, Any], *arguments: str) -> None:
    from bench_data import make_arrays, table_bytes, write_distinct

    made = Made(Shape(**shape), folder)
    if step == "make":
        make_arrays(folder, made.shape, dtype="float16")
    elif step == "facts":
        print(json.dumps({"distinct": write_distinct(made), "bytes": table_bytes(made.db)}))
    else:
        print(json.dumps(warm(made, *arguments)))


def warm(made: Made, method: str) -> list[float]:
    """Return the seconds of the labels of single neurons in a warm process, not kept; the first few are left out."""
    from csp_index import open_index
    from csp_index.labelling.candidates import read_text_arrays

    texts = read_text_arrays(f"{made.folder}/T.npy", f"{made.folder}/T.txt")
    index, times = open_index(made.db), []
    for number in range(min(_ONE + 3, made.shape.neurons)):
        started = time.monotonic()
        index.label(f"{LAYER}/{number}", method, vocabulary=texts, recompute=True, keep=False)
        times.append(time.monotonic() - started)
    return times[3:]


if __name__ == "__main__":
    main()
