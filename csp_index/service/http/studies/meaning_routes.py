"""The routes of the meanings of a layer's neurons: the page, its JSON twin, and the API."""

from __future__ import annotations

from typing import Final

from csp_index.service.documents.studies.meaning_shapes import MeaningsDocument
from csp_index.service.documents.studies.meanings import NEURONS, meanings_document
from csp_index.service.http.studies.stored_study import OF_LAYER, Shown, StoredStudy, no_choice


def _shown(page: MeaningsDocument, _: None) -> Shown:
    return Shown(max(page["several"], page["kept"]))


MEANINGS: Final = StoredStudy(
    "meanings",
    OF_LAYER,
    MeaningsDocument,
    lambda snapshot, key, _, start, limit: meanings_document(snapshot, key, start, limit),
    _shown,
    rows=NEURONS,
    says="The neurons of a layer that one label does not tell: with several facets, or a logical label.",
    choose=no_choice,
)
