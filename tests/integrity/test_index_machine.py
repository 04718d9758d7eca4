"""An index against a model in memory: commands, kills, resuming, tags, compaction, damages, repairs, in any order."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import damages
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from killing import killed_at
from machine_worlds import METHODS, OldFormat, Pictures, Request, Rows, World

from csp_index import Index, StoreError, open_index
from csp_index.integrity.verify import verify
from csp_index.store import schema
from csp_index.store.connect import open_store
from csp_index.store.history.migration import migrate

WORLDS: dict[str, World] = {}
STEP = st.none() | st.integers(1, 60) | st.integers(60, 180)  # where a command is killed, if it is
DAMAGES = {str(damage): damage.plant for damage in damages.all_damages()}
REPAIRED = (  # everything is as before
    "HEAD-deleted",
    "HEAD-emptied",
    "list of files deleted-images",
    "rows doubled by Lance-runs",
    "rows lost by Lance-neurons",
    "committed-mark lost",
    "committed-statistics doubled",
    "committed-top activations x 2",
)
FORGETTING = ("table gone-neurons", "data file deleted-shards")  # the same, but for earlier versions
RESTORED = (  # by whoever has a copy
    "table gone-images",
    "newest manifest deleted-runs",
    "record-deleted",
    "committed-mark's digest",
    "8 bytes-embeddings data at 0.45",
    "8 bytes-images data at 0.75",
)


@dataclass(frozen=True)
class State:
    """What readers must see."""

    images: int
    layers: frozenset[str]
    labels: Mapping[tuple[str, str], Rows]  # the newest, by layer and method
    preferences: tuple[str | None, ...] = ()  # all, oldest first: a user's own data
    computed: frozenset[Request] = frozenset()  # labels that are read and not made again


Command = Callable[[Index], object]
Effect = Callable[[State], State]


class IndexMachine(RuleBasedStateMachine):
    """One index, whose commands come in any order; `state` is what it must hold."""

    world = "arrays"

    @initialize(step=STEP)
    def make(self, step: int | None) -> None:
        """Begin with a new index; one of format 2 is migrated, perhaps at the second go."""
        self.made = WORLDS[self.world]
        self.folder = Path(tempfile.mkdtemp(dir=self.made.folder))
        self.db = self.folder / "db"
        self.killed: tuple[Command, Effect] | None = None  # what is to be resumed
        self.shown = False  # whether its finished parts were shown by a later commit
        self.made.start(self.db)
        self.index = self.made.open(self.db)
        self.state = State(self.made.steps[0], frozenset(self.made.own), _labels(self.index))
        self.tags: dict[str, tuple[State, State]] = {}  # at least and at most
        if self.world == "format 2":
            with killed_at(step or _NEVER) as kill:
                migrate(open_store(self.db))
            if kill.done:
                self.everybody_sees_the_state()
                with pytest.raises(StoreError, match="migrate"):
                    open_index(self.db).prefer("csp")
                migrate(open_store(self.db))
            self.reopen()

    def teardown(self) -> None:
        """Remove the index."""
        shutil.rmtree(getattr(self, "folder", "/nonexistent"), ignore_errors=True)

    def _run(self, command: Command, effect: Effect, step: int | None) -> None:
        """Run a command; one that is killed has done nothing that is seen, or all, and is to be resumed."""
        if step is not None:
            self.resume()
        finished = _finished(self.index)
        with killed_at(step or _NEVER) as kill:
            command(self.index)
        self.shown = not kill.done
        if kill.done:
            self.killed = command, effect
            self.reopen()
        if not kill.done or _finished(self.index) > finished:
            self.state = effect(self.state)

    @rule()
    def resume(self) -> None:
        """Run again what was killed."""
        if self.killed is not None:
            command, effect = self.killed
            self.killed = None
            command(self.index)
            self.state = effect(self.state)

    def _most(self) -> State:
        """Return the state with what a killed command left, too: the next commit shows its finished parts."""
        return self.killed[1](self.state) if self.killed is not None and self.shown else self.state

    @rule()
    def reopen(self) -> None:
        """Open the index again, as a new process would."""
        self.index = self.made.open(self.db)

    @precondition(lambda self: self.state.layers != set(self.made.layers))
    @rule(step=STEP)
    def add(self, step: int | None) -> None:
        """Add the next layer."""
        self.resume()
        layer = next((layer for layer in self.made.layers if layer not in self.state.layers), None)
        if layer is not None:
            self._run(
                lambda index: self.made.add(index, layer, self.state.images),
                lambda state: replace(state, layers=state.layers | {layer}),
                step,
            )

    @precondition(lambda self: self.state.images != self.made.steps[-1])
    @rule(step=STEP)
    def grow(self, step: int | None) -> None:
        """Add images."""
        self.resume()
        images = next((images for images in self.made.steps if images > self.state.images), None)
        if images is not None:
            self._run(lambda index: self.made.grow(index, images), lambda state: replace(state, images=images), step)

    @rule(
        place=st.integers(0, 3),
        method=st.sampled_from(METHODS),
        examples=st.integers(2, 3),
        recompute=st.booleans(),
        step=STEP,
    )
    def label(self, place: int, method: str, examples: int, recompute: bool, step: int | None) -> None:
        """Label a layer; what was labeled so before is read, or made again."""
        if self.killed is not None and self.killed[1](self.state).images != self.state.images:
            self.resume()
        layers = sorted(self.state.layers)
        request = Request(layers[place % len(layers)], method, examples, self.state.images)
        expected = self.made.rows(request)

        def command(index: Index) -> None:
            assert self.made.label(index, request, recompute=recompute) == expected

        def effect(state: State) -> State:
            if request in state.computed and not recompute:
                return state
            labels = {**state.labels, (request.layer, method): expected}
            return replace(state, labels=labels, computed=state.computed | {request})

        self._run(command, effect, step)

    @rule(method=st.sampled_from([*METHODS, None]), step=STEP)
    def prefer(self, method: str | None, step: int | None) -> None:
        """Prefer a method, or none."""
        self._run(
            lambda index: index.prefer(method),
            lambda state: replace(state, preferences=(*state.preferences, method)),
            step,
        )

    @rule(step=STEP)
    def optimize(self, step: int | None) -> None:
        """Compact all tables, and remove what nobody needs."""
        self._run(lambda index: index.optimize(keep_hours=0), lambda state: state, step)

    @rule(name=st.sampled_from(["a", "b"]))
    def tag(self, name: str) -> None:
        """Name what readers see, in place of what had the name."""
        if name in self.tags:
            self.index.untag(name)
        self.index.tag(name)
        self.shown = True
        self.tags[name] = self.state, self._most()

    @rule(full=st.booleans())
    def verify(self, full: bool) -> None:
        """Find nothing: also what killed commands left is no damage."""
        assert verify(self.db, full=full).findings == []

    @rule(name=st.sampled_from([*REPAIRED, *FORGETTING]))
    def repair(self, name: str) -> None:
        """Damage the index; it is found, and repaired without loss."""
        if not (self.tags and name in FORGETTING):
            self.resume()
            DAMAGES[name](self.db)
            assert verify(self.db, full=True).findings != [], name
            assert verify(self.db, full=True, repair=True).findings == [], name
            self.reopen()

    @rule(name=st.sampled_from(RESTORED))
    def restore(self, name: str) -> None:
        """Damage the index; it is found, and a copy comes back."""
        shutil.copytree(self.db, self.folder / "copy")
        DAMAGES[name](self.db)
        assert verify(self.db, full=True).findings != [], name
        shutil.rmtree(self.db)
        (self.folder / "copy").rename(self.db)
        self.reopen()

    @invariant()
    def everybody_sees_the_state(self) -> None:
        """Check the open index, one that is opened now, and every tag."""
        if hasattr(self, "state"):
            _check(self.index, self.state, self._most())
            _check(self.made.open(self.db), self.state, self._most())
            for name, states in self.tags.items():
                _check(open_index(self.db, version=name), *states)


_NEVER = 10**9


def _check(index: Index, state: State, most: State) -> None:
    """Compare an index with what it must hold, and with what a command that is to be resumed may have left in it."""
    status = index.status()
    layers = {layer["layer"] for layer in status["layers"]}
    assert state.layers <= layers <= most.layers
    assert state.images <= status["images"] <= most.images
    if state.images == status["images"]:
        ready = {layer["layer"]: layer["ready"] for layer in status["layers"]}
        assert all(ready[layer] for layer in state.layers)
    assert _labels(index) == state.labels
    assert _preferences(index) == state.preferences
    preferred = state.preferences[-1] if state.preferences else None
    assert status["preferred"] == preferred
    if preferred is not None:
        shown = _by_layer_and_method(index.labels().rows())
        assert _by(preferred, shown) == _by(preferred, state.labels)


def _by(method: str, labels: Mapping[tuple[str, str], Rows]) -> dict[tuple[str, str], Rows]:
    return {key: rows for key, rows in labels.items() if key[1] == method}


def _labels(index: Index) -> dict[tuple[str, str], Rows]:
    return _by_layer_and_method(index.labels(method="all").rows())


def _by_layer_and_method(labels: list[dict[str, Any]]) -> dict[tuple[str, str], Rows]:
    found: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    for row in labels:
        key = row["neuron"].rpartition("/")[0], row["method"]
        found.setdefault(key, []).append((row["neuron"], row["state"], row["text"], row["score"]))
    return {key: tuple(rows) for key, rows in found.items()}


def _runs(index: Index) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = index.store.read(schema.RUNS).sort_by("run_id").to_pylist()
    return [row for row in rows if row["state"] == "done"]


def _finished(index: Index) -> int:
    return len(_runs(index))


def _preferences(index: Index) -> tuple[str | None, ...]:
    return tuple(json.loads(row["settings"])["method"] for row in _runs(index) if row["command"] == "prefer")


@pytest.fixture(scope="module", autouse=True)
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what is made once for all examples."""
    for name, kind in (("arrays", World), ("pictures", Pictures), ("format 2", OldFormat)):
        WORLDS[name] = kind(tmp_path_factory.mktemp(name.replace(" ", "")))
    yield
    WORLDS.clear()


