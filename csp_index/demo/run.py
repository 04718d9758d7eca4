"""The demo: render both probing sets, index them, label every neuron by every method, compare with the truth."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from csp_index.demo.captioning import CaptionerReport, run_captioner
from csp_index.demo.mixed import MixedReport, run_mixed
from csp_index.demo.network import CLIP_FOLDER, CONCEPT_LAYER, NETWORK_WEIGHTS, PLANTED
from csp_index.demo.probing import METADATA, Bias, write_probing_set
from csp_index.demo.world import VOCABULARY
from csp_index.errors import SettingError, one_line
from csp_index.index import Index, open_index
from csp_index.labelling.methods import METHODS
from csp_index.models.index_models import NetworkSource
from csp_index.query.results import Labels
from csp_index.records import Label, ScoringOptions

LAYER = f"cnn/{CONCEPT_LAYER}"
KINDS = ("single", "pair")
TRUTH = "truth.csv"
_SETS: tuple[Bias, ...] = ("biased", "unbiased")
_CARDS = 3
_SURE = ("csp", "firing-contrast", "consensus")  # methods whose labels come with their confidence


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of neurons whose planted concept is the best label, and is among the best five."""

    top1: float
    top5: float
    n: int


@dataclass(frozen=True, slots=True)
class Correction:
    """A neuron that its activating images alone mislabel, and CSP does not."""

    neuron: str
    truth: str
    without_contrast: str
    label: Label
    card: Path


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The demo's results: accuracy by probing set, method and kind of concept; corrections; where the files are.

    `captioner`: how good the candidates that a captioner names in the biased set are, if requested. `mixed`: what
    facets and formulas make of OR and AND NOT neurons in the unbiased set, if requested.
    """

    probing: dict[str, dict[str, dict[str, Accuracy]]]
    corrections: tuple[Correction, ...]
    directory: Path
    seconds: float
    captioner: CaptionerReport | None = None
    mixed: MixedReport | None = None


def run_demo(
    directory: str | Path,
    tell: Callable[[str], None],
    seed: int = 0,
    stage1: Literal["captioner"] | None = None,
    *,
    mixed: bool = False,
) -> DemoReport:
    """Run the whole demo in a directory; `tell` receives a line per step. Existing images and indexes are used again.

    `seed` draws the probing images; the models are the shipped ones. With `stage1` a captioner names candidates.
    With `mixed` neurons of OR and AND NOT of concepts are indexed, too, and their facets and formulas found.
    Errors: SettingError for another seed's directory.
    """
    started = time.monotonic()
    if "://" in str(directory):
        raise SettingError(f"{directory} is not a local directory: the demo renders its pictures into one")
    root = Path(directory)
    _claim(root, seed)
    write_truth(root / TRUTH)
    probing: dict[str, dict[str, dict[str, Accuracy]]] = {}
    corrections: tuple[Correction, ...] = ()
    captioner: CaptionerReport | None = None
    mixed_report: MixedReport | None = None
    for bias in _SETS:
        index = make_index(root, bias, seed, tell)
        labels = {}
        for method in METHODS:
            resamples = (
                ScoringOptions().bootstrap if method in _SURE else 0
            )  # of the others only the first label is compared here
            labels[method] = index.label(
                LAYER, method, vocabulary=list(VOCABULARY), templates="none", bootstrap=resamples
            )
        probing[bias] = {method: accuracy(result) for method, result in labels.items()}
        tell(f"{bias}: {len(labels)} methods labeled {len(PLANTED)} neurons")
        if bias == "biased":
            corrections = draw_corrections(index, labels["csp"], labels["semanticlens"], root)
            if stage1 is not None:
                captioner = run_captioner(index, LAYER, labels, tell)
        elif mixed:
            mixed_report = run_mixed(index, str(root / f"images-{bias}"), tell)
    return DemoReport(probing, corrections, root, time.monotonic() - started, captioner, mixed_report)


def write_truth(path: Path) -> None:
    """Write the concept that each neuron was trained to detect: a table neuron,label,kind."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("neuron", "label", "kind"))
        table.writerows((f"{LAYER}/{p.index}", p.concept, p.kind) for p in PLANTED if p.concept)


def make_index(root: Path, bias: Bias, seed: int, tell: Callable[[str], None]) -> Index:
    """Render one probing set, unless it is there, and index it with the shipped models."""
    folder = root / f"images-{bias}"
    if not (folder / METADATA).exists():
        # The table is written to its place last, so that a folder with a table is complete.
        draft = root / f"images-{bias}.draft"
        write_probing_set(draft, bias, seed)
        draft.rename(folder)
    index = open_index(root / f"{bias}.db")
    network = NetworkSource(
        "python:csp_index.demo.network:planted_cnn", (CONCEPT_LAYER,), weights=str(NETWORK_WEIGHTS), name="cnn"
    )
    summary = index.add_images(folder, encoders=[f"open_clip:{CLIP_FOLDER}"], networks=[network])
    tell(f"{bias}: {summary.images:,} images rendered into {folder} and indexed in {root / f'{bias}.db'}")
    return index


def _claim(root: Path, seed: int) -> None:
    """Reserve a directory for one seed; refuse one that holds other files."""
    mark = root / ".demo-seed"
    owner = mark.read_text().strip() if mark.exists() else None
    if owner is None and root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise SettingError(f"{root} holds something that is not the demo's: name a new or empty directory")
    if owner not in (None, str(seed)):
        raise SettingError(f"{root} holds the demo of seed {owner}: name another directory for seed {seed}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        mark.write_text(f"{seed}\n")
    except OSError as exc:
        raise SettingError(f"no permission to write {root}: {one_line(exc)}; name another directory") from exc


def accuracy(labels: Labels) -> dict[str, Accuracy]:
    """Compare labels with the planted concepts, singles and pairs apart."""
    hits: dict[str, list[tuple[bool, bool]]] = {kind: [] for kind in KINDS}
    for planted in PLANTED:
        if planted.kind in hits:
            texts = [score.text for score in labels[planted.index].labels]
            hits[planted.kind].append((texts[:1] == [planted.concept], planted.concept in texts[:5]))
    return {
        kind: Accuracy(sum(hit for hit, _ in rows) / len(rows), sum(near for _, near in rows) / len(rows), len(rows))
        for kind, rows in hits.items()
    }


def draw_corrections(index: Index, csp: Labels, plain: Labels, root: Path) -> tuple[Correction, ...]:
    """Draw the cards of the first neurons that contrast corrects, one per attribute where there are several."""
    neurons = [p for p in PLANTED if p.concept and csp[p.index].text == p.concept != plain[p.index].text]
    corrections = []
    for planted in neurons[:: max(1, len(neurons) // _CARDS)][:_CARDS]:
        label = csp[planted.index]
        card = index.card(label, root / f"card-{planted.index}.png")
        corrections.append(
            Correction(str(label.neuron), str(planted.concept), str(plain[planted.index].text), label, card)
        )
    return tuple(corrections)
