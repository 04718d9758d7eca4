"""The routes of compared layers: pages, their JSON twins, and the API."""

from __future__ import annotations

from typing import Final

from csp_index.service.documents.studies.match_shapes import By, ComparisonsDocument, MatchesDocument
from csp_index.service.documents.studies.matches import PAIRS, comparisons_document, matches_document
from csp_index.service.http.studies.stored_study import BY_ID, Listing, Shown, StoredStudy

_BARS: Final = (400, 120)  # width and height of the chart


async def _measure(by: By | None = None) -> By | None:
    return by


def _shown(page: MatchesDocument, _: By | None) -> Shown:
    return Shown(page["total"], {"by": page["by"]}, {"bars": _bars(page), "size": _BARS})


def _bars(page: MatchesDocument) -> dict[str, object]:
    """Return the chart's bars, each x, y, width and height, and the place of the null."""
    chart, (width, height) = page["chart"], _BARS
    most, step = max([1, *chart["counts"]]), width / len(chart["counts"])
    bars = [
        (
            round(place * step, 1),
            round(height * (1 - count / most), 1),
            round(step - 1, 1),
            round(height * count / most, 1),
        )
        for place, count in enumerate(chart["counts"])
        if count
    ]
    null = next(way["null"] for way in page["comparison"]["ways"] if way["by"] == page["by"])
    at = None if null is None else round(width * (null - chart["low"]) / (chart["high"] - chart["low"]), 1)
    return {"bars": bars, "null": at}


MATCHES: Final = StoredStudy(
    "matches",
    BY_ID,
    MatchesDocument,
    matches_document,
    _shown,
    rows=PAIRS,
    says="Two compared layers: how many neurons match, what one alone holds, the pairs page by page.",
    choose=_measure,
    listing=Listing(
        "comparisons",
        ComparisonsDocument,
        comparisons_document,
        "The layers that were compared.",
    ),
)
