"""Rows on cost: what a size costs, fitted over the sizes that were measured, and what two large ones would take.

A cost is a sum of terms with factors that are not negative, fitted by least squares of relative errors. What lies
beyond the largest size that was measured is marked as extrapolated.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bench_data import Bench, child
from bench_label import growing, growth_peaks, growth_seconds, warm_times
from bench_rows import Row

IMAGENET = "figures at ImageNet's size"  # the key of what imagenet_size.py measured, where it is to be fitted as well
_EXAMPLES = 30
_DAY = 86_400
TARGETS = {"ImageNet-1k": (1_281_167, 2_048, 512), "400M": (400_000_000, 2_048, 512)}

# Each cost with its terms, as functions of N images, M neurons, D dimensions and U distinct activating images.
_TERMS: dict[str, list[str]] = {
    "import s": ["1", "N * (M + D)"],
    "label-all s": ["1", "N * M", "U * N * D"],
    "label-all peak bytes": ["1", "N"],
    "one neuron s": ["1", "N * D"],
    "images bytes": ["N"],
    "embeddings bytes": ["N * D"],
    "activations bytes": ["N * M"],
    "neurons bytes": ["M"],
}


def costs(bench: Bench) -> list[Row]:
    """Fit the costs and tell what ImageNet-1k and 400 million images would take."""
    points = _points(bench)
    fits: dict[str, dict[str, float]] = child(__file__, "fit", json.dumps([points, _TERMS]))
    rows = []
    for name, factors in fits.items():
        seen = points[name]
        off = statistics.median(abs(predict(factors, size) / value - 1) for size, value in seen)
        detail = {"factors": factors, "points": seen}
        what = f"fit of {name} over {len(seen)} sizes: median deviation"
        rows.append(Row(f"cost.{name.replace(' ', '-')}", what, max(off, 1e-6), "share", "", None, detail))
    largest = max(size["N"] for size, _ in points["import s"])
    for target, (images, neurons, width) in TARGETS.items():
        size = {"N": images, "M": neurons, "D": width, "U": min(images, _EXAMPLES * neurons)}
        mark = " (extrapolated)" if images > largest else ""
        for name, value, unit in _needs(bench, fits, size):
            what = f"{target}: {images:,} x {neurons:,}, {width} dims: {name}{mark}"
            short = f"sizing.{target}.{name}".lower().replace(" ", "-")
            rows.append(Row(short, what, value, unit, "", None, {"size": size}))
    return rows


def _needs(
    bench: Bench, fits: Mapping[str, Mapping[str, float]], size: Mapping[str, float]
) -> list[tuple[str, float, str]]:
    """Return what a size takes: storage, bytes an image and a neuron, times, memory, workers."""
    stored = {name: predict(fits[f"{name} bytes"], size) for name in ("images", "embeddings", "activations", "neurons")}
    found = [
        ("storage", sum(stored.values()) / 1e9, "GB"),
        ("an image", (stored["images"] + stored["embeddings"] + stored["activations"]) / size["N"], "bytes"),
        ("a neuron", (stored["activations"] + stored["neurons"]) / size["M"], "bytes"),
        ("import", predict(fits["import s"], size), "s"),
        ("label-all", predict(fits["label-all s"], size), "s"),
        ("label-all memory", predict(fits["label-all peak bytes"], size) / 1e9, "GB"),
        ("one neuron", 1e3 * predict(fits["one neuron s"], size), "ms"),
    ]
    speed = [row.value for row in bench.memo.get("rows of index", []) if row.name == "index.speed" and row.value]
    if speed:
        found.append(("machines of 2 cores that index it in a day", math.ceil(size["N"] / speed[0] / _DAY), "machines"))
    return found


def _points(bench: Bench) -> dict[str, list[tuple[dict[str, float], float]]]:
    """Return the measured values of every cost with their sizes."""
    names = ["main", *growing(bench), "million"]
    made = dict(zip(names, bench.made(*names), strict=True))
    sizes = {}
    found: dict[str, list[tuple[dict[str, float], float]]] = {name: [] for name in _TERMS}
    for name, data in made.items():
        shape, facts = data.shape, data.facts()
        sizes[name] = {"N": shape.images, "M": shape.neurons, "D": shape.width, "U": facts["distinct"]}
        found["import s"].append((sizes[name], facts["import_seconds"]))
        for table, value in facts["bytes"].items():
            kind = f"{table.split('_')[0]} bytes"
            if kind in found:
                found[kind].append((sizes[name], value))
    layers = growth_seconds(bench) | {
        name: bench.memo[f"label-all seconds of {name}"]
        for name in ("main", "million")
        if f"label-all seconds of {name}" in bench.memo
    }
    found["label-all s"] = [(sizes[name], value) for name, value in layers.items()]
    peaks = growth_peaks(bench) | {
        name: bench.memo[f"label-all peak of {name}"]
        for name in ("main", "million")
        if f"label-all peak of {name}" in bench.memo
    }
    found["label-all peak bytes"] = [(sizes[name], value) for name, value in peaks.items()]
    warm = warm_times(bench)
    found["one neuron s"] = [(sizes[name], statistics.median(warm[name]["seconds"])) for name in warm]
    for name, value in of_imagenet(bench.memo.get(IMAGENET)).items():
        found[name].append(value)
    return found


def of_imagenet(measured: Mapping[str, Any] | None) -> dict[str, tuple[dict[str, float], float]]:
    """Return what imagenet_size.py measured of the costs, each with the size; nothing without its figures.

    Seconds are those beyond start-up, and only of stages that ran while the machine had a core for them: others say
    nothing. Activations are stored in float16 there, so their bytes are not comparable.
    """
    if measured is None:
        return {}
    shape, costs, facts = measured["figures"]["shape"], measured["figures"]["costs"], measured["facts"]
    size = {"N": shape["images"], "M": shape["neurons"], "D": shape["width"], "U": facts["distinct"]}
    start_up = [cost["seconds"] for name, cost in costs.items() if name.startswith("start-up")]
    found = {}
    for name, stage in (("import s", "import"), ("label-all s", "label all, csp")):
        if start_up and stage in costs and costs[stage]["load"] <= (os.cpu_count() or 1):
            found[name] = costs[stage]["seconds"] - start_up[0]
    if "label all, csp" in costs:
        found["label-all peak bytes"] = costs["label all, csp"]["resident"]
    for table, value in facts["bytes"].items():
        kind = f"{table.split('_')[0]} bytes"
        if kind in _TERMS and kind != "activations bytes":
            found[kind] = value
    return {name: (size, float(value)) for name, value in found.items()}


def predict(factors: Mapping[str, float], size: Mapping[str, float]) -> float:
    """Return a cost at a size.

    >>> predict({"1": 2.0, "N * (M + D)": 0.5}, {"N": 10, "M": 3, "D": 1})
    22.0
    """
    return sum(factor * _term(term, size) for term, factor in factors.items())


def _term(term: str, size: Mapping[str, float]) -> float:
    """Return the value of a product of sizes; `N * (M + D)` is the one sum."""
    if term == "N * (M + D)":
        return size["N"] * (size["M"] + size["D"])
    return math.prod(1.0 if name == "1" else float(size[name]) for name in term.split(" * "))


# What follows runs in a child.


def fit(points: Mapping[str, Sequence[Any]], terms: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Return the factor of every term of every cost."""
    import numpy as np
    from scipy.optimize import nnls

    found = {}
    for name, seen in points.items():
        values = np.array([value for _, value in seen])
        matrix = np.array([[_term(term, size) for term in terms[name]] for size, _ in seen]) / values[:, None]
        scale = matrix.max(0)  # terms of 1 and of 1e15 in one system
        factors, _ = nnls(matrix / scale, np.ones(len(values)))
        found[name] = dict(zip(terms[name], (factors / scale).tolist(), strict=True))
    return found


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "fit":
        print(json.dumps(fit(*json.loads(sys.argv[2]))))
    else:
        sys.exit(f"usage: {__doc__}")
