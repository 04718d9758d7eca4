"""The shapes of documents about what readers say. See `shapes`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from typing_extensions import TypedDict


class NoteRow(TypedDict):
    """What a reader said of a neuron's label or of a finding; `label` is the one that was shown then."""

    note_id: str
    when: str
    reader: str
    subject: Annotated[str, Field(examples=["neuron:cnn/concepts/3"])]
    action: str
    text: str
    label: str | None
    method: str | None
    label_run: str | None
    layer_digest: str


class ReviewRow(TypedDict):
    """What the notes about one subject come to; `layer_changed`: some are of other weights of the layer."""

    verdict: NoteRow | None
    tags: list[str]
    layer_changed: bool
    notes: list[NoteRow]


class NotesDocument(TypedDict):
    """Notes of readers, the newest first, and how many there are in all."""

    notes: list[NoteRow]
    total: int


class ReviewDocument(TypedDict):
    """What readers may do here, and what they must send along: the header X-CSP-Index-Form."""

    write: bool
    rate: bool
    form: str | None


class QuestionRow(TypedDict):
    """Is this text true of this picture? `number` and `proof` go back with the verdict."""

    number: int
    text: str
    image_id: int
    proof: str


class RateDocument(TypedDict):
    """A person's next question, null when all are answered; how many labels on pictures they rated, and of how many."""

    rater: str
    question: QuestionRow | None
    rated: int
    total: int


class RatedDocument(TypedDict):
    """A verdict as it was stored."""

    rating_id: str
