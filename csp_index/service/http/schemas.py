"""What the API takes and how it refuses, as the OpenAPI describes it, with examples.

These models check requests. Answers have the shapes of `documents.shapes` and are sent as they are: to check each one
would take longer than to make it, so tests do it. A route only names the shape of its answers: FastAPI would build a
validator for each, 270 in all, which took half of the time that an application took to make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from csp_index.labelling.review.words import ACTIONS, VERDICTS
from csp_index.records import NeuronKey
from csp_index.service.documents.maps import MOST_COMPUTED
from csp_index.service.live.queries import CANDIDATES, LETTERS, NEIGHBOURS, NEURONS, TOP, LabelQuery
from csp_index.studies.reviewing.notes import Draft

LAYER = r"^[^/\s](?:[^/]*[^/\s])?/[^/\s](?:[^/]*[^/\s])?$"
NEURON = LAYER[:-1] + r"/[0-9]{1,9}$"

MOST_EXAMPLES = 100
LONGEST_TEXT = 300  # characters of a search
LONGEST_SQL = 20_000
LONGEST_NOTE = 2000  # characters of what a reader says
LONGEST_NAME = 100  # of who says it
LONGEST_SUBJECT = 600

_SCHEMAS = "#/components/schemas/"  # where an OpenAPI has its shapes
_SHAPES: dict[str, Any] = {}  # the shapes that routes name

NeuronAddress = Annotated[str, Field(pattern=NEURON, max_length=500, examples=["cnn/concepts/3"])]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request failed: the HTTP status and the fields of the error body."""

    status: int
    type: str
    message: str
    hint: str = ""
    close: bool = False  # the connection must close: the rest of the request may still be on its way
    retry: int | None = None  # seconds to wait before the next try

    def headers(self) -> dict[str, str]:
        """Return the headers of the response."""
        headers = {"connection": "close"} if self.close else {}
        if self.retry is not None:
            headers["retry-after"] = str(self.retry)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    def document(self, request_id: str) -> dict[str, dict[str, str]]:
        """Return the error body, as `ErrorBody` describes it."""
        fields = {"type": self.type, "message": self.message, "hint": self.hint, "request_id": request_id}
        return {"error": fields}


class Problem(BaseModel):
    """What went wrong, in words; the service's log has the request id."""

    type: str = Field(examples=["missing"])
    message: str = Field(examples=["neuron 4096 is not in cnn/concepts (has: 0 to 25)"])
    hint: str = Field(examples=["GET /api/v1/layers lists what there is"])
    request_id: str = Field(examples=["9f1c2a7be0d34c55"])


class ErrorBody(BaseModel):
    """The shape of every error."""

    error: Problem


def shaped(shape: type) -> dict[str, Any]:
    """Return the content of a response as JSON of a shape, by the name of the shape in the OpenAPI."""
    _SHAPES[shape.__name__] = shape
    return {"content": {"application/json": {"schema": {"$ref": _SCHEMAS + shape.__name__}}}}


def sends(shape: type) -> dict[int | str, dict[str, Any]]:
    """Return what the OpenAPI says of a route whose answers have a shape."""
    return {200: {**shaped(shape), "description": "Successful Response"}}


class Application(FastAPI):
    """An application whose OpenAPI describes the shapes that its routes name."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI; the first call makes it."""
        if self.openapi_schema is None:
            document = super().openapi()
            mode: Literal["serialization"] = "serialization"
            shapes = [(name, mode, TypeAdapter(shape)) for name, shape in _SHAPES.items()]
            described = TypeAdapter.json_schemas(shapes, ref_template=_SCHEMAS + "{model}")[1]["$defs"]
            schemas = document.setdefault("components", {}).get("schemas", {}) | described
            document["components"]["schemas"] = dict(sorted(schemas.items()))
        return super().openapi()


class _StrictBody(BaseModel):
    """A JSON body exactly as described: no `true` for 1, no `"5"` for 5."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LabelBody(_StrictBody):
    """Neurons to label from stored vectors, without storing anything. Null stands for the method's default."""

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
    method: str | None = Field(None, max_length=60, description="A scoring method; null: the run's, else the default.")
    gamma: Share | None = Field(None, description="How much of the contrastive direction is removed.")
    examples: int | None = Field(None, ge=1, le=MOST_EXAMPLES, description="Activating images per neuron.")
    contrast: str | None = Field(None, max_length=100, description="Kind of contrastive images.")
    threshold: str | None = Field(None, max_length=40, description="Low activation: mean, quantile:Q or max:F.")
    neighbours: int | None = Field(None, ge=1, le=NEIGHBOURS, description="Contrastive images per activating image.")
    crop: bool | None = Field(
        None, description="The region that drives a neuron stands in for each activating image; crops must be stored."
    )
    candidates: list[Annotated[str, Field(min_length=1, max_length=LETTERS)]] | None = Field(
        None, min_length=1, max_length=CANDIDATES, description="Texts to choose from; null: the stored texts."
    )
    run: str | None = Field(
        None, max_length=100, description="A label run by this method: null then stands for the value in that run."
    )
    top: int = Field(5, ge=1, le=TOP, description="Labels per neuron.")

    def query(self) -> LabelQuery:
        """Return the query that the live part answers."""
        values = self.model_dump(exclude={"neurons", "candidates"})
        candidates = None if self.candidates is None else tuple(self.candidates)
        return LabelQuery(tuple(map(NeuronKey.parse, self.neurons)), candidates=candidates, **values)


class LookBody(_StrictBody):
    """In which images it is asked where a neuron looks; null: those that activate it most."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"images": [0, 1]}]})

    images: list[Annotated[int, Field(ge=0, le=2**63 - 1)]] | None = Field(None, min_length=1, max_length=MOST_COMPUTED)


class NoteBody(_StrictBody):
    """What a reader says of a neuron's label or of a finding."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"subject": "cnn/concepts/3", "action": "rename", "text": "striped fur", "reader": "ann"}]
        },
    )

    subject: str = Field(min_length=1, max_length=LONGEST_SUBJECT, description="m/l/7, neuron:m/l/7 or finding:ID.")
    action: str = Field(max_length=20, description=", ".join(ACTIONS))
    text: str = Field("", max_length=LONGEST_NOTE, description="The name, tag, comment or reason.")
    reader: str = Field(min_length=1, max_length=LONGEST_NAME, description="Who says so.")

    def draft(self) -> Draft:
        """Return the note to write."""
        return Draft(self.subject, self.action, self.reader, self.text)


class RatingBody(_StrictBody):
    """A person's verdict on a question of /api/v1/rate."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"number": 0, "proof": "5f2c", "rater": "ann", "verdict": "yes"}]},
    )

    number: int = Field(ge=0, lt=2**53)
    proof: str = Field(max_length=100)
    rater: str = Field(min_length=1, max_length=LONGEST_NAME)
    verdict: str = Field(max_length=20, description=", ".join(VERDICTS))


class SqlBody(_StrictBody):
    """One SELECT over the index."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sql": "SELECT layer, count(*) AS neurons FROM neurons GROUP BY layer"}]},
    )

    sql: str = Field(min_length=1, max_length=LONGEST_SQL)
