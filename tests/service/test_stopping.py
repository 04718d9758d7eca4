"""Live questions that cost much: refused before they start, and ended at the client's leave and at SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from browsing import CLI

from csp_index import open_index
from csp_index.labelling.candidates import read_text_arrays

NEURONS, IMAGES, WIDTH, TEXTS = 64, 5100, 64, 1000


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An index of arrays, and the run of one neuron's label whose confidence takes long."""
    folder = tmp_path_factory.mktemp("stopping")
    random = np.random.default_rng(0)
    np.save(folder / "E.npy", random.standard_normal((IMAGES, WIDTH)).astype(np.float32))
    np.save(folder / "A.npy", np.maximum(random.standard_normal((IMAGES, NEURONS)), 0).astype(np.float32))
    np.save(folder / "T.npy", random.standard_normal((TEXTS, WIDTH)).astype(np.float32))
    (folder / "T.txt").write_text("\n".join(f"word {number}" for number in range(TEXTS)))
    index = open_index(folder / "db")
    index.import_arrays(folder / "A.npy", "m/l", embeddings=folder / "E.npy")
    texts = read_text_arrays(folder / "T.npy", folder / "T.txt")
    (label,) = index.label("m/l/0", "csp", vocabulary=texts, bootstrap=3000)
    return folder, label.run_id


