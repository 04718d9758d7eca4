"""Write the tables of a run: agreement, overlap, size and confidence of labels by method, with intervals.

A cell of too few neurons says so instead of a mean. `results.json` holds every figure of the tables and more.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from evaluation_tables import evaluation_lines
from intervals import LEAST_NEURONS, Estimate, estimate, paired
from judged_labels import Judged, read_seed
from product import METHODS, VOCABULARIES
from seed_models import CLIP_LEVEL, GOOD_OUTPUTS

#: Every other method is compared with this one, neuron by neuron.
REFERENCE: Final = "consensus"
MEASURES: Final = ("exact", "top5", "iou", "auprc")
SURE: Final = 0.9
RIGHT_OVERLAP: Final = 0.5
BANDS: Final = ((0.0, 0.15), (0.15, 0.4), (0.4, 0.7), (0.7, 1.01))
#: The groups of the table of pairs and of the one of confidence.
MAIN_GROUPS: Final = ("net: keyword", "planted: keyword")


def by_seed(rows: Iterable[Judged], value: Callable[[Judged], float], seeds: Sequence[int]) -> list[list[float]]:
    """Return a value of each label, one list per model seed, in the order of groups and neurons."""
    result: dict[int, list[float]] = {seed: [] for seed in seeds}
    for row in sorted(rows, key=lambda row: (row.group, row.neuron)):
        result[row.seed].append(value(row))
    return list(result.values())


def cell(rows: Iterable[Judged], measure: str, seeds: Sequence[int]) -> Estimate:
    """Return the estimate of one measure over some labels."""
    return estimate(by_seed(rows, lambda row: row.values[measure], seeds))


def calibration(rows: Sequence[Judged]) -> dict[str, float]:
    """Return what the labels state and what is true of them.

    Mean stated confidence, share right (exactly; and with an overlap of .5), the expected calibration errors over ten
    bins, how many labels state .9 or more, and the share of those that is right. Labels without confidence do not
    count; fewer than 10 give only their number.
    """
    rows = [row for row in rows if not np.isnan(row.confidence)]
    if len(rows) < LEAST_NEURONS:
        return {"neurons": len(rows)}
    stated = np.array([row.confidence for row in rows])
    bins, sure = np.minimum((stated * 10).astype(int), 9), stated >= SURE
    result = {"neurons": float(len(rows)), "stated": float(stated.mean()), "sure": float(sure.sum())}
    for name, right in (
        ("exact", np.array([row.values["exact"] for row in rows])),
        ("overlap", np.array([row.values["iou"] >= RIGHT_OVERLAP for row in rows], float)),
    ):
        gaps = [(bins == place).mean() * abs((stated - right)[bins == place].mean()) for place in np.unique(bins)]
        result |= {f"right {name}": float(right.mean()), f"error {name}": float(sum(gaps))}
        result[f"sure right {name}"] = float(right[sure].mean()) if sure.any() else float("nan")
    return result


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


class Tables:
    """The judged labels of a run, and its tables."""

    def __init__(self, rows: Sequence[Judged], seeds: Sequence[int]) -> None:
        """Group labels by group, condition, vocabulary and method."""
        self.seeds, self.rows = seeds, rows
        self.methods = [name for name in METHODS if any(row.method == name for row in rows)]
        self.conditions = list(dict.fromkeys(row.condition for row in rows))
        self.groups = list(dict.fromkeys(row.group for row in rows))
        self._cells: dict[tuple[str, str, str, str], list[Judged]] = defaultdict(list)
        for row in rows:
            self._cells[(row.group, row.condition, row.vocabulary, row.method)].append(row)

    def labels(self, group: str, condition: str, vocabulary: str, method: str) -> list[Judged]:
        """Return the labels of one cell."""
        return self._cells.get((group, condition, vocabulary, method), [])

    def counts(self) -> list[str]:
        """Return how many neurons of each group are judged, and which groups are too few."""
        counted = {group: len(self.labels(group, self.conditions[0], "full", self.methods[0])) for group in self.groups}
        few = [group for group, count in counted.items() if count < LEAST_NEURONS]
        said = [f"Too few neurons for a judgment (under {LEAST_NEURONS}): {', '.join(few)}.", ""] if few else []
        lines = ["Neurons over all seeds:", "", *(f"- {group}: {count}" for group, count in counted.items()), ""]
        return [*lines, *said]

    def agreement(self, condition: str, vocabulary: str, measure: str) -> list[str]:
        """Return one measure of all methods by group."""
        body = []
        for method in self.methods:
            cells = [cell(self.labels(g, condition, vocabulary, method), measure, self.seeds) for g in self.groups]
            body.append([method, *cells])
        return table(("method", *self.groups), body)

    def pairs(self, condition: str, vocabulary: str) -> list[str]:
        """Return each method's IoU less the reference's, neuron by neuron, in the main groups."""
        if REFERENCE not in self.methods:
            return []
        body = []
        groups = [group for group in MAIN_GROUPS if group in self.groups]
        for method in (name for name in self.methods if name != REFERENCE):
            cells = []
            for group in groups:
                own, other = (
                    by_seed(self.labels(group, condition, vocabulary, name), lambda row: row.values["iou"], self.seeds)
                    for name in (method, REFERENCE)
                )
                cells.append(paired(own, other).signed())
            body.append([method, *cells])
        return table((f"IoU less {REFERENCE}'s", *groups), body)

    def level_and_confidence(self, condition: str, vocabulary: str) -> list[str]:
        """Return size of the label, share that names a background, and what confidence says, in the main groups."""
        body = []
        for group in (group for group in MAIN_GROUPS if group in self.groups):
            for method in self.methods:
                labels = self.labels(group, condition, vocabulary, method)
                known = calibration(labels)
                sizes = [row.size for row in labels if not np.isnan(row.size)]
                said = ("not stated",) * 4
                if "stated" in known:
                    sure = f"{known['sure right exact']:.2f} of {known['sure']:.0f}" if known["sure"] else "none"
                    errors = f"{known['error exact']:.2f} / {known['error overlap']:.2f}"
                    rights = f"{known['right exact']:.2f} / {known['right overlap']:.2f}"
                    said = (f"{known['stated']:.2f}", rights, errors, sure)
                size = f"{np.median(sizes):.2f}" if sizes else "-"
                named = f"{np.mean([row.on_background for row in labels]):.2f}" if labels else "-"
                body.append([group, method, size, named, *said])
        heads = ("group", "method", "median size", "names a background", "stated", "right: exact / IoU >= .5")
        return table((*heads, "ECE: exact / IoU >= .5", f"right where stated >= {SURE}"), body)

    def homes(self) -> list[str]:
        """Return how often planted keywords with a home color are labeled by a background, full vocabulary."""
        body = []
        for method in self.methods:
            cells = []
            for condition in self.conditions:
                own = [row for row in self.labels("planted: keyword", condition, "full", method) if row.homed]
                cells += [estimate(by_seed(own, lambda row: float(row.on_background), self.seeds))]
                cells += [cell(own, "iou", self.seeds)]
            body.append([method, *cells])
        heads = [f"{what}, {condition}" for condition in self.conditions for what in ("names a background", "IoU")]
        return table(("method", *heads), body)

    def knowledge(self, condition: str) -> list[str]:
        """Return IoU on planted keywords by how well the CLIP knows the word, vocabulary keywords."""
        body = []
        for method in self.methods:
            own = self.labels("planted: keyword", condition, "keywords", method)
            bands = [[row for row in own if low <= row.known < high] for low, high in BANDS]
            body.append([method, *(cell(band, "iou", self.seeds) for band in bands)])
        return table(("method", *(f"AP {low}-{min(high, 1.0)}" for low, high in BANDS)), body)

    def plain(self) -> list[dict[str, Any]]:
        """Return every cell's figures as plain values."""
        result = []
        for (group, condition, vocabulary, method), labels in self._cells.items():
            place = {"group": group, "condition": condition, "vocabulary": vocabulary, "method": method}
            figures: dict[str, Any] = {name: cell(labels, name, self.seeds).plain() for name in MEASURES}
            sizes = [row.size for row in labels if not np.isnan(row.size)]
            figures |= {"size": float(np.median(sizes)) if sizes else None, "calibration": calibration(labels)}
            figures["names a background"] = float(np.mean([row.on_background for row in labels]))
            result.append(place | figures)
        return result


