"""A store against a model in memory: writes, failures, kills, checkpoints, tags, compaction, clean-up, in any order."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from csp_index.store import maintenance
from csp_index.store.connect import create_store, open_snapshot, open_store, open_version
from csp_index.store.history.cleanup import clean_up
from csp_index.store.history.transactions import Transaction
from csp_index.store.tables import Store

TABLES = st.sampled_from(["numbers", "others"])
WRITES = st.lists(
    st.tuples(st.sampled_from(["append", "upsert", "delete", "replace", "checkpoint"]), TABLES, st.integers(0, 9)),
    min_size=1,
    max_size=5,
)
END = st.sampled_from(["killed", "committed", "failed"])

State = dict[str, list[int]]


class Killed(BaseException):
    """In place of SIGKILL, which would end the tests."""


class StoreMachine(RuleBasedStateMachine):
    """One index, written and read in any order; `shown` and `latest` are what it must hold."""

    @initialize()
    def make(self) -> None:
        """Make an index with two tables, of which the first has a row."""
        self.folder = Path(tempfile.mkdtemp())
        self.uri = self.folder / "db"
        self.store = create_store(self.uri)
        with self.store.write_lock():
            for name in ("numbers", "others"):
                self.store.create(name, _rows([]).schema)
        self.shown: State = {"numbers": [], "others": []}
        self.latest = self.shown  # with the checkpoints of a killed command
        self.versions: dict[int, State] = {self._number(): self.shown}
        self.tags: dict[str, int] = {}
        self.readers: list[tuple[Store, State]] = []

    def teardown(self) -> None:
        """Remove the index."""
        shutil.rmtree(getattr(self, "folder", "/nonexistent"), ignore_errors=True)

    def _number(self) -> int:
        record = open_store(self.uri).commit_seen
        assert record is not None
        return record.number

    def _committed(self, state: State) -> None:
        self.shown = self.latest = state
        self.versions[self._number()] = state

    @rule(writes=WRITES, end=END)
    def write(self, writes: list[tuple[str, str, int]], end: str) -> None:
        """Write in one command that ends well, by an error, or by a kill."""
        state, checked = dict(self.latest), dict(self.latest)
        with pytest.MonkeyPatch.context() as patch:
            if end == "killed":
                patch.setattr(Transaction, "rollback", _killed)
            try:
                with self.store.write_lock():
                    for kind, name, number in writes:
                        if kind == "checkpoint":
                            self.store.checkpoint()
                            checked = dict(state)
                        else:
                            state = state | {name: _write(self.store, kind, name, number, state[name])}
                    if end != "committed":
                        raise Killed
            except Killed:
                state = checked
        if end == "killed":
            self.latest = state
        else:
            self._committed(state)

    @rule(name=TABLES, number=st.integers(0, 9))
    def kill(self, name: str, number: int) -> None:
        """Write and be killed, with nothing at a checkpoint."""
        self.write([("append", name, number)], "killed")

    @rule(fresh=st.booleans())
    def reopen(self, fresh: bool) -> None:
        """Open the index again, as a new process would."""
        self.store = open_store(self.uri) if fresh else create_store(self.uri)

    @rule(name=st.sampled_from(["a", "b", "c"]))
    def tag(self, name: str) -> None:
        """Name what readers see, in place of what had the name."""
        if name in self.tags:
            self.store.log.untag(name)
        number = self._number()
        self.store.log.tag(name, self.store.log.find(str(number)))
        self.tags[name] = number

    @rule()
    def read_on(self) -> None:
        """Begin to read, and stay."""
        self.readers.append((open_snapshot(self.uri), self.shown))

    @precondition(lambda self: self.readers)
    @rule()
    def stop_reading(self) -> None:
        """Let go of the reader that began first."""
        self.readers.pop(0)

    @rule(name=TABLES)
    def compact(self, name: str) -> None:
        """Merge a table's fragments."""
        with self.store.write_lock():
            maintenance.compact(self.store, name)
        self._committed(self.latest)

    @rule()
    def clean(self) -> None:
        """Remove all that nobody needs."""
        with self.store.write_lock():
            self.store.commit()
            clean_up(self.store, 0)
        self._committed(self.latest)
        there = {record.number for record in self.store.log.records()}
        assert {self._number(), *self.tags.values()} <= there
        self.versions = {number: state for number, state in self.versions.items() if number in there}

    @invariant()
    def everyone_sees_what_was_committed(self) -> None:
        """Check the open store, a new one, every reader that stays, and every version that is there."""
        if not hasattr(self, "store"):
            return
        assert _state(self.store) == _state(open_store(self.uri)) == self.shown
        for reader, state in self.readers:
            assert _state(reader) == state
        for name, number in self.tags.items():
            assert _state(open_version(self.uri, name)) == self.versions[number]


def _rows(numbers: list[int]) -> pa.Table:
    return pa.table({"key": pa.array(numbers, pa.int64())})


def _write(store: Store, kind: str, name: str, number: int, before: list[int]) -> list[int]:
    if kind == "append":
        store.append(name, _rows([number, number + 10]))
        return sorted([*before, number, number + 10])
    if kind == "replace":
        store.replace(name, _rows([number]))
        return [number]
    if kind == "delete":
        store.delete(name, f"key = {number}")
        return [key for key in before if key != number]
    store.delete(name, f"key = {number}")  # keys are not unique here, so an upsert is of one that is absent
    store.upsert(name, ["key"], _rows([number]))
    return sorted([*(key for key in before if key != number), number])


def _state(store: Store) -> State:
    return {name: sorted(store.read(name)["key"].to_pylist()) for name in ("numbers", "others")}


def _killed(transaction: Any) -> None:
    transaction._lock.clean = False  # the owner's file stays
    raise Killed


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=12, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


class LongStoreMachine(StoreMachine):
    """The same for longer."""


TestStoreForLong = pytest.mark.slow(LongStoreMachine.TestCase)
TestStoreForLong.settings = settings(
    max_examples=150, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
