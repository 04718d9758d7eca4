"""Fit how likely labels are to be right on development worlds of two kinds, and judge the fit once on fresh ones.

    python scripts/calibration/calibrate_confidence.py --cache DIR --out DIR --development 0-5 --fresh 300-303 \\
        --pictures DIR --fresh-pictures DIR --run DIR [--quick]

The kinds are the drawn worlds of `scripts/method_search` (attributes and categories; rendered in --cache) and real
pictures (arrays of `scripts/real_pictures`, whose folder of models and pictures is --run). A label is *right* if the
images that it and the neuron's truth are true of overlap by half (IoU). Both kinds have their nulls (`null_worlds.py`),
networks with redrawn weights, of which every label is wrong. The features (`labelling.probabilities.features`) of every
seed are kept in --out. For each method an additive logistic regression is fitted, both kinds at the same
weight and nulls at less; features of `RISING` never lower the probability.

`calibration.md` in --out has for each method and kind: the labels, the shares of right and of exact ones, the mean
probability, the expected calibration error (ten bins of equal width), the same error of the share of resamples, the
area under the ROC curve of both, and the labels at .9 and above with the share of right ones; of a null the mean
probability, and the shares of labels at .5 and .9. On development data each half of the seeds is judged by a fit on the
other half. `calibration.json` has the regressions with their provenance and the fresh figures, as the package stores
them.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "method_search"))
from additive_regression import fit_additive
from null_worlds import drawn_nulls, picture_nulls
from search_categories import Graded
from search_graded import drawn_worlds
from search_real import array_files, read_pictures
from search_worlds import QUICK, Sizes
from world_features import CALIBRATED, features_of

from csp_index.labelling.probabilities.calibration import Calibration
from csp_index.labelling.probabilities.features import FEATURES

KINDS: Final = ("drawn", "real")
NULLS: Final = ("drawn null", "real null")
#: Features that never lower the probability.
RISING: Final = ("share", "soft", "lead", "height", "fit", "response", "present", "behind")
RIDGE: Final = 1e-4
#: Of a null, where a kind has 1; chosen on the development seeds.
NULL_WEIGHT: Final = 0.7
_RIGHT, _SURE, _BINS = 0.5, 0.9, 10
_KEYS: Final = ("features", "overlap", "exact")
_HEADS: Final = (
    *("method", "kind", "labels", "right", "exact", "mean", "error", "error of share"),
    *("area", "area of share", "at .5", "at .9", "right at .9"),
)

_ROW: Final = re.compile(r"[\[{][^\[\]{}]*[\]}]")  # a list or an object that holds no other, for one line

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
    """Return the arrays of a file, computed for the methods that it lacks."""
    arrays: Arrays = {}
    if file.exists():
        with np.load(file) as kept:
            arrays = {key: kept[key] for key in kept.files}
    missing = [method for method in CALIBRATED if f"{method}/features" not in arrays]
    if missing:
        file.parent.mkdir(parents=True, exist_ok=True)
        parts = list(features_of(worlds(), missing))
        for method in missing:
            arrays |= {f"{method}/{key}": torch.cat([part[method][key] for part in parts]).numpy() for key in _KEYS}
        draft = file.with_suffix(".draft.npz")
        np.savez(draft, allow_pickle=False, **arrays)
        draft.rename(file)
        print(f"{file.name}: {', '.join(missing)}", flush=True)
    return arrays


def read_seeds(out: Path, cache: Path, seeds: Sequence[int], pictures: Path, run: Path, sizes: Sizes) -> Seeds:
    """Return the arrays of drawn seeds and of a folder's model seeds of real pictures, and those of their nulls."""

    def of_seed(seed: int) -> tuple[Arrays, Arrays]:
        null = stored(out / f"null-drawn-{seed}.npz", lambda: drawn_nulls(cache, [seed], sizes))
        return stored(out / f"drawn-{seed}.npz", lambda: drawn_worlds(cache, [seed], sizes)), null

    def of_file(file: Path) -> tuple[Arrays, Arrays]:
        null = stored(out / f"null-real-{file.stem}.npz", lambda: picture_nulls(file, run))
        return stored(out / f"real-{file.stem}.npz", lambda: read_pictures(file)), null

    models: dict[str, list[tuple[Arrays, Arrays]]] = {}
    for file in array_files(pictures):
        models.setdefault(file.stem.partition("-")[0], []).append(of_file(file))
    real = [tuple(_joined(side) for side in zip(*pairs, strict=True)) for pairs in models.values()]
    drawn = [of_seed(seed) for seed in seeds]
    both = [list(side) for pairs in (drawn, real) for side in zip(*pairs, strict=True)]
    return dict(zip(("drawn", "drawn null", "real", "real null"), both, strict=True))


