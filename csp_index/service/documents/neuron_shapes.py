"""The shapes of documents about one neuron: its page, a comparison, a live label. See `shapes`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from csp_index.service.documents.map_shapes import Made
from csp_index.service.documents.shapes import NeuronRow, RunRow, SimilarRow, State
from csp_index.service.documents.studies.class_shapes import NeuronClasses
from csp_index.service.documents.studies.effect_shapes import NeuronEffects
from csp_index.service.documents.studies.meaning_shapes import NeuronFormula
from csp_index.service.documents.studies.review_shapes import ReviewRow

Fraction = Annotated[FiniteFloat, Field(ge=0, le=1)]
AboveLayer = Annotated[Fraction | None, Field(description="The share of its layer's neurons that have a lower one.")]


class ScoreRow(TypedDict):
    """A candidate stored for a neuron, with the interval of its score and the share of resamples that it wins.

    A name that a reader gave has no score.
    """

    text: str
    score: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None
    share: FiniteFloat | None


class TermRow(TypedDict):
    """A text of a label that is a weighted sum; its presence in an image is sigmoid(slope (cosine + shift))."""

    text: str
    weight: FiniteFloat
    slope: FiniteFloat | None
    shift: FiniteFloat | None


Terms = Annotated[
    list[TermRow],
    Field(description="Of a weighted sum, the largest weight first: activation / its maximum is bias + sum"),
]


class PairRow(TypedDict):
    """An activating image and its contrastive partner."""

    rank: int
    image_id: int
    activation: FiniteFloat
    contrast_id: int | None
    contrast_activation: FiniteFloat | None
    similarity: FiniteFloat | None
    neighbour: int
    kind: str


class Statistics(TypedDict):
    """A neuron's activations over all images; the keys of `quantiles` are numbers from 0.0 to 1.0."""

    images: int
    mean: FiniteFloat
    std: FiniteFloat
    min: FiniteFloat
    max: FiniteFloat
    firing_rate: FiniteFloat
    quantiles: dict[str, FiniteFloat]


class QualityRow(TypedDict):
    """How good the contrast of a neuron's pairs is."""

    pairs: int
    floor: FiniteFloat
    poor: bool
    partnered: FiniteFloat | None
    similarity: FiniteFloat | None
    drop: FiniteFloat | None
    near: FiniteFloat | None


class ActivatingImage(TypedDict):
    """An image and how strongly it activates the neuron."""

    image_id: int
    activation: FiniteFloat


class QuantileRow(TypedDict):
    """The images around a quantile of a neuron's activations, strongest first."""

    quantile: Fraction
    value: FiniteFloat
    images: list[ActivatingImage]


class Histogram(TypedDict):
    """How many images lie in each bin of activations; there is one edge more than bins."""

    counts: list[int]
    edges: list[FiniteFloat]


class MethodRow(TypedDict):
    """The newest label of a neuron by one method."""

    method: str
    text: str | None
    score: FiniteFloat | None
    state: State
    confidence: FiniteFloat | None
    probability: FiniteFloat | None
    uncertain: bool | None
    control: Annotated[bool, Field(description="Whether the method shows what chance would give.")]
    above_layer: AboveLayer
    run_id: str


class Scales(TypedDict):
    """The share of its layer's neurons that have a lower figure than a neuron; null where there is none to compare."""

    score: Annotated[Fraction | None, Field(description="Among labels by the same method.")]
    lead: Fraction | None
    firing_rate: Fraction | None
    max: Fraction | None


class FigureRow(TypedDict):
    """A metric of `csp-index evaluate` for one neuron: the range of its values, and which way is better."""

    metric: str
    family: str
    summary: str
    first: Annotated[bool, Field(description="Whether it speaks for its family.")]
    value: FiniteFloat | None
    low: FiniteFloat | None
    high: FiniteFloat | None
    higher_is_better: bool | None
    above_layer: AboveLayer
    note: Annotated[str, Field(description="Why there is no value.")]


class HeldOut(TypedDict):
    """What an evaluation says of a neuron and the label that it judged, chosen on other images."""

    run_id: str
    text: str | None
    figures: list[FigureRow]


class Facet(TypedDict):
    """One thing among the activating images: the text nearest to it, its share of the images, these images."""

    label: str | None
    share: Fraction
    images: list[int]


class LabelRun(RunRow):
    """The run that made a label, with its settings."""

    settings: dict[str, Any]
    settings_hash: str


class EncoderOrigin(TypedDict):
    """The encoder behind a label, and what identifies its weights."""

    encoder: str
    width: int
    logit_scale: FiniteFloat | None
    identity: dict[str, Any]


class LayerOrigin(TypedDict):
    """The layer behind a label, and what identifies its weights."""

    layer: str
    neurons: int
    pool: str | None
    dtype: str
    identity: dict[str, Any]


class Provenance(TypedDict):
    """Where a label comes from; `versions` are those of the packages that made it."""

    run: LabelRun | None
    encoder: EncoderOrigin
    layer: LayerOrigin
    vocabulary: str | None
    versions: dict[str, str]


class ComparedNeuron(NeuronRow):
    """All that the page of a neuron shows but the commands that reproduce its label."""

    labels: list[ScoreRow]
    terms: Terms
    bias: FiniteFloat | None
    rivals: list[ScoreRow]
    prediction_set: list[ScoreRow]
    doubt: str
    note: str
    verdict: Annotated[str, Field(description="What is known of it, and how surely, in one sentence.")]
    scales: Scales
    held_out: Annotated[HeldOut | None, Field(description="Of the last evaluation; null: nobody evaluated it.")]
    class_name: Annotated[str | None, Field(description="Of a classifier's output, as it came with the weights.")]
    statistics: Statistics
    pairs: list[PairRow]
    contrast_quality: QualityRow
    images: Annotated[dict[str, str], Field(description="The names of all images of the document, by their ids.")]
    mapped: Annotated[list[int], Field(description="The top images over which `/maps` can lay a veil.")]
    maps_made: Annotated[Made | None, Field(description="How these maps were made; null: there are none.")]
    can_look: Annotated[bool, Field(description="Whether POST to `/maps` may make maps: the network is at hand.")]
    quantile_rows: list[QuantileRow]
    histogram: Histogram
    threshold: FiniteFloat | None
    threshold_name: str
    threshold_choices: list[str]
    methods: list[MethodRow]
    facets: list[Facet]
    facets_stored: Annotated[bool, Field(description="Whether `csp-index facets` found them, against a null.")]
    facets_note: Annotated[str, Field(description="Whether the index has outgrown those that are stored.")]
    formula: Annotated[NeuronFormula | None, Field(description="Its best logical label, kept or not.")]
    similar: Annotated[list[SimilarRow], Field(description="Whose concept vectors are nearer than chance gives.")]
    similar_floor: Annotated[FiniteFloat | None, Field(description="The cosine that chance gives in its layer.")]
    similar_left_out: Annotated[int, Field(description="How many neurons are no nearer than chance gives.")]
    similar_note: str
    classes: Annotated[list[NeuronClasses], Field(description="By each column whose classes were compared.")]
    effects: Annotated[NeuronEffects | None, Field(description="On the network's logits; null: not computed.")]
    provenance: Provenance
    review: Annotated[ReviewRow, Field(description="What readers said of it.")]
    previous: str | None
    next: str | None


class Snippets(TypedDict):
    """Commands that reproduce a label, by language."""

    python: str
    cli: str
    curl: str
    sql: str


class NeuronDocument(ComparedNeuron):
    """All that the page of a neuron shows."""

    queries: Snippets


class CompareDocument(TypedDict):
    """Two to four neurons: the labels they share, those of one alone, and the cosines of their concept vectors."""

    neurons: list[ComparedNeuron]
    shared: list[str]
    own: dict[str, list[str]]
    similarity: list[list[FiniteFloat | None]]


class Rival(TypedDict):
    """A candidate that comes first in some resamples, and in what share of them."""

    text: str
    share: FiniteFloat | None


class LiveLabel(TypedDict):
    """The label of a neuron made for a request and not stored."""

    neuron: str
    method: str
    state: State
    labels: list[ScoreRow]
    activating: list[int]
    contrastive: list[int | None]
    note: str
    confidence: FiniteFloat | None
    probability: FiniteFloat | None
    uncertain: bool | None
    null_percentile: FiniteFloat | None
    rivals: list[Rival]
    prediction_set: list[Rival]
    terms: Terms
    bias: FiniteFloat | None
    pairs: list[PairRow]
    doubt: str
    threshold: FiniteFloat | None
    crop: bool


class LabelDocument(TypedDict):
    """The labels, in the order of the neurons of the request, and the seconds it took."""

    results: list[LiveLabel]
    seconds: float
