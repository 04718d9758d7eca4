"""The hub that models come from: whether this machine reaches it, and what libraries say where it does not.

Knows nothing about any model. Without a connection the hub's library asks again and again, file by file, for a minute;
where not even the hub's name resolves, what it keeps on this disk is all there is.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from csp_index.errors import one_line
from csp_index.files.regular_files import user_path

_NO_CONNECTION = (  # what libraries say without one
    "couldn't connect",
    "cannot find the requested files in the",
    "offline mode",
    "outgoing traffic has been disabled",
    "urlopen error",
    "connection error",
    "connecterror",
    "max retries exceeded",
    "name resolution",
    "nodename nor servname",
    "network is unreachable",
    "failed to resolve",
    "locate the file on the hub",
)


@contextmanager
def kept_files_if_alone(name: str) -> Iterator[None]:
    """Let libraries load a model from the hub's files on this disk where the hub's name does not resolve.

    `name` is what the model is called in its library; one that is a folder here needs no hub. Of a machine behind a
    proxy nothing is known, and the library asks. Meanwhile errors logged at the root are not shown: open_clip logs
    there what it raises next.
    """
    from huggingface_hub import constants

    root = logging.getLogger()
    root.addFilter(_is_no_error)
    alone = not constants.HF_HUB_OFFLINE and not os.path.isdir(user_path(name)) and not _resolves(constants.ENDPOINT)
    constants.HF_HUB_OFFLINE |= alone
    try:
        yield
    finally:
        root.removeFilter(_is_no_error)
        constants.HF_HUB_OFFLINE &= not alone


def is_alone() -> bool:
    """Return whether the hub cannot be asked: what it keeps on this disk is all there is. True also where one says so.

    That is HF_HUB_OFFLINE; of a machine behind a proxy nothing is known.
    """
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or not _resolves(constants.ENDPOINT)


def why_not_downloaded(exc: Exception) -> str | None:
    """Return why a model that is not here cannot be downloaded, or None if its library failed for another reason."""
    message = str(exc).lower()
    if not any(words in message for words in _NO_CONNECTION):
        return None
    from huggingface_hub import constants

    if "urlopen error" in message:  # of torchvision, whose weights lie elsewhere
        return one_line(exc)
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    return one_line(exc) if _resolves(constants.ENDPOINT) else f"no connection to {_host(constants.ENDPOINT)}"


def _resolves(address: str) -> bool:
    """Return whether the name of a host leads anywhere; True where a proxy looks it up."""
    if getproxies():
        return True
    try:
        socket.getaddrinfo(_host(address), None)
    except OSError:
        return False
    return True


def _host(address: str) -> str:
    return urlsplit(address).hostname or address


def _is_no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR
