"""HTTP to one endpoint: connections kept, time limits, requests repeated where that may help, the key.

The only file that imports httpx2 and tenacity. Knows nothing about questions or answers. The key comes from the
environment for as long as a connection lives; it stands in no error, and where a server repeats it, it is blotted out.
"""

from __future__ import annotations

import asyncio
import math
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Final

import httpx2
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_exponential, wait_random

from csp_index.errors import ProposerError, one_line

_LARGEST: Final = 4 * 2**20  # bytes of a response; no honest answer is as long
_LONGEST_PAUSE: Final = 600.0  # seconds for which an endpoint may ask us to stay away
_LONGEST_KNOCK: Final = 10.0  # seconds to be let in
_PASSING: Final = frozenset({408, 425, 429})  # and all from 500 on: another try may help


@dataclass(frozen=True, slots=True)
class Address:
    """An endpoint and how it is asked.

    `base` is its URL without a slash at the end; `key_variable` names the environment variable of its key. `timeout`
    limits one request, in seconds; the n-th of `retries` waits about `backoff` * 2^n seconds, at most 30.
    """

    base: str
    key_variable: str
    concurrency: int
    timeout: float
    retries: int
    backoff: float


@dataclass(slots=True)
class Spent:
    """What a call has cost so far."""

    requests: int = 0


class Unanswered(Exception):
    """Nothing, or nothing whole, came back."""


class Endless(Unanswered):
    """More came back than any honest answer holds; asking again would not help."""


class _Absent(Unanswered):
    """Nobody took the connection, and nobody ever did."""


class Refused(Exception):
    """The endpoint answered with an error: its status, the body of the response, and where it sends us instead."""

    def __init__(self, status: int, data: bytes, elsewhere: str = "") -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.data = data
        self.elsewhere = elsewhere


class Connection:
    """Connections to an endpoint, in an `async with` block. `stop` ends all waiting: nothing is sent after it."""

    def __init__(self, address: Address, known: bool = True) -> None:
        """Read the key. An endpoint that is not `known` to be there is not knocked at twice.

        Errors: ProposerError for a key that no header can carry.
        """
        self._address = address
        self._key = _read_key(address.key_variable)
        self._stopped = asyncio.Event()
        self._reached = known
        self._not_before = 0.0

    async def __aenter__(self) -> Connection:
        most = self._address.concurrency
        try:
            self._client = httpx2.AsyncClient(
                headers=self._key.headers(),
                timeout=httpx2.Timeout(self._address.timeout, connect=min(self._address.timeout, _LONGEST_KNOCK)),
                limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
            )
        except (ValueError, OSError, ImportError) as exc:  # a proxy or certificates named in the environment
            raise ProposerError(f"{self._address.base} cannot be asked: {one_line(exc)}") from exc
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    @property
    def keyed(self) -> bool:
        """Whether there is a key."""
        return bool(self._key)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Send nothing more; requests on their way come to their end."""
        self._stopped.set()

    async def call(self, path: str, body: bytes | None, spent: Spent) -> bytes:
        """Return the body of the response to a GET, or to a POST of a JSON body; count requests in `spent`.

        Time-outs, broken connections, 429 and 5xx are tried again; while the endpoint asks for a pause, nobody sends.
        Errors: Unanswered (Endless at once), Refused, and ProposerError where the pause is too long to sit through.
        """

        async def once() -> bytes:
            await self._turn()
            if self.stopped:
                raise Unanswered("the run ended before it was asked again")
            spent.requests += 1
            return await self._once(path, body)

        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._address.retries + 1),
            wait=wait_exponential(self._address.backoff, max=30) + wait_random(0, self._address.backoff),
            retry=retry_if_exception(self._may_pass),
            sleep=self._pause,
            reraise=True,
        )
        return await retrying(once)

    async def _once(self, path: str, body: bytes | None) -> bytes:
        try:
            async with (
                asyncio.timeout(self._address.timeout),  # as a whole: httpx2's own limits start anew with every byte
                self._client.stream(
                    "GET" if body is None else "POST",
                    self._address.base + path,
                    content=body,
                    headers={"Content-Type": "application/json"} if body is not None else None,
                ) as response,
            ):
                data = self._key.blot(await _content(response))
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as exc:
            raise (Unanswered if self._reached else _Absent)(one_line(exc)) from None
        except (TimeoutError, httpx2.TimeoutException):
            raise Unanswered(f"no answer within {self._address.timeout:g} s") from None
        except (httpx2.RequestError, OSError) as exc:
            raise Unanswered(one_line(exc)) from None
        self._reached = True
        if not 200 <= response.status_code < 300:
            self._heed(response.headers.get("Retry-After", ""))
            raise Refused(response.status_code, data, response.headers.get("Location", ""))
        return data

    def _heed(self, wanted: str) -> None:
        """Let nobody send before the time that a `Retry-After` names: seconds or a date."""
        seconds = _seconds(wanted)
        if seconds > _LONGEST_PAUSE:
            raise ProposerError(
                f"{self._address.base} asks to be left alone for {seconds:.0f} s: run again after that; "
                "answered neurons are not asked twice"
            )
        self._not_before = max(self._not_before, asyncio.get_running_loop().time() + seconds)

    async def _turn(self) -> None:
        while not self.stopped and (left := self._not_before - asyncio.get_running_loop().time()) > 0:
            await self._pause(left)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopped.wait(), seconds)

    def _may_pass(self, exc: BaseException) -> bool:
        if self.stopped or isinstance(exc, _Absent | Endless):
            return False
        return isinstance(exc, Unanswered) or (
            isinstance(exc, Refused) and (exc.status in _PASSING or exc.status >= 500)
        )


class _Key:
    """A key, or none; it shows itself to nobody but a server."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "<a key>" if self._value else "<no key>"

    def __bool__(self) -> bool:
        return bool(self._value)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def blot(self, data: bytes) -> bytes:
        # Stand-ins like "EMPTY" are no secrets, and their letters may well be part of an answer.
        return data.replace(self._value.encode(), b"***") if len(self._value) >= 8 else data


def _read_key(variable: str) -> _Key:
    value = os.environ.get(variable, "").strip() if variable else ""
    if not (value.isascii() and value.isprintable()):
        raise ProposerError(f"the key in {variable} holds characters that no header can carry: expected plain ASCII")
    return _Key(value)


async def _content(response: httpx2.Response) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.aiter_bytes():
        parts.append(part)
        size += len(part)
        if size > _LARGEST:
            raise Endless(f"the endpoint's answer has more than {_LARGEST} bytes")
    return b"".join(parts)


def _seconds(wanted: str) -> float:
    """Return how many seconds a `Retry-After` header asks for, 0 where it says nothing that can be read."""
    try:
        seconds = float(wanted)
    except ValueError:
        try:
            date = parsedate_to_datetime(wanted)
        except ValueError:
            return 0.0
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
