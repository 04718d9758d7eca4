"""Odd command lines: each ends with exit status 0, 1 or 2, without a traceback, and none hangs.

    python scripts/chaos/command_lines.py [--count 500] [--seed 0]

The lines are drawn from the commands' own parameters. They run one after the other in a process that is started anew
where a line hangs or ends it; the index that they work on is copied from a small one that is made first.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import BytesIO, StringIO, TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import Any

import click

SECONDS = 60  # without an end, a line hangs
_STARTS = 180  # seconds that a process may take to load everything
_SERVES = 2.0  # seconds after which a service is told to end

ODD = (
    *("", " ", "-", "--", "0", "-1", "1", "2", "1.5", "1e400", "nan", "-inf", "9" * 20, "-" + "9" * 20, "9" * 4000),
    *("x" * 5000, "a\nb", "\u202egnp", "\U0001d518", "caf\udce9", "\x1b[31m", "%s%n", "' OR 1=1 --", "{}", "{text}"),
    *("[" * 2000, "../..", "/", "/dev/null", "/dev/zero", "pipe.npy", "empty", "images", "images/0000.png", "none"),
    *("words.txt", "deep.json", "made/A.npy", "made/E.npy", "made/T.npy", "made/T.txt", "junk.bin", "arrays", "db"),
    *("cnn/concepts", "cnn/concepts/3", "m/l", "m/l/0", "m/l/99999999999", "a/b/c/d", "0,1", "2-4", "all", "python:os"),
    *(
        "python:os:nothing",
        "open_clip:nothing",
        "timm:nothing",
        "csp:gamma=0.5",
        "csp:gamma=[",
        "imagenet1k",
        "s3://x/y",
    ),
)
LIKELY: dict[str, tuple[str, ...]] = {
    "db": ("db", "db", "db", "arrays", "arrays", "new.db"),
    "layer": ("cnn/concepts", "m/l"),
    "layers": ("concepts", "concepts,nothing"),
    "neuron": ("cnn/concepts/3", "m/l/0"),
    "neurons": ("0", "0,2", "1-3"),
    "vocabulary": ("words.txt", "metadata:kind"),
    "method": ("csp", "pmi", "consensus", "semanticlens", "random-label"),
    "methods": ("csp", "csp:gamma=0.5,examples=5"),
    "statement": ("SELECT 1", "SELECT * FROM labels", "SELECT count(*) FROM images"),
    "activations": ("made/A.npy",),
    "embeddings": ("made/E.npy",),
    "text_embeddings": ("made/T.npy",),
    "texts": ("made/T.txt",),
    "source": ("images",),
}


@dataclass
class Outcomes:
    """How many lines ended how, and the lines that should not have ended so."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, list[str], str]] = field(default_factory=list)

    def add(self, outcome: str, line: list[str], message: str) -> None:
        """Count how a line ended."""
        self.counts[outcome] += 1
        if outcome not in ("0", "1", "2"):
            self.faults.append((outcome, line, message))

    @property
    def row(self) -> str:
        """One row for the table of all figures."""
        fine = sum(self.counts[status] for status in "012")
        statuses = ", ".join(f"{status}: {self.counts[status]}" for status in "012")
        return (
            f"{self.counts.total()} command lines: {fine} ok ({statuses}), {self.counts['traceback']} tracebacks, "
            f"{self.counts['hang']} hangs, {self.counts['crash']} crashes"
        )


def make_world(folder: Path) -> None:
    """Make an index of rendered images (`db`), one of arrays (`arrays`), and files to name on a command line."""
    import numpy as np
    from PIL import Image

    from csp_index import NetworkSource, open_index
    from csp_index.demo.network import CLIP_FOLDER, CONCEPT_LAYER, NETWORK_WEIGHTS
    from csp_index.demo.probing import probing_scenes
    from csp_index.demo.world import render

    for name in ("images", "made", "empty"):
        (folder / name).mkdir(parents=True)
    for number, scene in enumerate(islice(probing_scenes("biased", 0), 24)):
        Image.fromarray(render(scene, (0, 0, number))).save(folder / "images" / f"{number:04d}.png")
    rows = ["path,kind", *(f"{number:04d}.png,kind {number % 3}" for number in range(24))]
    (folder / "images" / "metadata.csv").write_text("\n".join(rows))
    (folder / "words.txt").write_text("red\ngreen\nblue circle\nstriped\n")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "junk.bin").write_bytes(random.Random(0).randbytes(4096))
    os.mkfifo(folder / "pipe.npy")
    draw = np.random.default_rng(0)
    for name, shape in (("A", (24, 5)), ("E", (24, 8)), ("T", (4, 8))):
        np.save(folder / "made" / f"{name}.npy", np.abs(draw.standard_normal(shape)).astype(np.float32))
    (folder / "made" / "T.txt").write_text("one\ntwo\nthree\nfour\n")
    spec, weights = "python:csp_index.demo.network:planted_cnn", str(NETWORK_WEIGHTS)
    network = NetworkSource(spec, (CONCEPT_LAYER,), weights=weights, name="cnn")
    with open_index(folder / "db") as index:
        index.add_images(folder / "images", encoders=[f"open_clip:{CLIP_FOLDER}"], networks=[network])
        index.label("cnn/concepts", "csp", vocabulary=["red", "green", "striped"])
    with open_index(folder / "arrays") as index:
        index.import_arrays(folder / "made" / "A.npy", "m/l", embeddings=folder / "made" / "E.npy")


