"""A study that an index has, by the id that its address has."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from csp_index.errors import NotFoundError

Study = TypeVar("Study")
Head = dict[str, Any]

_COMMANDS: Final = {"comparison": "compare", "evolution": "evolution"}


def find_study(
    name: str,
    kind: str,
    heads: Iterable[Head],
    id_of: Callable[[Head], str],
    read: Callable[[str], Study | None],
) -> Study:
    """Return the study whose id is `name`; `heads` describe those that are stored, `read` takes their settings hash.

    Raises NotFoundError, which names the command that makes such studies: `kind` is comparison or evolution.
    """
    head = next((head for head in heads if id_of(head) == name), None)
    study = None if head is None else read(head["settings_hash"])
    if study is None:
        raise NotFoundError(f"no {kind} {name!r} is in the index: `csp-index {_COMMANDS[kind]}` makes one")
    return study
