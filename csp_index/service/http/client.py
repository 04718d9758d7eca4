"""The client of one request: its body, whether it is still there, and the stop of the work that it caused."""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.types import Message, Receive, Scope

from csp_index.concurrency import Stop

STOP: Final = "csp_index.stop"
"""The key of a request's scope that holds the stop of its work."""


def stop_of(scope: Scope) -> Stop:
    """Return the stop of a request's work: set once the client leaves, the time limit passes or the service ends."""
    stop: Stop = scope[STOP]
    return stop


class Client:
    """Passes on the body of a request, which has arrived, and watches the connection from then on."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        """Begin to watch; `let_go` ends that."""
        self._body: bytes | None = body
        self._watch = asyncio.ensure_future(_disconnected(receive))

    async def receive(self) -> Message:
        """Return the whole body first, then, once it happens, that the client has left."""
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.shield(self._watch)
        return {"type": "http.disconnect"}

    async def wait(self, task: asyncio.Task[None], seconds: float) -> None:
        """Wait until a task is done, the client leaves, or some seconds have passed."""
        await asyncio.wait({task, self._watch}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)

    @property
    def has_left(self) -> bool:
        """Whether the client has left."""
        return self._watch.done()

    def let_go(self) -> None:
        """Watch no longer."""
        self._watch.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        await asyncio.sleep(0)
