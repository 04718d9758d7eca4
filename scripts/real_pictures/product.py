"""Run the product's own commands on the probing sets of one seed: index, import, label, evaluate.

The commands run as a user types them, through click in one process: a thousand starts of Python would cost more than
the labels.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from click.testing import CliRunner
from numpy.typing import NDArray
from world_arrays import Texts

from csp_index.labelling import methods as labelling

NETWORK: Final = "python:studied_pictures:studied_network"
NAME: Final = "studied"
NET, HIDDEN, PLANTED = f"{NAME}/outputs", f"{NAME}/hidden", "planted/neurons"
#: Layer in the arrays -> address in the index.
LAYERS: Final = {"net": NET, "planted": PLANTED, "hidden": HIDDEN}
VOCABULARIES: Final = ("words", "keywords", "full")
#: Methods of the product that are not compared: controls and variants, but for the floor.
LEFT_OUT: Final = frozenset({"csp-difference", "clip-dissect-mean", "rank-reorder", "random-contrast"})
#: Methods to compare: name in the tables -> options of `csp-index label`.
METHODS: Final = {
    "csp": ("--method", "csp"),
    "csp gamma .5": ("--method", "csp", "--gamma", "0.5"),
    **{name: ("--method", name) for name in labelling.METHODS if name not in LEFT_OUT},
}
#: Methods that `evaluate` judges: it relabels on half of the images, so each costs a labeling run.
EVALUATED: Final = ("semanticlens", "pmi", "contrastive-pmi", "consensus", "firing-contrast", "csp", "random-label")


class CommandError(RuntimeError):
    """A command of the product failed; the message holds what it said."""


@contextmanager
def offered_models(folder: Path, outputs: int) -> Iterator[None]:
    """Offer the models to the product as an installed package would: an entry point, found on the search path.

    `outputs` is the width of the network under study, for which a factory is written.
    """
    offer = folder / "csp_real_pictures-0.dist-info"
    offer.mkdir(parents=True, exist_ok=True)
    (offer / "METADATA").write_text("Metadata-Version: 2.1\nName: csp-real-pictures\nVersion: 0\n")
    (offer / "entry_points.txt").write_text("[csp_index.plugins]\nreal_pictures = picture_models\n")
    factory = f"def studied_network():\n    return StudiedNetwork({outputs})\n"
    (folder / "studied_pictures.py").write_text(f"from picture_models import StudiedNetwork\n\n\n{factory}")
    added = [str(folder), str(Path(__file__).resolve().parent)]
    before = os.environ.get("PYTHONPATH")
    sys.path[:0] = added
    os.environ["PYTHONPATH"] = os.pathsep.join([*added, *([before] if before else [])])
    try:
        yield
    finally:
        for path in added:
            sys.path.remove(path)
        os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def command(*arguments: object) -> str:
    """Return what a command of csp-index prints. Raises CommandError with its message if it fails."""
    from csp_index.cli import cli

    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    if result.exit_code:
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        if result.stderr.strip() == "Aborted!":
            raise KeyboardInterrupt
        words = " ".join(map(str, arguments[:2]))
        raise CommandError(f"csp-index {words} ended with {result.exit_code}: {result.stderr.strip() or result.output}")
    return result.stdout


def index_set(db: Path, probing: Path, seed_folder: Path, planted: NDArray[np.float32], mark: str) -> None:
    """Index the files of a probing set with metadata through both models, and import the planted neurons as a layer.

    An index of the same mark that was interrupted goes on; one of other models or images is removed first. The rows of
    `planted` are in the order of the file names; the import refuses other images or another order.
    """
    made_for = db.with_suffix(".mark")
    if db.exists() and not (made_for.is_file() and made_for.read_text() == mark):
        shutil.rmtree(db)
    made_for.write_text(mark)
    command(
        *("index", db, probing / "images", "--encoder", f"open_clip:{seed_folder.resolve() / 'clip'}"),
        *("--network", NETWORK, "--weights", seed_folder / "network.safetensors", "--name", NAME),
        *("--layers", "outputs,hidden", "--metadata", probing / "metadata.csv"),
    )
    stored = json.loads(command("sql", db, "select uri from images order by image_id", "--json"))
    uris = [row["uri"] for row in (stored["rows"] if isinstance(stored, dict) else stored)]
    listed = probing / "uris.txt"
    listed.write_text("\n".join(uris) + "\n", encoding="utf-8")
    order = np.array([int(Path(uri).stem) for uri in uris])
    array = probing / "planted.npy"
    np.save(array, planted[order])
    command("import", db, "--activations", array, "--layer", PLANTED, "--uris", listed)


def write_vocabularies(folder: Path, texts: Texts, chosen: dict[str, NDArray[np.bool_]]) -> dict[str, Path]:
    """Write a text file per vocabulary; return their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    result = {}
    for name in VOCABULARIES:
        result[name] = folder / f"{name}.txt"
        rows = [text for text, inside in zip(texts.texts, chosen[name], strict=True) if inside]
        result[name].write_text("\n".join(rows) + "\n", encoding="utf-8")
    return result


