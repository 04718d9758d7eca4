"""Judge labels that the product wrote against the truth of a set: right or not, overlap, level, AUPRC, confidence."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from product import METHODS, label_file
from train_clip import average_precisions


@dataclass(frozen=True, slots=True)
class Judged:
    """What is known of one label: whether it is right, how it overlaps the truth, and how sure the method was."""

    seed: int
    condition: str
    #: "net: keyword", "planted: two keywords" and so on.
    group: str
    vocabulary: str
    method: str
    neuron: int
    #: exact, top5, iou and auprc, each 0..1.
    values: Mapping[str, float]
    #: Pairs of emoji and background that the label is true of, over those of the truth: above 1 is broader.
    size: float
    #: NaN where the method states none.
    confidence: float
    #: How well the CLIP knows the truth's words: the best average precision of an accepted text on the judging images.
    known: float
    #: The truth's keyword has a home color.
    homed: bool
    #: The label names a background though the truth does not depend on it.
    on_background: bool


def overlap(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the share of two sets' union that is in both; 0 for two empty sets."""
    union = int((first | second).sum())
    return float((first & second).sum() / union) if union else 0.0


def read_seed(out: Path, seed: int, condition: str) -> list[Judged]:
    """Return all judged labels of one seed and condition; of the trained outputs only the good ones."""
    with np.load(out / "arrays" / f"seed{seed}-{condition}.npz") as stored:
        arrays = {name: stored[name] for name in stored.files if not name.startswith("activations")}
    judge = _Judge(arrays)
    files = [label_file(out / f"seed{seed}", condition, method) for method in METHODS]
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    labels = [json.loads(line) for line in lines]
    good = [label for label in labels if label["layer"] != "net" or arrays["good_net"][label["neuron"]]]
    return [judge.judged(label, seed, condition) for label in good]


class _Judge:
    """The truth of one set; AUPRC of a pair of text and neuron is computed once."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self._arrays = arrays
        self._row_of = {text: row for row, text in enumerate(arrays["texts"].tolist())}
        self._precision: dict[tuple[int, str, int], float] = {}

    def judged(self, label: Mapping[str, Any], seed: int, condition: str) -> Judged:
        arrays, layer, neuron = self._arrays, label["layer"], label["neuron"]
        accepted = str(arrays[f"accepted_{layer}"][neuron]).split(";")
        truth = arrays[f"truth_{layer}"][neuron]
        ranked = label["texts"]
        rows = [self._row_of[text] for text in accepted if text in self._row_of]
        values, size, named = {"exact": 0.0, "top5": 0.0, "iou": 0.0, "auprc": 0.0}, float("nan"), False
        if ranked:
            first = self._row_of[ranked[0]]
            shown = arrays["text_emoji"][first][:, None] & arrays["text_background"][first]
            values["exact"] = float(ranked[0] in accepted)
            values["top5"] = float(any(text in accepted for text in ranked))
            values["iou"], size = overlap(shown, truth), float(shown.sum() / truth.sum())
            values["auprc"] = self._auprc(first, layer, neuron)
            named = not arrays["text_background"][first].all() and bool((truth == truth[:, :1]).all())
        stated = label["confidence"]
        return Judged(
            *(seed, condition, f"{layer}: {arrays[f'kind_{layer}'][neuron]}", label["vocabulary"], label["method"]),
            *(neuron, values, size, float("nan") if stated is None else stated),
            max((float(arrays["text_ap"][row]) for row in rows), default=float("nan")),
            any(bool(arrays["homed"][row]) for row in rows),
            named,
        )

    def _auprc(self, text: int, layer: str, neuron: int) -> float:
        """Return how well the neuron ranks the judging images by whether the label is true of them."""
        key = (text, layer, neuron)
        if key not in self._precision:
            arrays, value = self._arrays, 0.0
            shows = arrays["text_emoji"][text][arrays["judge_concept"]]
            shows = shows & arrays["text_background"][text][arrays["judge_background"]]
            if shows.any():
                column = torch.from_numpy(arrays[f"judge_{layer}"][:, neuron : neuron + 1])
                value = float(average_precisions(column, torch.from_numpy(shows[:, None])))
            self._precision[key] = value
        return self._precision[key]
