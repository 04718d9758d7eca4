"""A stored study in the explorer and in the API, declared once: its list, its page, the JSON twins, and the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Generic, TypeVar

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from csp_index.records import LayerKey
from csp_index.service.http import schemas
from csp_index.service.http.addresses import quoted
from csp_index.service.http.api import GET_FAULTS, Service, answer
from csp_index.service.http.paging import Name, Start, paged
from csp_index.service.http.rendering import Renderer
from csp_index.service.snapshot import Snapshot

StudyId = Annotated[str, Path(pattern="^[0-9a-f]{12}$", examples=["0123456789ab"])]

Subject = TypeVar("Subject")
Choice = TypeVar("Choice")
Document = TypeVar("Document", bound=Mapping[str, Any])


@dataclass(frozen=True, slots=True)
class Addressed(Generic[Subject]):
    """What studies of a kind are about: how it stands in a route, is read from a request, and is written.

    Reading is asynchronous, because FastAPI runs what is not in a thread that a page may be waiting for.
    """

    route: str
    read: Callable[..., Awaitable[Subject]]
    written: Callable[[Subject], str]


async def _layer(model: Name, layer: Name) -> LayerKey:
    return LayerKey(model, layer)


async def _name(name: StudyId) -> str:
    return name


OF_LAYER: Final = Addressed("{model}/{layer}", _layer, lambda key: quoted(str(key)))
BY_ID: Final = Addressed("{name}", _name, str)


@dataclass(frozen=True, slots=True)
class Listing:
    """All studies of a kind: the template of the page, which is the name of the API's operation, and the document."""

    name: str
    shape: type[Mapping[str, Any]]
    document: Callable[[Snapshot], Mapping[str, Any]]
    says: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What a page shows besides its document: the rows that there are in all, its own terms, values for its template.

    Terms that are None do not appear in addresses.
    """

    total: int
    terms: Mapping[str, object] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)


async def no_choice() -> None:
    """Return the choice within a study that has none."""


@dataclass(frozen=True, slots=True)
class StoredStudy(Generic[Subject, Choice, Document]):
    """A study whose rows come part by part.

    `name` begins its addresses; its template and the API's operation have it, too. `choose` reads the choice within the
    study from a request. `document` takes the subject, the choice, the first row and the number
    of rows; `rows` is that of a page. `says` describes the route of the API.
    """

    name: str
    subject: Addressed[Subject]
    shape: type[Document]
    document: Callable[[Snapshot, Subject, Choice, int, int], Document]
    shown: Callable[[Document, Choice], Shown]
    rows: int
    says: str
    choose: Callable[..., Awaitable[Choice]]
    listing: Listing | None = None

    def add_pages(self, routes: APIRouter, service: Service, renderer: Renderer) -> None:
        """Add the page of one study and its twin, and those of the list of all."""
        snapshot, sized = service.snapshot, service.settings.page_size
        asked, chosen = Depends(self.subject.read), Depends(self.choose)
        address = f"/{self.name}/{self.subject.route}"
        if self.listing is not None:
            self._add_list(routes, service, renderer, self.listing)

        @routes.get(f"{address}.json")
        def twin(
            subject: Subject = asked, choice: Choice = chosen, start: Start = 0, limit: int = self.rows
        ) -> Response:
            return answer(self.document(snapshot, subject, choice, start, sized(limit)))

        @routes.get(address)
        def page(
            subject: Subject = asked, choice: Choice = chosen, start: Start = 0, limit: int = self.rows
        ) -> Response:
            size, here = sized(limit), f"/{self.name}/{self.subject.written(subject)}"
            document = self.document(snapshot, subject, choice, start, size)
            shown = self.shown(document, choice)
            links = paged(here, shown.terms, start, size, shown.total, usual=self.rows)
            return renderer.page(self.name, page=document, here=here, **shown.context, **links)

    def api(self, service: Service) -> APIRouter:
        """Return the routes of the API: the list of all studies, and one study."""
        router, limits, snapshot = APIRouter(), service.settings, service.snapshot
        asked, chosen = Depends(self.subject.read), Depends(self.choose)
        usual = Query(limits.page, ge=1, le=limits.page_limit)
        if (listing := self.listing) is not None:
            _add_operation(router, f"/{self.name}", listing.name, listing, lambda: answer(listing.document(snapshot)))

        def operation(
            subject: Subject = asked, choice: Choice = chosen, start: Start = 0, limit: int = usual
        ) -> Response:
            return answer(self.document(snapshot, subject, choice, start, limit))

        _add_operation(router, f"/{self.name}/{self.subject.route}", self.name, self, operation)
        return router

    def _add_list(self, routes: APIRouter, service: Service, renderer: Renderer, listing: Listing) -> None:
        address, snapshot = f"/{self.name}", service.snapshot

        @routes.get(f"{address}.json")
        def twin() -> Response:
            return answer(listing.document(snapshot))

        @routes.get(address)
        def page() -> Response:
            return renderer.page(listing.name, page=listing.document(snapshot), twin=f"{address}.json")


def _add_operation(
    router: APIRouter,
    address: str,
    name: str,
    declared: Listing | StoredStudy[Any, Any, Any],
    operation: Callable[..., Response],
) -> None:
    router.add_api_route(
        f"/api/v1{address}",
        operation,
        name=name,
        description=declared.says,
        responses=schemas.sends(declared.shape) | GET_FAULTS,
        tags=["studies"],
    )
