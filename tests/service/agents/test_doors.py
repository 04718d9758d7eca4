"""What stands before the protocol: the token, the method of a request, an SDK that is missing."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections import Counter

import pytest
from checkout import ROOT
from planted import Served
from starlette.testclient import TestClient

from csp_index.service import ServiceSettings, make_app

TOKEN = "a token of some length"
CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
JSON = {"accept": "application/json, text/event-stream"}
WITH = {"authorization": f"Bearer {TOKEN}"}
SDK = ("mcp", "mcp.server", "csp_index.service.agents.protocol")


def client_of(served: Served) -> TestClient:
    app = make_app(served[0].store.uri, ServiceSettings(token=TOKEN))
    return TestClient(app, "http://localhost:8000", raise_server_exceptions=False)


def test_nobody_calls_a_tool_without_the_token(planted: Served) -> None:
    client = client_of(planted)
    for headers in (JSON, JSON | {"authorization": "Bearer another"}):
        reply = client.post("/mcp", json=CALL, headers=headers)
        assert reply.status_code == 401 and reply.json()["error"]["type"] == "unauthorised"


def test_pages_of_other_sites_call_no_tool(planted: Served) -> None:
    foreign = JSON | WITH | {"origin": "https://elsewhere.example"}
    assert client_of(planted).post("/mcp", json=CALL, headers=foreign).status_code == 403


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_there_is_no_stream_and_no_session(planted: Served, method: str) -> None:
    reply = client_of(planted).request(method, "/mcp", headers=JSON | WITH)
    assert reply.status_code == 405 and reply.headers["allow"] == "POST"


def test_clients_that_go_away_leave_nothing_behind(planted: Served) -> None:
    """There is no session to be ended, so none can be forgotten."""
    pytest.importorskip("mcp")
    client = client_of(planted)
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": about}

    def left() -> Counter[str]:
        gc.collect()
        return Counter(kind for one in gc.get_objects() if "mcp." in (kind := str(type(one))))

    replies = [client.post("/mcp", json=call, headers=JSON | WITH)]
    before = left()
    replies += [client.post("/mcp", json=call, headers=JSON | WITH) for _ in range(20)]
    assert all(reply.status_code == 200 and "mcp-session-id" not in reply.headers for reply in replies)
    assert all(count < 20 for count in (left() - before).values()), left() - before


def test_a_missing_sdk_is_one_line_that_names_the_extra(planted: Served, monkeypatch: pytest.MonkeyPatch, run) -> None:
    for name in SDK:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delattr("csp_index.service.agents.protocol", raising=False)
    reply = client_of(planted).post("/mcp", json=CALL, headers=JSON | WITH)
    assert reply.status_code == 404 and "pip install 'csp_index[mcp]'" in reply.json()["error"]["message"]
    said = run("mcp", planted[0].store.uri)
    assert (said.status, said.out) == (1, "") and said.err.count("\n") == 1
    assert "pip install 'csp_index[mcp]'" in said.err


@pytest.mark.slow
def test_the_sdk_is_loaded_only_when_it_is_used(planted: Served) -> None:
    code = (
        "import sys; from csp_index.service import ServiceSettings, make_app;"
        f"make_app({planted[0].store.uri!r}, ServiceSettings()); import csp_index.cli;"
        "sys.exit('mcp' in sys.modules or 'mcp_types' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
