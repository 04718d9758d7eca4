"""The record of runs: ids that sort by start, whatever the clock does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from csp_index.store import runs, schema
from csp_index.store.connect import create_store
from csp_index.store.runs import record_run


class Clock(datetime):
    """A clock that can be set back."""

    behind = timedelta(0)

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) - cls.behind


def ran(store) -> str:
    with store.write_lock(), record_run(store, "label", {}, {}) as run:
        return run.run_id


@pytest.mark.parametrize("days", [300, -300])
def test_a_later_run_has_a_higher_id_though_the_clock_was_set(tmp_path, monkeypatch, days):
    store = create_store(tmp_path / "db")
    monkeypatch.setattr(runs, "datetime", Clock)
    ids = []
    for behind in (0, days, days, 0):
        monkeypatch.setattr(Clock, "behind", timedelta(days=behind))
        ids.append(ran(store))
    assert ids == sorted(ids)
    assert len(set(ids)) == 4
    started = store.read(schema.RUNS, ["run_id", "started"]).sort_by("run_id")["started"].to_pylist()
    assert abs((started[0] - datetime.now(UTC)).total_seconds()) < 60, "the times are told as the clock had them"


def test_a_run_whose_id_is_no_time_does_not_disturb(tmp_path):
    store = create_store(tmp_path / "db")
    with store.write_lock():
        row = {field.name: None for field in schema.table_schema(schema.RUNS)} | {"run_id": "by hand"}
        store.append(schema.RUNS, runs._one_row(row))
    assert ran(store)[:4] == f"{datetime.now(UTC):%Y}"
