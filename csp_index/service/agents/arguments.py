"""What the tools take: one model each, whose JSON schema with its descriptions is what a language model reads.

Where the API takes the same body, its model is used (`http.schemas`).
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents.layer import GalleryQuery, Order, Shown, Sort
from csp_index.service.documents.search import SearchQuery
from csp_index.service.http.schemas import LAYER, LONGEST_TEXT, NEURON

MOST: Final = 50
"""Rows that one call returns, at most."""

_LayerAddress = Annotated[
    str,
    Field(pattern=LAYER, max_length=500, description="MODEL/LAYER, as `layers` names it.", examples=["cnn/concepts"]),
]
_NeuronAddress = Annotated[
    str, Field(pattern=NEURON, max_length=500, description="MODEL/LAYER/NUMBER.", examples=["cnn/concepts/3"])
]
_Method = Annotated[
    str | None, Field(max_length=60, description="The label by this method; null: the label shown everywhere.")
]
_Limit = Annotated[int, Field(ge=1, le=MOST, description="Rows to return, at most.")]
_Offset = Annotated[int, Field(ge=0, le=2**31, description="`next` of the page before; 0 for the first page.")]
_By = Annotated[
    str | None,
    Field(max_length=500, description="The metadata column that has the classes; null: the one compared last."),
]


class _Arguments(BaseModel):
    """Exactly what is described: no `true` for 1, nothing else besides."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LayersArguments(_Arguments):
    """Which layers to list."""

    offset: _Offset = 0
    limit: _Limit = MOST


class NeuronsArguments(_Arguments):
    """Which neurons of a layer to list, in which order."""

    layer: _LayerAddress
    sort: Annotated[Sort, Field(description="`lead`: score minus the runner-up's; `auroc`: of a class.")] = "index"
    order: Order = "asc"
    state: Annotated[Shown, Field(description="`dead` neurons never fire; `uncertain` labels may be others.")] = "all"
    q: Annotated[str, Field(max_length=LONGEST_TEXT, description="Only labels that contain this text.")] = ""
    method: _Method = None
    class_name: Annotated[str, Field(max_length=500, description="A class of images, for `auroc`.")] = ""
    by: _By = None
    limit: _Limit = 20
    cursor: Annotated[
        str | None, Field(max_length=500, description="`next` of the page before, with the same other arguments.")
    ] = None

    def query(self, limit: int) -> GalleryQuery:
        """Return the query of the gallery, for a page of `limit` neurons."""
        values = self.model_dump(exclude={"layer", "limit"})
        return GalleryQuery(limit=limit, **values)


class NeuronArguments(_Arguments):
    """Which neuron, and whose label."""

    neuron: _NeuronAddress
    method: _Method = None


class SearchArguments(_Arguments):
    """What to search by: a text, an indexed image or a neuron, one of them."""

    text: Annotated[
        str | None, Field(min_length=1, max_length=LONGEST_TEXT, description="A few words, such as `striped fur`.")
    ] = None
    image_id: Annotated[int | None, Field(ge=0, lt=2**63, description="An indexed image.")] = None
    neuron: _NeuronAddress | None = None
    limit: Annotated[int, Field(ge=1, le=MOST, description="Results of each kind, at most.")] = 10

    def query(self) -> SearchQuery:
        """Return the query; SettingError where not exactly one thing is given."""
        neuron = None if self.neuron is None else NeuronKey.parse(self.neuron)
        return SearchQuery(self.text, self.image_id, neuron, limit=self.limit)


class ConceptArguments(_Arguments):
    """Which word."""

    word: Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT, description="A word or a phrase: `striped`.")]
    limit: Annotated[int, Field(ge=1, le=MOST, description="Neurons of each way, at most.")] = 10


class ImageArguments(_Arguments):
    """Which image."""

    image_id: Annotated[int, Field(ge=0, lt=2**63, description="An id from another answer.")]
    picture: Annotated[bool, Field(description="Whether to return the small picture, too.")] = True


class AssociationsArguments(_Arguments):
    """What to ask about neurons and classes of images."""

    address: Annotated[
        str,
        Field(
            pattern=rf"{LAYER}|{NEURON}",
            max_length=500,
            description="A layer MODEL/LAYER: its classes; or a neuron MODEL/LAYER/NUMBER: the classes it tells.",
        ),
    ]
    class_name: Annotated[
        str | None, Field(max_length=500, description="With a layer: the neurons that tell this class.")
    ] = None
    by: _By = None
    offset: _Offset = 0
    limit: _Limit = 20

    def key(self) -> LayerKey | NeuronKey:
        """Return the layer or the neuron that is asked about."""
        is_neuron = self.address.count("/") == 2
        return NeuronKey.parse(self.address) if is_neuron else LayerKey.parse(self.address)


class ViewsArguments(_Arguments):
    """Which views to describe."""

    view: Annotated[str | None, Field(max_length=100, description="Only this view, with its columns.")] = None
