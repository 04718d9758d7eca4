"""Prediction sets: the few labels among which the right one is, if resampling the images tells the truth.

Pure tensors. A set of one label with a confidence of 0.95 and a set of twelve labels are different answers, which a
single confidence hides: 0.4 may be one rival or ten.
"""

from __future__ import annotations

import torch

from csp_index.records import PREDICTED_SHARE

_ROUNDING = 1e-6  # of a sum of shares


def prediction_sets(share: torch.Tensor, coverage: float = PREDICTED_SHARE) -> torch.Tensor:
    """Return which labels [M, L] are in each neuron's smallest set whose shares of first places reach `coverage`.

    `share` [M, L] are the labels' shares, best label first; labels with equal shares enter in this order. A row of NaN
    has no set. `records.prediction_set_of` does the same for one neuron.
    """
    known = share.nan_to_num(nan=0.0)
    order = known.argsort(dim=1, descending=True, stable=True)
    before = known.gather(1, order).double().cumsum(1) - known.gather(1, order)
    inside = (before < coverage - _ROUNDING) & (known.gather(1, order) > 0)
    return torch.zeros_like(inside).scatter_(1, order, inside)
