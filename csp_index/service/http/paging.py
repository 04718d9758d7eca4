"""Parts of addresses that many routes have, and the links to the further parts of a long list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Path, Query

Name = Annotated[str, Path(max_length=250)]
Number = Annotated[int, Path(ge=0, lt=2**31)]
Start = Annotated[int, Query(ge=0, lt=2**31, description="The first row, from 0.")]


def paged(
    address: str, terms: Mapping[str, object], start: int, size: int, total: int, *, usual: int
) -> dict[str, Any]:
    """Return the links of a page with `size` rows of `total`, from `start` on: previous, next, and its JSON twin.

    Terms that are None are left out; `limit` is a term where a page has not the usual size.

    >>> paged("/matches/1f", {"by": "concepts", "word": None}, 0, 20, 60, usual=50)["next"]
    '/matches/1f?by=concepts&limit=20&start=20'
    """
    known = {name: value for name, value in terms.items() if value is not None}
    known |= {} if size == usual else {"limit": size}

    def link(base: str, first: int) -> str:
        query = urlencode({**known, **({"start": first} if first else {})})
        return f"{base}?{query}" if query else base

    return {
        "previous": link(address, max(0, start - size)) if start else None,
        "next": link(address, start + size) if start + size < total else None,
        "twin": link(f"{address}.json", start),
    }
