"""The shapes of the service's documents: what the pages show, their JSON twins and the API return.

The functions that make documents have these types, and the OpenAPI describes them; each shape is stated here alone.
Numbers that JSON cannot say are None in them. TypedDict comes from typing_extensions because pydantic reads no other
one before Python 3.12.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from csp_index.records import LabelState
from csp_index.service.documents.layers.overview_shapes import Histogram
from csp_index.service.documents.map_shapes import PictureMap
from csp_index.service.documents.studies.audit_shapes import AuditRow

State = Literal[LabelState, "unlabelled"]
SearchKind = Literal["text", "image", "upload", "neuron"]


class LayerRow(TypedDict):
    """A layer of a network under study."""

    layer: Annotated[str, Field(examples=["cnn/concepts"])]
    model: str
    name: str
    neurons: int
    dead: int
    labelled: int
    methods: list[str]
    pool: str | None
    images: int
    ready: bool


class LayersDocument(TypedDict):
    """All layers."""

    layers: list[LayerRow]


class EncoderRow(TypedDict):
    """A model that embeds images and texts."""

    encoder: str
    width: int
    images: int


class RunRow(TypedDict):
    """A command that wrote to the index."""

    run_id: str
    command: str
    state: str
    started: str | None
    ended: str | None
    message: str | None


class HomeDocument(TypedDict):
    """What the index holds."""

    name: str
    version: str
    snapshot: str
    images: int
    failures: int
    labels: int
    encoders: list[EncoderRow]
    networks: list[str]
    layers: list[LayerRow]
    audits: list[AuditRow]
    runs: list[RunRow]


class NeuronRow(TypedDict):
    """A neuron in a list. Scores are the method's own; higher means a better fit."""

    neuron: Annotated[str, Field(examples=["cnn/concepts/3"])]
    model: str
    layer: str
    index: int
    label: str | None
    method: str | None
    state: State
    score: FiniteFloat | None
    lead: Annotated[FiniteFloat | None, Field(description="The score minus the runner-up's.")]
    confidence: FiniteFloat | None
    probability: Annotated[
        FiniteFloat | None, Field(description="How likely the label is to be right, null where that is not known.")
    ]
    uncertain: bool | None
    null_percentile: Annotated[
        FiniteFloat | None, Field(description="The share of a random network's labels that score lower.")
    ]
    firing_rate: FiniteFloat
    above_mean: Annotated[
        FiniteFloat | None,
        Field(description="About the share of images above its mean, where it is above 0 on nearly all; else null."),
    ]
    max: FiniteFloat
    dead: bool
    top_images: list[int]


class GalleryRow(NeuronRow):
    """A neuron of a layer's gallery."""

    clarity: FiniteFloat | None
    effect: Annotated[FiniteFloat | None, Field(description="The largest effect on a logit, by size.")]
    effect_on: Annotated[str | None, Field(description="The class of that logit.")]
    auroc: Annotated[FiniteFloat | None, Field(description="For the class asked for, or told best; null unasked.")]
    auroc_on: Annotated[str | None, Field(description="That class.")]
    mapped: Annotated[list[int], Field(description="Those of top_images over which `/maps` can lay a veil.")]


class NeuronsDocument(TypedDict):
    """One page of a layer's neurons; `next` is the cursor of the page after it."""

    neurons: list[GalleryRow]
    total: int
    next: str | None


class ClassSetRow(TypedDict):
    """What sorts the images of a layer into classes, and what there was to see."""

    by: Annotated[str, Field(description="A metadata column, or outputs:MODEL/LAYER.")]
    classes: int
    images: int
    without: Annotated[int, Field(description="Images with no class: they count nowhere.")]
    firing: Annotated[str, Field(description="An image fires a neuron above this.")]
    note: str


class GalleryTerms(TypedDict):
    """What a gallery shows, in which order."""

    sort: str
    order: str
    state: str
    q: str
    method: str | None
    limit: int
    class_name: Annotated[str, Field(description="The class of images whose AUROC is shown.")]
    by: str | None
    neurons: Annotated[str, Field(description="Only these numbers of neurons; empty: all.", examples=["3,8,100-120"])]
    label: Annotated[str, Field(description="Only neurons with this label; empty: all.")]
    ranges: Annotated[
        dict[str, tuple[FiniteFloat | None, FiniteFloat | None]],
        Field(description="By column, the ends of the values shown; null: open."),
    ]


class LayerDocument(TypedDict):
    """The page of a layer: one page of its neurons, with cursors both ways."""

    layer: LayerRow
    query: GalleryTerms
    neurons: list[GalleryRow]
    total: int
    next: str | None
    previous: str | None
    classes: Annotated[list[ClassSetRow], Field(description="What its neurons were compared by.")]
    has_effects: Annotated[bool, Field(description="Whether effects on the logits are stored.")]
    has_hierarchy: Annotated[bool, Field(description="Whether its labels were grouped by broader words.")]
    has_meanings: Annotated[bool, Field(description="Whether facets or logical labels are stored.")]
    mapped: Annotated[int, Field(description="How many top images of each neuron have maps to lay over pictures.")]
    histograms: Annotated[list[Histogram], Field(description="Of scores, firing rates and sizes of effects.")]


