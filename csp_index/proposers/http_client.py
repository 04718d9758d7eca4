"""HTTP to one endpoint: persistent connections, time limits, retries, the key.

The only file that imports httpx2 and tenacity. Knows nothing about questions or answers. The key is read from the
environment per connection; no error contains it, and where a server repeats it, it is masked.
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

_LARGEST: Final = 4 * 2**20  # bytes of a response; no valid answer is as long
_LONGEST_PAUSE: Final = 600.0  # seconds that an endpoint may ask us to wait
_LONGEST_CONNECT: Final = 10.0  # seconds to connect
_TRANSIENT: Final = frozenset({408, 425, 429})  # and all from 500 on: a retry may help


@dataclass(frozen=True, slots=True)
class Address:
    """An endpoint and its request limits.

    `base` is its URL without a trailing slash; `key_variable` names the environment variable of its key. `timeout`
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
    """The cost of a call so far."""

    requests: int = 0


class Unanswered(Exception):
    """No complete response came back."""


class Endless(Unanswered):
    """The response is larger than any valid answer; a retry would not help."""


class _Absent(Unanswered):
    """The endpoint has never accepted a connection."""


class Refused(Exception):
    """The endpoint answered with an error: its status, the response's body, and the address of a redirect."""

    def __init__(self, status: int, data: bytes, elsewhere: str = "") -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.data = data
        self.elsewhere = elsewhere


class Connection:
    """Connections to an endpoint, in an `async with` block. After `stop` nothing is sent, and all waiting ends."""

    def __init__(self, address: Address, known: bool = True) -> None:
        """Read the key. A failed connection is not retried unless the endpoint is `known` to exist.

        Errors: ProposerError for a key that no header can contain.
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
                timeout=httpx2.Timeout(self._address.timeout, connect=min(self._address.timeout, _LONGEST_CONNECT)),
                limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
            )
        except (ValueError, OSError, ImportError) as exc:  # a proxy or certificates of the environment
            raise ProposerError(f"{self._address.base} cannot be reached: {one_line(exc)}") from exc
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
        """Send nothing more; requests in progress finish."""
        self._stopped.set()

    async def call(self, path: str, body: bytes | None, spent: Spent) -> bytes:
        """Return the body of the response to a GET, or to a POST of a JSON body; count requests in `spent`.

        Timeouts, broken connections, 429 and 5xx are retried; while the endpoint asks for a pause, no call sends.
        Errors: Unanswered (Endless without a retry), Refused, and ProposerError for too long a pause.
        """

        async def once() -> bytes:
            await self._turn()
            if self.stopped:
                raise Unanswered("the run ended before the request was repeated")
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
                asyncio.timeout(
                    self._address.timeout
                ),  # for the whole response: httpx2's own limits restart with every byte
                self._client.stream(
                    "GET" if body is None else "POST",
                    self._address.base + path,
                    content=body,
                    headers={"Content-Type": "application/json"} if body is not None else None,
                ) as response,
            ):
                data = self._key.mask(await _content(response))
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

    def _heed(self, retry_after: str) -> None:
        """Delay all calls until the time in a `Retry-After` header: seconds or a date."""
        seconds = _seconds(retry_after)
        if seconds > _LONGEST_PAUSE:
            raise ProposerError(
                f"{self._address.base} asks for a pause of {seconds:.0f} s: run again after that; "
                "stored answers are not requested again"
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
            isinstance(exc, Refused) and (exc.status in _TRANSIENT or exc.status >= 500)
        )


def is_address(base: str) -> bool:
    """Return whether requests can be sent to an address."""
    try:
        return bool(httpx2.URL(base).host)
    except httpx2.InvalidURL:
        return False


class _Key:
    """A key, or none; only requests contain it."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __repr__(self) -> str:
        return "<a key>" if self._value else "<no key>"

    def __bool__(self) -> bool:
        return bool(self._value)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._value}"} if self._value else {}

    def mask(self, data: bytes) -> bytes:
        # Placeholders like "EMPTY" are no secrets, and may well occur in an answer.
        return data.replace(self._value.encode(), b"***") if len(self._value) >= 8 else data


def _read_key(variable: str) -> _Key:
    value = os.environ.get(variable, "").strip() if variable else ""
    if not (value.isascii() and value.isprintable()):
        raise ProposerError(f"the key in {variable} has characters that no header can contain: expected plain ASCII")
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


def _seconds(retry_after: str) -> float:
    """Return the seconds in a `Retry-After` header, 0 if it cannot be parsed."""
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            date = parsedate_to_datetime(retry_after)
        except (ValueError, OverflowError, TypeError, IndexError):
            return 0.0
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
