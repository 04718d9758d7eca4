"""The routes of what readers say: pages and API for notes, the blind page for ratings, and who may write.

Reading notes is always possible; writing them and rating only where the service was told so.
"""

from __future__ import annotations

from typing import Annotated, Final, cast

from fastapi import APIRouter, Form, Header, Query
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from csp_index.errors import NotFoundError
from csp_index.labelling.review.notes import Note, neuron_of, subject_of
from csp_index.service.documents.studies.review_shapes import (
    NoteRow,
    NotesDocument,
    RatedDocument,
    RateDocument,
    ReviewDocument,
)
from csp_index.service.http import schemas
from csp_index.service.http.addresses import neuron_href, rate_href
from csp_index.service.http.api import GET_FAULTS, POST_FAULTS, Service, answer
from csp_index.service.http.auth import fault_of_write
from csp_index.service.http.rendering import Renderer
from csp_index.service.http.schemas import LONGEST_NAME, LONGEST_NOTE, LONGEST_SUBJECT
from csp_index.studies.reviewing.notes import Draft

_SHOWN: Final = 200  # notes on a page
_MOST: Final = 1000

Subject = Annotated[str | None, Query(max_length=LONGEST_SUBJECT, description="Only of one: m/l/7 or finding:ID.")]
Shown = Annotated[int, Query(ge=1, le=_MOST, description="Notes, at most; the newest.")]
Rater = Annotated[str, Query(max_length=LONGEST_NAME, description="The name of who rates.")]
Proof = Annotated[str, Header(alias="X-CSP-Index-Form", description="`form` of /api/v1/review; not with a token.")]
Text = Annotated[str, Form(max_length=LONGEST_NOTE)]
Name = Annotated[str, Form(max_length=LONGEST_NAME)]
Short = Annotated[str, Form(max_length=LONGEST_SUBJECT)]
Number = Annotated[int, Form(ge=0, lt=2**53)]


def router(service: Service, renderer: Renderer) -> APIRouter:
    """Return the routes."""
    routes = APIRouter()
    for add in (_add_notes, _add_writing, _add_rating, _add_api):
        add(routes, service, renderer)
    return routes


def notes_document(service: Service, subject: str | None = None, limit: int = _SHOWN) -> NotesDocument:
    """Return notes, the newest first."""
    notes = service.snapshot.reviews.notes(None if subject is None else subject_of(subject))
    return {"notes": [note_row(note) for note in notes[::-1][:limit]], "total": len(notes)}


def note_row(note: Note) -> NoteRow:
    """Return a note as documents have it."""
    return cast(NoteRow, note.as_json())


def check_write(service: Service, request: Request, form: str, *, rating: bool = False) -> None:
    """Refuse to write where the service was not told to, and for a request that may not: NotFoundError, status 403."""
    settings = service.settings
    if not (settings.rate if rating else settings.write) or service.desk is None:
        what, option = ("ratings", "--rate") if rating else ("notes", "--write")
        raise NotFoundError(f"{what} over HTTP are off here: `csp-index serve DB {option}` turns them on")
    if (fault := fault_of_write(request.scope["headers"], form, service.forms, settings.token)) is not None:
        raise HTTPException(403, fault)


def write_note(service: Service, draft: Draft) -> Note:
    """Write a note through the desk, which is there (`check_write`)."""
    if service.desk is None:
        raise NotFoundError("notes over HTTP are off here")
    return service.desk.note([draft])[0]


def write_rating(service: Service, number: int, proof: str, rater: str, verdict: str) -> RatedDocument:
    """Write a verdict on a question through the desk, which is there (`check_write`)."""
    if service.desk is None or service.questions is None:
        raise NotFoundError("ratings over HTTP are off here")
    return {"rating_id": service.desk.rate(service.questions.question(number, proof), rater, verdict)}


def next_question(service: Service, rater: str) -> RateDocument:
    """Return a person's next question; NotFoundError where nothing is rated."""
    if service.questions is None:
        raise NotFoundError("ratings over HTTP are off here: `csp-index serve DB --rate` turns them on")
    return service.questions.next_of(rater)


def _add_notes(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    @routes.get("/notes", include_in_schema=False)
    def notes(subject: Subject = None, limit: Shown = _SHOWN) -> Response:
        page = notes_document(service, subject or None, limit)
        return renderer.page("notes", page=page, subject=subject or "", twin="/notes.json")

    @routes.get("/notes.json", include_in_schema=False)
    def notes_twin(subject: Subject = None, limit: Shown = _SHOWN) -> Response:
        return answer(notes_document(service, subject or None, limit))


def _add_writing(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    @routes.post("/notes", include_in_schema=False)
    def write(
        request: Request, subject: Short, action: Short, reader: Name, form: Short = "", text: Text = ""
    ) -> Response:
        check_write(service, request, form)
        note = write_note(service, Draft(subject, action, reader, text))
        key = neuron_of(note.subject)
        place = "/notes" if key is None else f"{neuron_href(str(key))}#review"
        return RedirectResponse(place, 303, {"Cache-Control": "no-store"})


def _add_rating(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    @routes.get("/rate", include_in_schema=False)
    def rate(rater: Rater = "") -> Response:
        if not rater.strip():
            if service.questions is None:
                next_question(service, "")  # says that it is off
            return renderer.page("rate", page=None)
        return renderer.page("rate", page=next_question(service, rater))

    @routes.get("/rate.json", include_in_schema=False)
    def rate_twin(rater: Rater) -> Response:
        return answer(next_question(service, rater))

    @routes.post("/rate", include_in_schema=False)
    def rated(
        request: Request, number: Number, proof: Short, rater: Name, verdict: Short, form: Short = ""
    ) -> Response:
        check_write(service, request, form, rating=True)
        write_rating(service, number, proof, rater, verdict)
        return RedirectResponse(rate_href(rater), 303, {"Cache-Control": "no-store"})


def _add_api(routes: APIRouter, service: Service, renderer: Renderer) -> None:
    @routes.get("/api/v1/notes", responses=schemas.sends(NotesDocument) | GET_FAULTS, tags=["review"])
    def notes(subject: Subject = None, limit: Shown = _SHOWN) -> Response:
        """What readers said of labels and findings, the newest first."""
        return answer(notes_document(service, subject or None, limit))

    @routes.post("/api/v1/notes", responses=schemas.sends(NoteRow) | POST_FAULTS, tags=["review"])
    def write(body: schemas.NoteBody, request: Request, form: Proof = "") -> Response:
        """Add a note; `serve --write` allows it."""
        check_write(service, request, form)
        return answer(note_row(write_note(service, body.draft())))

    @routes.get("/api/v1/review", responses=schemas.sends(ReviewDocument) | GET_FAULTS, tags=["review"])
    def review() -> Response:
        """Whether notes and ratings may be written here, and what goes along with them."""
        settings = service.settings
        proof = service.forms.proof if settings.writes else None
        return answer({"write": settings.write, "rate": settings.rate, "form": proof})

    @routes.get("/api/v1/rate", responses=schemas.sends(RateDocument) | GET_FAULTS, tags=["review"])
    def question(rater: Rater) -> Response:
        """A person's next question: is this text true of this picture?"""
        return answer(next_question(service, rater))

    @routes.post("/api/v1/ratings", responses=schemas.sends(RatedDocument) | POST_FAULTS, tags=["review"])
    def rated(body: schemas.RatingBody, request: Request, form: Proof = "") -> Response:
        """A verdict on a question: yes, no or unsure; `serve --rate` allows it."""
        check_write(service, request, form, rating=True)
        return answer(write_rating(service, body.number, body.proof, body.rater, body.verdict))
