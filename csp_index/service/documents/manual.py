"""The manual: the pages in `csp_index/docs`, taken apart into titles, headings and Markdown.

A page is named by its file without `.md`. Names are looked up among the files that exist, so no path is ever made of
what a request says. Pages do not change while a process lives.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import pairwise
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token
from typing_extensions import TypedDict

from csp_index.errors import NotFoundError

START: Final = "index"  # the page that lists the others
_PICTURES: Final = {".png": "image/png", ".jpg": "image/jpeg"}
_LINKED: Final = re.compile(r"\]\(([\w-]+)\.md[)#]")


@dataclass(frozen=True, slots=True)
class Help:
    """A place in the manual and the question that it answers, as a page's heading shows it."""

    question: str
    place: str  # PAGE#ANCHOR, or PAGE


#: What the headings of the explorer's pages lead to.
HELP: Final[Mapping[str, Help]] = {
    "audit": Help("what is a finding?", "studies#findings"),
    "classes": Help("what is compared with classes?", "studies#classes"),
    "comparison": Help("what is compared?", "explorer#side-by-side"),
    "concepts": Help("what answers to a word?", "explorer#words"),
    "contrast": Help("what is contrast?", "contrast"),
    "effects": Help("what is an effect?", "studies#effect-on-the-output"),
    "evolution": Help("what is followed?", "studies#a-network-through-its-training"),
    "facets": Help("what are facets?", "studies#facets"),
    "formulas": Help("what is a logical label?", "studies#logical-labels"),
    "held_out": Help("how are labels judged?", "evaluation"),
    "groups": Help("what is a large group?", "explorer#the-page-of-a-layer"),
    "hierarchy": Help("which word stands for a label?", "studies#broader-words"),
    "layers": Help("what is a layer?", "images-and-models#networks-layers-neurons"),
    "live": Help("what do the knobs do?", "methods#options-that-the-methods-share"),
    "matches": Help("what is a match?", "studies#two-layers-compared"),
    "map": Help("what does the map show?", "explorer#the-map-of-a-layer"),
    "maps": Help("how are maps made?", "images-and-models#where-neurons-fire"),
    "methods": Help("how to choose a method?", "methods#how-to-choose-a-method"),
    "models": Help("what is an encoder?", "images-and-models#encoders"),
    "python": Help("what else is in Python?", "python#index"),
    "review": Help("who says so?", "studies#review"),
    "runs": Help("what if a run was interrupted?", "operations#what-an-interruption-loses"),
    "search": Help("how does search work?", "explorer#search"),
    "shown": Help("which label is shown?", "methods#which-label-is-shown"),
    "stability": Help("what is stable?", "methods#stability"),
    "sql": Help("which views are there?", "sql#views"),
}


FIGURES: Final = "explorer#the-figures-of-a-neuron"
"""Where the manual says what the figures on a neuron's page are."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading: its level (1 to 6), its text without markup, and its anchor."""

    level: int
    text: str
    anchor: str


@dataclass(frozen=True, slots=True)
class ManualPage:
    """A page: what it says, its title and all its headings."""

    name: str
    title: str
    markdown: str
    headings: tuple[Heading, ...]


class HeadingRow(TypedDict):
    """A heading of a page of the manual: 1 is the level of its title."""

    level: int
    text: str
    anchor: str


class PageRow(TypedDict):
    """A page of the manual."""

    page: str
    title: str


class ManualDocument(PageRow):
    """A page of the manual in Markdown, its headings, and all pages."""

    markdown: str
    headings: list[HeadingRow]
    pages: list[PageRow]
    previous: PageRow | None
    next: PageRow | None


def anchor(text: str) -> str:
    """Return the anchor that code hosts give a heading of this text, the first of its kind on a page.

    >>> anchor("What is measured?"), anchor("csp-index label"), anchor("Index.label")
    ('what-is-measured', 'csp-index-label', 'indexlabel')
    """
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@cache
def parser() -> MarkdownIt:
    """Return the parser of all pages: CommonMark with tables. HTML becomes tokens of its own."""
    return MarkdownIt("commonmark").enable("table")


