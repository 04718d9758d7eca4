"""Whose code runs: a stored model spec is a name, never an order.

A spec `python:module:factory` is run where the user gives it. The same spec read from an index, which may come from a
stranger, is run only if the user gave it in this process too, or trusts the index.
"""

from __future__ import annotations

import logging
from typing import Final

from csp_index.errors import ModelError

_PYTHON: Final = "python:"

SHIPPED: Final = frozenset(
    {
        "python:csp_index.demo.classifier:classifier",
        "python:csp_index.demo.generator:renderer",
        "python:csp_index.demo.network:planted_cnn",
    }
)
"""The factories of the package itself, which the demo's indexes name; every index may."""

_log = logging.getLogger(__name__)
_given: set[str] = set()  # by the user, in this process
_announced: set[str] = set()


def give(spec: str | None) -> None:
    """Remember that the user gave a spec, on the command line or as an argument; None is ignored."""
    if spec is not None and spec.startswith(_PYTHON):
        _given.add(spec)


def may_run(spec: str, trust: bool) -> bool:
    """Return whether `check_stored` lets the code of a spec run."""
    return trust or not spec.startswith(_PYTHON) or spec in SHIPPED or spec in _given


def check_stored(spec: str, trust: bool) -> None:
    """Refuse to run code that only an index names; with `trust`, log what will run, once.

    Raises ModelError, which says what would run and how to allow it.
    """
    code = spec.removeprefix(_PYTHON)
    if not may_run(spec, trust):
        raise ModelError(
            f"the index names the model {spec}, which would run the code {code}, and an index may come from a "
            "stranger: give the same spec yourself (--encoder, --network), or trust the index (--trust; in Python "
            "open_index(uri, trust=True))"
        )
    if spec.startswith(_PYTHON) and spec not in SHIPPED | _given | _announced:
        _announced.add(spec)
        _log.warning("running the code %s, which the index names (--trust)", code)