class PicturesMachine(IndexMachine):
    """The same with images, which more are added to."""

    world = "pictures"


class OldMachine(IndexMachine):
    """The same beginning with an index of format 2."""

    world = "format 2"


@pytest.fixture
def machine() -> Iterator[IndexMachine]:
    machine = IndexMachine()
    machine.make(step=None)
    yield machine
    machine.teardown()


@pytest.mark.slow
def test_a_walk_through_all_rules(machine):
    """One order of the rules, with kills at chosen steps: what random ones find in many, this finds soon."""

    def go(rule: str, /, **arguments: Any) -> None:
        getattr(machine, rule)(**arguments)
        machine.everybody_sees_the_state()

    asked = {"place": 0, "method": "csp", "examples": 2, "recompute": False, "step": None}
    go("label", **asked)
    go("prefer", method="csp", step=None)
    go("tag", name="a")
    go("label", **asked | {"examples": 3, "step": 28})
    assert machine.killed is not None
    go("verify", full=True)
    go("prefer", method="semanticlens", step=None)
    go("resume")
    go("label", **asked | {"recompute": True, "step": 34})
    go("prefer", method=None, step=None)
    go("add", step=41)
    assert machine.killed is not None
    go("tag", name="b")
    go("label", **asked | {"method": "semanticlens", "recompute": True, "step": None})
    go("resume")
    go("optimize", step=140)
    go("optimize", step=None)
    go("repair", name="committed-statistics doubled")
    go("restore", name="table gone-images")
    go("reopen")
    assert len(machine.state.labels) == 2 and len(machine.tags) == 2


_COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}
TestArrays = IndexMachine.TestCase
TestArrays.settings = settings(max_examples=2, stateful_step_count=5, derandomize=True, **_COMMON)


class LongIndexMachine(IndexMachine):
    """The same for longer."""


TestArraysForLong, TestPictures, TestOld = (
    pytest.mark.slow(machine.TestCase) for machine in (LongIndexMachine, PicturesMachine, OldMachine)
)
for _case in (TestArraysForLong, TestPictures, TestOld):
    _case.settings = settings(max_examples=20, stateful_step_count=20, **_COMMON)
