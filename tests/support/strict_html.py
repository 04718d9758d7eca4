"""A page of the service, taken apart, and what every page has to keep to."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from starlette.testclient import TestClient

from csp_index.service.http.static_files import head_script

VOID = {"meta", "link", "input", "img", "br", "circle", "rect", "path", "line"}


class Seen(HTMLParser):
    """A page as a browser's parser takes it apart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.inside: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open:
            self.inside[self.open[-1]] = self.inside.get(self.open[-1], "") + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def page_at(client: TestClient, address: str, status: int = 200) -> Seen:
    reply = client.get(address)
    assert reply.status_code == status, reply.text[:2000]
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    seen = Seen(reply.text)
    assert_strict(seen)
    return seen


def assert_strict(seen: Seen) -> None:
    """Nothing that the content policy would stop, nothing that came to life; what every page has to have."""
    for tag, attributes in seen.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        for name in ("href", "src", "action"):
            address = attributes.get(name) or ""
            if tag == "img" and address.startswith(("data:image/png;base64,", "data:image/jpeg;base64,")):
                continue  # a picture that was sent is not kept, or is inside the page
            assert re.match(r"[/#]|\?at=|$", address) and not address.startswith("//")
    assert seen.inside.get("script", "") == head_script() and not seen.all("style")
    named = [script["src"] or "" for script in seen.all("script") if "src" in script]
    assert len(named) + 1 == len(seen.all("script")) and all(name.startswith("/static/") for name in named)
    shown = [image for image in seen.all("img") if "src" in image]  # the others get an address and a size by script
    assert not [image for image in shown if not {"alt", "width", "height"} <= set(image)]
    assert all("alt" in image for image in seen.all("img"))
    names = [attributes["id"] for _, attributes in seen.tags if "id" in attributes]
    assert len(names) == len(set(names)), names
    assert len(seen.all("h1")) == len(seen.all("main")) == len(seen.all("title")) - len(titles_within(seen)) == 1
    labelled = {attributes.get("for") for attributes in seen.all("label")}
    for tag in ("input", "select", "textarea"):
        for field in seen.all(tag):
            within = field.get("type") in ("hidden", "checkbox")  # boxes stand inside their labels
            assert within or field.get("id") in labelled, field


def titles_within(seen: Seen) -> list[dict[str, str | None]]:
    """The titles of drawings."""
    return seen.all("title")[1:]
