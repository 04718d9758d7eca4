"""The form by which a browser shows the token once, and gets a cookie that stands for it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from csp_index.service.http.auth import Token, local_path
from csp_index.service.http.rendering import Renderer

Next = Annotated[str, Query(max_length=2000)]


def router(token: Token, renderer: Renderer) -> APIRouter:
    """Return the form's routes; `renderer` draws what everyone may see."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/login")
    def form(next: Next = "/") -> Response:
        return renderer.login(local_path(next))

    @routes.post("/login")
    def sign_in(
        request: Request,
        given: Annotated[str, Form(alias="token", max_length=1000)],
        next_page: Annotated[str, Form(alias="next", max_length=2000)] = "/",
    ) -> Response:
        if not token.is_right(given.strip().encode()):
            return renderer.login(local_path(next_page), "This is not the token.", 401)
        found = RedirectResponse(local_path(next_page), 303)
        found.set_cookie(
            token.cookie,
            token.session(),
            max_age=token.seconds,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return found

    return routes