def draw_line(number: int, seed: int) -> list[str]:
    """Return the command line of a number: the same for the same seed."""
    from csp_index.cli import cli

    draw = random.Random(f"{seed}/{number}")
    name = draw.choice(sorted(set(cli.commands) - {"demo", "serve"}) * 4 + ["demo", "serve"])
    if draw.random() < 0.02:
        return [draw.choice(ODD), name]
    line, command = [name], cli.commands[name]
    for part in command.params:
        if isinstance(part, click.Argument) and (part.required or draw.random() < 0.5):
            line.append(_value(part, draw))
    options = [part for part in command.params if isinstance(part, click.Option) and not part.is_eager]
    needed = [part for part in options if part.required and draw.random() < 0.9]
    for part in needed + draw.sample(options, draw.randint(0, min(4, len(options)))):
        spelled = draw.choice([*part.opts, *part.secondary_opts])
        line += [spelled] if part.is_flag else [spelled, _value(part, draw)]
    if name == "demo":  # a sound one takes a minute
        line = [name, draw.choice(ODD), "--stage1", draw.choice(ODD)]
    if name == "serve":
        line += ["--port", "0"]
    if name == "start":  # it would serve until somebody ends it
        line += ["--no-serve"]
    return line


def _value(part: click.Parameter, draw: random.Random) -> str:
    likely = LIKELY.get(part.name or "", ())
    kind: Any = part.type
    if isinstance(kind, click.Choice):
        likely = tuple(map(str, kind.choices))
    elif isinstance(kind, click.IntRange | click.types.IntParamType):
        likely = ("0", "1", "2", "3", "7")
    elif isinstance(kind, click.types.FloatParamType):
        likely = ("0", "0.5", "1", "20")
    return draw.choice(likely) if likely and draw.random() < 0.7 else draw.choice(ODD)


# the process that runs lines


def run_lines(first: int, last: int, seed: int) -> None:
    """Run lines in this process and report each on the standard output, before and after."""
    import threading

    from csp_index.cli import main

    def report(*values: object) -> None:
        print(json.dumps(values), file=sys.__stdout__, flush=True)

    for number in range(first, last):
        line = draw_line(number, seed)
        report("begin", number)
        sys.argv = ["csp-index", *line]
        said = StringIO()
        end = threading.Timer(_SERVES, os.kill, (os.getpid(), signal.SIGINT))
        if line[0] == "serve":
            end.start()
        try:
            with redirect_stdout(TextIOWrapper(BytesIO(), "utf-8")), redirect_stderr(said):
                main()
            outcome = "no exit"
        except SystemExit as exc:
            outcome = str(exc.code or 0)
        except BaseException as exc:
            outcome = "traceback"
            said.write(f"{type(exc).__name__}: {exc}"[:500])
        end.cancel()
        if "Traceback (most recent call last)" in said.getvalue():
            outcome = "traceback"
        report("end", number, outcome, said.getvalue()[-500:])


# the process that watches


def fuzz(count: int, seed: int, folder: Path) -> Outcomes:
    """Run `count` lines over the world in a folder; a process that hangs or dies costs the line that it was at."""
    outcomes, following = Outcomes(), 0
    while following < count:
        process = _started(following, count, seed, folder)
        at, ended = following, False
        for message in _messages(process):
            if message[0] == "begin":
                at, ended = message[1], False
            else:
                outcomes.add(message[2], draw_line(message[1], seed), message[3])
                following, ended = message[1] + 1, True
        hangs = process.poll() is None
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if following < count and not ended:
            outcomes.add("hang" if hangs else "crash", draw_line(at, seed), f"status {process.returncode}")
            following = at + 1
    return outcomes


def _started(first: int, last: int, seed: int, folder: Path) -> subprocess.Popen[bytes]:
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CSP_INDEX_DEVICE": "cpu"}
    proxies = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # no line reaches the network
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, __file__, "--child", str(first), "--count", str(last), "--seed", str(seed)]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | quiet | proxies | {"PYTHONPATH": str(root), "CSP_INDEX_STATE": str(folder / "state")},
    )


def _messages(process: subprocess.Popen[bytes]) -> Iterator[list[Any]]:
    """Yield what a process reports until it ends, or says nothing for too long."""
    assert process.stdout is not None
    waiting, patience = b"", _STARTS
    with selectors.DefaultSelector() as ready:
        ready.register(process.stdout, selectors.EVENT_READ)
        until = time.monotonic() + patience
        while ready.select(max(0.0, until - time.monotonic())):
            data = os.read(process.stdout.fileno(), 65536)
            if not data:
                process.wait()
                return
            *lines, waiting = (waiting + data).split(b"\n")
            for line in lines:
                until = time.monotonic() + SECONDS
                yield json.loads(line)


def main() -> int:
    """Print the row and the faults; the exit status says whether there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        run_lines(given.child, given.count, given.seed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        make_world(Path(folder))
        outcomes = fuzz(given.count, given.seed, Path(folder))
    print(outcomes.row)
    for outcome, line, message in outcomes.faults:
        print(f"{outcome}: {json.dumps(line)[:400]}\n    {message[-400:]}")
    return bool(outcomes.faults)


if __name__ == "__main__":
    sys.exit(main())
