"""Compare two threads with one: `python scripts/benchmarks/measure_threads.py`.

Two processes wait with everything loaded, one with OMP_NUM_THREADS=1 and one with 2. Each path is run once in both,
then turn by turn: in one, in the other, first alone and then beside a process that only counts. So what else the
machine does meets both, and what one leaves in the caches favors neither. Rows are medians over the turns: CPU seconds
and wall seconds of one run on one thread, and of the ratios of two threads to one in each turn. A path whose wall ratio
exceeds 1.05 is marked. CPU time may grow where two threads share a core. The load of the machine when each part begins
is printed.

The data are the demo's unbiased images and models, made in DIR or a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SLOWER = 1.05
LABELS = ("csp", "firing-contrast", "consensus", "linear", "clip-dissect")
PATHS = ("render", "index", *LABELS, "one-neuron", "live", "search", "evaluate", "large")


def main() -> None:
    """Compare what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7, help="timed runs of each path on one thread and on two")
    parser.add_argument("--paths", default=",".join(PATHS), help=f"some of {','.join(PATHS)}")
    parser.add_argument("--data", type=Path, help="where the data are, or are made")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := set(options.paths.split(",")) - set(PATHS):
        parser.error(f"no such path: {', '.join(sorted(unknown))} (expected some of {', '.join(PATHS)})")
    if options.child:
        serve_paths(options.data)
        return
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or Path(folder)
        make_data(data)
        for busy in (False, True):
            with counting(busy), Runner(data, 1) as one, Runner(data, 2) as two:
                load = os.getloadavg()[0]
                print(f"load of the machine: {load:.1f}{'' if load < 0.5 else ', NOT idle'}", flush=True)
                say_title(busy)
                for path in options.paths.split(","):
                    say_row(path, compare(path, one, two, options.turns))


Seconds = tuple[float, float]  # of CPU time, of wall time


def compare(path: str, one: Runner, two: Runner, turns: int) -> list[tuple[Seconds, Seconds]]:
    """Return the seconds of a path on one thread and on two, for each turn."""
    for runner in (one, two):
        runner.run(path)
    pairs = []
    for turn in range(turns):
        if turn % 2 == 0:
            first = one.run(path)
            pairs.append((first, two.run(path)))
        else:
            second = two.run(path)
            pairs.append((one.run(path), second))
    return pairs


def say_title(busy: bool) -> None:
    """Print the title of a table."""
    print(f"{'beside a busy process' if busy else 'alone':22} {'CPU s':>8} {'2 : 1':>7} {'wall s':>8} {'2 : 1':>7}")


def say_row(path: str, pairs: list[tuple[Seconds, Seconds]]) -> None:
    """Print the row of a path; one that two threads make slower by over 5 % is marked."""
    used, waited = (statistics.median(one[which] for one, _ in pairs) for which in (0, 1))
    cpu, wall = (statistics.median(two[which] / one[which] for one, two in pairs) for which in (0, 1))
    mark = "" if wall <= _SLOWER else "  slower"
    print(f"{path:22} {used:8.3f} {cpu:7.2f} {waited:8.3f} {wall:7.2f}{mark}", flush=True)


class Runner:
    """A process with a number of threads that runs a path whenever it is asked to."""

    def __init__(self, data: Path, threads: int) -> None:
        command = [sys.executable, __file__, "--child", "--data", str(data)]
        environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
        environment["OMP_NUM_THREADS"] = str(threads)
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, path: str) -> Seconds:
        """Run a path once; RuntimeError if the process ended."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that runs {path} ended with {self._process.wait()}")
        cpu, wall = json.loads(answer)
        return cpu, wall

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # its input ends, and so does it


@contextmanager
def counting(busy: bool) -> Iterator[None]:
    """Keep a process busy meanwhile, if asked."""
    if not busy:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


# in a process of its own: the paths


def make_data(folder: Path) -> None:
    """Make the demo's unbiased index, labelled by csp, so that all paths find what they need."""
    from csp_index.demo.run import LAYER, make_index
    from csp_index.demo.world import VOCABULARY

    folder.mkdir(parents=True, exist_ok=True)
    index = make_index(folder, "unbiased", 0, lambda line: None)
    index.label(LAYER, "csp", vocabulary=list(VOCABULARY), templates="none")


