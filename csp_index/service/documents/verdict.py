"""What a neuron's page says first, in one sentence: what it fires on, how sure that is, and what is not known.

And where its figures stand among those of its layer, so that each number has a scale. Pure functions of values.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from csp_index.labelling.methods import METHODS, controls
from csp_index.labelling.review.words import PINNED
from csp_index.printable import shortened
from csp_index.records.assurance import above_null, likelihood
from csp_index.service.documents.neuron_shapes import Scales, Statistics
from csp_index.service.documents.shapes import NeuronRow
from csp_index.service.layer_table import LayerTable

_NO_LABEL: Final = {
    "unlabelled": "it has no label yet",
    "no-contrast": "it has no label: no similar image leaves it silent enough",
    "no-candidates": "it has no label: there are no candidates for it",
}
_LETTERS: Final = 80  # of a label, which stands above the sentence
_NO_NULL: Final = "nobody compared it with a random network"


def verdict(row: NeuronRow, statistics: Statistics, doubt: str, elsewhere: bool) -> str:
    """Return in one sentence what is known of a neuron and its label, and what is not.

    `doubt` says why the label is uncertain, "" where it is not; `elsewhere`: no command of csp_index made the label.
    """
    images = f"{statistics['images']:,}"
    if row["dead"]:
        return f"Never fires: on none of the {images} indexed images is its activation above 0."
    if statistics["min"] == statistics["max"]:
        return f"Tells nothing apart: all {images} indexed images give it the same activation."
    rate = row["firing_rate"] if row["above_mean"] is None else row["above_mean"]
    verb = "Fires on" if row["above_mean"] is None else "Is above its mean on"
    often = f"{verb} {_share(rate)} of {images} images"
    if row["label"] is None:
        return f"{often}; {_NO_LABEL.get(row['state'], 'it has no label')}."
    name = f"“{shortened(row['label'], _LETTERS)}”"
    if row["method"] == PINNED:
        return f"A reader named it {name}; {often[0].lower()}{often[1:]}."
    if row["method"] in controls():
        return f"A control says {name}, which is no label but what chance would give; {often[0].lower()}{often[1:]}."
    fires = f"{'Fires on' if row['above_mean'] is None else 'Is highest on'} {name}"
    if row["uncertain"]:
        fires = f"{fires}, perhaps"
    if elsewhere:
        return f"{fires}, as {row['method']} says, whose label was made elsewhere; how sure it is, is not known here."
    if _correlates(row) and not row["uncertain"]:
        said = f"{name} correlates with its activation at {row['score']:.3f} over all images"
        return f"{'; '.join([said, *_further(row)])}."
    return f"{'; '.join([f'{fires}: {_sure(row, doubt)}', *_further(row)])}."


def _correlates(row: NeuronRow) -> bool:
    """Return whether the score of the label is a correlation over all images, which resampling does not change."""
    method = METHODS.get(row["method"] or "")
    return method is not None and method.needs_correlation and row["score"] is not None


def _sure(row: NeuronRow, doubt: str) -> str:
    stays = "" if row["confidence"] is None else f"first in {round(100 * row['confidence'])} of 100 resamples"
    if row["uncertain"]:
        reason = doubt.removeprefix("uncertain").lstrip(":, ")
        if "though" in reason or not reason:  # `note` says why
            return f"not sure{f', though {stays}' if stays else ''}"
        return f"not sure, {reason}"
    if row["uncertain"] is None or not stays:
        return "by its score alone, nobody resampled its images"
    return f"sure, {stays} of its images"


def _further(row: NeuronRow) -> list[str]:
    rank, likely = row["null_percentile"], row["probability"]
    said = [_NO_NULL if rank is None else above_null(rank)]
    return said if likely is None else [*said, likelihood(likely)]


def _share(value: float) -> str:
    """Return a share as a percentage that is never rounded to none or all.

    >>> _share(0.5), _share(0.012), _share(0.00001), _share(0.9999)
    ('50 %', '1.2 %', 'less than 0.1 %', 'more than 99.9 %')
    """
    if 0 < value < 0.001:
        return "less than 0.1 %"
    if 0.999 < value < 1:
        return "more than 99.9 %"
    return f"{100 * value:.0f} %" if value >= 0.1 or value == 0 else f"{100 * value:.1f} %"


def scales(table: LayerTable, row: NeuronRow) -> Scales:
    """Return for figures of a neuron the share of its layer's neurons that have lower ones; None: no figure.

    Scores and leads are compared with labels by the same method; equal ones count one half.
    """
    labels = table.methods.get(row["method"] or "")
    return {
        "score": None if labels is None else below(labels.scores, row["score"]),
        "lead": None if labels is None else below(labels.leads, row["lead"]),
        "firing_rate": below(table.firing_rates, row["firing_rate"]),
        "max": below(table.maxima, row["max"]),
    }


def below(values: np.ndarray, value: float | None) -> float | None:
    """Return which share of the other values [M] is lower than one of them; equal ones count one half, NaN not at all.

    None where there is no value, or no other. In [0, 1].

    >>> below(np.array([1.0, 2.0, 2.0, 3.0, np.nan]), 2.0), below(np.array([1.0]), 1.0)
    (0.5, None)
    """
    others = int(np.count_nonzero(~np.isnan(values))) - 1
    if value is None or others < 1:
        return None
    lower, equal = np.count_nonzero(values < value), np.count_nonzero(values == value)
    return float(min(1.0, max(0.0, (lower + (equal - 1) / 2) / others)))
