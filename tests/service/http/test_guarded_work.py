"""How long the guard lets a request arrive, wait and work, and how work is stopped whose answer nobody hears."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from guarded import Reply, ask, asked, echo, guarded
from loops import run_in_own_loop
from starlette.responses import JSONResponse

from csp_index.errors import StoppedError
from csp_index.service.http.client import stop_of


def test_a_slow_body_is_given_up():
    headers = [("transfer-encoding", "chunked")]
    reply = ask(guarded(arrival=0.05), "POST", headers=headers, chunks=[b"x"] * 9, pause=0.02)
    assert (reply.status, reply.error["type"], reply.headers["connection"]) == (408, "timeout", "close")


def test_slow_work_is_given_up_and_what_it_says_later_is_dropped():
    late = []

    async def slow(scope, receive, send):
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:  # as a thread, which cannot be ended
            await JSONResponse({"late": True})(scope, receive, send)
            late.append(True)

    async def both() -> Reply:
        guard = guarded(slow, timeout=0.05)
        reply = await asked(guard)
        await asyncio.sleep(0.01)
        return reply

    reply = run_in_own_loop(both)
    assert (reply.status, reply.error["type"], late) == (504, "timeout", [True])


def test_more_requests_than_may_wait_are_sent_away_but_not_the_probes():
    async def crowd() -> list[int]:
        go = asyncio.Event()

        async def held(scope, receive, send):
            if scope["path"] != "/healthz":
                await go.wait()
            await echo(scope, receive, send)

        guard = guarded(held, waiting=2)
        working = [asyncio.ensure_future(asked(guard)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        more = await asked(guard)
        assert more.headers["retry-after"] == "1"
        health = await asked(guard, path="/healthz")
        go.set()
        done = await asyncio.gather(*working)
        again = await asked(guard)
        return [more.status, health.status, *(reply.status for reply in done), again.status]

    assert run_in_own_loop(crowd) == [503, 200, 200, 200, 200]


async def worked(guard: Any, leave: asyncio.Event) -> list[dict[str, Any]]:
    """What a client receives that leaves once the event is set."""
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [(b"host", b"localhost")]}
    sent: list[dict[str, Any]] = []

    async def receive():
        await leave.wait()
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    await guard(scope | {"client": ("10.0.0.7", 5), "scheme": "http"}, receive, send)
    return sent


def test_the_work_of_a_client_who_leaves_is_stopped(caplog):
    stops, late = [], []

    async def work(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        stops.append(stop_of(scope))
        leave.set()
        assert (await receive())["type"] == "http.disconnect"
        late.append(True)
        await echo(scope, receive, send)

    async def scene():
        return await asyncio.wait_for(worked(guarded(work), leave), 10)

    leave = asyncio.Event()
    with caplog.at_level(logging.INFO, "csp_index.service.requests"):
        assert run_in_own_loop(scene) == []
    with pytest.raises(StoppedError, match="the client left"):
        stops[0].check()
    assert json.loads(caplog.records[-1].getMessage())["status"] == 499


def test_the_time_limit_stops_the_work():
    stops = []

    async def slow(scope, receive, send):
        stops.append(stop_of(scope))
        await asyncio.sleep(60)

    reply = ask(guarded(slow, timeout=0.05))
    assert reply.status == 504
    with pytest.raises(StoppedError, match=r"the answer took longer than 0\.05 s"):
        stops[0].check()


def test_a_service_that_ends_stops_the_work_and_says_so():
    stops = []

    async def slow(scope, receive, send):
        stops.append(stop_of(scope))
        await asyncio.sleep(60)

    async def scene():
        asking = asyncio.ensure_future(asked(guarded(slow)))
        await asyncio.sleep(0.01)
        asking.cancel()
        return await asking

    reply = run_in_own_loop(scene)
    assert (reply.status, reply.error["type"], reply.headers["connection"]) == (503, "stopped", "close")
    with pytest.raises(StoppedError, match="the service ends"):
        stops[0].check()


def test_a_service_that_ends_answers_requests_that_are_still_arriving():
    async def scene():
        arriving = asyncio.ensure_future(asked(guarded(), "POST", headers=[("content-length", "9")], chunks=()))
        await asyncio.sleep(0.01)
        arriving.cancel()
        return await arriving

    reply = run_in_own_loop(scene)
    assert (reply.status, reply.error["type"], reply.headers["connection"]) == (503, "stopped", "close")


def test_work_without_an_end_requested_goes_on():
    async def work(scope, receive, send):
        stop_of(scope).check()
        await echo(scope, receive, send)

    assert ask(guarded(work)).status == 200