def label_layer(db: Path, layer: str, vocabulary: Path, method: Sequence[str]) -> list[dict[str, Any]]:
    """Return the labels of a layer as `csp-index label --json` prints them, one per neuron."""
    printed = command("label", db, "--layer", layer, "--vocabulary", vocabulary, "--top", 5, "--json", *method)
    return [json.loads(line) for line in printed.splitlines()]


def label_file(folder: Path, condition: str, method: str) -> Path:
    """Return where the labels of one method are kept.

    >>> label_file(Path("seed0"), "biased", "csp gamma .5").as_posix()
    'seed0/labels-biased/csp-gamma-.5.jsonl'
    """
    return folder / f"labels-{condition}" / f"{method.replace(' ', '-')}.jsonl"


def ranked_texts(row: Mapping[str, Any]) -> list[str]:
    """Return the best texts of a label, at most five; for a weighted sum its own come first, by their weight.

    >>> sums = [{"text": "dog", "weight": 0.6}, {"text": "cat", "weight": -0.2}]
    >>> ranked_texts({"terms": sums, "labels": [{"text": "0.6 dog - 0.2 cat"}, {"text": "wolf"}]})
    ['dog', 'wolf']
    """
    own = [term["text"] for term in row["terms"] if term["weight"] > 0]
    others = [score["text"] for score in row["labels"][1 if len(row["terms"]) > 1 else 0 :]]
    return list(dict.fromkeys([*own, *others]))[:5]


def label_all(db: Path, file: Path, vocabularies: dict[str, Path], layers: Sequence[str], method: str) -> None:
    """Label layers by one method with all vocabularies, and write the labels as lines of JSON."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    with part.open("w", encoding="utf-8") as out:
        for layer in layers:
            for vocabulary, path in vocabularies.items():
                for row in label_layer(db, LAYERS[layer], path, METHODS[method]):
                    kept: dict[str, object] = {"layer": layer, "vocabulary": vocabulary, "method": method}
                    kept |= {"texts": ranked_texts(row)}
                    kept |= {"neuron": int(str(row["neuron"]).rpartition("/")[2]), "state": row["state"]}
                    kept |= {"confidence": row["confidence"], "uncertain": row["uncertain"]}
                    out.write(json.dumps(kept) + "\n")
    part.rename(file)


def write_truth(file: Path, accepted: Sequence[str], kinds: Sequence[str], which: Sequence[int]) -> None:
    """Write the truth of some neurons as `csp-index evaluate --truth` reads it: a row per accepted text."""
    with file.open("w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table, lineterminator="\n")
        rows.writerow(("neuron", "label", "kind"))
        for neuron in which:
            for text in accepted[neuron].split(";"):
                rows.writerow((neuron, text, kinds[neuron]))


def evaluate_layer(db: Path, layer: str, vocabulary: Path, truth: Path | None, report: Path) -> None:
    """Evaluate some methods on a layer with the images' own keywords as concepts, into the folder of a report."""
    methods = [part for name in EVALUATED for part in ("--method", METHODS[name][1])]
    known = ("--truth", truth, "--neurons", _neurons(truth)) if truth else ()
    command(
        *("evaluate", db, "--layer", LAYERS[layer], "--vocabulary", vocabulary, "--concepts", "keywords"),
        *(*methods, *known, "--report", report),
    )


def _neurons(truth: Path) -> str:
    rows = truth.read_text(encoding="utf-8").splitlines()[1:]
    return ",".join(sorted({row.split(",", 1)[0] for row in rows}, key=int))
