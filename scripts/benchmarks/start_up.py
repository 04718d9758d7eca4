"""What commands cost that answer from what the index holds: wall-clock and CPU seconds, beside those of Python alone.

    python scripts/benchmarks/start_up.py [--turns N] [--images N] [--json]

Makes an index of arrays, labels its layer by `csp`, and runs every command once in each turn. A bar is the limit on the
median of the wall-clock seconds of a whole command, on an idle machine: the load is printed, CPU seconds depend less on
it. `label, computed` labels a neuron again from the lists of neighbours that labelling its layer has kept.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_data import CLI, LAYER, Ran, Shape, child, in_turn, make_arrays

NEURON = 7
_WIDTH, _NEURONS, _TEXTS = 512, 256, 2000


def commands(db: str) -> dict[str, tuple[list[str], float | None]]:
    """Return the commands on an index that `prepare` made, each with its bar in seconds."""
    label = [*CLI, "label", db, "--layer", LAYER, "--neurons", str(NEURON), "--method", "csp", "--json"]
    return {
        "python": ([sys.executable, "-c", "pass"], None),
        "import csp_index": ([sys.executable, "-c", "import csp_index"], 0.15),
        "import csp_index.index": ([sys.executable, "-c", "import csp_index.index"], None),
        "--help": ([*CLI, "--help"], 0.4),
        "label, stored": (label, 1.2),
        "label, computed": ([*label, "--recompute"], 1.2),
        "show": ([*CLI, "show", db, f"{LAYER}/{NEURON}"], 1.2),
        "search": ([*CLI, "search", db, "text 7"], 1.2),
        "status": ([*CLI, "status", db], 1.0),
        "sql": ([*CLI, "sql", db, "SELECT count(*) FROM labels"], 1.0),
        "export": ([*CLI, "export", db], 1.0),
    }


def prepare(folder: str, images: int) -> None:
    """Make the index: arrays imported, a vocabulary with its embeddings, the layer labelled by `csp`."""
    import torch

    from csp_index import open_index
    from csp_index.labelling.candidates import embed_vocabulary
    from csp_index.labelling.vocabularies import make_vocabulary
    from csp_index.store import catalog

    place = Path(folder)
    make_arrays(place, Shape(images, _NEURONS, _WIDTH, _TEXTS))
    words = make_vocabulary("words", (place / "T.txt").read_text().splitlines())
    with open_index(place / "db") as index:
        index.import_arrays(place / "A.npy", LAYER, embeddings=place / "E.npy", logit_scale=30.0)
        known: Any = _Known(place / "T.npy")
        with index.store.write_lock():  # as labelling with an encoder stores them; the last row is the empty text's
            embed_vocabulary(index.store, catalog.encoder(index.store), words, "none", lambda: known)
        index.label(LAYER, "csp", vocabulary=words, templates="none")
    print(json.dumps(torch.__version__))


class _Known:
    """Stands for the encoder of the texts: their embeddings are known."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def embed_texts(self, texts: Sequence[str], templates: Sequence[str]) -> Any:
        import numpy as np
        import torch

        vectors = torch.from_numpy(np.load(self._file))
        return torch.cat([vectors, vectors.mean(0, keepdim=True)])


def table(runs: dict[str, list[Ran]], bars: dict[str, float | None]) -> list[dict[str, object]]:
    """Return a row per command: medians of its wall-clock and CPU seconds, and the bar."""
    return [
        {
            "command": name,
            "seconds": round(statistics.median(ran.seconds for ran in each), 3),
            "cpu": round(statistics.median(ran.cpu for ran in each), 3),
            "bar": bars[name],
        }
        for name, each in runs.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--json", action="store_true", help="print JSON for machines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        torch = child(__file__, "prepare", folder, str(options.images))
        asked = commands(f"{folder}/db")
        before = os.getloadavg()[0]
        runs = in_turn({name: command for name, (command, _) in asked.items()}, options.turns)
    rows = table(runs, {name: bar for name, (_, bar) in asked.items()})
    if options.json:
        print(json.dumps({"load": before, "turns": options.turns, "rows": rows}))
        return
    print(f"torch {torch}; load {before:.2f} before; medians of {options.turns} alternating turns; seconds")
    for row in rows:
        bar = "" if row["bar"] is None else f"   <= {row['bar']}"
        print(f"{row['command']:24}{row['seconds']:8.2f} wall{row['cpu']:8.2f} CPU{bar}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["prepare"]:
        prepare(sys.argv[2], int(sys.argv[3]))
    else:
        main()
