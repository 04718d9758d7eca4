"""Try to break an index, and print in one table what came of it.

    python scripts/chaos.py                  # everything, some 30 minutes on two cores
    python scripts/chaos.py kills readers    # some parts
    python scripts/chaos.py --quick          # a small part of each, in a minute or two
    python scripts/chaos.py kills --command candidates --command "verify --repair"

Each part prints a row per figure: what was tried, how often, and how often it went as it must.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "chaos"))

import command_lines
import hostile_images
from outcome import Outcome
from subjects import COMMANDS

PARTS = {
    "kills": "kills at every step of every command",
    "readers": "readers and writers at once",
    "readers-s3": "the same on an S3 server",
    "opening": "what commits cost: opening, labeling, indexing",
    "damaged": "damages planted into an index",
    "lines": "odd command lines",
    "files": "hostile image files among good ones",
}


def main(arguments: list[str]) -> int:
    """Run the parts that are named, print the table, and return 1 if anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="a small part of each")
    parser.add_argument("--command", action="append", default=[], choices=COMMANDS, help="only this one is killed")
    options = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    for part in options.parts or PARTS:
        started = time.monotonic()
        print(f"{part}: {PARTS[part]} ..", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="csp_index_chaos_") as folder:
            outcomes += _outcomes(part, Path(folder), options.quick, options.command)
        print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    width = max(len(outcome.what) for outcome in outcomes)
    for outcome in outcomes:
        print(f"{outcome.what:<{width}}  {outcome.figure:<22} {'' if outcome.good else '<- WRONG'}".rstrip())
        for line in outcome.details:
            print(f"    {line}")
    return int(not all(outcome.good for outcome in outcomes))


def _outcomes(part: str, folder: Path, quick: bool, commands: list[str]) -> list[Outcome]:
    if part == "lines":
        command_lines.make_world(folder)
        lines = command_lines.fuzz(40 if quick else 500, 0, folder)
        faults = tuple(f"{outcome}: {line} {message[-200:]}" for outcome, line, message in lines.faults)
        return [Outcome("odd command lines", lines.row.partition(": ")[2], not faults, faults)]
    if part == "files":
        count = 60 if quick else 1000
        figures = hostile_images.index_files(folder, count, count)
        good = not figures.wrong and not figures.status
        return [Outcome("hostile files", figures.row, good, (*figures.wrong, figures.message) if not good else ())]
    chosen = {"commands": commands} if part == "kills" else {}
    return list(importlib.import_module(part.replace("-", "_")).run(folder, quick=quick, **chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
