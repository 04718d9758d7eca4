"""A reader that asks about whole networks: each method is a few lines that call the room of studies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

from csp_index import keywords
from csp_index.loading_reader import LoadingReader
from csp_index.query.notebook import shown_progress

if TYPE_CHECKING:
    from csp_index.studies.associations import Associations


class StudyReader(LoadingReader):
    """An index of which studies are made: they are read where they are stored, else made and stored."""

    def associations(self, layer: str, by: str, **options: Unpack[keywords.AssociationKeywords]) -> Associations:
        """Return how well each neuron of a layer tells each class of images; see `csp-index associations`.

        `by` is a column of the images' metadata, or `outputs:MODEL/LAYER`, a classifier's outputs: then an image is of
        the class whose output is highest on it. `options`: `classes` (1,000 at most), `firing` (above what a neuron
        fires: "0", a number, mean, quantile:Q, max:F), `recompute`.
        """
        from csp_index.studies.associate import associate

        options = {"progress": shown_progress()} | options
        return associate(self.store, layer, by, **options)
