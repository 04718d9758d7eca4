"""Time the published code of others beside ours, on the same arrays: `python scripts/benchmarks/peers.py PATH...`.

PATH is a checkout of the code of CSP's authors (arXiv 2604.22477, github.com/oussamabouanani/neurolens) or of
CLIP-Dissect (arXiv 2204.10965, github.com/Trustworthy-ML-Lab/CLIP-dissect). Nothing of it is copied: its functions are
called in processes of their own, by the interpreter that `--python` names, which has the packages that it requires.

A layer of made activations is labeled by each in turn, so that all have the same machine: ours as whole commands, less
the start-up of Python with torch and Lance; theirs from arrays stored in their format to the first label of each
neuron. The CSP authors' code takes its neurons one after another, so it is timed on a few (`--neurons`), and what each
more costs is multiplied; `--neurons 0` times them all. It keeps as many activating images as it scores (`--kept`, 30,
as ours does; its own default is 100, which takes longer). Medians of `--turns` turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_data import START_UP, Bench, Ran, beyond, in_turn
from bench_machine import load
from bench_rows import Row, as_json, table
from benchmark import SHAPES, machine

_HERE = Path(__file__).parent
_WHO = {"csp": "the CSP authors' code", "clip-dissect": "CLIP-Dissect's code"}
_SCORED = 30  # activating images that decide on a label by csp, as they and we have it
_RATIO = 400  # times as fast as the CSP authors' code, our aim for a layer


@dataclass(frozen=True, slots=True)
class Peer:
    """A checkout: whose it is, the file here that calls it, its interpreter."""

    kind: str  # csp or clip-dissect
    path: Path
    python: str

    def command(self, *arguments: str) -> list[str]:
        """Return the command that calls the checkout's code."""
        return [
            self.python,
            str(_HERE / "peer_code" / f"peer_{self.kind.replace('-', '_')}.py"),
            str(self.path),
            *arguments,
        ]


def peer(path: Path, python: str) -> Peer:
    """Return the peer whose checkout is at a path; SystemExit says what the checkout lacks."""
    if (path / "src" / "neurolens" / "__init__.py").is_file() or (path / "neurolens" / "__init__.py").is_file():
        found = Peer("csp", path, python)
    elif (path / "similarity.py").is_file():
        found = Peer("clip-dissect", path, python)
    else:
        raise SystemExit(
            f"{path} is no checkout that is known here: expected src/neurolens/__init__.py (CSP) or similarity.py "
            "(CLIP-Dissect)"
        )
    try:
        tried = subprocess.run(found.command(), capture_output=True, text=True, check=False)
    except OSError as exc:
        raise SystemExit(f"the interpreter {python} cannot be run: {exc}") from exc
    if tried.returncode:
        raise SystemExit((tried.stderr.strip().splitlines() or [f"{python} ended with {tried.returncode}"])[-1])
    return found


