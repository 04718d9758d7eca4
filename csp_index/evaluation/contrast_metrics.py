"""How good the pairs are that a method's labels rest on: the quality of contrast as metrics of an evaluation."""

from __future__ import annotations

from typing import Final

import torch

from csp_index.contrast.quality import ContrastQuality
from csp_index.evaluation.evaluation import Metric
from csp_index.evaluation.value_table import ValueTable

POOR: Final = "contrast-poor"

METRICS: Final[dict[str, Metric]] = {
    metric.name: metric
    for metric in (
        Metric("contrast-partnered", "pairs", "share of the activating images that have a partner", low=0.0, high=1.0),
        Metric("contrast-similarity", "pairs", "mean cosine of the pairs, by the encoder that labels", True, -1.0, 1.0),
        Metric("contrast-near", "pairs", "share of the pairs that reach the similarity floor", low=0.0, high=1.0),
        Metric("contrast-drop", "pairs", "share of the activation that is lost from image to partner"),
        Metric("contrast-duplicates", "pairs", "partners dropped as the same picture", False, 0.0),
        Metric(POOR, "pairs", "the contrast is poor: few partners, little similarity or a small drop", False, 0.0, 1.0),
    )
}


def add_quality(value_table: ValueTable, method: str, quality: ContrastQuality, labels: list[str | None]) -> None:
    """Add the quality of the contrast [M] on which a method's labels rest."""
    unpaired = torch.from_numpy(quality.pairs == 0)
    columns = {
        "contrast-partnered": quality.partnered,
        "contrast-similarity": quality.similarity,
        "contrast-near": quality.near,
        "contrast-drop": quality.drop,
        "contrast-duplicates": quality.duplicates,
        POOR: quality.poor,
    }
    for metric, column in columns.items():
        values = torch.from_numpy(column).double().masked_fill(unpaired, torch.nan)
        value_table.add(method, metric, values, labels, "no activating image has a partner")
