"""How a report becomes one HTML file: templates that escape every text, the look that reports share, pictures inside.

Knows nothing about what a report is of.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import Any, Final

import jinja2

_SHARED: Final = "csp_index.evaluation.report"


def environment(package: str = _SHARED) -> jinja2.Environment:
    """Return the templates of a package, and those that reports share; a value that a template lacks is an error.

    What a report shows may be any text: everything that is not marked as markup is escaped.
    """
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in dict.fromkeys((package, _SHARED))]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def data_uri(picture: bytes, kind: str = "image/png") -> str:
    """Return a picture as an address that contains it.

    >>> data_uri(b"png")
    'data:image/png;base64,cG5n'
    """
    return f"data:{kind};base64,{base64.b64encode(picture).decode()}"


def plain(value: Any) -> Any:
    """Return a value that JSON can represent: no NaN, texts as keys, anything unknown as its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