@contextmanager
def served(folder: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    texts = ["--text-embeddings", str(folder / "T.npy"), "--texts", str(folder / "T.txt")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    environment |= {f"CSP_INDEX_{name.upper()}": value for name, value in settings.items()}
    process = subprocess.Popen(
        [*CLI, "serve", str(folder / "db"), "--port", "0", *texts],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    with process:
        try:
            assert process.stdout is not None
            yield process, next(word for word in process.stdout.readline().split() if word.startswith("http://"))
        finally:
            process.kill()


def question(run: str) -> bytes:
    body = {"neurons": [f"m/l/{neuron}" for neuron in range(NEURONS)], "run": run, "examples": 95, "neighbours": 95}
    return json.dumps(body).encode()


def asking(address: str, body: bytes) -> socket.socket:
    """A connection on which the question was sent, and no answer has been read."""
    parts = urlsplit(address)
    connection = socket.create_connection((parts.hostname or "", parts.port or 0), timeout=60)
    head = f"POST /api/v1/label HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    return connection


def seconds_of_cpu(process: subprocess.Popen[str]) -> float:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def megabytes(process: subprocess.Popen[str]) -> float:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def computing(process: subprocess.Popen[str], seconds: float = 1.0) -> bool:
    before = seconds_of_cpu(process)
    time.sleep(seconds)
    return seconds_of_cpu(process) - before > 0.05 * seconds  # idle it takes 0.01; a busy machine gives it little


def wait_until(what: bool, process: subprocess.Popen[str], seconds: float) -> float:
    """Wait until the process computes, or no longer does; return the seconds of CPU that it took meanwhile."""
    started, before = time.monotonic(), seconds_of_cpu(process)
    while computing(process) != what:
        assert time.monotonic() - started < seconds, f"still computing: {not what}"
    return seconds_of_cpu(process) - before


def ready(address: str) -> None:
    for _ in range(600):
        with urllib.request.urlopen(f"{address}readyz", timeout=30) as reply:
            if json.load(reply)["engine"] == "ready":
                return
        time.sleep(0.1)
    pytest.fail("the engine does not load")


@pytest.mark.slow
def test_a_question_that_costs_too_much_is_refused_at_once(place: tuple[Path, str]) -> None:
    folder, run = place
    with served(folder) as (process, address):
        ready(address)
        before, started = megabytes(process), time.monotonic()
        for _ in range(50):
            asked = urllib.request.Request(
                f"{address}api/v1/label", question(run), {"Content-Type": "application/json"}
            )
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(asked, timeout=30)
            error = json.load(caught.value)["error"]
            caught.value.close()
            assert (caught.value.code, error["type"]) == (400, "setting")
            assert "expected at most 1,000,000,000 (serve_label_cost); lower neurons" in error["message"]
        assert time.monotonic() - started < 20
        assert megabytes(process) < before + 50


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the time of another process")
def test_work_ends_when_the_client_leaves_and_gives_its_memory_back(place: tuple[Path, str]) -> None:
    folder, run = place
    with served(folder, serve_label_cost=str(10**15), serve_timeout="600") as (process, address):
        ready(address)
        wait_until(False, process, 60)
        before = megabytes(process)
        clients = [asking(address, question(run)) for _ in range(3)]
        wait_until(True, process, 30)
        time.sleep(3)
        assert computing(process), "the question is long enough for this test"
        most = megabytes(process)
        for client in clients:
            client.close()
        took = wait_until(False, process, 300)
        after = megabytes(process)
        print(f"{took:.1f} s of CPU after the clients left; {before:.0f}, {most:.0f}, then {after:.0f} MB")
        assert took < 20
        assert after < before + 300
        with urllib.request.urlopen(f"{address}healthz", timeout=10) as reply:
            assert reply.status == 200


@pytest.mark.slow
def test_work_ends_at_the_time_limit(place: tuple[Path, str]) -> None:
    folder, run = place
    with served(folder, serve_label_cost=str(10**15), serve_timeout="3") as (process, address):
        ready(address)
        with asking(address, question(run)) as client:
            assert client.recv(100).startswith(b"HTTP/1.1 504 ")
            assert wait_until(False, process, 300) < 20


@pytest.mark.slow
def test_a_service_that_computes_is_gone_soon_after_sigterm(place: tuple[Path, str]) -> None:
    folder, run = place
    with served(folder, serve_label_cost=str(10**15), serve_timeout="600") as (process, address):
        ready(address)
        with asking(address, question(run)), asking(address, question(run)):
            wait_until(True, process, 30)
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0
            took = time.monotonic() - started
            print(f"gone {took:.1f} s after SIGTERM")
            assert took < 20, "8 s, and what a busy machine adds"


@pytest.mark.slow
def test_a_thread_that_never_ends_keeps_no_service() -> None:
    """The server ends, for nobody waits for the thread any longer; the interpreter would wait for it."""
    code = """
        import time, anyio
        from contextlib import suppress
        from csp_index.service.config import ServiceSettings
        from csp_index.service.server import bind, run

        async def app(scope, receive, send):
            if scope["type"] == "http":
                print("computes", flush=True)
                await anyio.to_thread.run_sync(time.sleep, 600, abandon_on_cancel=True)

        settings = ServiceSettings(port=0, grace=1)
        with bind(settings) as listener, suppress(KeyboardInterrupt):
            run(app, settings, listener, lambda: print(listener.getsockname()[1], flush=True))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            with asking(f"http://127.0.0.1:{process.stdout.readline()}", b""):
                assert process.stdout.readline() == "computes\n"
                process.send_signal(signal.SIGINT)
                assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "at_once"), [(300, False), (250, True)])
def test_many_idle_connections_do_not_keep_others_out(place: tuple[Path, str], count: int, at_once: bool) -> None:
    folder, _ = place
    with served(folder, serve_connections="100") as (process, address):
        ready(address)
        parts = urlsplit(address)
        if at_once:
            process.send_signal(signal.SIGSTOP)
        idle = [socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) for _ in range(count)]
        for connection in idle[::2]:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: local")  # never to be completed
        process.send_signal(signal.SIGCONT)
        for _ in range(20):
            started = time.monotonic()
            with urllib.request.urlopen(f"{address}healthz", timeout=10) as reply:
                assert reply.status == 200
            assert time.monotonic() - started < 2
        for connection in idle:
            connection.setblocking(False)
        closed = 0
        for connection in idle:
            try:
                closed += connection.recv(1) == b""
            except BlockingIOError:
                continue
            except ConnectionResetError:
                closed += 1
        assert count - 100 <= closed < count, "the oldest made room"
        for connection in idle:
            connection.close()
