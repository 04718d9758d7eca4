"""The record of every command that wrote: settings, model hashes, versions, seed, start, end, state."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pyarrow as pa

from csp_index.errors import StoreError
from csp_index.store import schema
from csp_index.store.tables import Store

_ID = "%Y%m%dT%H%M%S%f"
_LAST_YEAR = 9999  # of datetime: no id follows the last one of it
_PACKAGES = (
    "csp_index",
    "lancedb",
    "pylance",
    "pyarrow",
    "torch",
    "torchvision",
    "open_clip_torch",
    "transformers",
    "timm",
    "duckdb",
)


@dataclass(frozen=True, slots=True)
class Run:
    """A run in progress: its id and the hash of its settings."""

    run_id: str
    settings_hash: str


def settings_hash(settings: Mapping[str, object]) -> str:
    """Return a hash of settings that does not depend on their order.

    >>> settings_hash({"a": 1, "b": 2}) == settings_hash({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:16]


@cache
def package_versions() -> Mapping[str, str]:
    """Return the versions of the packages that results depend on, read once: they take a fifth of a kept label."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


@contextmanager
def record_run(
    store: Store, command: str, settings: Mapping[str, object], models: Mapping[str, object], seed: int = 0
) -> Iterator[Run]:
    """Commit the run's row at the start, and its outcome with all it wrote at the end; the caller holds the write lock.

    A run that was killed stays `running`: see `read_runs`. What a run that fails wrote since its last commit is undone.
    """
    started = datetime.now(UTC)
    run = Run(f"{_next_id(store, started)}-{secrets.token_hex(3)}", settings_hash(settings))
    row = {
        "run_id": run.run_id,
        "command": command,
        "state": "running",
        "started": started,
        "ended": None,
        "settings": json.dumps(settings, sort_keys=True, default=str),
        "settings_hash": run.settings_hash,
        "models": json.dumps(models, sort_keys=True),
        "versions": json.dumps(dict(package_versions()), sort_keys=True),
        "seed": seed,
        "message": "",
    }
    store.append(schema.RUNS, _one_row(row))
    store.commit(run.run_id, command)
    try:
        yield run
    except BaseException as exc:
        state = "interrupted" if isinstance(exc, KeyboardInterrupt) else "failed"
        message = " ".join(str(exc).split())[:500]
        with suppress(StoreError):  # the first error is raised, not the failure to record it
            store.rollback()
            store.upsert(
                schema.RUNS,
                ["run_id"],
                _one_row(row | {"state": state, "ended": datetime.now(UTC), "message": message}),
            )
            store.commit(run.run_id, command)
        raise
    store.upsert(schema.RUNS, ["run_id"], _one_row(row | {"state": "done", "ended": datetime.now(UTC)}))
    store.commit(run.run_id, command)


def _next_id(store: Store, now: datetime) -> str:
    """Return the time in the id of a run. Ids sort by start, also where the clock was set back in between."""
    ids = sorted(map(str, store.read(schema.RUNS, ["run_id"])["run_id"].to_pylist()), reverse=True)
    last = next((time for run_id in ids if (time := _time_of(run_id)) is not None), None)
    return _id_after(last, now)


def _id_after(last: datetime | None, now: datetime) -> str:
    return f"{now if last is None else max(now, last + timedelta(microseconds=1)):{_ID}}"


def _time_of(run_id: str) -> datetime | None:
    try:
        time = datetime.strptime(run_id.partition("-")[0], _ID).replace(tzinfo=UTC)
    except ValueError:
        return None
    return time if time.year < _LAST_YEAR else None


def read_runs(store: Store, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return the rows of all runs, oldest first; one still `running` while nobody holds the index was interrupted.

    `columns` (default all) include run_id and state.
    """
    rows: list[dict[str, Any]] = store.read(schema.RUNS, columns).sort_by("run_id").to_pylist()
    running = [row for row in rows if row["state"] == "running"]
    if running and not store.is_locked():
        for row in running:
            row["state"] = "interrupted"
    return rows


def _one_row(row: Mapping[str, object]) -> pa.Table:
    return pa.Table.from_pylist([dict(row)], schema=schema.table_schema(schema.RUNS))
