"""What stands around every request: who may ask, how much, how long; headers, log, counters. No index is needed."""

from __future__ import annotations

import json
import logging
import time

import pytest
from guarded import ask, echo, guarded
from starlette.responses import JSONResponse

from csp_index.service.config import ServiceSettings
from csp_index.service.http.access_log import Journal
from csp_index.service.http.auth import Token, local_path
from csp_index.service.http.guard import SECURITY_HEADERS, Guard

TOKEN = "a token of some length"
OPEN = {"host": "0.0.0.0", "public_read": True}


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST:9", "127.0.0.1:8000", "[::1]:1", "localhost."])
def test_on_loopback_the_own_names_are_answered(name):
    assert ask(guarded(), host=name).status == 200


@pytest.mark.parametrize(
    "name", ["evil.example", "localhost.evil.example", "10.0.0.9", "", "a b", "u@localhost", "[::1", "x:y"]
)
def test_on_loopback_other_names_are_refused(name):
    reply = ask(guarded(), host=name)
    assert (reply.status, reply.error["type"]) == (400, "bad-request")


def test_further_names_are_answered_where_they_were_allowed():
    assert ask(guarded(hosts=("birds.example",)), host="Birds.example:80").status == 200
    assert ask(guarded(**OPEN), host="10.1.2.3:8000").status == 200  # an address cannot be rebound
    assert ask(guarded(**OPEN), host="evil.example").status == 400


def test_two_host_headers_or_two_lengths_are_refused():
    assert ask(guarded(), headers=[("host", "localhost")]).status == 400
    both = [("content-length", "3"), ("transfer-encoding", "chunked")]
    assert ask(guarded(), "POST", headers=both, chunks=[b"abc"]).status == 400


@pytest.mark.parametrize("path", ["http://evil.example/", "*", "/a\x00b", "/a\nb"])
def test_what_is_no_path_is_refused(path):
    assert ask(guarded(), path=path).status == 400


def test_every_answer_has_the_security_headers_and_an_id():
    for reply in (ask(guarded()), ask(guarded(), host="evil.example")):
        assert reply.headers.items() >= SECURITY_HEADERS.items()
        assert reply.headers["cache-control"] == "no-store"
        assert len(reply.headers["x-request-id"]) == 16
    assert "unsafe" not in SECURITY_HEADERS["content-security-policy"]
    reply = ask(guarded(), host="evil.example")
    assert reply.error["request_id"] == reply.headers["x-request-id"]


@pytest.mark.parametrize("given", [{"token": "t" * 20}, {"write": True}, {"rate": True}])
def test_no_window_holds_a_page_that_may_act_for_its_reader(given):
    for refused in (ask(guarded(**given)), ask(guarded(**given), host="evil.example")):
        assert refused.headers["cross-origin-opener-policy"] == "same-origin"
    assert "cross-origin-opener-policy" not in ask(guarded()).headers


def test_head_is_get_without_the_body():
    reply = ask(guarded(), "HEAD")
    assert (reply.status, reply.body) == (200, b"")
    assert int(reply.headers["content-length"]) > 0


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", TOKEN)],
        [("authorization", "Bearer")],
        [("authorization", f"Bearer {TOKEN[:-1]}")],
        [("authorization", f"Bearer {TOKEN}x")],
        [("authorization", f"Basic {TOKEN}")],
        [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer x")],
        [("cookie", f"csp_index_8000={TOKEN}")],
        [("cookie", "csp_index_8000=99999999999.00")],
        [("cookie", "csp_index_8000=\u0661\u0662.x")],
        [("cookie", "csp_index_8000")],
    ],
)
def test_without_the_token_nothing_is_told(headers):
    reply = ask(guarded(token=TOKEN), headers=headers)
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert TOKEN not in reply.body.decode()


def test_the_token_and_a_session_are_let_in():
    assert ask(guarded(token=TOKEN), headers=[("authorization", f"bearer {TOKEN}")]).status == 200
    token = Token(TOKEN, 8000, "a start")
    guard = Guard(echo, ServiceSettings(token=TOKEN), token, Journal(), lambda scope, fault: JSONResponse({}, 401))
    cookie = f"{token.cookie}={token.session()}"
    assert TOKEN not in cookie
    assert ask(guard, headers=[("cookie", f"a=b; {cookie}")]).status == 200
    assert ask(guard, headers=[("cookie", cookie[:-1])]).status == 401
    assert ask(guarded(token=TOKEN), headers=[("cookie", cookie)]).status == 401  # of another process


def test_a_session_ends(monkeypatch):
    token = Token(TOKEN, 8000, "a start")
    cookie = [(b"cookie", f"{token.cookie}={token.session()}".encode())]
    assert token.admits(cookie)
    now = time.time()
    monkeypatch.setattr("csp_index.service.http.auth.time.time", lambda: now + token.seconds + 1)
    assert not token.admits(cookie)


