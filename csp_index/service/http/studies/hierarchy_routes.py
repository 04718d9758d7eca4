"""The routes of labels by broader words: the page of a layer or of a word, its JSON twin, and the API."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Query

from csp_index.service.documents.studies.hierarchy import NEURONS, hierarchy_document
from csp_index.service.documents.studies.hierarchy_shapes import HierarchyDocument
from csp_index.service.http.studies.stored_study import OF_LAYER, Shown, StoredStudy

Word = Annotated[int | None, Query(ge=0, lt=2**31, description="The place of a word; without it the broadest groups.")]


async def _word(word: Word = None) -> int | None:
    return word


def _shown(page: HierarchyDocument, word: int | None) -> Shown:
    return Shown(page["total"], {"word": word})


HIERARCHY: Final = StoredStudy(
    "hierarchy",
    OF_LAYER,
    HierarchyDocument,
    hierarchy_document,
    _shown,
    rows=NEURONS,
    says="The labels of a layer by broader words: a word's groups and its neurons, or the broadest groups.",
    choose=_word,
)
