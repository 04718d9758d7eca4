"""Text of docstrings and help as Markdown that a code host and the explorer show alike."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence

_CODE = re.compile(r"(`+[^`]*`+)")
_MARKUP = re.compile(r"([\\*<>]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_EXAMPLE = re.compile(r">>> ")


def escape(text: str) -> str:
    r"""Return prose with what Markdown would read as markup escaped, but for code between backticks.

    >>> escape("a * b <DIR> `x * y` of_a_name")
    'a \\* b \\<DIR\\> `x * y` of_a_name'
    """
    return "".join(part if part.startswith("`") else _MARKUP.sub(r"\\\1", part) for part in _CODE.split(text))


def block(code: str, language: str) -> str:
    """Return a fenced block of code."""
    return f"```{language}\n{code}\n```"


def prose(docstring: str | None) -> str:
    """Return a docstring as Markdown: paragraphs escaped, examples as blocks of a Python session."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(docstring or "")):
        lines = paragraph.splitlines()
        start = next((n for n, line in enumerate(lines) if _EXAMPLE.match(line)), len(lines))
        parts += [escape("\n".join(lines[:start]))] if start else []
        parts += [block("\n".join(lines[start:]), "pycon")] if start < len(lines) else []
    return "\n\n".join(parts)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""Return a table, without the columns that are empty.

    >>> print(table(["kind", "source", "meaning"], [["`a`", "", "one of `b|c`"]]))
    | kind | meaning |
    | --- | --- |
    | `a` | one of `b\|c` |
    """
    kept = [place for place in range(len(heads)) if any(cells[place] for cells in rows)]
    lines = [[cells[place].replace("|", "\\|") for place in kept] for cells in (heads, *rows)]
    lines.insert(1, ["---"] * len(kept))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
