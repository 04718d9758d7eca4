"""Fit how likely labels are to be right on development worlds of two kinds, and judge the fit once on fresh ones.

    python scripts/calibration/calibrate_confidence.py --cache DIR --out DIR --development 0-5 --fresh 300-303 \\
        --pictures DIR --fresh-pictures DIR [--quick]

The kinds are the drawn worlds of `scripts/method_search` (attributes and categories; rendered in --cache) and real
pictures (arrays of `scripts/real_pictures`). A label is *right* if the images that it and the neuron's truth are true
of overlap by half (IoU). The features (`label_features.py`) of every seed are kept in --out. For each
method a logistic regression is fitted, both kinds at the same weight. `calibration.md` in --out has for each method and
kind: the labels, the shares of right and of exact ones, the mean probability, the expected calibration error (ten bins
of equal width), the same error of the share of resamples, the area under the ROC curve of both, and the labels at .9
and above with the share of right ones. On development data each half of the seeds is judged by a fit on the other half.
`calibration.json` has the regressions, with their provenance.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "method_search"))
from label_features import FEATURES
from regression import Calibration
from search_categories import Graded
from search_graded import drawn_worlds
from search_real import array_files, read_pictures
from search_worlds import QUICK, Sizes
from world_features import CALIBRATED, features_of

KINDS: Final = ("drawn", "real")
RIDGE: Final = 1e-2
_RIGHT, _SURE, _BINS = 0.5, 0.9, 10
_HEADS: Final = (
    *("method", "kind", "labels", "right", "exact", "mean", "error", "error of share"),
    *("area", "area of share", "at .9", "right of these"),
)

#: METHOD/features and so on, of one seed
Arrays: TypeAlias = dict[str, np.ndarray]
Seeds: TypeAlias = dict[str, list[Arrays]]  # of each kind


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of one method: features [M, F], whether they are right and exact, their kind, and half of their seed."""

    features: np.ndarray
    right: np.ndarray
    exact: np.ndarray
    kind: np.ndarray
    half: np.ndarray

    def of(self, mask: np.ndarray) -> Labels:
        """Return the labels of a mask."""
        return Labels(self.features[mask], self.right[mask], self.exact[mask], self.kind[mask], self.half[mask])


def stored(file: Path, worlds: Callable[[], Iterable[Graded]]) -> Arrays:
    """Return the arrays of a file, computed if it is not there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        parts = list(features_of(worlds()))
        arrays = {
            f"{method}/{key}": torch.cat([part[method][key] for part in parts]).numpy()
            for method in CALIBRATED
            for key in ("features", "overlap", "exact")
        }
        draft = file.with_suffix(".draft.npz")
        np.savez(draft, **arrays)
        draft.rename(file)
    with np.load(file) as found:
        return {key: found[key] for key in found.files}


def read_seeds(out: Path, cache: Path, seeds: Sequence[int], pictures: Path, sizes: Sizes) -> Seeds:
    """Return the arrays of drawn seeds, and of the model seeds of a folder of real pictures."""
    drawn = [stored(out / f"drawn-{seed}.npz", lambda seed=seed: drawn_worlds(cache, [seed], sizes)) for seed in seeds]
    models: dict[str, list[Arrays]] = {}
    for file in array_files(pictures):
        arrays = stored(out / f"real-{file.stem}.npz", lambda file=file: read_pictures(file))
        models.setdefault(file.stem.partition("-")[0], []).append(arrays)
    real = [{key: np.concatenate([part[key] for part in parts]) for key in parts[0]} for parts in models.values()]
    return dict(zip(KINDS, (drawn, real), strict=True))


def labels_of(seeds: Seeds, method: str) -> Labels:
    """Return the labels of a method that have a probability: those whose features are all known."""
    parts = [(kind, place, arrays) for kind in KINDS for place, arrays in enumerate(seeds[kind])]
    features = np.concatenate([arrays[f"{method}/features"] for _, _, arrays in parts]).astype(np.float64)
    overlap, exact = (np.concatenate([a[f"{method}/{key}"] for _, _, a in parts]) for key in ("overlap", "exact"))
    counts = [len(arrays[f"{method}/overlap"]) for _, _, arrays in parts]
    kind = np.repeat([kind for kind, _, _ in parts], counts)
    half = np.repeat([place % 2 for _, place, _ in parts], counts)
    right = (overlap >= _RIGHT - 1e-6).astype(np.float64)
    return Labels(features, right, exact, kind, half).of(np.isfinite(features).all(1))


def fit(labels: Labels) -> Calibration:
    """Fit a method's regression, with the same weight for both kinds."""
    weights = 1 / np.array([(labels.kind == kind).sum() for kind in labels.kind])
    return Calibration.fit(labels.features, labels.right, weights, RIDGE)


