"""The page of an audit, its JSON twin and the API: the same findings, and nothing of an index unescaped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from audited import audit, make_audited
from starlette.testclient import TestClient

from csp_index.service import ServiceSettings, make_app
from csp_index.studies.reporting.seal import digest_of, is_intact, stated_seal

EVIL = "<script>alert('pink')</script>"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("audited")
    audit(make_audited(folder, value=EVIL), ("pink", "ring", "ring"))
    yield TestClient(
        make_app(folder / "db", ServiceSettings()), base_url="http://127.0.0.1"
    )  # not started: it loads models only when asked for what needs them


def test_the_page_its_twin_and_the_api_say_the_same(client: TestClient) -> None:
    twin = client.get("/audit/net.json").json()
    assert twin == client.get("/api/v1/audit/net").json() == client.get("/audit/net.json?layer=pooled&by=class").json()
    first = twin["findings"][0]
    assert (first["subject"], first["class_name"], first["above"]) == (f"frame: {EVIL}", "star", True)
    assert twin["names"][str(first["evidence"]["pairs"][0]["image"])] == "00000.png"
    page = client.get("/audit/net", headers={"accept": "text/html"})
    assert page.status_code == 200 and "/audit/net.json" in page.text
    assert first["finding"] in page.text and "Effects: star 2.000" in page.text
    assert EVIL not in page.text and "&lt;script&gt;" in page.text


def test_home_leads_to_audits(client: TestClient) -> None:
    page = client.get("/", headers={"accept": "text/html"}).text
    assert "/audit/net?layer=pooled&amp;by=class" in page
    (row,) = client.get("/index.json").json()["audits"]
    assert row["layer"] == "net/pooled" and row["findings"] >= 1


def test_what_is_not_audited_is_missing(client: TestClient) -> None:
    for address in ("/audit/other.json", "/audit/net.json?by=kind", "/api/v1/audit/net?layer=conv"):
        assert client.get(address).status_code == 404


def test_the_report_is_the_file_that_the_command_writes(client: TestClient) -> None:
    page = client.get("/audit/net", headers={"accept": "text/html"}).text
    assert "/audit/net/report?layer=pooled&amp;by=class" in page
    report = client.get("/audit/net/report?layer=pooled&by=class")
    assert report.status_code == 200 and is_intact(report.content)
    assert "<script" not in report.text and "Audit of net/pooled" in report.text
    policy = report.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-") and "frame-ancestors" in policy
    again = client.get(report.url, headers={"if-none-match": report.headers["etag"]})
    assert again.status_code == 304 and again.headers["content-security-policy"] == policy  # else it loses its style
    twin = client.get("/audit/net/report.json").json()
    assert twin == client.get("/api/v1/audit/net/report").json()
    seal, digest = stated_seal(report.content)
    assert (twin["digest"], twin["digests"]) == (digest, dict(seal.parts))
    assert digest_of(twin["parts"]["findings"]) == seal.parts["findings"]
    assert client.get("/audit/other/report").status_code == client.get("/audit/other/report.json").status_code == 404
