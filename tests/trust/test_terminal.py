"""What an index puts into a name or a text never moves the cursor, ends the line, or is read as markup."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fakes
import pyarrow as pa
import pytest
from indexed import ENCODER, NETWORK

import csp_index.cli
from csp_index import open_index
from csp_index.query.results import SqlResult, write_result
from csp_index.query.sql import quoted
from csp_index.store import schema

EVIL = "\x1b[2J\x1b]0;owned\x07 \x9b31m \u202ereversed\u2028[red]x[/red] \x7f\r\nError: forged\t<b>"
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an index whose texts, names and messages are escape sequences."""
    folder = tmp_path_factory.mktemp("terminal")
    index = open_index(folder / "db")
    index.add_images(fakes.write_images(folder / "images", 23), encoders=[ENCODER], networks=[NETWORK])
    index.label("net/concepts", vocabulary=["red", "blue", "striped"], templates="none", examples=5)
    store = index.store
    for table, columns in {
        schema.LABELS: ["text", "note"],
        schema.IMAGES: ["uri", "metadata"],
        schema.RUNS: ["message", "command"],
        schema.VOCABULARIES: ["text"],
        schema.LAYERS: ["pool"],
    }.items():
        rows = store.read(table)
        for column in columns:
            place = rows.schema.get_field_index(column)
            said = json.dumps({EVIL: EVIL}) if column == "metadata" else EVIL
            texts = [None if value is None else f"{said}{i}" for i, value in enumerate(rows[column].to_pylist())]
            if column == "metadata":
                texts = [said] * len(rows)
            rows = rows.set_column(place, rows.schema.field(column), pa.array(texts, pa.string()))
        with store.write_lock():
            store.delete(table, f"{rows.column_names[0]} IS NOT NULL")
            store.append(table, rows)
    return folder / "db"


COMMANDS = (
    ["status"],
    ["show", "net/concepts/0"],
    ["label", "--layer", "net/concepts"],
    ["export"],
    ["search", "red", "--encoder", ENCODER],
    ["sql", "SELECT * FROM labels"],
    ["sql", 'SELECT uri AS "a\x1b[2J", metadata FROM images LIMIT 3'],
    ["sql", "SELECT message FROM runs"],
    ["sql", "SELECT no_such_column FROM labels"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_no_command_passes_escape_sequences_on(
    command: list[str], as_json: bool, hostile: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: command[0] == "export", raising=False)
    said = run(command[0], hostile, *command[1:], *["--json"] * as_json)
    assert not OBEYED.search(said.out + said.err)
    assert not any(line.startswith("Error: forged") for line in said.out.splitlines())
    if as_json and said.status == 0:
        for document in (
            [said.out] if command[0] in ("status", "show", "sql", "export", "search") else said.out.splitlines()
        ):
            json.loads(document)
    if command[0] == "show" and not as_json:
        assert "[red]x[/red]" in said.out, "data is no markup"


def test_files_have_the_texts_as_they_are(tmp_path: Path) -> None:
    result = SqlResult(pa.table({"text": [EVIL]}))
    write_result(result, "csv", tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1] == [EVIL]
    write_result(result, "json", tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text())[0] == {"text": EVIL}


def test_only_one_function_writes_lines() -> None:
    folder = Path(csp_index.cli.__file__).parent
    for file in folder.glob("*.py"):
        if file.name in ("output.py", "demo.py"):  # the demo prints about its own world
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("click.echo", "click.secho", "print"), f"{file.name}:{node.lineno}"


def test_names_are_quoted_in_sql() -> None:
    import duckdb

    name = "x\" AS SELECT 1; SET memory_limit='9TB'; CREATE VIEW \"injected"
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW {quoted(name)} AS SELECT 7 AS seven")
        assert connection.execute(f"SELECT * FROM {quoted(name)}").fetchall() == [(7,)]
        assert connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall() == [(name,)]
