"""Above what an image fires a neuron, as studies ask for it: a number, or a statistic of the neuron's activations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from csp_index.contrast.examples import thresholds
from csp_index.errors import SettingError

ABOVE = "0"  # by default


def firing_levels(above: str, statistics: pa.Table) -> np.ndarray:
    """Return above what each neuron fires [M]: a number, or mean, quantile:Q, max:F of its `statistics`.

    Raises SettingError for what is none of these.
    """
    try:
        number = float(above)
    except ValueError:
        return thresholds(statistics, above).numpy()
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise SettingError(f"firing is {above}: expected a finite number, mean, quantile:Q or max:F")
    return np.full(statistics.num_rows, number, np.float32)
