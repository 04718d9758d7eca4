"""A page of the manual as HTML within the site's content policy: without HTML of its own, with links into the manual.

Pages are written for a code host and refer to each other by file: `methods.md#stability` becomes
`/docs/methods#stability`. A link to a file outside the manual loses its address and keeps its text.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from html import escape
from typing import Any, Final

from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup
from PIL import Image

from csp_index.service.documents import manual

_COMMENT: Final = re.compile(r"<!--.*?-->", re.DOTALL)
_ELSEWHERE: Final = re.compile(r"https?://")
_OPTION: Final = re.compile(r"--?[\w-]+( \S+)?")
_ALIGNED: Final = re.compile(r"^.*\S {3,}\S", re.MULTILINE)  # a line of a table that spaces make


def manual_href(place: str) -> str:
    """Return the address of a place in the manual, PAGE or PAGE#ANCHOR.

    >>> manual_href("methods#stability"), manual_href("index")
    ('/docs/methods#stability', '/docs')
    """
    name, hash_, within = place.partition("#")
    return f"{'/docs' if name == manual.START else f'/docs/{name}'}{hash_}{within}"


@cache
def manual_html(name: str) -> Markup:
    """Return the text below the title of a page, as HTML. Raises NotFoundError if there is no such page."""
    page, parser = manual.page(name), manual.parser()
    tokens = parser.parse(page.markdown)
    anchors = iter(page.headings)
    title = 0
    for place, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = next(anchors)
            token.attrSet("id", heading.anchor)
            title = title or (place + 3 if heading.level == 1 else 0)  # opened, its text, closed
        if token.children:
            token.children = list(_linked(token.children))
    return Markup(_Renderer().render(tokens[title:], parser.options, {}))  # the renderer escapes all text  # nosec B704


def _linked(tokens: Sequence[Token]) -> Iterator[Token]:
    """Yield the tokens of a line with links for the explorer, and without the links that it has no target for.

    A link with a page's file name as its text gets the page's title.
    """
    hrefs: list[str | None] = []
    for token in tokens:
        if token.type == "link_open":
            hrefs.append(_target(str(token.attrGet("href") or "")))
            token.attrSet("href", hrefs[-1] or "")
            if _ELSEWHERE.match(hrefs[-1] or ""):
                token.attrSet("rel", "noopener")
        elif token.type == "text" and hrefs and hrefs[-1] and token.content.removesuffix(".md") in manual.names():
            token.content = manual.page(token.content.removesuffix(".md")).title
        if not token.type.startswith("link_") or hrefs[-1] is not None:
            yield token
        if token.type == "link_close":
            hrefs.pop()


def _target(href: str) -> str | None:
    """Return the target of a link in the explorer, or None."""
    if href.startswith("#") or _ELSEWHERE.match(href):
        return href
    file, hash_, within = href.partition("#")
    name = file.removesuffix(".md")
    return manual_href(f"{name}{hash_}{within}") if file.endswith(".md") and name in manual.names() else None


class _Renderer(RendererHTML):
    """Draws tokens in the style of the explorer: tables and code scroll by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self._counts: Counter[str] = Counter()

    def _region(self, name: str) -> str:
        self._counts[name] += 1
        return f'tabindex="0" role="region" aria-label="{name} {self._counts[name]}"'

    def table_open(self, *_: Any) -> str:
        """Open a table in a box that scrolls."""
        return f'<div class="scroll" {self._region("Table")}><table>\n'

    def table_close(self, *_: Any) -> str:
        """Close both."""
        return "</table></div>\n"

    def th_open(self, *_: Any) -> str:
        """Open a column head, without alignment: it would be an inline style, which the content policy forbids."""
        return '<th scope="col">'

    def td_open(self, *_: Any) -> str:
        """Open a cell."""
        return "<td>"

    def fence(self, tokens: Sequence[Token], place: int, *_: Any) -> str:
        """Draw a block of code; long lines are folded unless lines are aligned below each other."""
        text = tokens[place].content
        kind = ' class="aligned"' if len(_ALIGNED.findall(text)) > 1 else ""
        return f"<pre{kind} {self._region('Code')}><code>{escape(text)}</code></pre>\n"

    def code_inline(self, tokens: Sequence[Token], place: int, *_: Any) -> str:
        """Draw code in a line; an option of a command is not folded at its hyphens."""
        text = tokens[place].content
        kind = ' class="option"' if _OPTION.fullmatch(text) else ""
        return f"<code{kind}>{escape(text)}</code>"

    def code_block(self, tokens: Sequence[Token], place: int, *_: Any) -> str:
        """Draw an indented block of code."""
        return self.fence(tokens, place)

    def html_block(self, tokens: Sequence[Token], place: int, *_: Any) -> str:
        """Leave out comments, and show other HTML as text."""
        rest = _COMMENT.sub("", tokens[place].content).strip()
        return f"<p>{escape(rest)}</p>\n" if rest else ""

    def html_inline(self, tokens: Sequence[Token], place: int, *_: Any) -> str:
        """Leave out comments, and show other HTML as text."""
        return escape(_COMMENT.sub("", tokens[place].content))

    def image(self, tokens: Sequence[Token], place: int, options: Any, env: Any) -> str:
        """Draw a picture of the manual; of any other picture show the text."""
        token = tokens[place]
        text = escape(self.renderInlineAsText(token.children or [], options, env))
        source = str(token.attrGet("src") or "")
        size = _size(source)
        if size is None:
            return f'<span class="soft">{text}</span>'
        return f'<img src="/docs/{source}" width="{size[0]}" height="{size[1]}" loading="lazy" alt="{text}">'


def _size(name: str) -> tuple[int, int] | None:
    """Return the width and height of a picture of the manual, or None if there is no such picture."""
    file = manual.picture(name)
    if file is None:
        return None
    with Image.open(io.BytesIO(file[0]), formats=["JPEG", "PNG"]) as picture:
        return picture.size