def sizes_of(neurons: int, every: int) -> list[int]:
    """Return the numbers of neurons to time, of a layer of `every`: two, for what each more costs, or all.

    >>> sizes_of(32, 2048), sizes_of(0, 2048), sizes_of(100, 60)
    ([8, 32], [2048], [60])
    """
    return [max(1, neurons // 4), neurons] if 2 <= neurons < every else [every]


def of_layer(runs: Sequence[Sequence[float]], every: int, column: int = 1) -> float:
    """Return the seconds of a whole layer from runs (neurons, seconds, CPU seconds): measured, or by what more cost.

    >>> of_layer([[8, 5.0, 4.0], [32, 17.0, 16.0]], 2048), of_layer([[2048, 9.0, 8.0]], 2048, column=2)
    (1025.0, 8.0)
    """
    size, seconds = runs[-1][0], runs[-1][column]
    if size == every:
        return seconds
    each = max(0.0, (seconds - runs[0][column]) / (size - runs[0][0]))
    return seconds + each * (every - size)


def measure(bench: Bench, peers: Sequence[Peer], sizes: Sequence[int], kept: int, device: str) -> list[Row]:
    """Return the rows: the seconds of each, the ratios to ours, the share of neurons with the same first label."""
    (made,) = bench.made("main")
    methods = dict.fromkeys(("csp", *(one.kind for one in peers)))
    commands = {"start-up": list(START_UP)}
    commands |= {name: made.label_command("all", "--method", name, "--device", device) for name in methods}
    options: dict[str, Any] = {
        "csp": {"sizes": list(sizes), "kept": kept, "scored": _SCORED},
        "clip-dissect": {"device": device},
    }
    for one in peers:
        work = bench.folder / f"peer-{one.kind}"
        commands[f"their {one.kind}"] = one.command(str(made.folder), str(work), json.dumps(options[one.kind]))
    runs = in_turn(commands, bench.turns, made.forget_lists)
    shape, start = made.shape, runs["start-up"]
    what = f"{shape.neurons:,} neurons x {shape.images:,} images x {shape.width} dims, {shape.texts:,} texts"
    ours = {name: beyond(runs[name], start) for name in methods}
    cpu = {name: [max(1e-3, a.cpu - b.cpu) for a, b in zip(runs[name], start, strict=True)] for name in methods}
    rows = [
        Row(
            f"peers.ours.{name}",
            f"ours by {name}: {what}",
            statistics.median(ours[name]),
            "s",
            "",
            None,
            {"s": ours[name]},
        )
        for name in methods
    ]
    for one in peers:
        answers = [json.loads(ran.output.strip().splitlines()[-1]) for ran in runs[f"their {one.kind}"]]
        timed = int(answers[-1]["runs"][-1][0])
        how = "" if timed == shape.neurons else f", from {timed} of its neurons"
        seconds, used = ([of_layer(each["runs"], shape.neurons, column) for each in answers] for column in (1, 2))
        detail = {"path": str(one.path), "python": one.python, "s": seconds, "runs": [each["runs"] for each in answers]}
        rows.append(
            Row(
                f"peers.{one.kind}.time",
                f"{_WHO[one.kind]}{how}: {what}",
                statistics.median(seconds),
                "s",
                "",
                None,
                detail,
            )
        )
        for name in dict.fromkeys((one.kind, "csp")):
            told, key = f"its time against ours by {name}", f"peers.{one.kind}.against-{name}"
            bar, least = (f">= {_RATIO} x", _RATIO) if one.kind == "csp" else ("> 1 x", 1.0)
            ratio = _ratio(seconds, ours[name])
            rows.append(
                Row(key, told, ratio, "x", "", None) if bench.quick else Row(key, told, ratio, "x", bar, ratio >= least)
            )
            rows.append(Row(f"{key}.cpu", f"{told}, in CPU seconds", _ratio(used, cpu[name]), "x", "", None))
        same = _same(answers[-1]["labels"], runs[one.kind][-1])
        told = f"neurons with the same first label as ours by {one.kind}"
        rows.append(Row(f"peers.{one.kind}.same", told, same, "share", "", None))
    return rows


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def _same(theirs: Mapping[str, str], ours: Ran) -> float:
    """Return the share of the neurons that they labeled to which our command gave the same first label."""
    lines = (json.loads(line) for line in ours.output.splitlines() if line.startswith("{"))
    first = {line["neuron"].rpartition("/")[2]: line["labels"][0]["text"] for line in lines if line["labels"]}
    return statistics.mean(first.get(neuron) == text for neuron, text in theirs.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit status is 0 whether the aims hold or not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--python", action="append", help="Their interpreter: one for all, or one per PATH, in order.")
    parser.add_argument("--size", choices=("small", "medium"), default="medium", help="small only shows that it runs.")
    parser.add_argument("--neurons", type=int, default=32, help="Neurons to time by the CSP authors' code; 0: all.")
    parser.add_argument("--kept", type=int, default=_SCORED, help="Activating images that it keeps per neuron.")
    parser.add_argument("--device", default="cpu", help="For ours and CLIP-Dissect; the CSP code runs on the CPU.")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Keep the made data here, for the next run.")
    parser.add_argument("--json", type=Path, help="Write every figure, and what is behind it, to this file.")
    options = parser.parse_args(arguments)
    pythons = options.python or [sys.executable]
    if options.kept < _SCORED:
        parser.error(f"--kept {options.kept}: expected at least {_SCORED}, which are scored")
    if len(pythons) not in (1, len(options.paths)):
        parser.error(f"{len(pythons)} interpreters for {len(options.paths)} checkouts: name one, or one per PATH")
    pythons = pythons * len(options.paths) if len(pythons) == 1 else pythons
    before = load()
    print(before, file=sys.stderr, flush=True)
    peers = [peer(path.absolute(), python) for path, python in zip(options.paths, pythons, strict=True)]
    if len({one.kind for one in peers}) < len(peers):
        parser.error("two checkouts of the same code: name one at a time")
    shapes = SHAPES[options.size]
    with tempfile.TemporaryDirectory() as folder:
        place = (options.folder or Path(folder)).absolute()
        place.mkdir(parents=True, exist_ok=True)
        bench = Bench(place, shapes, options.turns, options.size == "small")
        rows = measure(bench, peers, sizes_of(options.neurons, shapes["main"].neurons), options.kept, options.device)
    print(f"{before}\n\n{table(rows)}")
    if options.json:
        found = {"load": str(before), "idle": before.idle, **machine(), "rows": as_json(rows)}
        options.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