def test_health_and_the_form_need_no_token():
    for path in ("/healthz", "/readyz", "/login", "/static/style.css"):
        assert ask(guarded(token=TOKEN), path=path).status == 200
    for path in ("/metrics", "/healthz/", "/login/x", "/staticx", "/openapi.json"):
        assert ask(guarded(token=TOKEN), path=path).status == 401


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_other_sites_may_not_make_a_browser_ask(method):
    for origin in ("https://evil.example", "null", "http://localhost:3000"):
        assert ask(guarded(), method, headers=[("origin", origin)]).status == 403
    for site in ("cross-site", "same-site"):
        for mode, kind in (("no-cors", "image"), ("cors", "empty"), ("navigate", "iframe"), ("no-cors", "script")):
            sent = [("sec-fetch-site", site), ("sec-fetch-mode", mode), ("sec-fetch-dest", kind)]
            assert ask(guarded(), method, headers=sent).status == 403


def test_people_follow_links_of_other_sites_and_pages_ask_their_own():
    followed = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")]
    assert ask(guarded(), headers=followed).status == 200
    for site in ("same-origin", "none"):
        assert ask(guarded(), headers=[("sec-fetch-site", site), ("sec-fetch-mode", "cors")]).status == 200
    allowed = [("origin", "https://a.example"), ("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "cors")]
    assert ask(guarded(origins=("https://a.example",)), headers=allowed).status == 200


def test_other_sites_may_not_post():
    assert ask(guarded(), "POST", headers=[("origin", "https://evil.example")]).error["type"] == "forbidden"
    assert ask(guarded(), "POST", headers=[("origin", "null")]).status == 403
    assert ask(guarded(), "POST", headers=[("origin", "http://[")]).status == 403
    assert ask(guarded(), "POST", headers=[("origin", "http://localhost")]).status == 200
    assert ask(guarded(origins=("https://a.example",)), "POST", headers=[("origin", "https://a.example")]).status == 200


def test_bodies_are_limited_whatever_they_say_of_their_length():
    chunked = [("transfer-encoding", "chunked")]
    assert ask(guarded(body_bytes=10), "POST", headers=chunked, chunks=[b"12345"] * 2).status == 200
    reply = ask(guarded(body_bytes=10), "POST", headers=chunked, chunks=[b"12345"] * 3)
    assert (reply.status, reply.headers["connection"]) == (413, "close")
    endless = ask(guarded(body_bytes=10), "POST", headers=[("content-length", "9" * 4000)], chunks=[b"x"] * 500)
    assert endless.status == 413
    form = [("content-length", "5000"), ("content-type", "multipart/form-data; boundary=x")]
    assert ask(guarded(body_bytes=10), "POST", headers=form, chunks=[b"x" * 5000]).status == 200
    assert ask(guarded(upload_bytes=1), "POST", headers=form, chunks=[b"x" * 70_000]).status == 413


def test_what_fails_is_500_and_tells_only_the_log(caplog):
    async def broken(scope, receive, send):
        raise RuntimeError("the password is swordfish")

    with caplog.at_level(logging.ERROR, "csp_index.service"):
        reply = ask(guarded(broken))
    assert (reply.status, reply.error["type"]) == (500, "internal")
    assert "swordfish" not in reply.body.decode()
    assert "swordfish" in caplog.text and reply.headers["x-request-id"] in caplog.text


def test_one_line_of_json_a_request_without_what_may_be_private(caplog):
    with caplog.at_level(logging.INFO, "csp_index.service.requests"):
        reply = ask(guarded(token=TOKEN), path="/x\u2028y", headers=[("authorization", f"Bearer {TOKEN}")])
    (line,) = [record.getMessage() for record in caplog.records]
    told = json.loads(line)
    assert set(told) == {"time", "id", "method", "route", "path", "status", "ms", "bytes", "client"}
    assert (told["id"], told["status"], told["client"]) == (reply.headers["x-request-id"], 200, "10.0.0.7")
    assert told["bytes"] == len(reply.body)
    assert TOKEN not in line and "secret" not in line and line.isascii()


def test_requests_are_counted_by_few_names():
    journal = Journal()
    guard = guarded(journal=journal)
    ask(guard)
    ask(guard, "BREW", path="/coffee")
    told = journal.exposition().decode()
    assert 'csp_index_requests_total{method="GET",route="-",status="200"} 1.0' in told
    assert 'csp_index_requests_total{method="other",route="-",status="200"} 1.0' in told
    assert "csp_index_in_flight 0.0" in told and "coffee" not in told


@pytest.mark.parametrize("given", ["//evil.com", "https://evil.com", "/\\evil", "x", "", "/a\r\nb: c", "/\u00e9"])
def test_signing_in_goes_on_to_an_address_of_this_service(given):
    assert local_path(given) == "/"
