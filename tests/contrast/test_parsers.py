"""Properties of what chooses contrastive images by text: thresholds and edits."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st
from parsing import QUICK, like, refusing

from csp_index.contrast.edits import EDITS, usable_edits
from csp_index.contrast.examples import thresholds
from csp_index.errors import SettingError
from csp_index.store import schema

ROWS = pa.table(
    {
        "mean": np.array([0.1, 0.2]),
        "max": np.array([1.0, 2.0], dtype=np.float32),
        "quantiles": pa.array([[0.0] * len(schema.QUANTILES)] * 2, pa.list_(pa.float32(), len(schema.QUANTILES))),
    }
)


@QUICK
@given(like("mean", "quantile", "max", ":", "0.5", "1", "0.0"))
def test_any_text_is_a_threshold_or_refused(text: str) -> None:
    with refusing(SettingError):
        values = thresholds(ROWS, text)
        assert values.shape == (2,) and values.isfinite().all()


@QUICK
@given(st.sampled_from(schema.QUANTILES), st.floats(0.01, 1))
def test_thresholds_are_read_as_they_are_written(quantile: float, share: float) -> None:
    assert thresholds(ROWS, f"quantile:{quantile}").tolist() == [0.0, 0.0]
    assert np.allclose(thresholds(ROWS, f"max:{share}"), ROWS["max"].to_numpy() * share)


@QUICK
@given(like("blur", "occlude", "noise", ",", " "))
def test_any_text_is_edits_or_refused(text: str) -> None:
    with refusing(SettingError):
        edits = usable_edits(text)
        assert edits and len(set(edits)) == len(edits) and set(edits) <= set(EDITS)
        assert usable_edits(",".join(edits)) == edits
