"""Static files: whole, compressed, lasting only by their version; joined scripts keep their own names."""

from __future__ import annotations

import gzip
from importlib import resources

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from csp_index.service.http import static_files
from csp_index.service.http.static_files import JOINED

FOLDER = resources.files("csp_index.service") / "static"


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(static_files.router())
    return TestClient(app)


def test_a_file_is_sent_as_it_is_with_its_kind(client: TestClient) -> None:
    plain = client.get("/static/style.css", headers={"accept-encoding": "identity"})
    assert plain.content == FOLDER.joinpath("style.css").read_bytes()
    assert "content-encoding" not in plain.headers
    assert plain.headers["content-type"] == "text/css; charset=utf-8"
    assert client.get("/static/favicon.svg").headers["content-type"].startswith("image/svg+xml")
    assert client.get("/static/page.js").headers["content-type"].startswith(("text/javascript", "application/java"))


def test_a_file_is_compressed_for_who_reads_that(client: TestClient) -> None:
    sent = client.get("/static/style.css", headers={"accept-encoding": "br, gzip"})
    assert sent.headers["content-encoding"] == "gzip" and sent.headers["vary"] == "accept-encoding"
    assert sent.content == FOLDER.joinpath("style.css").read_bytes()  # the client has unpacked it
    file = static_files.static_files()["style.css"]
    assert gzip.decompress(file.compressed) == file.body and len(file.compressed) < len(file.body) / 2
    assert int(sent.headers["content-length"]) == len(file.compressed)


def test_only_an_address_with_a_version_lasts(client: TestClient) -> None:
    assert "immutable" in client.get("/static/style.css?v=1").headers["cache-control"]
    first = client.get("/static/style.css")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/static/style.css", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = client.get("/static/neuron.css", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200


@pytest.mark.parametrize("name", ["nothing.css", "", "../app.py", "%2e%2e/app.py", "/etc/passwd", "style.css/"])
def test_there_is_nothing_else(client: TestClient, name: str) -> None:
    assert client.get(f"/static/{name}").status_code == 404


def test_joined_files_have_all_parts_in_their_order() -> None:
    files = static_files.static_files()
    for whole, names in JOINED.items():
        places = [files[whole].body.index(files[name].body) for name in names]
        assert places == sorted(places)
    script = files["page.js"].body.decode()
    assert (
        script.startswith("{\n") and script.count("\n}\n{\n") >= len(JOINED["page.js"]) - 1
    )  # blocks: each its own names


def test_the_version_changes_with_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    files = dict(static_files.static_files())
    before = static_files.version.__wrapped__()
    files["page.js"] = static_files.StaticFile(b"changed", b"", "text/javascript", "")
    monkeypatch.setattr(static_files, "static_files", lambda: files)
    assert static_files.version.__wrapped__() != before
