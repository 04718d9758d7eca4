"""The folders where a user's own code was found, in this process: other processes of the same work look there, too."""

from __future__ import annotations

_folders: dict[str, None] = {}


def add(folder: str) -> None:
    """Let processes that are started from now on import modules from a folder."""
    _folders[folder] = None


def known() -> tuple[str, ...]:
    """Return the folders: none unless the user ordered code of their own to run."""
    return tuple(_folders)
