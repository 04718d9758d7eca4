"""Requests and answers of the API as the OpenAPI describes them, with examples.

Requests are checked by these models. Answers are plain documents, sent as they are: checking each again would take
longer than making it, so a test holds them to the models instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from csp_index.service.live.queries import CANDIDATES, LETTERS, NEIGHBOURS, NEURONS, TOP

State = Literal["labelled", "dead", "no-contrast", "no-candidates", "unlabelled"]

LAYER = r"^[^/\s](?:[^/]*[^/\s])?/[^/\s](?:[^/]*[^/\s])?$"
NEURON = LAYER[:-1] + r"/[0-9]{1,9}$"

MOST_EXAMPLES = 100
LONGEST_TEXT = 300  # characters of a search
LONGEST_SQL = 20_000

NeuronAddress = Annotated[str, Field(pattern=NEURON, max_length=500, examples=["cnn/concepts/3"])]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request is not answered as asked: the HTTP status and what the error body tells."""

    status: int
    type: str
    message: str
    hint: str = ""
    close: bool = False  # the connection is of no more use: the rest of the request may still be on its way
    retry: int | None = None  # seconds after which it is worth another try

    def headers(self) -> dict[str, str]:
        """Return the headers that go with it."""
        found = {"connection": "close"} if self.close else {}
        if self.retry is not None:
            found["retry-after"] = str(self.retry)
        if self.status == 401:
            found["www-authenticate"] = "Bearer"
        return found

    def document(self, request_id: str) -> dict[str, dict[str, str]]:
        """Return the error body, as `ErrorBody` describes it."""
        told = {"type": self.type, "message": self.message, "hint": self.hint, "request_id": request_id}
        return {"error": told}


class Problem(BaseModel):
    """What went wrong, in words; the request id finds it in the service's log."""

    type: str = Field(examples=["missing"])
    message: str = Field(examples=["neuron 4096 is not in cnn/concepts (has: 0 to 25)"])
    hint: str = Field(examples=["GET /api/v1/layers lists what there is"])
    request_id: str = Field(examples=["9f1c2a7be0d34c55"])


class ErrorBody(BaseModel):
    """The one shape of every error."""

    error: Problem


class _Asked(BaseModel):
    """What is sent as JSON: exactly as described, no `true` for 1 and no `"5"` for 5."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LabelRequest(_Asked):
    """Neurons to label from stored vectors; nothing is kept. What is null is as the method has it by default."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "neurons": ["cnn/concepts/0"],
                    "method": "csp",
                    "gamma": 1.0,
                    "examples": 30,
                    "contrast": "nearest",
                    "candidates": ["striped", "dotted"],
                }
            ]
        },
    )

    neurons: list[NeuronAddress] = Field(min_length=1, max_length=NEURONS)
    method: str | None = Field(None, max_length=60, description="A scoring method; null: the run's, else csp.")
    gamma: Share | None = Field(None, description="How much of the contrastive direction is removed.")
    examples: int | None = Field(None, ge=1, le=MOST_EXAMPLES, description="Activating images a neuron.")
    contrast: str | None = Field(None, max_length=100, description="Kind of contrastive images.")
    threshold: str | None = Field(None, max_length=40, description="Low activation: mean, quantile:Q or max:F.")
    neighbours: int | None = Field(None, ge=1, le=NEIGHBOURS, description="Contrastive images an activating image.")
    candidates: list[Annotated[str, Field(min_length=1, max_length=LETTERS)]] | None = Field(
        None, min_length=1, max_length=CANDIDATES, description="Texts to choose from; null: the stored ones."
    )
    run: str | None = Field(
        None, max_length=100, description="A label run by this method: what is null is as in that run."
    )
    top: int = Field(5, ge=1, le=TOP, description="Labels a neuron.")


