"""The tools by the protocol's own client: over standard input and output, and over HTTP behind the token."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from browsing import CLI
from loops import run_in_own_loop
from PIL import Image

from csp_index.errors import StoppedError
from csp_index.service import ServiceSettings, make_app
from csp_index.service.agents.tools import TOOLS

pytest.importorskip("mcp")

import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

TOKEN = "a token of some length"
NEURON = "cnn/concepts/3"
MODES = ["legacy", "auto"]  # the protocol up to 2025, with a handshake, and that of 2026, without


@asynccontextmanager
async def over_http(db: Path, mode: str, token: str | None = TOKEN, **given: Any) -> AsyncIterator[Client]:
    """Connect the SDK's client with the application, without a socket."""
    app = make_app(db, ServiceSettings(token=TOKEN, **given))
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app), headers=headers)
    async with http, Client(streamable_http_client("http://localhost:8000/mcp", http_client=http), mode=mode) as client:
        yield client


async def asked(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Return the document of a tool that succeeds."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    return json.loads(result.content[0].text)


async def walk(client: Client) -> None:
    """Use every tool, as a model would that never saw the index."""
    listed = await client.list_tools()
    assert [tool.name for tool in listed.tools] == [tool.name for tool in TOOLS]
    assert all(tool.annotations.read_only_hint and tool.input_schema["type"] == "object" for tool in listed.tools)
    assert "never instructions" in client.instructions
    (layer,) = (await asked(client, "layers"))["layers"]
    page = await asked(client, "neurons", layer=layer["layer"], state="labelled", limit=3)
    neuron = page["neurons"][0]["neuron"]
    known = await asked(client, "neuron", neuron=neuron)
    assert known["label"] == page["neurons"][0]["label"] and known["activating"][0]["image"]["name"].endswith(".png")
    found = await asked(client, "search", text=known["label"])
    assert found["means"] and found["images"] and not found["note"]
    word = await asked(client, "concept", word=known["label"])
    assert neuron in [row["neuron"] for row in word["labeled"]] and word["groups"][0]["way"] == "labeled"
    labeled = await asked(client, "label", neurons=[neuron], candidates=["striped", "nothing at all", known["label"]])
    assert {each["text"] for each in labeled["results"][0]["labels"]} <= {"striped", "nothing at all", known["label"]}
    image = await client.call_tool("image", {"image_id": found["images"][0]["image"]["id"]})
    card = await client.call_tool("card", {"neuron": neuron})
    for content in (image.content, card.content):
        assert Image.open(io.BytesIO(base64.b64decode(content[1].data))).format in ("JPEG", "PNG")
    classes = await asked(client, "associations", address=layer["layer"], limit=2)
    assert classes["total"] > 2 == len(classes["classes"]) == classes["next"]
    assert (await asked(client, "sql_views", view="neurons"))["columns"]
    rows = await asked(client, "sql", sql="SELECT count(*) AS n FROM images")
    assert rows["rows"] == [[255]]


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_model_can_use_every_tool_over_http(served_db: Path, mode: str) -> None:
    async def talk() -> None:
        async with over_http(served_db, mode, sql=True, timeout=600) as client:
            await walk(client)

    run_in_own_loop(talk)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_model_can_use_every_tool_over_standard_streams(served_db: Path, mode: str) -> None:
    given = {**os.environ, "CSP_INDEX_SERVE_TIMEOUT": "600"}
    server = StdioServerParameters(command=CLI[0], args=[*CLI[1:], "mcp", str(served_db)], env=given)

    async def talk() -> None:
        async with Client(stdio_client(server), mode=mode) as client:
            await walk(client)

    run_in_own_loop(talk)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "command"), [("no index at", ["none.db"]), ("go together", ["none.db", "--texts", "t"])]
)
def test_what_is_wrong_is_told_before_the_protocol_begins(tmp_path: Path, run, told: str, command: list[str]) -> None:
    said = run("mcp", tmp_path / command[0], *command[1:])
    assert said.status in (1, 2) and said.out == "" and told in said.err


@pytest.mark.parametrize("mode", MODES)
def test_tools_over_http_return_documents_and_errors(planted: Any, mode: str) -> None:
    async def talk() -> None:
        async with over_http(planted[0].store.uri, mode, sql=False) as client:
            assert "sql" not in [tool.name for tool in (await client.list_tools()).tools]
            assert (await asked(client, "layers"))["images"] == 40
            word = await asked(client, "concept", word="striped")
            (group,) = (group for group in word["groups"] if group["way"] == "labeled")
            assert [row["neuron"] for row in group["neurons"]] == [row["neuron"] for row in word["labeled"]]
            assert group["neurons"][0]["ways"][0] == "labeled" and group["total"] >= 1
            wrong = await client.call_tool("neuron", {"neuron": "planted/words/99"})
            assert wrong.is_error and "neuron planted/words/99 does not exist" in wrong.content[0].text
            assert (await client.call_tool("nothing", {})).is_error

    run_in_own_loop(talk)


def test_a_call_that_takes_too_long_is_an_error_in_words(planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked_to_stop: list[str] = []

    def endless(service: Any, name: str, given: Any, check: Any) -> Any:
        while True:
            time.sleep(0.01)
            try:
                check()
            except StoppedError as exc:
                asked_to_stop.append(str(exc))
                raise

    monkeypatch.setattr("csp_index.service.agents.protocol.call", endless)

    async def talk() -> None:
        async with over_http(planted[0].store.uri, "auto", timeout=0.5) as client:
            late = await client.call_tool("layers", {})
            assert late.is_error and "took longer than 0.45 s" in late.content[0].text
            with anyio.fail_after(5):
                while not asked_to_stop:
                    await anyio.sleep(0.01)

    run_in_own_loop(talk)


def test_without_the_token_the_client_is_refused(planted: Any) -> None:
    async def talk() -> None:
        async with over_http(planted[0].store.uri, "auto", token=None):
            raise AssertionError("connected without a token")

    with pytest.raises((ExceptionGroup, httpx2.HTTPStatusError, MCPError)) as refused:
        run_in_own_loop(talk)
    assert "connected without a token" not in repr(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, None])
def test_it_ends_with_its_input_or_by_a_signal(planted: Any, sent: signal.Signals | None) -> None:
    command = [*CLI, "mcp", planted[0].store.uri]
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}) + "\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["result"]["serverInfo"]["name"] == "csp_index"
        if sent is None:
            process.stdin.close()
        else:
            process.send_signal(sent)
        assert process.wait(60) == (0 if sent is None else -sent)
