"""Hostile SQL: it gets no file, no setting and no secret, ends within its limit, and leaves nothing running."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fakes import write_arrays
from few import few
from hostile_sql import HOSTILE, Hostile

from csp_index import open_index
from csp_index.errors import CspIndexError, QueryError
from csp_index.query.reader import Reader
from csp_index.query.sql import SqlLimits
from csp_index.service import sql_sandbox
from csp_index.service.config import ServiceSettings
from csp_index.service.sql_sandbox import SqlAnswer, SqlRunner, write_rows

SECRET = "squeamish ossifrage"
HOME = f"{Path.home()}/.duckdb"
MEANWHILE = "SELECT 6 * 7 AS answer"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    paths = write_arrays(folder, images=300)
    open_index(folder / "db").import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
    return folder / "db"


def of(outcome: str) -> list[Any]:
    return [pytest.param(one, id=one.tries) for one in HOSTILE if one.outcome == outcome]


def check_tells_nothing(told: str, place: Path) -> None:
    for hidden in (SECRET, str(place), str(place).lstrip("/"), "root:x:", HOME):
        assert hidden not in told


@pytest.fixture
def confined(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """The index as the child process reads it, in this process: what cannot crash needs no other one."""
    monkeypatch.setenv("HOSTILE_SECRET", SECRET)
    monkeypatch.setenv("HOME", "/")
    reader = Reader(place)
    monkeypatch.chdir("/")
    return reader


LIMITS = SqlLimits("500MB", 1, 5.0, 1000, 2**20)


def test_there_are_enough_of_them():
    assert len({one.sql for one in HOSTILE}) == len({one.tries for one in HOSTILE}) == len(HOSTILE) >= 120


@pytest.mark.parametrize("one", of("refused"))
def test_what_does_more_than_read_is_refused(one: Hostile, confined, place):
    before = set(Path("/tmp").glob("csp_hostile*"))
    with pytest.raises(CspIndexError) as caught:
        confined.sql(sql_sandbox._checked(one.sql).decode(), limits=LIMITS)
    assert "\n" not in str(caught.value)
    check_tells_nothing(str(caught.value), place)
    assert set(Path("/tmp").glob("csp_hostile*")) == before


@pytest.mark.parametrize("one", of("told"))
def test_what_is_told_tells_nothing_of_the_machine(one: Hostile, confined, place):
    result = confined.sql(one.sql, limits=LIMITS)
    check_tells_nothing(str(write_rows(SqlAnswer(result.table, result.truncated, 0.0))), place)


def answered(runner: SqlRunner, one: Hostile) -> str:
    try:
        return str(write_rows(runner.run(one.sql)))
    except QueryError as exc:
        assert "\n" not in str(exc)
        return str(exc)


@pytest.fixture(scope="module")
def runner(place: Path) -> Iterator[SqlRunner]:
    os.environ["HOSTILE_SECRET"] = SECRET
    made = SqlRunner(
        place, Reader(place).store.versions(), ServiceSettings(sql_seconds=1.0, sql_rows=1000, sql_bytes=2**20)
    )
    yield made
    made.close()
    del os.environ["HOSTILE_SECRET"]


FACTS = ("two billion letters", "a list of a hundred million", "settings", "read bytes", "deep functions")


@pytest.mark.parametrize("tries", few(FACTS, 2))
def test_a_process_of_its_own_keeps_them_off(tries, runner, place):
    """The two that ran half a minute beyond DuckDB's own limits, and one of each other kind."""
    (one,) = (one for one in HOSTILE if one.tries == tries)
    check_tells_nothing(answered(runner, one), place)


@pytest.mark.slow
def test_all_that_need_a_limit_end_and_others_are_answered_meanwhile(runner, place):
    bombs = [one for one in HOSTILE if one.outcome == "stopped"]
    with ThreadPoolExecutor(1) as pool:  # of two turns, one is always taken
        waiting = [pool.submit(answered, runner, one) for one in bombs]
        meanwhile = 0
        while not all(future.done() for future in waiting):
            assert runner.run(MEANWHILE).table["answer"].to_pylist() == [42]
            meanwhile += 1
        for future in waiting:
            check_tells_nothing(future.result(), place)
    assert meanwhile > 0
    runner.close()
    assert runner._turns._value == runner._processes  # every turn was given back
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # no process is left, not even one that ended
