"""The configuration of the service: where it listens, whom it answers, and every limit.

Limits come from the table of settings by default. This file refuses settings that would open an index to strangers, so
that no way of starting the service gets around the check.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from csp_index import settings
from csp_index.errors import SettingError
from csp_index.files.regular_files import read_text
from csp_index.labelling.review.words import DRAWS

SHARED_COUNTERS: Final = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable for the folder in which prometheus_client keeps the counters of several processes."""

_SHORTEST_TOKEN = 16  # characters: a shorter token could be guessed over a network
_MOST_PICTURES = 1000  # that a label is rated on
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def _threads() -> int:
    """Return how many requests run at once: more requests than cores only slow each other down."""
    return max(1, settings.SERVE_THREADS.value() or min(8, os.cpu_count() or 1))


@dataclass(frozen=True, slots=True)
class ServiceSettings:
    """The settings of one service; defaults come from the table of settings.

    Raises SettingError if other machines could read the index, and there is neither a token nor `public_read`, or if
    they could write without a token.
    """

    host: str = field(default_factory=settings.SERVE_HOST.value)
    port: int = field(default_factory=settings.SERVE_PORT.value)
    token: str | None = field(default=None, repr=False)  # clients must send it; None: every client may ask
    version: str | None = None  # serve what the index was at a version or tag; None: the newest one, also a later one
    trust: bool = False  # run code that only the index names, as python:module:factory
    public_read: bool = False  # serve other machines without a token, on purpose
    write: bool = False  # readers may write notes
    rate: bool = False  # people may rate labels on pictures
    draw: str = "importance"  # how these pictures are drawn: importance or uniform
    rate_pictures: int = 20  # of each label
    sql: bool | None = None  # SQL over HTTP; None: on loopback only. After construction it is True or False
    originals: bool | None = None  # original pictures; None: on loopback or with a token. Then True or False
    hosts: tuple[str, ...] = ()  # further names under which browsers may reach the service
    origins: tuple[str, ...] = ()  # other sites whose scripts may read answers
    start: str = field(
        default_factory=partial(secrets.token_hex, 32), repr=False
    )  # a secret of one start of the service
    texts: tuple[Path, Path] | None = None  # replace the vocabulary: embeddings as .npy, texts one per line
    workers: int = field(default_factory=settings.SERVE_WORKERS.value)  # processes of `csp-index serve`
    threads: int = field(default_factory=_threads)
    waiting: int = field(default_factory=settings.SERVE_WAITING.value)
    timeout: float = field(default_factory=settings.SERVE_TIMEOUT.value)
    patience: float = field(default_factory=settings.SERVE_PATIENCE.value)
    follow: float = field(default_factory=settings.SERVE_FOLLOW.value)
    grace: float = field(default_factory=settings.SERVE_GRACE.value)
    label_cost: int = field(default_factory=settings.SERVE_LABEL_COST.value)
    arrival: float = field(default_factory=settings.SERVE_ARRIVAL.value)
    connections: int = field(default_factory=settings.SERVE_CONNECTIONS.value)
    body_bytes: int = field(default_factory=settings.SERVE_BODY_BYTES.value)
    upload_bytes: int = field(default_factory=settings.SERVE_UPLOAD_BYTES.value)
    upload_pixels: int = field(default_factory=settings.SERVE_UPLOAD_PIXELS.value)
    page: int = field(default_factory=settings.SERVE_PAGE.value)
    page_limit: int = field(default_factory=settings.SERVE_PAGE_LIMIT.value)
    held_bytes: int = field(default_factory=settings.SERVE_HELD_BYTES.value)
    agent_characters: int = field(default_factory=settings.AGENT_CHARACTERS.value)
    sql_seconds: float = field(default_factory=settings.SQL_SECONDS.value)
    sql_rows: int = field(default_factory=settings.SQL_ROWS.value)
    sql_bytes: int = field(default_factory=settings.SQL_BYTES.value)
    sql_processes: int = field(default_factory=settings.SQL_PROCESSES.value)

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingError(f"port {self.port} does not exist: expected 1 to 65535, or 0 for any that is free")
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise SettingError(
                f"the token has {len(self.token)} characters: expected at least {_SHORTEST_TOKEN}, "
                "for example those of `openssl rand -hex 32`"
            )
        if self.token is None and not self.loopback and not self.public_read:
            raise SettingError(
                f"host {self.host} can be reached from other machines: give --token-file FILE, "
                "or say --public-read to let everyone read the index"
            )
        self._check_writing()
        if self.workers < 1:
            raise SettingError(f"serve_workers is {self.workers}: expected at least 1")
        if self.page > self.page_limit:
            raise SettingError(f"a page shows {self.page} neurons and may show {self.page_limit}: lower serve_page")
        for path in self.texts or ():
            if not Path(path).is_file():
                raise SettingError(
                    f"{path} is no file: give the labels' embeddings as .npy and their texts, one per line"
                )
        if self.sql is None:
            object.__setattr__(self, "sql", self.loopback)
        if self.originals is None:
            object.__setattr__(self, "originals", self.loopback or self.token is not None)

    def _check_writing(self) -> None:
        """Refuse to let strangers write, and to write what is fixed."""
        if not self.writes:
            return
        named = "write" if self.write else "rate"
        if self.token is None and not self.loopback:
            raise SettingError(
                f"host {self.host} can be reached from other machines, where {named} needs a token, also with public "
                "read: give --token-file FILE"
            )
        if self.version is not None:
            raise SettingError(f"version {self.version} is fixed, and {named} would add to it: leave one of them out")
        if self.draw not in DRAWS or not 1 <= self.rate_pictures <= _MOST_PICTURES:
            raise SettingError(
                f"ratings by {self.rate_pictures} pictures, drawn {self.draw!r}: expected 1 to {_MOST_PICTURES}, and "
                f"{' or '.join(DRAWS)}"
            )

    @property
    def writes(self) -> bool:
        """Whether anything may be written over HTTP."""
        return self.write or self.rate

    def page_size(self, limit: int | None) -> int:
        """Return how many neurons a page shows if a request says `limit`. Raises SettingError if that is too many."""
        if limit is not None and limit > self.page_limit:
            raise SettingError(f"limit is {limit}: expected 1 to {self.page_limit}")
        return self.page if limit is None else limit

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)

    def knows_host(self, name: str) -> bool:
        """Return whether browsers may reach the service under this name or address, without a port.

        A page of another site can point its own name at this machine (DNS rebinding), but no address and none of the
        names listed here.
        """
        name = name.lower().removeprefix("[").removesuffix("]").removesuffix(".")
        if name in _LOOPBACK_NAMES or name in {known.lower() for known in (self.host, *self.hosts)}:
            return True
        return not self.loopback and _address(name) is not None


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a service on `host`.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def read_token(path: str | Path) -> str:
    """Return the token in a file, without white space around it. Raises SettingError if there is none."""
    try:
        token = read_text(path).strip()
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not UTF-8 text"
        raise SettingError(f"the token file {path} cannot be read ({why}): give a text file with the token") from exc
    if not token:
        raise SettingError(f"the token file {path} is empty: write one in, for example by `openssl rand -hex 32`")
    if any(letter.isspace() or not letter.isprintable() for letter in token):
        raise SettingError(f"the token in {path} has white space in it: expected one word on one line")
    return token


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