class SqlRequest(_Asked):
    """One SELECT over the index."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sql": "SELECT layer, count(*) AS neurons FROM neurons GROUP BY layer"}]},
    )

    sql: str = Field(min_length=1, max_length=LONGEST_SQL)


class SqlAnswer(BaseModel):
    """A table; `truncated` where rows or bytes beyond the limit were cut off."""

    columns: list[str] = Field(examples=[["layer", "neurons"]])
    types: list[str] = Field(examples=[["string", "int64"]])
    rows: list[list[Any]] = Field(examples=[[["concepts", 26]]])
    truncated: bool
    seconds: float


class LayerRow(BaseModel):
    """A layer of a network under study."""

    layer: str = Field(examples=["cnn/concepts"])
    model: str
    name: str
    neurons: int
    dead: int
    labelled: int
    methods: list[str]
    pool: str | None
    images: int
    ready: bool


class Layers(BaseModel):
    """All layers."""

    layers: list[LayerRow]


class EncoderRow(BaseModel):
    """A model that embeds images and texts."""

    encoder: str
    width: int
    images: int


class RunRow(BaseModel):
    """A command that wrote to the index."""

    run_id: str
    command: str
    state: str
    started: str | None
    ended: str | None
    message: str | None


class Home(BaseModel):
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
    runs: list[RunRow]


class NeuronRow(BaseModel):
    """A neuron in a list. Scores are the method's own; higher means a better fit."""

    neuron: str = Field(examples=["cnn/concepts/3"])
    model: str
    layer: str
    index: int
    label: str | None
    method: str | None
    state: State
    score: FiniteFloat | None
    lead: FiniteFloat | None = Field(description="The score minus the runner-up's.")
    confidence: FiniteFloat | None
    uncertain: bool | None
    firing_rate: FiniteFloat
    max: FiniteFloat
    dead: bool
    top_images: list[int]


class GalleryRow(NeuronRow):
    """A neuron of a layer's gallery."""

    clarity: FiniteFloat | None


class Neurons(BaseModel):
    """One page of a layer's neurons; `next` is the cursor of the page after it."""

    neurons: list[GalleryRow]
    total: int
    next: str | None


class Similar(NeuronRow):
    """A neuron near to what was asked, by the cosine of their concept vectors."""

    similarity: FiniteFloat


class Excited(NeuronRow):
    """A neuron and how strongly an image excites it."""

    activation: FiniteFloat
    quantile: FiniteFloat | None


class KeptLabel(BaseModel):
    """A candidate that was kept for a neuron, with the interval of its score and its share of resampled wins."""

    text: str
    score: FiniteFloat
    low: FiniteFloat | None
    high: FiniteFloat | None
    share: FiniteFloat | None


class Pair(BaseModel):
    """An activating image and its contrastive partner."""

    rank: int
    image_id: int
    activation: FiniteFloat
    contrast_id: int | None
    contrast_activation: FiniteFloat | None
    similarity: FiniteFloat | None
    neighbour: int
    kind: str


class _Open(BaseModel):
    """More keys may come: the document grows with the page."""

    model_config = ConfigDict(extra="allow")


class Neuron(NeuronRow, _Open):
    """All that the page of a neuron tells."""

    labels: list[KeptLabel]
    rivals: list[KeptLabel]
    doubt: str
    note: str
    pairs: list[Pair]
    threshold: FiniteFloat | None
    previous: str | None
    next: str | None


class SearchQuery(BaseModel):
    """What was asked."""

    kind: Literal["text", "image", "upload", "neuron"]
    text: str | None
    image_id: int | None
    neuron: str | None


class ImageHit(_Open):
    """An image near to what was asked."""

    image_id: int
    similarity: FiniteFloat


class Found(BaseModel):
    """Neurons that mean what was asked, that it excites, whose label names it; images near to it."""

    query: SearchQuery
    means: list[Similar]
    excites: list[Excited] | None
    by_name: list[NeuronRow]
    images: list[ImageHit]
    note: str


class ImagePage(_Open):
    """An image: what it is, which neurons it excites, what it resembles."""

    image_id: int
    name: str
    width: int | None
    height: int | None
    split: str | None
    metadata: dict[str, Any]
    derived: dict[str, Any] | None
    excites: list[Excited]
    neighbours: list[ImageHit]


class Relabelled(_Open):
    """A neuron's label as asked."""

    neuron: str
    method: str
    state: State
    labels: list[KeptLabel]
    activating: list[int]
    contrastive: list[int | None]
    pairs: list[Pair]
    confidence: FiniteFloat | None
    uncertain: bool | None
    threshold: FiniteFloat | None
    note: str


class LabelAnswer(BaseModel):
    """The labels, in the order of the neurons asked, and how long it took."""

    results: list[Relabelled]
    seconds: float


class Health(BaseModel):
    """Whether the service lives."""

    status: Literal["ok"]


class Readiness(BaseModel):
    """Whether pages can be answered, and how far the models are."""

    ready: bool
    engine: Literal["loading", "ready", "failed"]
    snapshot: str
