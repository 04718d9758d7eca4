"""A row of the table that `chaos.py` prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was tried, the figure, and whether it is as it must be; `details` say what was not."""

    what: str
    figure: str
    good: bool = True
    details: tuple[str, ...] = ()
