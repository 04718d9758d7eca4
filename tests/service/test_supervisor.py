"""Several processes behind one address: they answer alike, stand in for each other, and end together."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest
from browsing import CLI, lives
from planted import make_arrays
from uvicorn.config import STARTUP_FAILURE

from csp_index.errors import SettingError
from csp_index.service import ServiceSettings, server, supervisor
from csp_index.service.config import SHARED_COUNTERS

TOKEN = "more-than-sixteen-letters"
BEARER = {"authorization": f"Bearer {TOKEN}"}
PATIENCE = 60.0  # seconds; a busy machine loads slowly


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: str


@dataclass
class Pair:
    """A service of two processes."""

    process: subprocess.Popen[str]
    port: int
    temporary: Path

    def ask(self, target: str, headers: Mapping[str, str] = BEARER, form: str | None = None) -> Answer:
        """Ask over a connection of its own, so that either process may answer."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        kind = {} if form is None else {"content-type": "application/x-www-form-urlencoded"}
        connection.request("GET" if form is None else "POST", target, form, {"connection": "close", **kind, **headers})
        answer = connection.getresponse()
        found = Answer(answer.status, dict(answer.getheaders()), answer.read().decode())
        connection.close()
        return found

    def counted(self, pattern: str) -> float:
        """Return the sum of the counters whose lines begin like this."""
        lines = self.ask("/metrics").body.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(pattern, line))

    @property
    def workers(self) -> set[int]:
        """The processes that answer."""
        listed = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(self.process.pid)]
        said = subprocess.run(listed, capture_output=True, text=True).stdout
        return {int(line.split()[0]) for line in said.splitlines() if "spawn_main" in line}


@contextmanager
def started(index: Path, folder: Path) -> Iterator[Pair]:
    (folder / "token").write_text(TOKEN)
    options = ["--port", "0", "--workers", "2", "--token-file", str(folder / "token")]
    process = subprocess.Popen(
        [*CLI, "serve", str(index), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)},
    )
    with process:
        port = re.search(r":(\d+)/", process.stdout.readline())
        assert port is not None
        try:
            yield Pair(process, int(port[1]), folder)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0 or process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index without models, which each process would load for some seconds."""
    return make_arrays(tmp_path_factory.mktemp("arrays"))


@pytest.fixture(scope="module")
def pair(db: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A service that serves on whatever is done to one of its processes."""
    with started(db, tmp_path_factory.mktemp("pair")) as found:
        yield found


@pytest.fixture
def doomed(db: Path, tmp_path: Path) -> Iterator[Pair]:
    """A service that a test ends."""
    with started(db, tmp_path) as found:
        yield found


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.1)


def test_both_answer_alike_and_count_together(pair: Pair):
    assert len(pair.workers) == 2
    made, answers = 'csp_index_answers_total{source="made"}', []
    while pair.counted(made) < 2 and len(answers) < 500:  # each makes it once: until both have answered
        answers.append(pair.ask("/api/v1/index"))
    assert pair.counted(made) == 2
    assert {(answer.status, answer.body, answer.headers["etag"]) for answer in answers} == {
        (200, answers[0].body, answers[0].headers["etag"])
    }
    # an answer arrives before the process that sent it has counted it
    until(lambda: pair.counted("csp_index_requests_total.*/api/v1/index") == len(answers), "every answer is counted")
    until(lambda: pair.counted("csp_index_in_flight") == 1, "only the request for the counters is in flight")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks at what another process has loaded")
def test_no_process_loads_data_frames(pair: Pair):
    loaded = {process: Path(f"/proc/{process}/maps").read_text() for process in pair.workers}
    assert len(loaded) == 2 and all("/pyarrow/" in libraries for libraries in loaded.values())
    assert not any("/pandas/" in libraries for libraries in loaded.values())


def test_a_browser_that_signed_in_is_known_to_both(pair: Pair):
    signed = pair.ask("/login", {}, f"token={TOKEN}&next=/")
    cookie = {"cookie": signed.headers["set-cookie"].partition(";")[0]}
    assert signed.status == 303
    assert {pair.ask("/index.json", cookie).status for _ in range(50)} == {200}
    assert pair.ask("/index.json", {}).status == 401


def test_a_process_that_dies_is_replaced_and_the_other_answers_meanwhile(pair: Pair):
    before = pair.workers
    gone = min(before)
    os.kill(gone, signal.SIGKILL)
    assert [pair.ask("/api/v1/layers").status for _ in range(5)] == [200] * 5
    until(lambda: len(pair.workers - {gone}) == 2, "a new process")
    assert len(pair.workers & before) == 1
    until(lambda: pair.counted("csp_index_in_flight") == 1, "what the dead one was working on is forgotten")


def test_a_process_that_dies_at_work_is_noticed_at_once(pair: Pair):
    gone = min(pair.workers)
    os.kill(gone, signal.SIGSTOP)  # it says nothing any more, as while a library is loading
    time.sleep(1.5)  # until it has been asked whether it lives
    began = time.monotonic()
    os.kill(gone, signal.SIGKILL)
    until(lambda: len(pair.workers - {gone}) == 2, "a new process")
    assert time.monotonic() - began < server._HEALTH_SECONDS / 2


@pytest.mark.slow
def test_they_end_with_the_process_that_started_them(doomed: Pair):
    left = doomed.workers
    (counters,) = doomed.temporary.glob("csp_index_*")
    doomed.process.kill()
    until(lambda: not any(map(lives, left)), "the processes end")
    until(lambda: not counters.exists(), "the counters are gone")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGINT])
def test_a_process_that_hangs_does_not_keep_the_service(doomed: Pair, sent: int):
    left = doomed.workers
    os.kill(min(left), signal.SIGSTOP)
    doomed.process.send_signal(sent)  # once: it waits for requests that might be on their way
    time.sleep(1.5)
    doomed.process.send_signal(signal.SIGTERM)  # twice: not any more
    assert doomed.process.wait(PATIENCE) == 0
    assert not any(map(lives, left))


def test_limits_are_of_all_processes_together():
    whole = ServiceSettings(workers=3, threads=2, waiting=64, held_bytes=300, sql_processes=4)
    part = supervisor._share(whole)
    assert (part.waiting, part.held_bytes, part.sql_processes) == (22, 100, 2)
    assert part.threads == 2  # with one alone, who gets to a busy process waits, whatever the others do
    assert part.start == whole.start  # what tags and sessions hang on is one
    assert "start" not in repr(whole)


def test_a_process_that_cannot_start_says_why_and_ends_the_others(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(SHARED_COUNTERS, str(tmp_path / "counters"))
    running = multiprocessing.Event()

    def code() -> object:
        with pytest.raises(SystemExit) as ended:
            supervisor._worker(str(tmp_path / "none"), ServiceSettings(), {}, running)
        assert "no index at" in capfd.readouterr().err
        return ended.value.code

    assert code() == STARTUP_FAILURE  # upon which uvicorn starts no more
    running.set()
    naps: list[float] = []
    monkeypatch.setattr(supervisor.time, "sleep", naps.append)
    assert code() == 1 and naps == [supervisor._AGAIN_SECONDS]


def test_no_process_at_all_is_refused(run, db, monkeypatch):
    assert run("serve", db, "--workers", 0).status == 2
    monkeypatch.setenv("CSP_INDEX_SERVE_WORKERS", "0")
    with pytest.raises(SettingError, match="serve_workers"):
        ServiceSettings()
