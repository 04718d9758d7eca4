"""A report without its charts, for tests of what else it says."""

from __future__ import annotations

import pytest
from markupsafe import Markup

from csp_index.evaluation.report.page import Page


@pytest.fixture
def uncharted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the charts of reports out: to draw them takes longer than all the rest."""
    monkeypatch.setattr(Page, "_chart", lambda page, drawing, name, description: Markup("<svg></svg>"))