def crossed(labels: Labels) -> np.ndarray:
    """Return the probability of each label by a fit on the other half of the seeds."""
    result = np.empty(len(labels.right))
    for half in (0, 1):
        mask = labels.half == half
        result[mask] = fit(labels.of(~mask)).probability(labels.features[mask])
    return result


def calibration_error(probability: np.ndarray, right: np.ndarray) -> float:
    """Return the expected calibration error over ten bins of equal width."""
    place = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    gaps = [abs((probability[place == bin_] - right[place == bin_]).sum()) for bin_ in range(_BINS)]
    return float(sum(gaps) / len(right))


def area(score: np.ndarray, right: np.ndarray) -> float:
    """Return the area under the ROC curve; equal scores count one half."""
    high, low = score[right > 0], np.sort(score[right == 0])
    ends = [np.searchsorted(low, high, side=side) for side in ("left", "right")]
    return float(np.mean(sum(ends)) / 2 / len(low)) if len(high) and len(low) else float("nan")


def rows(method: str, labels: Labels, probability: np.ndarray) -> list[str]:
    """Return a row of the table for each kind."""
    result = []
    for kind in KINDS:
        mask = labels.kind == kind
        chance, right = probability[mask], labels.right[mask]
        share = 1 / (1 + np.exp(-labels.features[mask, FEATURES.index("share")]))
        sure = chance >= _SURE
        values = [right.mean(), labels.exact[mask].mean(), chance.mean(), calibration_error(chance, right)]
        values += [calibration_error(share, right), area(chance, right), area(share, right)]
        cells = [method, kind, str(len(right)), *(f"{value:.3f}" for value in values), str(int(sure.sum()))]
        result.append(" | ".join(["", *cells, f"{right[sure].mean():.3f}" if sure.any() else "-", ""]).strip())
    return result


def main() -> None:
    """Fit, judge, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of rendered pools")
    parser.add_argument("--out", type=Path, required=True, help="folder of features and results")
    parser.add_argument("--development", default="0-5", help="seeds of drawn worlds, FIRST-LAST")
    parser.add_argument("--fresh", default="300-303", help="the same, to judge by")
    parser.add_argument("--pictures", type=Path, required=True, help="arrays of real pictures to fit on")
    parser.add_argument("--fresh-pictures", type=Path, required=True, help="arrays of another model seed, to judge by")
    parser.add_argument("--quick", action="store_true", help="tiny worlds, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = QUICK if options.quick else Sizes()
    development = read_seeds(options.out, options.cache, _seeds(options.development), options.pictures, sizes)
    fresh = read_seeds(options.out / "fresh", options.cache, _seeds(options.fresh), options.fresh_pictures, sizes)
    head = ["| " + " | ".join(_HEADS) + " |", "|---" * len(_HEADS) + "|"]
    tables: dict[str, list[str]] = {"Development, the other half of the seeds": [], "Fresh": []}
    methods = {}
    for method in CALIBRATED:
        known, unseen = labels_of(development, method), labels_of(fresh, method)
        calibration = fit(known)
        counts = {kind: int((known.kind == kind).sum()) for kind in KINDS}
        methods[method] = {"labels": counts, **calibration.as_json()}
        judged = rows(method, known, crossed(known)), rows(method, unseen, calibration.probability(unseen.features))
        for lines, more in zip(tables.values(), judged, strict=True):
            lines += more
    text = "\n\n".join("\n".join([f"## {title}", "", *head, *lines]) for title, lines in tables.items())
    (options.out / "calibration.md").write_text(text + "\n")
    origin = {
        "command": "python scripts/calibration/calibrate_confidence.py",
        "development": {"drawn": options.development, "real": sorted(f.stem for f in array_files(options.pictures))},
        "right": "the images that label and truth are true of overlap by half (IoU >= 0.5)",
        "ridge": RIDGE,
        "features": FEATURES,
    }
    (options.out / "calibration.json").write_text(json.dumps(origin | {"methods": methods}, indent=1) + "\n")
    print(text)


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


if __name__ == "__main__":
    main()