def headings(markdown: str) -> tuple[Heading, ...]:
    """Return the headings of a text with their anchors; those of equal text are numbered."""
    tokens = parser().parse(markdown)
    counts: Counter[str] = Counter()
    result = []
    for opening, inside in pairwise(tokens):
        if opening.type == "heading_open":
            text = "".join(part.content for part in inside.children or [] if part.type in ("text", "code_inline"))
            name = anchor(text)
            number = counts[name]
            counts[name] += 1
            result.append(Heading(int(opening.tag[1:]), text, f"{name}-{number}" if number else name))
    return tuple(result)


@cache
def names() -> tuple[str, ...]:
    """Return the names of all pages: in the order in which the first one lists them, what it leaves out behind."""
    files = _files()
    listed = [START, *_LINKED.findall(files[f"{START}.md"].read_text("utf-8"))]
    every = sorted(name.removesuffix(".md") for name in files if name.endswith(".md"))
    return tuple(dict.fromkeys(name for name in [*listed, *every] if f"{name}.md" in files))


@cache
def page(name: str) -> ManualPage:
    """Return a page of the manual. Raises NotFoundError where there is none of that name."""
    if name not in names():
        raise NotFoundError(f"the manual has no page {name!r} (it has: {', '.join(names())})")
    markdown = _files()[f"{name}.md"].read_text("utf-8")
    sections = headings(markdown)
    return ManualPage(name, sections[0].text if sections else name, markdown, sections)


@cache
def first_words(place: str) -> str:
    """Return the first sentence below a heading of the manual, PAGE#ANCHOR, or of a page; "" where there is none."""
    name, _, wanted = place.partition("#")
    below = not wanted
    sections = iter(page(name).headings)
    tokens = parser().parse(page(name).markdown)
    for opening, inside in pairwise(tokens):
        if opening.type == "heading_open":
            below = below or next(sections).anchor == wanted
        elif below and opening.type == "paragraph_open":
            return re.split(r"(?<=[.!?:]) ", _plain(inside), maxsplit=1)[0].rstrip(":")
    return ""


@cache
def figures() -> Mapping[str, str]:
    """Return what the figures on a neuron's page are, by name: the table of the manual at `FIGURES`."""
    name, _, wanted = FIGURES.partition("#")
    tokens = parser().parse(page(name).markdown)
    sections, below, cells = iter(page(name).headings), False, list[str]()
    for opening, inside in pairwise(tokens):
        if opening.type == "heading_open":
            below = next(sections).anchor == wanted
        elif below and opening.type == "td_open":
            cells.append(_plain(inside))
    return dict(zip(cells[::2], cells[1::2], strict=True))


def manual_document(name: str) -> ManualDocument:
    """Return the JSON twin of a page of the manual."""
    current = page(name)
    every: list[PageRow] = [{"page": other, "title": page(other).title} for other in names()]
    place = names().index(name)
    return {
        "page": name,
        "title": current.title,
        "markdown": current.markdown,
        "headings": [{"level": one.level, "text": one.text, "anchor": one.anchor} for one in current.headings],
        "pages": every,
        "previous": every[place - 1] if place else None,
        "next": every[place + 1] if place + 1 < len(every) else None,
    }


def picture(name: str) -> tuple[bytes, str] | None:
    """Return a picture of the manual and its media type, or None where there is none of that name."""
    file = _files().get(name)
    kind = next((kind for ending, kind in _PICTURES.items() if name.endswith(ending)), None)
    return None if file is None or kind is None else (file.read_bytes(), kind)


def _plain(token: Token) -> str:
    """Return the text of a paragraph or a cell without its markup, on one line."""
    parts = (part.content if part.type in ("text", "code_inline") else " " for part in token.children or [])
    return " ".join("".join(parts).split())


@cache
def _files() -> Mapping[str, Traversable]:
    folder = resources.files("csp_index") / "docs"
    return {file.name: file for file in folder.iterdir() if file.is_file()}