def levels(out: Path, seeds: Sequence[int], held_out: str) -> tuple[list[str], dict[str, Any]]:
    """Return the models' levels as lines and by seed; a seed below the level worth judging is named."""
    result, body, lines = {}, [], []
    for seed in seeds:
        level = json.loads((out / f"seed{seed}" / "clip" / "level.json").read_text())[held_out]
        with np.load(next((out / "arrays").glob(f"seed{seed}-*.npz"))) as stored:
            keywords = stored["kind_net"] == "keyword"
            good, outputs = int(stored["good_net"][keywords].sum()), int(keywords.sum())
        result[str(seed)] = level | {"good outputs": good, "outputs": outputs}
        body.append([seed, level["top1"], level["top5"], level["keyword_precision"], f"{good} of {outputs}"])
        if level["top1"] < CLIP_LEVEL or good < GOOD_OUTPUTS:
            lines += [
                f"**Seed {seed} is below the level worth judging** (top-1 {CLIP_LEVEL} on the held-out artist's names, "
                f"{GOOD_OUTPUTS} outputs at AP .5): read its figures as those of weak models.",
                "",
            ]
    heads = ("seed", f"CLIP: names top-1 ({held_out})", "top-5", "keyword AP", "network: outputs at AP >= .5")
    return [*table(heads, body), *lines], result


