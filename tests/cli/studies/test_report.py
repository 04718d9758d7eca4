"""`csp-index report`: the files it writes, the digest it says, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from audited import audit, make_audited


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> str:
    own = make_audited(tmp_path_factory.mktemp("audited"))
    audit(own)
    return own.uri


def test_it_writes_a_file_and_checks_it(db: str, run, tmp_path: Path) -> None:
    file = tmp_path / "r.html"
    said = run("report", db, "--audit", "--out", file)
    assert said.status == 0, said.err
    digest = said.out.splitlines()[-1].removeprefix("digest: ")
    assert said.out.splitlines()[0] == f"report: {file}" and len(digest) == 64
    checked = run("report", "--check", file, db)
    assert checked.status == 0 and digest in checked.out
    file.write_text(file.read_text().replace("star", "moon"))
    changed = run("report", db, "--check", file, "--json")
    assert changed.status == 1 and changed.rows[0]["intact"] is False and changed.rows[0]["digest"] == digest
    (again,) = run("report", db, "--audit", "--out", file, "--force", "--json").rows
    assert again == {"page": str(file), "pdf": None, "digest": digest}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((), 2, "say what to do: --audit writes the report of an audit, --check FILE checks one"),
        (("--audit", "--check", "r.html"), 2, "say what to do"),
        (("--audit", "--network", "other"), 1, "there is no audit of other (has: net/pooled)"),
        (("--audit", "--out", "nowhere/r.html"), 1, "does not exist: make it"),
        (("--audit", "--out", "r.html", "--pdf", "r.pdf", "--browser", "none-such"), 1, "none-such is no program"),
        (("--check", "nothing.html"), 1, "the report nothing.html cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    db: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run("report", db, *arguments)
    assert said.status == status and message in " ".join(said.err.split())
    assert not list(tmp_path.iterdir())
