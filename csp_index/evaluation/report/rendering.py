"""How a report becomes one HTML file: templates that escape every text, the look that reports share, pictures inside.

Knows nothing about what a report is of.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from types import CodeType
from typing import Any, Final

import jinja2
from jinja2.bccache import Bucket

from csp_index.printable import not_turned

_SHARED: Final = "csp_index.evaluation.report"


class CompiledOnce(jinja2.BytecodeCache):
    """What templates compile to, kept in this process: to compile those of the explorer takes a second."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Fill a bucket with the code of its template, if that was compiled from the same text."""
        bucket.code = self._codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code of a template."""
        if bucket.code is not None:
            self._codes[bucket.key, bucket.checksum] = bucket.code


_COMPILED: Final = CompiledOnce()


def environment(package: str = _SHARED) -> jinja2.Environment:
    """Return the templates of a package, and those that reports share; a value that a template lacks is an error.

    What a report shows may be any text: everything that is not marked as markup is escaped, and what would turn the
    direction of the text around it is spelled out.
    """
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in dict.fromkeys((package, _SHARED))]),
        bytecode_cache=_COMPILED,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=not_turned,
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