def serve_paths(data: Path) -> None:
    """Run the path that each line of the input names; print its CPU and wall seconds as JSON."""
    with tempfile.TemporaryDirectory() as folder:
        prepared: dict[str, Callable[[], object]] = {}
        for line in sys.stdin:
            name = line.strip()
            if name not in prepared:
                prepared.clear()  # what another path holds in memory
                place = Path(folder, name)
                place.mkdir()
                prepared[name] = path_of(name, data, place)
            print(json.dumps(timed(prepared[name])), flush=True)


def timed(step: Callable[[], object]) -> Seconds:
    """Return the CPU and wall seconds of a step."""
    cpu, wall = time.process_time(), time.monotonic()
    step()
    return time.process_time() - cpu, time.monotonic() - wall


def path_of(name: str, data: Path, folder: Path) -> Callable[[], object]:
    """Return what one run of a path does; what it needs is prepared here."""
    from csp_index import open_index
    from csp_index.demo.run import LAYER
    from csp_index.demo.world import VOCABULARY

    if name == "render":
        return lambda: render_some(folder)
    if name == "index":
        return lambda: index_some(data, folder)
    if name == "live":
        return live(data)
    if name == "large":
        return large(folder)
    index = open_index(data / "unbiased.db")
    fresh: dict[str, Any] = {"vocabulary": list(VOCABULARY), "templates": "none", "keep": False, "recompute": True}
    if name == "one-neuron":
        return lambda: index.label(f"{LAYER}/3", "csp", **fresh)
    if name == "search":
        return lambda: index.search("a red star on grass", templates="none")
    if name == "evaluate":
        from csp_index.evaluation.options import EvaluationOptions, MethodChoice

        options = EvaluationOptions(methods=(MethodChoice.parse("csp"),))
        return lambda: index.evaluate(
            LAYER, options, vocabulary=list(VOCABULARY), templates="none", recompute=True, progress=lambda *_: None
        )
    return lambda: index.label(LAYER, name, **fresh)


def render_some(folder: Path) -> None:
    """Draw the demo's unbiased images."""
    from csp_index.demo.probing import write_probing_set

    write_probing_set(folder / f"images-{time.monotonic_ns()}", "unbiased")


def index_some(data: Path, folder: Path) -> None:
    """Index 500 images with the demo's two models."""
    from csp_index import NetworkSource, open_index
    from csp_index.demo.network import CLIP_FOLDER, CONCEPT_LAYER, NETWORK_WEIGHTS

    network = NetworkSource(
        "python:csp_index.demo.network:planted_cnn", (CONCEPT_LAYER,), weights=str(NETWORK_WEIGHTS), name="cnn"
    )
    open_index(folder / f"{time.monotonic_ns()}.db").add_images(
        data / "images-unbiased" / "00", encoders=[f"open_clip:{CLIP_FOLDER}"], networks=[network]
    )


def live(data: Path) -> Callable[[], object]:
    """Label ten neurons as the explorer does, each with values that were not asked for before."""
    from csp_index.demo.run import LAYER
    from csp_index.records import NeuronKey
    from csp_index.service.config import ServiceSettings
    from csp_index.service.live.engine import Engine
    from csp_index.service.live.queries import LabelQuery
    from csp_index.service.snapshot import Snapshot

    models = Engine(Snapshot(data / "unbiased.db"), ServiceSettings()).models(600)
    model, layer = LAYER.split("/")
    examples = iter(range(10, 40))

    def ask() -> None:
        count = next(examples)
        for neuron in range(10):
            models.relabel(LabelQuery((NeuronKey(model, layer, neuron),), "consensus", examples=count))

    return ask


def large(folder: Path) -> Callable[[], object]:
    """Label 256 neurons of made arrays, 20,000 images x 256 dimensions, with 2,000 candidates."""
    from measure import make_arrays

    from csp_index import open_index
    from csp_index.labelling.candidates import read_text_arrays

    make_arrays(folder, 20_000, 256, 256, 2_000)
    index = open_index(folder / "large.db")
    index.import_arrays(folder / "A.npy", "m/l", embeddings=folder / "E.npy")
    texts = read_text_arrays(folder / "T.npy", folder / "T.txt")
    return lambda: index.label("m/l", "pmi", vocabulary=texts, logit_scale=50.0, keep=False, recompute=True)


if __name__ == "__main__":
    main()
