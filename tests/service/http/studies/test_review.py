"""What readers say over HTTP: off by default, guarded from other sites, shown at once; the blind page for ratings."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from planted import PLANTED, make_planted
from starlette.testclient import TestClient
from strict_html import page_at

from csp_index import open_index
from csp_index.errors import SettingError
from csp_index.labelling.review.notes import read_notes
from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings
from csp_index.store.connect import open_store
from csp_index.store.study_tables import NOTES, RATINGS

NEURON = f"{PLANTED}/1"
HOSTILE = "<script>alert(1)</script>\"'>{{ 7 * 7 }}"
OWN = "http://127.0.0.1"

Open = Callable[..., TestClient]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_planted(tmp_path_factory.mktemp("review"))


@pytest.fixture
def db(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "planted.db"))


@contextmanager
def serving(db: Path, **settings: object) -> Iterator[TestClient]:
    """A service that was not started: it loads models only when asked for what needs them."""
    client = TestClient(make_app(db, ServiceSettings(**settings)), base_url=OWN)
    client.headers["accept"] = "text/html"
    yield client


@pytest.fixture(scope="module")
def guarded(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, TestClient]]:
    """A service that writes, and its index, into which nobody may write."""
    db = Path(shutil.copytree(made, tmp_path_factory.mktemp("guarded") / "planted.db"))
    with serving(db, write=True, rate=True, origins=("http://allowed.example",)) as client:
        yield db, client


def form_of(client: TestClient) -> str:
    return client.get("/api/v1/review").json()["form"]


def say(
    client: TestClient, action: str = "rename", text: str = "mine", headers: dict[str, str] | None = None, **other: str
):
    fields = {"form": form_of(client), "subject": NEURON, "action": action, "text": text, "reader": "ann"} | other
    return client.post("/notes", data=fields, headers={"origin": OWN} | (headers or {}), follow_redirects=False)


def test_without_the_option_nothing_is_written_and_no_form_is_shown(db):
    with serving(db) as client:
        assert client.get("/api/v1/review").json() == {"write": False, "rate": False, "form": None}
        fields = {"form": "x", "subject": NEURON, "action": "accept", "text": "", "reader": "ann"}
        reply = client.post("/notes", data=fields, headers={"origin": OWN})
        assert reply.status_code == 404 and "serve DB --write" in reply.text
        body = {"subject": NEURON, "action": "accept", "reader": "ann"}
        assert client.post("/api/v1/notes", json=body).status_code == 404
        assert (
            client.post("/api/v1/ratings", json={"number": 0, "proof": "", "rater": "a", "verdict": "yes"}).status_code
            == 404
        )
        assert client.get("/rate").status_code == 404
        seen = page_at(client, f"/neurons/{NEURON}")
        assert not [form for form in seen.all("form") if form.get("method") == "post"]
    assert open_store(db).count(NOTES) == 0


def test_what_was_just_written_is_shown_at_once_everywhere(db):
    with serving(db, write=True) as client:
        page_at(client, f"/neurons/{NEURON}")
        tag = client.get(f"/neurons/{NEURON}").headers["etag"]
        reply = say(client)
        assert reply.status_code == 303 and reply.headers["location"] == f"/neurons/{NEURON}#review"
        again = client.get(f"/neurons/{NEURON}", headers={"if-none-match": tag})
        assert again.status_code == 200 and again.headers["cache-control"] == "private, no-cache"
        seen = page_at(client, f"/neurons/{NEURON}")
        assert seen.inside["title"].startswith("mine") and "named by a reader" in "".join(seen.text)
        twin = client.get(f"/neurons/{NEURON}.json").json()
        assert twin["label"] == "mine" and twin["method"] == "pinned" and twin["review"]["notes"][0]["reader"] == "ann"
        assert "mine" in client.get(f"/layers/{PLANTED}").text and "mine" in client.get("/search?q=mine").text
        assert "mine" in client.get("/notes").text and client.get("/notes.json").json()["total"] == 1
        open_index(db).note(NEURON, "rename", "from elsewhere", by="bob")  # another process
        assert client.get(f"/neurons/{NEURON}.json").json()["label"] == "from elsewhere"
        assert say(client, "unname", "").status_code == 303
        assert client.get(f"/neurons/{NEURON}.json").json()["method"] == "semanticlens"
    runs = open_index(db).sql("SELECT count(*) AS n FROM runs WHERE command = 'serve'").rows()
    assert runs == [{"n": 1}] and open_index(db).verify().findings == []


def test_a_service_that_does_not_write_shows_the_notes_of_its_start(db):
    open_index(db).note(NEURON, "rename", "before", by="ann")
    with serving(db) as client:
        open_index(db).note(NEURON, "rename", "after", by="ann")
        assert client.get(f"/neurons/{NEURON}.json").json()["label"] == "before"
        assert "before" in "".join(page_at(client, f"/neurons/{NEURON}").text)


@pytest.mark.parametrize(
    ("headers", "form"),
    [
        ({"origin": "https://evil.example"}, None),
        ({"origin": "null"}, None),
        ({"origin": "http://allowed.example"}, None),
        ({"origin": OWN, "sec-fetch-site": "cross-site"}, None),
        ({"sec-fetch-site": "same-site"}, None),
        ({"origin": OWN}, "wrong"),
        ({"origin": OWN}, ""),
    ],
)
def test_requests_that_other_sites_make_write_nothing(guarded, headers, form):
    db, client = guarded
    proof = form_of(client) if form is None else form
    fields = {"form": proof, "subject": NEURON, "action": "accept", "text": "", "reader": "ann"}
    assert client.post("/notes", data=fields, headers=headers).status_code == 403
    body, sent = {"subject": NEURON, "action": "accept", "reader": "ann"}, headers | {"x-csp-index-form": proof}
    assert client.post("/api/v1/notes", json=body, headers=sent).status_code == 403
    # without a token of the service any Authorization is worth nothing
    sent |= {"authorization": "Bearer something"}
    assert client.post("/api/v1/notes", json=body, headers=sent).status_code == 403
    rating = {"form": proof, "number": "0", "proof": "x", "rater": "ann", "verdict": "yes"}
    assert client.post("/rate", data=rating, headers=headers).status_code == 403
    assert open_store(db).count(NOTES) == 0 == open_store(db).count(RATINGS)


def test_beyond_this_machine_writing_needs_a_token(db):
    for option in ("write", "rate"):
        with pytest.raises(SettingError, match=rf"0.0.0.0 can be reached .* where {option} needs a token"):
            ServiceSettings(host="0.0.0.0", public_read=True, **{option: True})
    with pytest.raises(SettingError, match="version 3 is fixed"):
        ServiceSettings(write=True, version="3")
    with pytest.raises(SettingError, match="expected 1 to 1000, and importance or uniform"):
        ServiceSettings(rate=True, draw="at will")
    token = "a token of some length"
    with serving(db, host="0.0.0.0", token=token, write=True) as client:
        body = {"subject": NEURON, "action": "rename", "text": "mine", "reader": "ann"}
        assert client.post("/api/v1/notes", json=body).status_code == 401
        reply = client.post("/api/v1/notes", json=body, headers={"authorization": f"Bearer {token}"})
        assert reply.status_code == 200 and reply.json()["reader"] == "ann"


def test_hostile_notes_are_shown_as_text_and_control_characters_refused(db):
    with serving(db, write=True) as client:
        for action in ("rename", "tag", "comment", "reject"):
            assert say(client, action, HOSTILE[:60], reader="<b>ann</b>").status_code == 303
        for address in (f"/neurons/{NEURON}", "/notes", f"/layers/{PLANTED}", f"/notes?subject={NEURON}"):
            text = "".join(page_at(client, address).text)
            assert HOSTILE[:20] in text and "49" not in re.findall(r"alert\(1\)[^ ]{0,40}", text)
        for text in ("two\nlines", "bell\x07", "\u202eback"):
            assert say(client, "comment", text).status_code == 400
        assert say(client, "comment", "x" * 2001).status_code == 422
        assert say(client, "praise", "x").status_code == 400
        assert say(client, subject="planted/words/99").status_code == 404
        assert client.post("/notes", content=b"x" * 2_000_000, headers={"origin": OWN}).status_code == 413
    assert len(read_notes(open_store(db))) == 4


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"subject": f"{PLANTED}/99"}, 404),
        ({"subject": "planted/absent/1"}, 404),
        ({"subject": "finding:absent", "action": "accept", "text": ""}, 404),
        ({"subject": "../../etc/passwd"}, 400),
        ({"action": "praise"}, 400),
        ({"action": "unname", "text": "takes none"}, 400),
        ({"reader": " "}, 400),
        ({"action": "tag", "text": "x" * 61}, 400),
        ({"action": "comment", "text": "x" * 2001}, 422),
    ],
)
def test_a_refused_note_leaves_no_commit(guarded, fields, status):
    db, client = guarded
    before = open_store(db).versions(), open_store(db).log.head()
    assert say(client, **fields).status_code == status
    body = {"subject": NEURON, "action": "rename", "text": "mine", "reader": "ann"} | fields
    assert client.post("/api/v1/notes", json=body, headers={"x-csp-index-form": form_of(client)}).status_code == status
    assert (open_store(db).versions(), open_store(db).log.head()) == before


@pytest.mark.parametrize(
    "fields",
    [
        {"neurons": "99"},
        {"neurons": "0,99"},
        {"neurons": ""},
        {"text": "x" * 61},
        {"text": " "},
        {"reader": "a\nb"},
    ],
)
def test_a_refused_tag_leaves_no_commit(guarded, fields):
    db, client = guarded
    before = open_store(db).versions(), open_store(db).log.head()
    sent = {"form": form_of(client), "neurons": "0-1", "reader": "ann", "text": "odd"} | fields
    reply = client.post(f"/layers/{PLANTED}/tag", data=sent, headers={"origin": OWN}, follow_redirects=False)
    assert 400 <= reply.status_code < 500
    assert (open_store(db).versions(), open_store(db).log.head()) == before


@pytest.mark.parametrize(
    "fields", [{"number": "99"}, {"number": "-1"}, {"proof": "f" * 32}, {"verdict": "perhaps"}, {"rater": "a\nb"}]
)
def test_a_refused_rating_leaves_no_commit(guarded, fields):
    db, client = guarded
    before = open_store(db).versions(), open_store(db).log.head()
    question = client.get("/api/v1/rate?rater=ann").json()["question"]
    sent = {"form": form_of(client), "rater": "ann", "verdict": "yes"}
    sent |= {name: str(question[name]) for name in ("number", "proof")} | fields
    reply = client.post("/rate", data=sent, headers={"origin": OWN}, follow_redirects=False)
    assert 400 <= reply.status_code < 500
    assert (open_store(db).versions(), open_store(db).log.head()) == before


def test_another_writer_is_said_with_503(db, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_REVIEW_WAIT", "0")
    with serving(db, write=True) as client, open_index(db).store.write_lock():
        reply = say(client)
        assert reply.status_code == 503 and "is being written by" in reply.text
    with serving(db, write=True) as client:
        assert say(client).status_code == 303


def test_the_rater_sees_words_and_a_picture_and_nothing_else(db):
    with serving(db, rate=True) as client:
        page_at(client, "/rate")
        reply = client.get("/rate?rater=ann")
        seen = page_at(client, "/rate?rater=ann")
        assert "semanticlens" not in reply.text and PLANTED not in reply.text and "score" not in reply.text.lower()
        assert not [link for link in seen.all("a") if "/neurons/" in str(link["href"])]
        question = client.get("/rate.json?rater=ann").json()
        assert set(question) == {"rater", "question", "rated", "total"}
        assert set(question["question"]) == {"number", "text", "image_id", "proof"}
        assert [image["src"] for image in seen.all("img")] == [
            f"/api/v1/images/{question['question']['image_id']}/thumbnail"
        ]
        assert reply.headers["cache-control"] == "no-store"


def answer(client: TestClient, rater: str, verdict: str):
    question = client.get(f"/api/v1/rate?rater={rater}").json()["question"]
    fields = {
        "form": form_of(client),
        "rater": rater,
        "verdict": verdict,
        **{name: question[name] for name in ("number", "proof")},
    }
    reply = client.post("/rate", data=fields, headers={"origin": OWN}, follow_redirects=False)
    return question, reply


@pytest.mark.parametrize("draw", ["importance", pytest.param("uniform", marks=pytest.mark.slow)])
def test_everybody_is_asked_the_same_and_each_answer_is_kept_with_its_weight(db, draw):
    with serving(db, rate=True, draw=draw, rate_pictures=3) as client:
        asked = {
            rater: [answer(client, rater, verdict) for _ in range(3)]
            for rater, verdict in (("ann", "yes"), ("bob", "no"))
        }
        assert all(
            reply.status_code == 303 and reply.headers["location"].startswith("/rate?rater=")
            for one in asked.values()
            for _, reply in one
        )
        ann, bob = ([(q["text"], q["image_id"]) for q, _ in asked[rater]] for rater in ("ann", "bob"))
        assert ann == bob and len(set(ann)) == 3
        state = client.get("/api/v1/rate?rater=ann").json()
        assert (state["rated"], state["total"]) == (3, 3 * 10)
    rows = open_index(db).sql('SELECT * FROM ratings ORDER BY "when"').rows()
    assert [row["verdict"] for row in rows] == ["yes"] * 3 + ["no"] * 3 and {row["drawn"] for row in rows} == {draw}
    for row in rows:
        activations = open_index(db).activations(row["address"])
        assert row["activation"] == pytest.approx(float(activations[row["image_id"]])) and row["weight"] > 0
        assert row["text"] == open_index(db).view(row["address"]).label.text and row["method"] in (
            "csp",
            "semanticlens",
        )
    assert draw == "importance" or all(row["weight"] == pytest.approx(1) for row in rows)
    assert open_index(db).verify().findings == []


def test_a_verdict_on_another_question_is_refused_and_all_answered_is_said(db):
    with serving(db, rate=True, rate_pictures=1) as client:
        question, _ = answer(client, "ann", "yes")
        form = {"form": form_of(client), "rater": "bob", "verdict": "yes"}
        moved = form | {"number": question["number"] + 1, "proof": question["proof"]}
        reply = client.post("/rate", data=moved, headers={"origin": OWN})
        assert reply.status_code == 404 and "not asked any longer" in reply.text
        assert answer(client, "bob", "perhaps")[1].status_code == 400
        for _ in range(9):
            answer(client, "ann", "unsure")
        assert client.get("/api/v1/rate?rater=ann").json() == {
            "rater": "ann",
            "question": None,
            "rated": 10,
            "total": 10,
        }
        assert "answered all 10 questions" in "".join(page_at(client, "/rate?rater=ann").text)
        assert client.get("/rate.json?rater=%1b").status_code == 400


def test_an_index_without_pictures_cannot_be_rated(tmp_path):
    from reviewed import make_reviewed

    index = make_reviewed(tmp_path)
    with pytest.raises(SettingError, match="has no pictures: ratings need an index of images"):
        make_app(index.uri, ServiceSettings(rate=True))