class MapPoint(TypedDict):
    """A neuron on the map of its layer: its place in [0, 1], and the value that colors it."""

    index: int
    x: FiniteFloat
    y: FiniteFloat
    value: FiniteFloat | None
    label: str | None
    cluster: int | None
    image: Annotated[int | None, Field(description="The image that activates it most.")]


class MapClusterRow(TypedDict):
    """Neurons of a map that mean alike; `name` joins the labels that tell them best, empty without any."""

    cluster: int
    name: str
    labels: Annotated[list[str], Field(description="Those in its name, the most telling first.")]
    neurons: int
    share: Annotated[FiniteFloat, Field(ge=0, le=1, description="Of its neurons, with a label in the name.")]
    x: FiniteFloat
    y: FiniteFloat


class MapGroup(TypedDict):
    """Neurons of one color: the value of their points, what they share, how many they are."""

    value: int
    name: str
    neurons: int


class MapDocument(TypedDict):
    """The neurons of a layer on a plane; `explained` is the share of variance of the two main directions."""

    layer: str
    method: str | None
    points: list[MapPoint]
    colour: str
    low: FiniteFloat | None
    high: FiniteFloat | None
    groups: Annotated[list[MapGroup], Field(description="What values stand for, by colors that are no numbers.")]
    by: Annotated[str, Field(description="umap as `csp-index map` stored it, or pca.")]
    said: Annotated[str, Field(description="How the places were made, in words.")]
    about: Annotated[str, Field(description="In which way the index has changed since; empty in none.")]
    clusters: list[MapClusterRow]
    unclustered: int
    explained: list[FiniteFloat]
    note: str


class SimilarRow(NeuronRow):
    """A neuron similar to the query, by the cosine of their concept vectors."""

    similarity: FiniteFloat


class Push(TypedDict):
    """The class whose logit a neuron raises most (`csp-index effects`), and by how much."""

    class_name: str
    effect: FiniteFloat


class ExcitedRow(NeuronRow):
    """A neuron and how strongly an image excites it; `quantile` is the share of the images that do so less."""

    activation: FiniteFloat
    quantile: FiniteFloat | None
    pushes: Annotated[Push | None, Field(description="Null: no effects are stored, or it raises no class.")]
    mapped: Annotated[bool, Field(description="Whether a map of it can be laid over this indexed image.")]
    where: Annotated[PictureMap | None, Field(description="Where in a picture that was sent it fires.")]


class SearchTerms(TypedDict):
    """The query of a search."""

    kind: SearchKind
    text: str | None
    image_id: int | None
    neuron: str | None


class ImageRow(TypedDict):
    """An image similar to the query."""

    image_id: int
    similarity: FiniteFloat


class NeighbourRow(ImageRow):
    """An image similar to another one, with its name."""

    name: str


class SearchDocument(TypedDict):
    """Neurons that mean the query, that it excites, whose label names it; images similar to it."""

    query: SearchTerms
    means: list[SimilarRow]
    excites: list[ExcitedRow] | None
    by_name: list[NeuronRow]
    images: list[ImageRow]
    note: str


class DerivedOrigin(TypedDict):
    """From which image and for which neuron a derived image was made, and how."""

    kind: str
    origin: int
    neuron: str
    rank: int
    activation: FiniteFloat | None
    recipe: dict[str, Any]


class ImageFacts(TypedDict):
    """What an image is; `derived` is None for an indexed one."""

    name: str
    width: int | None
    height: int | None
    split: str | None
    metadata: dict[str, Any]
    derived: DerivedOrigin | None


class ImageDocument(ImageFacts):
    """An image: its metadata, the neurons it excites, the images it resembles."""

    image_id: int
    excites: list[ExcitedRow]
    neighbours: list[NeighbourRow]


class SqlDocument(TypedDict):
    """A table; `truncated` where rows or bytes beyond the limit were cut off."""

    columns: Annotated[list[str], Field(examples=[["layer", "neurons"]])]
    types: Annotated[list[str], Field(examples=[["string", "int64"]])]
    rows: Annotated[list[list[Any]], Field(examples=[[["concepts", 26]]])]
    truncated: bool
    seconds: float


class SqlColumn(TypedDict):
    """A column of a view or a function, with its type in SQL."""

    name: str
    type: str


class SqlView(TypedDict):
    """A view, or a function that returns a table."""

    name: str
    columns: list[SqlColumn]
    about: str


class SqlExample(TypedDict):
    """A statement that runs on any index."""

    title: str
    sql: str


class SqlSchemaDocument(TypedDict):
    """What SQL can use."""

    views: list[SqlView]
    functions: list[SqlView]
    examples: list[SqlExample]


class HealthDocument(TypedDict):
    """Whether the service runs."""

    status: Literal["ok"]


class VersionDocument(TypedDict):
    """The version of the index that is shown: a hash of all it has, its number, the command that made it, and when."""

    version: str
    number: int | None
    command: str
    when: str | None


class ReadinessDocument(TypedDict):
    """Whether pages can be shown, and whether the models are loaded."""

    ready: bool
    engine: Literal["loading", "ready", "failed"]
    snapshot: str
