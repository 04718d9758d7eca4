"""The routes of evolutions: pages, their JSON twins, and the API."""

from __future__ import annotations

from typing import Final

from csp_index.service.documents.studies.evolution import PATHS, evolution_document, evolutions_document
from csp_index.service.documents.studies.evolution_shapes import EvolutionDocument, EvolutionsDocument, StepRow
from csp_index.service.http.studies.stored_study import BY_ID, Listing, Shown, StoredStudy, no_choice

_CHART: Final = (400, 120)  # width and height


def _shown(page: EvolutionDocument, _: None) -> Shown:
    return Shown(page["total"], context={"lines": _lines(page["steps"], page["total"]), "size": _CHART})


def _lines(steps: list[StepRow], neurons: int) -> dict[str, list[tuple[str, str]]]:
    """Return x and y of the chart's points by line, from 0 below to 1 above: neurons settled and alive, cosines."""
    width, height = _CHART
    shares: dict[str, list[float | None]] = {
        "settled": [step["settled"] / neurons for step in steps],
        "alive": [step["alive"] / neurons for step in steps],
        "cosine": [step["cosine"] for step in steps],
    }
    return {
        name: [
            (f"{width * place / (len(steps) - 1):.1f}", f"{height * (1 - min(1, max(0, value))):.1f}")
            for place, value in enumerate(values)
            if value is not None
        ]
        for name, values in shares.items()
    }


EVOLUTION: Final = StoredStudy(
    "evolution",
    BY_ID,
    EvolutionDocument,
    lambda snapshot, name, _, start, limit: evolution_document(snapshot, name, start, limit),
    _shown,
    rows=PATHS,
    says="A layer through the checkpoints of its training: the steps, the paths of its neurons page by page.",
    choose=no_choice,
    listing=Listing(
        "evolutions",
        EvolutionsDocument,
        evolutions_document,
        "The layers that were followed through checkpoints.",
    ),
)
