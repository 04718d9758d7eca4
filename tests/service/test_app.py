"""The application as a whole, over a small real index: one shape of errors, ETags, gzip, pages, signing in."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
from loops import run_in_own_loop
from starlette.testclient import TestClient

from csp_index import Index, open_index
from csp_index.errors import BusyError, SettingError, StoreError
from csp_index.service import ServiceSettings, make_app
from csp_index.service.http import own_threads
from csp_index.service.http.own_threads import Probe, Turns

TOKEN = "a token of some length"
HTML = {"accept": "text/html,*/*"}


def client_of(index: Path | Index, **given: object) -> TestClient:
    app = make_app(index, ServiceSettings(**given))
    return TestClient(app, "http://localhost:8000", raise_server_exceptions=False, follow_redirects=False)


@contextmanager
def unstarted(index: Path | Index, **given: object) -> Iterator[TestClient]:
    """A client of an application that was not started: it loads models only when asked for what needs them."""
    yield client_of(index, **given)


@pytest.fixture(scope="module")
def client(served_db: Path) -> Iterator[TestClient]:
    with client_of(served_db) as found:
        yield found


def files_of(index: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in index.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "page",
    [
        "/",
        "/search",
        "/search?q=red",
        "/search?neuron=cnn/concepts/3",
        "/search?image_id=3",
        "/layers/cnn/concepts",
        "/neurons/cnn/concepts/3",
        "/images/3",
        "/compare?neurons=cnn/concepts/3&neurons=cnn/concepts/4",
        "/sql",
    ],
)
def test_every_page_is_there_and_names_its_twin(client, page):
    reply = client.get(page, headers=HTML)
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/html")
    assert "style=" not in reply.text and "onclick" not in reply.text  # the content policy would block both
    twin = re.search(r'href="([^"]+)">This page as JSON', reply.text)
    if page != "/search":
        assert twin is not None
        assert client.get(twin[1].replace("&amp;", "&")).headers["content-type"] == "application/json"


def test_the_bounds_of_a_page_are_those_of_the_application(served_db):
    with unstarted(served_db, page=3, page_limit=300) as own:
        layer = "/layers/cnn/concepts"
        assert len(own.get(f"{layer}.json").json()["neurons"]) == 3
        assert own.get(f"{layer}.json").json()["query"]["limit"] == 3
        for address in (f"{layer}.json?", "/search.json?q=red&", "/api/v1/neurons?layer=cnn/concepts&"):
            assert own.get(f"{address}limit=250").status_code == 200
            assert own.get(f"{address}limit=301").status_code in (400, 422)
            assert own.get(f"{address}limit=0").status_code in (400, 422)


def test_nothing_is_loaded_from_elsewhere(client):
    for page in ("/", "/search?q=red", "/layers/cnn/concepts", "/neurons/cnn/concepts/3", "/sql", "/docs"):
        loaded = re.findall(r'(?:src|<link[^>]*href|action)="([^"]+)"', client.get(page).text)
        asked = [address for address in loaded if not address.startswith("data:image/")]  # pictures inside the page
        assert asked and all(address.startswith("/") and not address.startswith("//") for address in asked)
    assert client.get("/redoc").status_code == 404
    assert "swagger" not in client.get("/docs").text  # the manual, and not FastAPI's page


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nowhere", 404, "missing"),
        ("GET", "/api/v1/neurons/cnn/concepts/9999", 404, "missing"),
        ("GET", "/api/v1/neurons/cnn/elsewhere/1", 404, "missing"),
        ("GET", "/api/v1/images/999999", 404, "missing"),
        ("GET", "/api/v1/neurons/cnn/concepts/x", 422, "invalid"),
        ("GET", "/api/v1/neurons", 422, "invalid"),
        ("GET", "/api/v1/neurons?layer=cnn/concepts&cursor=!", 400, "setting"),
        ("PUT", "/api/v1/index", 405, "method"),
        ("POST", "/api/v1/sql", 422, "invalid"),
        ("GET", "/static/nothing.css", 404, "missing"),
        ("GET", "/login", 404, "missing"),
    ],
)
def test_errors_have_one_shape(client, method, path, status, kind):
    reply = client.request(method, path)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert set(error) == {"type", "message", "hint", "request_id"} and error["type"] == kind
    assert error["request_id"] == reply.headers["x-request-id"]
    assert "\n" not in error["message"] and str(Path.home()) not in reply.text


def test_browsers_get_errors_as_pages(client):
    reply = client.get("/neurons/cnn/concepts/9999", headers=HTML)
    assert reply.status_code == 404 and "<h1>" in reply.text
    assert client.get("/api/v1/neurons/cnn/concepts/9999", headers=HTML).json()["error"]["type"] == "missing"
    assert client.put("/api/v1/index").headers["allow"] == "GET"


def test_what_one_asked_for_does_not_come_back_as_markup(client):
    for path in ("/search?q=<script>alert(1)</script>", "/layers/cnn/<script>", "/compare?neurons=<script>/a/1"):
        own = client.get("/", headers=HTML).text.count("<script>")  # of every page, allowed by its digest
        assert client.get(path, headers=HTML).text.count("<script>") == own


def test_answers_that_do_not_change_have_an_etag(client):
    first = client.get("/api/v1/neurons/cnn/concepts/3")
    etag = first.headers["etag"]
    assert first.headers["cache-control"].startswith("private, max-age=")
    again = client.get("/api/v1/neurons/cnn/concepts/3", headers={"if-none-match": f'"x", {etag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert "content-security-policy" in again.headers and "content-type" not in again.headers
    assert client.get("/api/v1/neurons/cnn/concepts/3").content == first.content
    assert client.get("/api/v1/neurons/cnn/concepts/4").headers["etag"] != etag
    assert client.get("/api/v1/neurons/cnn/concepts/3?method=csp").headers["etag"] != etag
    for changing in ("/healthz", "/readyz", "/metrics", "/random"):
        assert "etag" not in client.get(changing).headers
    missing = client.get("/api/v1/images/999999")
    assert "etag" not in missing.headers and missing.headers["cache-control"] == "no-store"


def test_an_etag_is_of_one_start(client, served_db):
    with unstarted(served_db) as other:  # its models may load where the first one's did not
        assert other.get("/api/v1/layers").headers["etag"] != client.get("/api/v1/layers").headers["etag"]


def test_an_encoded_question_mark_is_another_address(client):
    assert client.get("/search?q=zebra?y").status_code == 200
    assert client.get("/search%3Fq=zebra?y").status_code == 404


def test_files_that_are_gone_are_no_fault_of_the_service(served_db, tmp_path):
    shutil.copytree(served_db, tmp_path / "db")
    with unstarted(tmp_path / "db") as found:
        assert found.get("/api/v1/neurons/cnn/concepts/3").status_code == 200
        shutil.rmtree(tmp_path / "db")
        for path in ("/api/v1/images/56", "/api/v1/images/78/thumbnail", "/api/v1/neurons/cnn/concepts/40"):
            assert found.get(path).status_code == 503
            assert str(tmp_path) not in found.get(path).text


def test_statements_that_wait_do_not_lock_others_out():
    turns = Turns(1)

    async def ask_many() -> list[str]:
        go_on, told = threading.Event(), []

        async def one() -> None:
            try:
                told.append(await turns.run(lambda statement: str(go_on.wait(20)) + statement, ""))
            except BusyError:
                told.append("busy")

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(one)
            await anyio.wait_all_tasks_blocked()
            go_on.set()
        return told

    told = run_in_own_loop(ask_many)
    assert (told.count("busy"), told.count("True")) == (3, 17)


def test_a_page_within_its_limit():
    with pytest.raises(SettingError, match="a page shows 700 neurons and may show 600"):
        ServiceSettings(page=700)


def test_text_is_compressed_and_pictures_are_not(client):
    path = "/api/v1/neurons/cnn/concepts/3"
    for _ in range(2):  # the second comes from memory
        plain = client.get(path, headers={"accept-encoding": "identity"})
        small = client.get(path, headers={"accept-encoding": "gzip"})
        assert small.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
        assert small.json() == plain.json()
        assert int(small.headers["content-length"]) < len(plain.content) / 2
        assert "accept-encoding" in small.headers["vary"].lower()
    picture = client.get("/api/v1/images/3/thumbnail", headers={"accept-encoding": "gzip"})
    assert picture.headers["content-type"] == "image/jpeg" and "content-encoding" not in picture.headers


def test_head_tells_of_an_answer_without_it(client):
    head, full = client.head("/api/v1/layers"), client.get("/api/v1/layers")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == full.headers["content-length"]


def test_counters_name_routes_and_not_addresses(client):
    client.get("/api/v1/neurons/cnn/concepts/5")
    client.get("/api/v1/neurons/cnn/concepts/5")
    client.post("/api/v1/sql", json={"sql": "SELECT 1"})
    client.post("/api/v1/sql", json={"sql": "DROP TABLE x"})
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    assert 'route="/api/v1/neurons/{model}/{layer}/{index}",status="200"' in reply.text
    assert "concepts/5" not in reply.text and 'csp_index_answers_total{source="memory"}' in reply.text
    assert 'csp_index_sql_total{outcome="done"}' in reply.text
    assert 'csp_index_sql_total{outcome="refused"}' in reply.text


def test_health(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    client.get("/api/v1/search?q=red")  # waits for the models
    assert client.get("/readyz").json() == {
        "ready": True,
        "engine": "ready",
        "snapshot": client.get("/api/v1/index").json()["snapshot"],
    }


def test_readiness_reads_the_index_that_the_service_holds(served_db: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(served_db, tmp_path / "copy.db")
    with client_of(copy) as opened:
        assert opened.get("/readyz").status_code == 200
        table = next(iter(sorted((copy / "neurons.lance" / "data").iterdir())))
        table.rename(tmp_path / "gone.lance")
        time.sleep(1.1)  # a passed check counts for a second
        reply = opened.get("/readyz")
        assert (reply.status_code, reply.json()["error"]["type"]) == (503, "store")
        assert opened.get("/healthz").status_code == 200
        (tmp_path / "gone.lance").rename(table)
        assert opened.get("/readyz").status_code == 200


def test_no_route_is_made_while_a_first_request_waits(served_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = make_app(served_db)

    def make(**_: object) -> None:
        raise AssertionError("a route was made")

    monkeypatch.setattr("fastapi.routing.get_dependant", make)
    with pytest.raises(AssertionError, match="a route was made"):
        app.get("/late")(lambda: None)
    with TestClient(app, "http://localhost") as client:
        assert client.get("/nothing/here").status_code == 404  # all routes were asked whether it is theirs


def test_the_version_that_is_served_outlives_a_clean_up(served_db: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(served_db, tmp_path / "copy.db")
    with client_of(copy) as opened:
        assert opened.get("/readyz").json()["ready"] is True
        with open_index(copy) as index:
            index.label("cnn/concepts/0", "csp", recompute=True)
            index.optimize(keep_hours=0)
        time.sleep(1.1)  # readiness is looked at anew
        assert opened.get("/readyz").status_code == 200
        assert opened.get("/neurons/cnn/concepts/0.json").status_code == 200
        shutil.rmtree(copy / "labels.lance")
        time.sleep(1.1)
        assert opened.get("/readyz").status_code == 503


def test_readiness_is_bounded_in_time_and_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    async def scene() -> None:
        probe = Probe(lambda: calls.append(1))
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(probe.passed)

    run_in_own_loop(scene)
    assert calls == [1]
    monkeypatch.setattr(own_threads, "_PROBE_SECONDS", 0.05)
    late = threading.Event()

    async def slow() -> None:
        await Probe(lambda: late.wait(10) and None).passed()

    with pytest.raises(BusyError, match="takes longer"):
        try:
            run_in_own_loop(slow)
        finally:
            late.set()


def test_the_files_of_pages_may_be_kept_by_their_version(client):
    (style,) = re.findall(r'href="(/static/style.css[^"]*)"', client.get("/").text)
    assert "immutable" in client.get(style).headers["cache-control"]
    assert client.get("/static/style.css").headers["cache-control"] == "no-cache"


def test_other_sites_read_only_where_they_may(client, served_db):
    site = {"origin": "https://a.example"}
    assert "access-control-allow-origin" not in client.get("/api/v1/layers", headers=site).headers
    with unstarted(served_db, origins=("https://a.example",), token=TOKEN) as opened:
        asks = site | {"access-control-request-method": "GET", "access-control-request-headers": "authorization"}
        reply = opened.options("/api/v1/layers", headers=asks)
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, "https://a.example")
        assert opened.get("/api/v1/layers", headers=site).status_code == 401
        reply = opened.get("/api/v1/layers", headers=site | {"authorization": f"Bearer {TOKEN}"})
        assert reply.headers["access-control-allow-origin"] == "https://a.example"
        evil = {"origin": "https://evil.example", "authorization": f"Bearer {TOKEN}"}
        assert "access-control-allow-origin" not in opened.get("/api/v1/layers", headers=evil).headers


def test_a_browser_signs_in_once(served_db):
    with unstarted(served_db, token=TOKEN) as closed:
        reply = closed.get("/layers/cnn/concepts?sort=score", headers=HTML)
        assert (reply.status_code, reply.headers["location"]) == (
            303,
            "/login?next=%2Flayers%2Fcnn%2Fconcepts%3Fsort%3Dscore",
        )
        form = closed.get(reply.headers["location"], headers=HTML)
        assert form.status_code == 200 and "served.db" not in form.text
        assert 'value="/layers/cnn/concepts?sort=score"' in form.text
        wrong = closed.post("/login", data={"token": "no", "next": "/"}, headers=HTML)
        assert wrong.status_code == 401 and "set-cookie" not in wrong.headers
        assert closed.get("/", headers=HTML).status_code == 303
        right = closed.post("/login", data={"token": TOKEN, "next": "//evil.example"})
        assert (right.status_code, right.headers["location"]) == (303, "/")
        cookie = right.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie
        assert TOKEN not in cookie
        assert closed.get("/", headers=HTML).status_code == 200
        assert closed.get("/api/v1/index").status_code == 200


def test_under_https_the_cookie_is_for_https_only(served_db):
    app = make_app(served_db, ServiceSettings(token=TOKEN))
    closed = TestClient(app, "https://localhost", follow_redirects=False)
    assert "Secure" in closed.post("/login", data={"token": TOKEN}).headers["set-cookie"]


def test_with_a_token_only_health_and_the_form_are_open(served_db):
    with unstarted(served_db, token=TOKEN) as closed:
        for path in ("/", "/metrics", "/openapi.json", "/api/v1/index", "/index.json", "/nowhere", "/sql.json"):
            reply = closed.get(path)
            assert reply.status_code == 401 and "served" not in reply.text
            assert reply.headers["www-authenticate"] == "Bearer"
        for path in ("/healthz", "/readyz", "/static/style.css"):
            assert closed.get(path).status_code == 200


def test_sql_is_offered_only_where_it_is_wanted(served_db):
    with unstarted(served_db, host="0.0.0.0", public_read=True) as public:
        reply = public.post("/api/v1/sql", json={"sql": "SELECT 1"})
        assert reply.status_code == 404 and "serve DB --sql" in reply.json()["error"]["message"]
        assert "/sql" not in re.findall(r'href="([^"]+)"', public.get("/").text)


def test_an_open_index_is_taken_and_never_written_to(served_db):
    before = files_of(served_db)
    with client_of(open_index(served_db)) as client:
        client.get("/neurons/cnn/concepts/3")
        client.post("/api/v1/label", json={"neurons": ["cnn/concepts/3"]})
        client.post("/api/v1/sql", json={"sql": "SELECT count(*) FROM neurons"})
    assert files_of(served_db) == before


def test_a_wrong_place_is_told_at_once(tmp_path):
    with pytest.raises(StoreError, match="no index at"):
        make_app(tmp_path / "none")


def test_making_the_application_does_not_load_torch(served_db):
    code = "import sys; from csp_index.service import make_app; make_app(sys.argv[1]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(served_db)], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
