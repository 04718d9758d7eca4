"""An index full of hostile things: what reads it runs nothing, opens nothing that it names, and escapes its texts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hostile_index import EVIL, NAME, SECRET, WORDS, forget, make_hostile
from starlette.testclient import TestClient
from strict_html import page_at

from csp_index import open_index
from csp_index.errors import CspIndexError
from csp_index.service.app import make_app
from csp_index.service.config import ServiceSettings

LAYER = f"{NAME}/concepts"
HERE = f"{quote(NAME, safe='')}/concepts"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
READING: tuple[list[str], ...] = (
    ["status"],
    ["status", "--json"],
    ["show", f"{LAYER}/0"],
    ["show", f"{LAYER}/0", "--json"],
    ["show", f"{LAYER}/0", "--card", "card.png"],
    ["label", "--layer", LAYER, "--templates", "none"],
    ["label", "--layer", LAYER, "--method", "mean-centred", "--templates", "none", "--recompute"],
    ["label", "--layer", LAYER, "--templates", "none", "--method", "csp", "--gamma", "0.5", "--json"],
    ["search", "red", "--templates", "none"],
    ["export"],
    ["export", "--json"],
    ["sql", "SELECT * FROM labels"],
    ["sql", "SELECT * FROM images JOIN derived USING (image_id)"],
    ["sql", "SELECT * EXCLUDE (thumbnail) FROM images", "--json"],
    ["sql", "SELECT * FROM runs", "--format", "csv"],
    ["prefer", "csp"],
    ["optimize"],
    ["evaluate", "--layer", LAYER, "--templates", "none", "--report", "report"],
)
REFUSED: tuple[list[str], ...] = (
    ["label", "--layer", LAYER],  # its templates are a file
    ["search", "purple", "--templates", "none"],
    ["search", "--image", "mine.png", "--templates", "none"],
    ["label", "--layer", LAYER, "--templates", "none", "--vocabulary", "words.txt"],
    ["label", "--layer", LAYER, "--templates", "none", "--contrast", "perturbation", "--recompute"],
    ["evaluate", "--layer", LAYER, "--templates", "none", "--perturb"],
    ["index"],
    ["index", "more"],
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hostile(tmp_path_factory.mktemp("stranger")).parent


@pytest.fixture
def stranger(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of a reader who has unpacked the archive of a stranger, and works in it."""
    folder = Path(shutil.copytree(made, tmp_path / "unpacked", symlinks=True))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CSP_INDEX_STATE", str(tmp_path / "reader"))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    forget()
    yield folder
    assert not (made / "ran").exists()
    assert (made / "mine").read_text() == "my thesis"


def check(said: Any) -> None:
    assert not OBEYED.search(said.out + said.err)
    assert SECRET not in said.out + said.err


@pytest.mark.parametrize("command", READING, ids=lambda command: " ".join(command)[:40])
def test_reading_runs_nothing(
    command: list[str], stranger: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: "csv" in command or command == ["export"], raising=False)
    said = run(command[0], "db", *command[1:])
    assert said.status == 0, said.err
    check(said)
    if "--json" in command:
        for document in said.out.splitlines() if command[0] == "label" else [said.out]:
            json.loads(document)
    if "--report" in command:
        page = (stranger / "report" / "index.html").read_text()
        assert "<script>alert" not in page and "<img src=x" not in page


@pytest.mark.parametrize("command", REFUSED, ids=lambda command: " ".join(command)[:40])
def test_what_would_run_or_open_something_is_refused(
    command: list[str], stranger: Path, run: Callable[..., Any]
) -> None:
    (stranger / "words.txt").write_text("purple\n")
    shutil.copytree("images", "more", dirs_exist_ok=True)
    shutil.copy("images/b/img00000.png", "mine.png")
    said = run(command[0], "db", *command[1:])
    assert (said.status, said.err.count("\n")) == (1, 1), said.err
    assert re.search("--trust|--templates|--images", said.err), said.err
    check(said)


def test_python_runs_nothing(stranger: Path) -> None:
    index = open_index("db")
    assert index.status()["images"] == 41
    assert index.labels().rows() and index.view(f"{LAYER}/0").label.text
    assert index.label(LAYER, templates="none", recompute=True, keep=False)
    for method in (index.view(f"{LAYER}/0"), index.labels()):
        assert "<script>" not in method._repr_html_()
    with pytest.raises(CspIndexError, match="trust=True"):
        index.search("purple", templates="none")


@pytest.fixture(scope="module")
def client(made: Path) -> Iterator[TestClient]:
    forget()
    with TestClient(make_app(made / "db", ServiceSettings()), base_url="http://127.0.0.1") as opened:
        opened.headers["accept"] = "text/html"
        yield opened


PAGES = ("/", "/search?q=red", "/search?q=purple", "/search?image_id=0", "/images/0", f"/layers/{HERE}", "/compare")
PAGES += (f"/neurons/{HERE}/0", f"/neurons/{HERE}/0?method=csp", f"/search?neuron={quote(LAYER, safe='')}%2F0")
FILES = ("/index.json", "/images/0.json", f"/layers/{HERE}.json", f"/neurons/{HERE}/0.json", "/search.json?q=purple")
FILES += (
    f"/neurons/{HERE}/0/card.png",
    f"/layers/{HERE}/map.json",
    "/openapi.json",
    "/metrics",
    "/readyz",
    "/sql.json",
)


@pytest.mark.parametrize("address", [*PAGES, *FILES])
def test_the_service_runs_nothing(address: str, client: TestClient, stranger: Path) -> None:
    reply = client.get(address)
    assert reply.status_code < 500 or reply.status_code == 503, reply.text
    assert SECRET not in reply.text
    for name, value in reply.headers.items():
        assert not OBEYED.search(name + value)
    if reply.headers["content-type"].startswith("text/html"):
        assert "<script>alert" not in reply.text and "<img src=x" not in reply.text
        page_at(client, address) if reply.status_code == 200 else None


def test_live_questions_run_nothing(client: TestClient, stranger: Path) -> None:
    neuron = f"{LAYER}/0"
    for question, allowed in (
        ({"neurons": [neuron]}, (200, 400, 404, 409, 422)),
        ({"neurons": [neuron], "candidates": WORDS}, (200, 400, 409, 422)),
        ({"neurons": [neuron], "candidates": ["purple", EVIL]}, (400, 409, 422)),
        ({"neurons": [neuron], "candidates": WORDS, "contrast": "synthetic"}, (400, 409, 422)),
        ({"neurons": [neuron], "candidates": WORDS, "contrast": "perturbation"}, (200, 400, 409, 422)),
    ):
        reply = client.post("/api/v1/label", json=question, headers={"accept": "application/json"})
        assert reply.status_code in allowed, (question, reply.text)
        assert SECRET not in reply.text
    picture = (stranger / "images" / "b" / "img00000.png").read_bytes()
    reply = client.post("/search", files={"image": ("x.png", picture, "image/png")})
    assert reply.status_code < 500 or reply.status_code == 503
