"""The public names of the package: all are there, and few load torch."""

from __future__ import annotations

import pytest
from other_process import run_python

import csp_index


def test_every_public_name_is_there():
    for name in csp_index.__all__:
        assert getattr(csp_index, name) is not None
    assert dir(csp_index) == sorted(csp_index.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = csp_index.nothing


NEED_TORCH = {  # the others are records, options and protocols: a program that only reads an index has no use for torch
    *("doctor", "NetworkSource", "Network", "Encoder", "CandidateTexts"),
    *("Evidence", "ScoringMethod", "ImageGenerator", "VariantGenerator", "Original", "Variant", "redrawn"),
}


def test_public_names_load_torch_only_where_they_need_it():
    result = run_python(f"""
        import sys
        import csp_index

        for name in set(csp_index.__all__) - {NEED_TORCH!r}:
            getattr(csp_index, name)
            assert "torch" not in sys.modules, name
    """)
    assert result.returncode == 0, result.stderr
