"""What the record of commits costs: at opening, and within labeling and indexing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from outcome import Outcome
from subjects import LAYER, WORDS, processes

_SLOWER_MS, _SHARE = 50, 0.03  # the bars


def run(folder: Path, *, quick: bool = False) -> list[Outcome]:
    """Return the outcomes; all of it runs in one process of its own, with nothing beside it."""
    receiving, sending = processes.Pipe(duplex=False)
    process = processes.Process(target=_measure, args=(str(folder), quick, sending))
    process.start()
    outcomes = receiving.recv()
    process.join()
    return list(outcomes)


def _measure(folder: str, quick: bool, sending: Any) -> None:
    images, neurons, width = (2_000, 64, 64) if quick else (20_000, 1_024, 256)
    rng = np.random.default_rng(0)
    place = Path(folder)
    vectors = rng.standard_normal((images, width), dtype=np.float32)
    np.save(place / "E.npy", vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    np.save(place / "A.npy", np.maximum(rng.standard_normal((images, neurons), dtype=np.float32), 0))
    db = str(place / "db")
    outcomes = [_commits_within("import", lambda: _take_in(db, place), f"{images:,} images x {neurons:,} neurons")]
    outcomes.append(_commits_within("label", lambda: _label(db, width), f"{neurons:,} neurons"))
    sending.send([*outcomes, _opened(db, 5 if quick else 30)])


def _take_in(db: str, place: Path) -> None:
    from csp_index import open_index

    open_index(db).import_arrays(place / "A.npy", LAYER, embeddings=place / "E.npy")


def _label(db: str, width: int) -> None:
    import torch

    from csp_index import CandidateTexts, open_index

    directions = torch.nn.functional.normalize(torch.randn(2_000, width), dim=1)
    names = tuple(f"{WORDS[number % len(WORDS)]} {number}" for number in range(2_000))
    open_index(db).label(LAYER, "csp", vocabulary=CandidateTexts(names, directions, key="chaos"))


def _commits_within(name: str, work: Callable[[], None], what: str) -> Outcome:
    """Return which share of a command its transactions take: to go on from the last commit, and to commit."""
    from csp_index.store.history.transactions import Transaction

    spent = [0.0]
    originals = {method: getattr(Transaction, method) for method in ("begin", "commit")}

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*arguments, **options)
            finally:
                spent[0] += time.perf_counter() - started

        return called

    for method, original in originals.items():
        setattr(Transaction, method, timed(original))
    started = time.perf_counter()
    work()
    seconds = time.perf_counter() - started
    for method, original in originals.items():
        setattr(Transaction, method, original)
    share = spent[0] / seconds
    figure = f"{1000 * spent[0]:.0f} ms of {seconds:.1f} s ({share:.1%})"
    good = name == "import" or share <= _SHARE or seconds < 5  # of a short command it says nothing
    return Outcome(f"commits within {name} of {what}", figure, good)


def _opened(db: str, times: int) -> Outcome:
    """Return how much longer opening takes by the record than without it."""
    from csp_index.store import schema
    from csp_index.store.connect import open_store
    from csp_index.store.locations import location_of
    from csp_index.store.tables import Store

    def seconds(opened: Callable[[], Store]) -> float:
        started = time.perf_counter()
        opened().read(schema.RUNS)
        return time.perf_counter() - started

    pairs = [
        (seconds(lambda: open_store(db)), seconds(lambda: Store(location_of(db), uncommitted=True)))
        for _ in range(times)
    ]
    slower = 1000 * statistics.median(with_record - without for with_record, without in pairs)
    return Outcome("opening by the record, longer than without", f"{slower:.1f} ms", slower <= _SLOWER_MS)
