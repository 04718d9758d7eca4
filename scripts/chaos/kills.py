"""Kill every command at many of its steps; afterwards readers and the same command must find a whole index.

A step is before or after a write of a table, a sync, or the moment in which a small file comes to its place.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from outcome import Outcome
from subjects import COMMANDS, IN_STEPS, processes, write_arrays

_UNLIKE = ("run_id", "when", "started", "ended", "settings", "seconds")  # what differs from run to run


def run(folder: Path, *, quick: bool = False, commands: Sequence[str] = ()) -> list[Outcome]:
    """Return the outcomes of some ten kills for each command, or those named (two kills with `quick`)."""
    arrays = folder / "arrays"
    write_arrays(arrays)
    _in_process(_draw, str(arrays))
    outcomes = []
    for name in commands or COMMANDS:
        outcomes.append(_killed_often(name, folder / name.replace(" ", "-"), arrays, 2 if quick else 11))
    total = [tuple(map(int, outcome.figure.split(" of "))) for outcome in outcomes]
    good, tried = (sum(column) for column in zip(*total, strict=True))
    return [*outcomes, Outcome("kills recovered", f"{good} of {tried}", good == tried)]


def _draw(arrays: str) -> None:
    from csp_index.demo.probing import write_probing_set

    every = Path(arrays) / "every"
    write_probing_set(every, "biased", 0)
    few = Path(arrays) / "images"
    few.mkdir()
    for path in sorted(every.rglob("*.png"))[:40]:
        shutil.copy(path, few)


def _killed_often(name: str, folder: Path, arrays: Path, times: int) -> Outcome:
    command, before = COMMANDS[name]
    start, whole = folder / "start", folder / "whole"
    folder.mkdir()
    _in_process(before, str(start), str(arrays))
    _copy(start, whole)
    steps = int(_in_process(partial(_counted, command), str(whole), str(arrays)))
    new = _in_process(_contents, str(whole))
    old = None if name in IN_STEPS else _in_process(_contents, str(start))
    failures = []
    places = sorted({round((number + 0.5) * steps / times) for number in range(times)})
    for step in places:
        db = folder / "killed"
        _copy(start, db)
        fault = _killed_once(partial(_killed, command, step), db, arrays)
        if not fault and name not in IN_STEPS:
            fault = _seen(db, old, new)
        fault = fault or _resumed(command, db, arrays, new)
        if fault:
            failures.append(f"step {step} of {steps}: {fault}")
        shutil.rmtree(db, ignore_errors=True)
    return Outcome(f"kills of {name}", f"{len(places) - len(failures)} of {len(places)}", not failures, tuple(failures))


def _killed_once(kill: Callable[..., Any], db: Path, arrays: Path) -> str:
    """Kill a command; return how else it ended."""
    status = _in_process(kill, str(db), str(arrays), killed=True)
    return "" if status == -signal.SIGKILL else f"it ended with {status}, before it was killed"


def _seen(db: Path, old: Any, new: Any) -> str:
    """Return what is wrong with what readers see after a kill, or nothing."""
    seen = _in_process(_contents, str(db))
    if seen in (old, new) or _without_runs(seen) in (_without_runs(old), _without_runs(new)):
        return ""
    return f"readers see neither the state before nor after: {_difference(seen, new)}"


def _resumed(command: Callable[..., Any], db: Path, arrays: Path, new: Any) -> str:
    """Run the same command again; return what is wrong then, or nothing."""
    try:
        _in_process(command, str(db), str(arrays))
    except RuntimeError as exc:
        return f"the same command fails: {exc}"
    again = _in_process(_contents, str(db))
    if _without_runs(again) != _without_runs(new):
        return f"the same command gives another index: {_difference(again, new)}"
    if unsound := _in_process(_unsound, str(db)):
        return f"verify says: {unsound}"
    left = _in_process(_left_over, str(db))
    return f"{left} files are left that nothing names" if left else ""


def _difference(seen: Any, expected: Any) -> str:
    if not isinstance(seen, dict) or not isinstance(expected, dict):
        return f"{seen} instead of {expected}"[:200]
    names = sorted(name for name in seen.keys() | expected.keys() if seen.get(name) != expected.get(name))
    sizes = [f"{name} {len(seen.get(name, []))} rows, expected {len(expected.get(name, []))}" for name in names]
    return "; ".join(sizes)[:300]


def _without_runs(contents: Any) -> Any:
    return {name: rows for name, rows in contents.items() if name != "runs"} if isinstance(contents, dict) else {}


def _contents(db: str, arrays: str = "") -> Any:
    """Return the rows of every table that readers see, without what differs from run to run; None without an index."""
    from csp_index.errors import StoreError
    from csp_index.query.reader import Reader
    from csp_index.store.connect import is_index

    if not is_index(db):
        try:
            Reader(db).status()
        except StoreError:
            return None
        raise AssertionError(f"{db} is no index, and is read")
    reader = Reader(db)
    reader.status()
    reader.labels()
    reader.sql("SELECT count(*) FROM neurons")
    contents = {}
    for name in reader.store.table_names():
        rows = reader.store.read(name).to_pylist()
        for row in rows:
            for column in _UNLIKE:
                row.pop(column, None)
        contents[name] = sorted(map(repr, rows))
    return contents


def _unsound(db: str) -> str:
    """Return the first fault that `csp-index verify` sees, or nothing."""
    from csp_index.integrity.verify import verify

    result = verify(db, full=True)
    return "" if result.sound else str(result.findings[0])


def _left_over(db: str) -> int:
    """Return how many files are left after clean-up that no commit names."""
    from csp_index import open_index

    index = open_index(db)
    index.optimize(keep_hours=0)
    index.close()
    log = open_index(db).store.log
    records, left = log.records(), 0
    for name in {name for record in records for name in record.tables}:
        lists = {record.tables[name].files for record in records if name in record.tables}
        named = {file for digest in lists for file in log.files(digest)}
        root = Path(db) / f"{name}.lance"
        files = {str(path.relative_to(root)) for part in ("data", "_deletions") for path in (root / part).glob("*")}
        left += len(files - named)
    return left


def _counted(command: Callable[[str, str], None], db: str, arrays: str) -> int:
    steps = [0]
    _at_each_step(lambda: steps.__setitem__(0, steps[0] + 1))
    command(db, arrays)
    return steps[0]


def _killed(command: Callable[[str, str], None], step: int, db: str, arrays: str) -> None:
    left = [step]

    def look() -> None:
        left[0] -= 1
        if left[0] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    _at_each_step(look)
    command(db, arrays)


def _at_each_step(look: Callable[[], None]) -> None:
    """Call `look` before and after whatever reaches the disk; in a process that ends soon."""
    from csp_index.store.history.transactions import Transaction
    from csp_index.store.locations import LocalLocation

    def around(owner: Any, name: str) -> None:
        method = getattr(owner, name)

        def called(*arguments: Any, **options: Any) -> Any:
            look()
            result = method(*arguments, **options)
            look()
            return result

        setattr(owner, name, called)

    around(Transaction, "touch")
    around(LocalLocation, "sync")
    around(os, "link")
    around(os, "replace")


def _copy(source: Path, target: Path) -> None:
    if source.exists():
        shutil.copytree(source, target)


def _in_process(work: Callable[..., Any], *arguments: str, killed: bool = False) -> Any:
    """Return what work returns in a process of its own; with `killed`, how that process ended."""
    receiving, sending = processes.Pipe(duplex=False)
    process = processes.Process(target=_reporting, args=(work, arguments, sending))
    process.start()
    sending.close()
    try:
        status, value = receiving.recv()
    except EOFError:
        status, value = False, "it was killed"
    process.join()
    if killed:
        return process.exitcode
    if not status:
        raise RuntimeError(value)
    return value


def _reporting(work: Callable[..., Any], arguments: tuple[str, ...], sending: Any) -> None:
    try:
        sending.send((True, work(*arguments)))
    except Exception as exc:
        sending.send((False, f"{type(exc).__name__}: {exc}"))
