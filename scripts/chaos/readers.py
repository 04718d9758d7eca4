"""Readers while others write: each reading is of one version, whole; no writer loses an update; a service stays up."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from outcome import Outcome
from subjects import LAYER, NEURONS, labelled, processes, texts, write_arrays

_READERS = 8
_PAGES = (
    "/",
    "/api/v1/index",
    "/api/v1/layers",
    f"/layers/{LAYER}",
    f"/neurons/{LAYER}/1",
    f"/neurons/{LAYER}/3.json",
    "/images/5",
    "/readyz",
)


@dataclass(frozen=True)
class Place:
    """Where indexes are, the arrays that they are made from, and the environment that processes need there."""

    root: str
    arrays: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    name: str = ""  # of the place, in rows of the table

    def db(self, name: str) -> str:
        """Make an index with labels; return its address."""
        made = self.process(labelled, f"{self.root}/{name}", str(self.arrays))
        made.start()
        made.join()
        if made.exitcode:
            raise RuntimeError(f"the index {self.root}/{name} cannot be made: the process ended with {made.exitcode}")
        return f"{self.root}/{name}"

    def process(self, target: Callable[..., None], *arguments: Any) -> Any:
        """Return a process that is not started."""
        return processes.Process(target=_in_environment, args=(dict(self.environment), target, arguments))


def _in_environment(environment: Mapping[str, str], target: Callable[..., None], arguments: Sequence[Any]) -> None:
    os.environ.update(environment)
    target(*arguments)


def run(folder: Path, *, quick: bool = False) -> list[Outcome]:
    """Return the outcomes of readers beside writers, of two writers, and of a service through a whole re-index."""
    write_arrays(folder / "arrays")
    place = Place(str(folder), folder / "arrays")
    return [
        many_readers(place, 10 if quick else 90),
        two_writers(place, 20 if quick else 200),
        service(place, 500 if quick else 24_000),
    ]


def many_readers(place: Place, seconds: float) -> Outcome:
    """Eight readers while a writer labels again, adds layers, and cleans up with nothing kept."""
    db = place.db("read")
    counts, stop = processes.Queue(), processes.Event()
    writer = place.process(_write, db, str(place.arrays), stop)
    readers = [place.process(_read, db, stop, counts) for _ in range(_READERS)]
    for process in (writer, *readers):
        process.start()
    time.sleep(seconds)
    stop.set()
    totals: Counter[str] = Counter()
    for _ in readers:
        totals.update(counts.get(timeout=300))
    for process in (writer, *readers):
        process.join()
    readings = totals.pop("readings")
    details = tuple(f"{count} x {fault}" for fault, count in totals.most_common(5))
    if writer.exitcode:
        details += (f"the writer ended with {writer.exitcode}",)
    return Outcome(
        f"readings by 8 readers beside a writer{place.name}, whole",
        f"{readings - totals.total()} of {readings}",
        not details,
        details,
    )


def _write(db: str, arrays: str, stop: Any) -> None:
    from csp_index import open_index

    turn = 0
    while not stop.is_set():
        index = open_index(db)
        index.label(LAYER, "csp", vocabulary=texts(), bootstrap=0, recompute=True)
        index.import_arrays(f"{arrays}/B.npy", f"m/layer{turn}", shard_size=12)
        index.optimize(keep_hours=0)
        turn += 1


def _read(db: str, stop: Any, counts: Any) -> None:
    from csp_index.errors import CspIndexError
    from csp_index.query.reader import Reader

    faults: Counter[str] = Counter()
    reader = Reader(db)
    while not stop.is_set():
        faults["readings"] += 1
        try:
            with reader.store.moment():
                fault = _fault(reader)
        except CspIndexError as exc:
            fault = str(exc)[:150]
        if fault:
            faults[fault] += 1
    counts.put(faults)


def _fault(reader: Any) -> str:
    """Return what does not fit together in what one reader sees at once, or nothing."""
    status = reader.status()
    if not all(layer["ready"] for layer in status["layers"]):
        return "a layer's statistics cover fewer images than the index has"
    labels = reader.labels(LAYER, method="csp").to_arrow()
    if labels.num_rows != NEURONS:
        return f"{labels.num_rows} labels of {NEURONS}"
    pairs = reader.sql("SELECT count(DISTINCT l.neuron) AS n FROM labels l JOIN examples e USING (run_id, neuron)")
    if pairs.rows()[0]["n"] != NEURONS:
        return "labels without their examples"
    return ""


def two_writers(place: Place, rounds: int) -> Outcome:
    """Two writers that start together, again and again: each is let in or told who writes; what was let in is there."""
    db = place.db("written")
    start, results = processes.Barrier(2), processes.Queue()
    writers = [place.process(_contend, db, rounds, start, results) for _ in range(2)]
    for process in writers:
        process.start()
    done, told, faults = 0, 0, Counter[str]()
    for _ in writers:
        own_done, own_told, own_faults = results.get(timeout=1200)
        done, told = done + own_done, told + own_told
        faults.update(own_faults)
    for process in writers:
        process.join()
    counting = place.process(_count, db, results)
    counting.start()
    lost = done - results.get(timeout=300)
    counting.join()
    details = tuple(f"{count} x {fault}" for fault, count in faults.most_common(5))
    if lost:
        details += (f"{lost} updates are lost",)
    figure = f"{lost} lost of {done}, {told} told"
    return Outcome(f"{rounds} rounds of two writers at once{place.name}", figure, not details, details)


def _contend(db: str, rounds: int, start: Any, results: Any) -> None:
    from csp_index import open_index
    from csp_index.errors import CspIndexError

    done, told, faults = 0, 0, Counter[str]()
    index = open_index(db)
    for _ in range(rounds):
        start.wait(300)
        try:
            index.prefer("csp")
            done += 1
        except CspIndexError as exc:
            if "is being written by process" in str(exc):
                told += 1
            else:
                faults[str(exc)[:150]] += 1
    results.put((done, told, dict(faults)))


def _count(db: str, results: Any) -> None:
    from csp_index.query.reader import Reader

    runs = Reader(db).status()["runs"]
    results.put(sum((row["command"], row["state"]) == ("prefer", "done") for row in runs))


def service(place: Place, requests: int) -> Outcome:
    """A service answers while its index is labeled, extended, compacted and cleaned up."""
    db = place.db("served")
    command = [
        sys.executable,
        "-c",
        "from csp_index.cli import main; main()",
        "serve",
        db,
        "--port",
        "0",
        "--json",
    ]
    environment = {**os.environ, **place.environment}
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert served.stdout is not None
    address = json.loads(served.stdout.readline())["address"]
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    stop = processes.Event()
    writer = place.process(_write, db, str(place.arrays), stop)
    writer.start()
    answers: list[Counter[str]] = [Counter() for _ in range(_READERS)]
    each = requests // _READERS
    threads = [threading.Thread(target=_ask, args=(host, int(port), each, statuses)) for statuses in answers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    writer.join()
    served.terminate()
    served.wait(30)
    statuses = sum(answers, Counter())
    good = statuses.pop("200", 0)
    details = tuple(f"{count} x {status}" for status, count in statuses.most_common(5))
    if writer.exitcode:
        details += (f"the writer ended with {writer.exitcode}",)
    return Outcome(
        f"requests to a service beside a writer{place.name}", f"{good} of {each * _READERS}", not details, details
    )


def _ask(host: str, port: int, requests: int, statuses: Counter[str]) -> None:
    connection = http.client.HTTPConnection(host, port, timeout=60)
    for number in range(requests):
        try:
            connection.request("GET", _PAGES[number % len(_PAGES)])
            answer = connection.getresponse()
            answer.read()
            statuses[str(answer.status)] += 1
        except (OSError, http.client.HTTPException) as exc:
            statuses[repr(exc)[:100]] += 1
            connection.close()
