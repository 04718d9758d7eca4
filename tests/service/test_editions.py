"""A service shows new versions of its index without a restart; an address may name an earlier one."""

from __future__ import annotations

import re
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from fakes import write_arrays
from starlette.testclient import TestClient

from csp_index import open_index
from csp_index.errors import NotFoundError
from csp_index.service import ServiceSettings, make_app
from csp_index.service.agents import doors
from csp_index.service.editions import Editions
from csp_index.service.live.live_models import LiveModels
from csp_index.store.connect import open_store
from csp_index.store.history.records import Record

LAYER, NEURON = "cnn/concepts", "cnn/concepts/3"
HTML = {"accept": "text/html"}
BASE = "http://localhost:8000"


@pytest.fixture
def db(served_db: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(served_db, tmp_path / "db"))


def opened(db: Path, **given: object) -> TestClient:
    app = make_app(db, ServiceSettings(follow=0.0, **given))
    return TestClient(app, BASE, raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture
def client(db: Path) -> TestClient:
    """A service that was not started: it loads models only when asked for what needs them."""
    return opened(db)


@pytest.fixture(scope="module")
def unwritten(served_db: Path) -> TestClient:
    """The same over the index into which nobody writes."""
    return opened(served_db)


def editions_of(client: TestClient) -> Editions:
    found = client.app.state.editions
    assert isinstance(found, Editions)
    return found


def label_again(db: Path) -> None:
    open_index(db).label(LAYER, "csp", gamma=0.25)


def shown(client: TestClient, path: str = f"/api/v1/neurons/{NEURON}", **headers: str) -> float:
    reply = client.get(path, headers=headers)
    assert reply.status_code == 200, reply.text
    by_csp = next(method for method in reply.json()["methods"] if method["method"] == "csp")
    return float(by_csp["score"])


def test_new_labels_are_shown_and_old_addresses_keep_theirs(db, client):
    first = client.get("/api/v1/version").json()
    before, tag = shown(client), client.get("/").headers["etag"]
    assert first["command"] and first["when"] and not editions_of(client).look()
    label_again(db)
    assert shown(client) == before  # until the service has looked
    assert editions_of(client).look()
    after, version = shown(client), client.get("/api/v1/version").json()
    assert after != before
    assert version["command"] == "label" and version["number"] > first["number"]
    assert client.get("/", headers={"if-none-match": tag}).status_code == 200  # not the page that a browser kept
    old = f"/api/v1/neurons/{NEURON}?at={first['number']}"
    assert shown(client, old) == before
    assert shown(client, f"/api/v1/neurons/{NEURON}?at={version['number']}") == after
    assert shown(client, f"/api/v1/neurons/{NEURON}?at=newest") == after
    open_index(db).tag("paper", first["number"])
    assert shown(client, f"/api/v1/neurons/{NEURON}?at=paper") == before


def test_a_page_of_an_earlier_version_says_so_and_brings_it_along(db, client):
    first = client.get("/api/v1/version").json()["number"]
    before = shown(client)
    page = client.get(f"/neurons/{NEURON}", headers=HTML).text
    assert f'href="?at={first}"' in page and 'id="newer"' in page and "You see the index as it was" not in page
    label_again(db)
    editions_of(client).look()
    old = client.get(f"/neurons/{NEURON}?at={first}", headers=HTML).text
    assert re.search(rf"You see the index as it was at version {first} \(.+ UTC\)", old)
    assert 'href="?at=newest"' in old and "data-version" not in old
    referer = f"{BASE}/neurons/{NEURON}?at={first}"
    assert shown(client, referer=referer) == before  # what the page loads
    assert client.get("/", headers={"referer": referer}).headers["cache-control"] == "no-store"
    navigated = {"referer": referer, "sec-fetch-mode": "navigate"}
    reply = client.get("/search?q=red", headers=navigated)
    assert (reply.status_code, reply.headers["location"]) == (307, f"/search?q=red&at={first}")
    elsewhere = f"http://example.org/?at={first}"
    assert client.get("/", headers=navigated | {"referer": elsewhere}).status_code == 200
    assert client.get("/", headers=navigated | {"referer": f"{BASE}/?at=newest"}).status_code == 200
    assert client.get("/", headers=navigated | {"referer": "http://[?at=1"}).status_code == 200  # no address at all


@pytest.mark.parametrize("version", ["99", "nothing", "%00", "x" * 200, "-1", ""])
def test_a_version_that_is_not_there_is_one_line(served_db, unwritten, version):
    reply = unwritten.get(f"/api/v1/layers?at={version}")
    if not version:
        assert reply.status_code == 200  # names none
        return
    assert reply.status_code == 404
    assert "csp-index versions" in reply.json()["error"]["message"]
    assert str(served_db) not in reply.text  # a folder of this machine
    assert unwritten.get(f"/?at={version}", headers=HTML).status_code == 404


def test_no_page_of_an_earlier_version_leads_to_another_site(unwritten):
    first = unwritten.get("/api/v1/version").json()["number"]
    headers = {"referer": f"{BASE}/login?at={first}", "sec-fetch-mode": "navigate"}
    reply = unwritten.get(f"{BASE}//elsewhere.example/", headers=headers)
    assert (reply.status_code, reply.headers["location"]) == (307, f"/elsewhere.example/?at={first}")


def test_a_page_kept_from_when_its_version_was_new_is_not_valid_as_an_old_one(db, client):
    first = client.get("/api/v1/version").json()["number"]
    kept = client.get(f"/?at={first}", headers=HTML)
    label_again(db)
    editions_of(client).look()
    again = client.get(f"/?at={first}", headers=HTML | {"if-none-match": kept.headers["etag"]})
    assert again.status_code == 200 and "You see the index as it was" in again.text


def test_earlier_versions_that_others_replace_are_closed(db, client):
    class Opened:
        def __init__(self, record: Record) -> None:
            self.number = record.number

        def forget(self) -> None:
            forgotten.append(self.number)

        def close(self) -> None: ...

    forgotten: list[int] = []
    editions = editions_of(client)
    editions._make_old = Opened
    shown = editions.shown.snapshot.number
    store = open_store(db)
    earlier = [record.number for record in store.log.records() if record.shown and record.number != shown][:4]
    assert len(earlier) == 4
    for number in earlier:
        editions.named(str(number))
    assert not forgotten  # their requests may still run
    editions._linger = -1.0
    editions.named(str(earlier[-1]))
    assert forgotten == earlier[:2]  # two stay open


def test_what_readers_say_makes_no_new_edition(db):
    client = opened(db, write=True)
    open_index(db).note(NEURON, "comment", "hm", by="ada")
    assert not editions_of(client).look()
    assert "hm" in client.get(f"/neurons/{NEURON}", headers=HTML).text


def test_a_version_cannot_be_written_to(db):
    client = opened(db, write=True)
    first = client.get("/api/v1/version").json()["number"]
    label_again(db)
    editions_of(client).look()
    assert 'method="post"' in client.get(f"/neurons/{NEURON}", headers=HTML).text
    assert 'method="post"' not in client.get(f"/neurons/{NEURON}?at={first}", headers=HTML).text


def test_a_version_that_cannot_be_opened_leaves_the_one_before(db, client, monkeypatch, caplog):
    label_again(db)

    def fails(record: object) -> None:
        raise NotFoundError("it is gone")

    monkeypatch.setattr(editions_of(client), "_make", fails)
    assert not editions_of(client).look()
    assert "cannot be shown: it is gone" in caplog.text
    caplog.clear()
    assert not editions_of(client).look()  # and says it once
    assert not caplog.text
    assert client.get("/").status_code == 200


def test_an_index_made_again_in_its_place_is_another_one(db, tmp_path):
    """Its tables have the numbers of versions that those of the deleted one had."""
    for name, seed in (("first", 0), ("again", 1)):
        write_arrays(tmp_path / name, images=30, neurons=4, seed=seed)
        open_index(tmp_path / f"{name}.db").import_arrays(
            tmp_path / name / "activations.npy", "net/layer", embeddings=tmp_path / name / "embeddings.npy"
        )
    place, made = tmp_path / "first.db", open_store(tmp_path / "again.db").commit_seen
    client = opened(place)
    path = "/api/v1/neurons/net/layer/0"
    before = client.get(path).json()["statistics"]
    assert made.versions == open_store(place).commit_seen.versions
    shutil.rmtree(place)
    (tmp_path / "again.db").rename(place)
    assert editions_of(client).look() and not editions_of(client).look()
    assert client.get(path).json()["statistics"] != before
    assert client.get(f"{path}?at={made.number}").json()["statistics"] != before


def test_a_version_between_the_steps_of_a_command_is_not_shown(db, client, monkeypatch):
    editions = editions_of(client)
    assert editions._settled() is None, "nothing is new"
    for gamma in (0.25, 0.5):
        open_index(db).label(LAYER, "csp", gamma=gamma)
        assert editions._settled() is None, "it has just come: more may follow"
    newest = open_store(db).commit_seen
    with open_store(db).write_lock():
        assert editions._settled() is None, "a command that computes what it will write"
        with monkeypatch.context() as patch:
            patch.setattr("csp_index.service.editions._PATIENCE", 0.0)
            assert editions._settled() == newest, "one that takes long does not hide what there is"
    assert editions._settled() == newest


def test_the_thread_goes_on_after_an_error_that_none_expected(unwritten, monkeypatch, caplog):
    """It says each once."""

    class PanicException(BaseException):
        """As Lance raises it."""

    failures = [RuntimeError("odd"), RuntimeError("odd"), OSError("gone"), PanicException("lance")]
    editions, done = editions_of(unwritten), threading.Event()

    def settled() -> None:
        if failures:
            raise failures.pop(0)
        done.set()

    monkeypatch.setattr(editions, "_settled", settled)
    monkeypatch.setattr(editions, "_seconds", 0.001)
    thread = threading.Thread(target=editions._follow, daemon=True)
    thread.start()
    assert done.wait(10)
    editions._stop.set()
    thread.join(10)
    assert [record.exc_info is not None for record in caplog.records] == [True, False, True]
    for told in ("RuntimeError: odd", "the index cannot be read: gone", "PanicException: lance"):
        assert told in caplog.text


@pytest.mark.parametrize("closed", [False, True])
def test_what_may_wait_is_loaded_after_the_models_unless_the_service_ends(unwritten, monkeypatch, closed):
    done: list[str] = []

    class First:
        snapshot = editions_of(unwritten).shown.snapshot
        engine = SimpleNamespace(wait=lambda: done.append("models"))

        def load(self) -> None:
            done.append("pages")

    monkeypatch.setattr("csp_index.service.editions._REST", 30.0 if closed else 0.0)
    editions = Editions(First(), First, First, seconds=0, linger=0, idle=lambda: done.append("idle"))
    if closed:
        editions._stop.set()
    editions._warm_up()
    assert done == ["pages", "models", *([] if closed else ["idle"])]


def test_the_service_loads_the_tools_of_language_models_when_it_is_idle(unwritten, monkeypatch):
    loaded: list[bool] = []
    monkeypatch.setattr(doors, "load_protocol", lambda: loaded.append(True))
    editions_of(unwritten)._idle()
    assert loaded

    def missing() -> None:
        raise NotFoundError("pip install")

    monkeypatch.setattr(doors, "load_protocol", missing)
    editions_of(unwritten)._idle()  # an extra that is not installed is no fault


def test_a_first_search_says_that_the_encoder_is_loading(db, monkeypatch):
    go_on = threading.Event()
    load = LiveModels.load_encoder

    def slow(models: LiveModels) -> None:
        go_on.wait(30)
        load(models)

    monkeypatch.setattr(LiveModels, "load_encoder", slow)
    with opened(db, patience=0.0) as client:
        reply = client.get("/search?q=red", headers=HTML)
        assert reply.status_code == 202 and "etag" not in reply.headers
        assert "Loading the encoder, for 0" in reply.text and "/again.js" in reply.text
        assert (
            '<noscript><meta http-equiv="refresh" content="2"></noscript>' in reply.text
        )  # else a page that is read jumps
        assert "By name" in reply.text and "By meaning" not in reply.text
        go_on.set()
        client.app.state.service.engine._encoder_done.wait(30)
        reply = client.get("/search?q=red", headers=HTML)
        assert reply.status_code == 200
        assert "By meaning" in reply.text and "Loading the encoder" not in reply.text


def test_a_fixed_version_stays(db):
    versions = [row["version"] for row in open_index(db).versions().rows()]
    number = versions[0]
    app = make_app(db, ServiceSettings(version=str(number), follow=0.01))
    with TestClient(app, BASE) as client:
        label_again(db)
        assert client.get("/api/v1/version").json()["number"] == number
        assert client.get(f"/?at={number}").status_code == 200
        for other in (versions[1], open_store(db).commit_seen.number):
            refused = client.get(f"/api/v1/layers?at={other}")
            assert refused.status_code == 404 and "is not shown" in refused.json()["error"]["message"]
        assert not any(thread.name == "editions" for thread in threading.enumerate())
