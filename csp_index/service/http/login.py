"""The sign-in form: a browser sends the token once, and gets a session cookie."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from starlette.responses import RedirectResponse, Response

from csp_index.service.http.auth import Token, local_path
from csp_index.service.http.rendering import Renderer

Next = Annotated[str, Query(max_length=2000)]


def router(token: Token, renderer: Renderer) -> APIRouter:
    """Return the routes of the form; `renderer` draws only what everyone may see."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/login")
    def form(next: Next = "/") -> Response:
        return renderer.login(local_path(next))

    @routes.post("/login")
    def sign_in(
        request: Request,
        text: Annotated[str, Form(alias="token", max_length=1000)],
        next_page: Annotated[str, Form(alias="next", max_length=2000)] = "/",
    ) -> Response:
        if not token.is_right(text.strip().encode()):
            return renderer.login(local_path(next_page), "This is not the token.", 401)
        response = RedirectResponse(local_path(next_page), 303)
        response.set_cookie(
            token.cookie,
            token.session(),
            max_age=token.seconds,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        return response

    return routes
