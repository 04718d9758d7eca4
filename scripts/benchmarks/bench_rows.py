"""What a benchmark row is, and how rows become a table and JSON. Knows nothing about what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its bar: one line of the printed table."""

    name: str  # short, unique, the word `--only` takes or that word with a suffix after a dot: label-all.ratio
    what: str  # what was measured, in words
    value: float | None  # in `unit`; None where it cannot be measured here, and `detail` says why
    unit: str  # s, ms, GB, x, images/s, exponent, share
    bar: str  # the bar in words: "<= 15 s"; empty where the figure is only reported
    holds: bool | None  # whether the bar holds; None where there is no bar or no value
    detail: Mapping[str, object] = field(default_factory=dict)  # JSON: every single measurement behind the value


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table.

    >>> print(table([Row("import", "import of arrays", 1.5, "x", "<= 2 x", True)]))
    | row | what | bar | measured | holds |
    |---|---|---|---|---|
    | import | import of arrays | <= 2 x | 1.50 x | yes |
    """
    lines = ["| row | what | bar | measured | holds |", "|---|---|---|---|---|"]
    for row in rows:
        if row.value is None:
            measured = str(row.detail.get("why", "not measured"))
        else:
            measured = f"{_digits(row.value)} {row.unit}"
        holds = {True: "yes", False: "NO", None: "-"}[row.holds]
        lines.append(f"| {row.name} | {row.what} | {row.bar or '-'} | {measured} | {holds} |")
    return "\n".join(lines)


def as_json(rows: list[Row]) -> list[dict[str, object]]:
    """Return the rows as JSON values."""
    return [asdict(row) for row in rows]


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"