def _joined(parts: Sequence[Arrays]) -> Arrays:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def labels_of(seeds: Seeds, method: str) -> Labels:
    """Return the labels of a method that have a probability: those whose features are all known."""
    parts = [(kind, place, arrays) for kind in seeds for place, arrays in enumerate(seeds[kind])]
    features = np.concatenate([arrays[f"{method}/features"] for _, _, arrays in parts]).astype(np.float64)
    overlap, exact = (np.concatenate([a[f"{method}/{key}"] for _, _, a in parts]) for key in ("overlap", "exact"))
    counts = [len(arrays[f"{method}/overlap"]) for _, _, arrays in parts]
    kind = np.repeat([kind for kind, _, _ in parts], counts)
    half = np.repeat([place % 2 for _, place, _ in parts], counts)
    right = (overlap >= _RIGHT - 1e-6).astype(np.float64)
    return Labels(features, right, exact, kind, half).of(np.atleast_1d(np.isfinite(features).all(1)))


def fit(labels: Labels) -> Calibration:
    """Fit a method's regression, with the same weight for both kinds, and for both nulls."""
    weights = np.array([(NULL_WEIGHT if kind in NULLS else 1) / (labels.kind == kind).sum() for kind in labels.kind])
    rising = [name in RISING for name in FEATURES]
    return fit_additive(labels.features, labels.right, weights, rising, RIDGE)


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


def judge(labels: Labels, probability: np.ndarray) -> dict[str, dict[str, float]]:
    """Return the figures of each kind and null: columns of the tables by name."""
    result: dict[str, dict[str, float]] = {}
    for kind in (*KINDS, *NULLS):
        mask = labels.kind == kind
        if not mask.any():
            continue
        chance, right = probability[mask], labels.right[mask]
        share = 1 / (1 + np.exp(-labels.features[mask, FEATURES.index("share")]))
        sure = chance >= _SURE
        result[kind] = {"labels": len(right), "mean": chance.mean(), "at .5": (chance >= _RIGHT).mean()}
        result[kind] |= {"at .9": sure.mean()}
        if kind in KINDS:
            result[kind] |= {"right": right.mean(), "exact": labels.exact[mask].mean()}
            result[kind] |= {"error": calibration_error(chance, right), "area": area(chance, right)}
            result[kind] |= {"error of share": calibration_error(share, right), "area of share": area(share, right)}
            result[kind] |= {"right at .9": right[sure].mean() if sure.any() else float("nan")}
    return result


def rows(method: str, judged: dict[str, dict[str, float]]) -> list[str]:
    """Return a row of the table for each kind and null."""
    result = []
    for kind, values in judged.items():
        cells = [f"{values[name]:.3f}" if name in values else "" for name in _HEADS[3:]]
        result.append(" | ".join(["", method, kind, f"{values['labels']:,}", *cells, ""]).strip())
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
    parser.add_argument("--run", type=Path, required=True, help="folder of real_pictures.py with models and pictures")
    parser.add_argument("--quick", action="store_true", help="tiny worlds, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    sizes = QUICK if options.quick else Sizes()
    seeds = options.development, options.fresh
    places = (options.out, options.pictures), (options.out / "fresh", options.fresh_pictures)
    development, fresh = (
        read_seeds(out, options.cache, _seeds(drawn), pictures, options.run, sizes)
        for drawn, (out, pictures) in zip(seeds, places, strict=True)
    )
    head = ["| " + " | ".join(_HEADS) + " |", "|---" * len(_HEADS) + "|"]
    tables: dict[str, list[str]] = {"Development, the other half of the seeds": [], "Fresh": []}
    methods = {}
    for method in CALIBRATED:
        known, unseen = labels_of(development, method), labels_of(fresh, method)
        calibration = fit(known)
        judged = judge(known, crossed(known)), judge(unseen, calibration.probability(unseen.features))
        for lines, figures in zip(tables.values(), judged, strict=True):
            lines += rows(method, figures)
        fitted = {kind: int((known.kind == kind).sum()) for kind in (*KINDS, *NULLS)}
        methods[method] = {"labels": fitted, "judged": _rounded(judged[1]), **calibration.as_json()}
    text = "\n\n".join("\n".join([f"## {title}", "", *head, *lines]) for title, lines in tables.items())
    (options.out / "calibration.md").write_text(text + "\n")
    used = (_used(drawn, pictures) for drawn, (_, pictures) in zip(seeds, places, strict=True))
    origin = {
        "command": "python scripts/calibration/calibrate_confidence.py",
        "commit": _commit(),
        **dict(zip(("development", "fresh"), used, strict=True)),
        "right": "the images that label and truth are true of overlap by half (IoU >= 0.5)",
        "ridge": RIDGE,
        "null weight": NULL_WEIGHT,
        "features": FEATURES,
        "rising": RISING,
    }
    text_of_all = json.dumps(origin | {"methods": methods}, indent=1)
    (options.out / "calibration.json").write_text(_ROW.sub(lambda row: " ".join(row[0].split()), text_of_all) + "\n")
    print(text)


def _used(drawn: str, pictures: Path) -> dict[str, object]:
    return {"drawn": drawn, "real": sorted(file.stem for file in array_files(pictures)), "null": "redrawn, centered"}


def _rounded(judged: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    return {
        kind: {name: None if value != value else round(float(value), 3) for name, value in values.items()}
        for kind, values in judged.items()
    }


def _commit() -> str:
    """Return the commit that the code is at, marked if it has changed since; "unknown" for a copy without history."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    return said.stdout.strip() if said.returncode == 0 else "unknown"


def _seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


if __name__ == "__main__":
    main()