def write(
    out: Path, seeds: Sequence[int], held_out: str, conditions: Sequence[str], seconds: Mapping[str, float]
) -> None:
    """Write `table.md` and `results.json` of a run."""
    tables = Tables([row for seed in seeds for name in conditions for row in read_seed(out, seed, name)], seeds)
    reached, plain = levels(out, seeds, held_out)
    lines = ["# Labels on real pictures", "", *reached, *tables.counts()]
    lines += [f"Intervals: 95 %, over the {len(seeds)} model seeds and the neurons of each.", ""]
    titles = {"exact": "right label", "iou": "overlap (IoU) of label and truth", "auprc": "AUPRC on unbiased images"}
    for condition in tables.conditions:
        for vocabulary in VOCABULARIES:
            lines += [f"## {condition} images, vocabulary {vocabulary}", ""]
            for measure, title in titles.items():
                lines += [f"{title}:", "", *tables.agreement(condition, vocabulary, measure)]
            lines += tables.pairs(condition, vocabulary) + tables.level_and_confidence(condition, vocabulary)
    lines += ["## Planted keywords with a home color, vocabulary full", "", *tables.homes()]
    lines += ["## Planted keywords by how well the CLIP knows the word: IoU, vocabulary keywords", ""]
    lines += tables.knowledge(tables.conditions[0])
    lines += evaluation_lines(out, seeds, conditions, ("net", "planted", "hidden"))
    lines += ["## Time", "", *(f"- {name}: {value:.0f} s" for name, value in seconds.items()), ""]
    (out / "table.md").write_text("\n".join(lines), encoding="utf-8")
    data = {"seeds": list(seeds), "held out": held_out, "levels": plain, "cells": tables.plain()}
    (out / "results.json").write_text(json.dumps(data | {"seconds": dict(seconds)}, indent=1) + "\n", encoding="utf-8")
