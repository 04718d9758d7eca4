"""Cases of a parametrized test of which a few run in the normal suite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(cases: Iterable[Any], count: int) -> list[Any]:
    """Return the cases as parameters; all but the first `count` are slow, as each takes a second of a core or more."""
    every = list(cases)
    return [*every[:count], *(_slow(case) for case in every[count:])]


def _slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
