"""Readers while others write: each reading is of one version, whole; no writer loses an update; a service stays up."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from collections import Counter
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


def run(folder: Path, *, quick: bool = False) -> list[Outcome]:
    """Return the outcomes of readers beside writers, of two writers, and of a service through a whole re-index."""
    arrays = folder / "arrays"
    write_arrays(arrays)
    return [
        _many_readers(folder / "read", arrays, 10 if quick else 90),
        _two_writers(folder / "written", arrays, 20 if quick else 200),
        _service(folder / "served", arrays, 500 if quick else 24_000),
    ]


def _made(db: Path, arrays: Path) -> None:
    process = processes.Process(target=labelled, args=(str(db), str(arrays)))
    process.start()
    process.join()


def _many_readers(db: Path, arrays: Path, seconds: float) -> Outcome:
    """Eight readers while a writer labels again, adds layers, and cleans up with nothing kept."""
    _made(db, arrays)
    counts, stop = processes.Queue(), processes.Event()
    writer = processes.Process(target=_write, args=(str(db), str(arrays), stop))
    readers = [processes.Process(target=_read, args=(str(db), stop, counts)) for _ in range(_READERS)]
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
        "readings by 8 readers beside a writer, whole",
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


def _two_writers(db: Path, arrays: Path, rounds: int) -> Outcome:
    """Two writers that start together, again and again: each is let in or told who writes; what was let in is there."""
    _made(db, arrays)
    start, results = processes.Barrier(2), processes.Queue()
    writers = [processes.Process(target=_contend, args=(str(db), rounds, start, results)) for _ in range(2)]
    for process in writers:
        process.start()
    done, told, faults = 0, 0, Counter[str]()
    for _ in writers:
        own_done, own_told, own_faults = results.get(timeout=1200)
        done, told = done + own_done, told + own_told
        faults.update(own_faults)
    for process in writers:
        process.join()
    from csp_index.query.reader import Reader

    runs = [row for row in Reader(db).status()["runs"] if row["command"] == "prefer"]
    lost = done - sum(row["state"] == "done" for row in runs)
    details = tuple(f"{count} x {fault}" for fault, count in faults.most_common(5))
    if lost:
        details += (f"{lost} updates are lost",)
    figure = f"{lost} lost of {done}, {told} told"
    return Outcome(f"{rounds} rounds of two writers at once", figure, not details, details)


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


def _service(db: Path, arrays: Path, requests: int) -> Outcome:
    """A service answers while its index is labeled, extended, compacted and cleaned up."""
    _made(db, arrays)
    command = [
        sys.executable,
        "-c",
        "from csp_index.cli import main; main()",
        "serve",
        str(db),
        "--port",
        "0",
        "--json",
    ]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert served.stdout is not None
    address = json.loads(served.stdout.readline())["address"]
    host, port = address.removeprefix("http://").rstrip("/").split(":")
    stop = processes.Event()
    writer = processes.Process(target=_write, args=(str(db), str(arrays), stop))
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
    return Outcome("requests to a service beside a writer", f"{good} of {each * _READERS}", not details, details)


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
