"""A made evaluation for the tests of its summary and report: five methods, 40 neurons, every family of metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from csp_index.evaluation.evaluation import VALUES, Evaluation
from csp_index.evaluation.metrics.sanity import SanityReport, SanityRow

METHODS = ("contrastive-pmi", "csp:gamma=0.5", "semanticlens", "random-contrast", "random-label")
LAYER = "cnn/concepts"
NASTY = (
    "<script>alert('1')</script>",
    'a "quoted" & <b>bold</b> label',
    "日本語 - \u202eünïcode 🦊",
    "x" * 200,
    "$\\frac{1}{2}$ {{ 7 * 7 }} {% raw %}",
)
#: mean of the best method and of the floor, and the spread between neurons
_SHAPES = {
    "simulation": (0.62, 0.03, 0.15),
    "simulation-calibrated": (0.60, 0.02, 0.15),
    "auprc": (0.71, 0.12, 0.18),
    "f1": (0.66, 0.10, 0.18),
    "iou": (0.52, 0.06, 0.18),
    "pearson": (0.58, 0.01, 0.16),
    "auroc": (0.93, 0.52, 0.06),
    "agreement-exact": (0.92, 0.03, 0.0),
    "agreement-rank": (1.6, 60.0, 0.5),
    "discriminative": (0.90, 0.51, 0.08),
    "cosy-auc": (0.94, 0.55, 0.07),
    "cosy-mad": (3.1, 0.1, 1.0),
    "dma": (0.55, 0.12, 0.15),
    "label-images": (0.06, 0.21, 0.03),
    "lead": (1.4, 0.4, 0.5),
    "consistency": (0.8, 0.1, 0.3),
}


def row(neuron: int, method: str, metric: str, value: float | None, **other: Any) -> dict[str, Any]:
    """Return one row of VALUES."""
    fixed = {
        "model": "cnn",
        "layer": "concepts",
        "kind": "",
        "text": "a label",
        "note": "" if value is not None else "?",
    }
    return fixed | {"neuron": neuron, "method": method, "metric": metric, "value": value} | other


def made(rows: Sequence[dict[str, Any]], **settings: Any) -> Evaluation:
    """Return an evaluation of the given rows."""
    return Evaluation(pa.Table.from_pylist(list(rows), schema=VALUES), settings)


def tiny(*metrics: str, neurons: int = 8, **settings: Any) -> Evaluation:
    """Return an evaluation of two methods: a few values each."""
    rows = [
        row(i, method, metric, 0.1 * i + (method == "csp"))
        for metric in metrics or ("simulation",)
        for method in ("csp", "pmi")
        for i in range(neurons)
    ]
    return made(rows, methods=["csp", "pmi"], layer=LAYER, encoder="a", judge="b", **settings)


def evaluation(neurons: int = 40, seed: int = 0, same: bool = False) -> Evaluation:
    """Return what an evaluation of a demo might hold: methods of falling quality, and some values missing."""
    rng = np.random.default_rng(seed)
    quality = dict(zip(METHODS, (1.0, 0.72, 0.6, 0.55, 0.0), strict=True))
    rows = []
    for neuron in range(neurons):
        kind, dead = ("single", "pair")[neuron % 2], neuron == 7
        hard = rng.normal()
        for method in METHODS:
            text = None if dead else NASTY[neuron] if neuron < len(NASTY) else f"{('red', 'blue')[neuron % 2]} {neuron}"
            share = quality[method] * (0.8 if kind == "pair" and method.startswith("csp") else 1.0)
            for metric, (best, floor, spread) in _SHAPES.items():
                mean = floor + share * (best - floor)
                value: float | None = mean + spread * (0.7 * hard + 0.5 * rng.normal())
                if metric in ("auprc", "f1", "iou", "auroc", "cosy-auc", "label-images", "consistency", "dma"):
                    value = float(np.clip(value, 0, 1))
                if metric == "agreement-exact":
                    value = float(rng.random() < mean)
                note = "no label: the neuron never fires on the choosing images" if dead else ""
                if metric == "consistency" and neuron % 5:
                    note = "no other labeled neuron fires alike"
                if metric == "cosy-auc" and neuron == 3:
                    note = "the label cannot be drawn: <unsafe>"
                rows.append(row(neuron, method, metric, None if note else value, kind=kind, text=text, note=note))
        for metric in ("clarity", "polysemanticity", "redundancy"):
            value = float(np.clip(rng.normal(0.5, 0.15), 0, 1))
            rows.append(row(neuron, "", metric, value, kind=kind, text=None))
    settings = {
        "methods": list(METHODS),
        "layer": LAYER,
        "encoder": "open_clip:ViT-B-32/datacomp_xl_s13b_b90k",
        "judge": "open_clip:ViT-B-32/datacomp_xl_s13b_b90k" if same else "transformers:google/siglip2-base-patch16-224",
        "same_encoder": same,
        "seed": 0,
        "split": {"key": "1f0c", "origin": "a share of 0.5 held out", "seed": 0, "choosing": 3820, "judging": 3820},
        "candidates": {"vocabulary": "demo", "texts": 1204},
        "generator": "python:csp_index.demo.generator:renderer",
        "truth": "truth.csv",
        "hierarchy": None,
    }
    skipped = {"hierarchy": "no hierarchy is given (--hierarchy)", "robustness": "no relabeling is requested"}
    return Evaluation(pa.Table.from_pylist(rows, schema=VALUES), settings, "20260101T120000-ab12cd", skipped)


def bins() -> list[dict[str, Any]]:
    """Return bins of probabilities and the share that was right."""
    shares = (0.08, 0.35, 0.42, 0.71, 0.93)
    return [
        {"predicted": 0.1 + 0.2 * i, "share": s, "low": max(0, s - 0.12), "high": min(1, s + 0.1), "count": 8 + 5 * i}
        for i, s in enumerate(shares)
    ]


def sanity_report() -> SanityReport:
    """Return what the metrics' own test says of some metrics."""
    drops = {"pearson": 0.4, "auprc": 0.5, "f1": 0.3, "auroc": 0.004, "mean-difference": 0.01}
    return SanityReport(
        tuple(
            SanityRow(metric, "graded", test, 0.01, drop + extra, drop - 0.01, drop + 0.05, 6, drop > 0.05)
            for metric, drop in drops.items()
            for test, extra in (("missing", 0.0), ("extra", 0.02))
        )
    )
