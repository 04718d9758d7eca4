"""The addresses of the pages and pictures of the service, parts of names escaped. Templates have them as filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote, urlencode

from csp_index.labelling.review.words import OF_NEURON

_FOLDERS: Final = (".", "..")  # a browser takes them for folders, however they are written
_TWIN: Final = ".json"


def link(address: str, terms: Mapping[str, object] | Sequence[tuple[str, object]]) -> str:
    """Return an address with terms behind it.

    >>> link("/search", [("q", "red & blue")]), link("/search", {})
    ('/search?q=red+%26+blue', '/search')
    """
    return f"{address}?{urlencode(terms)}" if terms else address


def quoted(address: str) -> str:
    """Return a layer or a neuron as a part of an address: slashes separate its parts.

    >>> quoted("my net/layer?4")
    'my%20net/layer%3F4'
    """
    return "/".join(quote(part, safe="") for part in address.split("/"))


def layer_href(layer: str) -> str:
    """Return the address of a layer's page.

    >>> layer_href("my net/layer?4")
    '/layers/my%20net/layer%3F4'
    """
    return f"/layers/{quoted(layer)}"


def neuron_href(neuron: str) -> str:
    """Return the address of a neuron's page."""
    return f"/neurons/{quoted(neuron)}"


def classes_href(layer: str, by: str | None = None, name: str | None = None) -> str:
    """Return the address of the page of the classes of a layer's images, or of one class.

    >>> classes_href("net/layer4", "kind", "red star")
    '/classes/net/layer4?by=kind&name=red+star'
    """
    terms = [(key, value) for key, value in (("by", by), ("name", name)) if value is not None]
    return link(f"/classes/{quoted(layer)}", terms)


def concept_href(word: str, ending: str = "") -> str:
    """Return the address of the page of a word, or with `.json` that of its twin.

    >>> concept_href("red star"), concept_href("and/or", ".json"), concept_href("data.json")
    ('/concepts/red%20star', '/concepts/and%2For.json', '/concepts?q=data.json')
    """
    if word in _FOLDERS or word.endswith(_TWIN):
        return f"/concepts{ending}?{urlencode({'q': word})}"
    return f"/concepts/{quote(word, safe='')}{ending}"


def effects_href(layer: str) -> str:
    """Return the address of the page of a layer's effects on the logits.

    >>> effects_href("net/layer4")
    '/effects/net/layer4'
    """
    return f"/effects/{quoted(layer)}"


def hierarchy_href(layer: str, word: int | None = None) -> str:
    """Return the address of the page of a layer's labels by broader words, or of one word.

    >>> hierarchy_href("net/layer4", 3)
    '/hierarchy/net/layer4?word=3'
    """
    address = f"/hierarchy/{quoted(layer)}"
    return address if word is None else f"{address}?word={int(word)}"


def meanings_href(layer: str) -> str:
    """Return the address of the page with the meanings of a layer's neurons.

    >>> meanings_href("net/layer4")
    '/meanings/net/layer4'
    """
    return f"/meanings/{quoted(layer)}"


def audit_href(layer: str, by: str | None = None) -> str:
    """Return the address of the page of a layer's audit, of several by different classes that by one column.

    >>> audit_href("net/layer4", "red star")
    '/audit/net?layer=layer4&by=red+star'
    """
    model, _, name = layer.partition("/")
    terms = [("layer", name), *([] if by is None else [("by", by)])]
    return f"/audit/{quote(model, safe='')}?{urlencode(terms)}"


def report_href(layer: str, by: str | None = None) -> str:
    """Return the address of the report of a layer's audit.

    >>> report_href("net/layer4", "kind")
    '/audit/net/report?layer=layer4&by=kind'
    """
    return audit_href(layer, by).replace("?", "/report?", 1)


def image_href(image_id: int) -> str:
    """Return the address of an image's page."""
    return f"/images/{int(image_id)}"


def thumbnail(image_id: int) -> str:
    """Return the address of a small picture of an image."""
    return f"/api/v1/images/{int(image_id)}/thumbnail"


def veil(image_id: int, neuron: str) -> str:
    """Return the address of what hides the places of an image in which a neuron does not fire.

    >>> veil(7, "net/layer4/3")
    '/api/v1/neurons/net/layer4/3/maps/7'
    """
    return f"/api/v1{neuron_href(neuron)}/maps/{int(image_id)}"


def compare_href(neurons: Sequence[str]) -> str:
    """Return the address of the page that compares neurons."""
    return "/compare?" + urlencode([("neurons", neuron) for neuron in neurons])


def rate_href(rater: str) -> str:
    """Return the address of a person's next question.

    >>> rate_href("Ann & Bob")
    '/rate?rater=Ann+%26+Bob'
    """
    return f"/rate?{urlencode({'rater': rater})}"


def subject_href(subject: str) -> str:
    """Return the address of the page of what a note is about; of a finding that of the notes about it."""
    if subject.startswith(OF_NEURON):
        return neuron_href(subject.removeprefix(OF_NEURON))
    return f"/notes?{urlencode({'subject': subject})}"
