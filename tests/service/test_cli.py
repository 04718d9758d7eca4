"""`csp-index serve`: what it refuses before it starts, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from browsing import CLI, lives

from csp_index.service import ServiceSettings
from csp_index.service.server import bind


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_off_loopback_it_does_not_start_without_a_token(run, served_db, host):
    said = run("serve", served_db, "--host", host, "--port", 0)
    assert (said.status, said.out) == (1, "")
    assert "--token-file" in said.err and "--public-read" in said.err and said.err.count("\n") == 1


def test_a_token_file_must_hold_a_token(run, served_db, tmp_path):
    for content, told in (("", "is empty"), ("short", "at least 16")):
        (tmp_path / "token").write_text(content)
        said = run("serve", served_db, "--token-file", tmp_path / "token")
        assert said.status == 1 and told in said.err and said.err.count("\n") == 1
    assert "cannot be read" in run("serve", served_db, "--token-file", tmp_path / "none").err


def test_a_place_without_an_index_is_told(run, tmp_path):
    said = run("serve", tmp_path / "none", "--port", 0)
    assert said.status == 1 and "no index at" in said.err and said.err.count("\n") == 1
    assert "is not a csp_index database" in run("serve", tmp_path, "--port", 0).err


def test_a_port_that_is_taken_is_told(run, served_db):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        said = run("serve", served_db, "--port", taken.getsockname()[1])
    assert said.status == 1 and "give another --port" in said.err and said.err.count("\n") == 1
    assert run("serve", served_db, "--port", 70000).status == 2


def test_an_address_of_another_machine_is_told(run, served_db):
    said = run("serve", served_db, "--host", "192.0.2.1", "--public-read", "--port", 0)
    assert said.status == 1 and "192.0.2.1" in said.err and said.err.count("\n") == 1


def test_ipv6_is_served_where_there_is_any():
    try:
        with bind(ServiceSettings(host="::1", port=0)) as place:
            assert place.family == socket.AF_INET6
    except OSError:
        pytest.skip("this machine has no IPv6")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "workers"),
    [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGINT, 2)],
)
def test_it_ends_cleanly_and_answers_what_it_was_asked(served_db: Path, sent: int, workers: int):
    patience = {"CSP_INDEX_SQL_SECONDS": "60", "CSP_INDEX_SERVE_GRACE": "60"}  # the machine may be busy
    process = subprocess.Popen(
        [*CLI, "serve", str(served_db), "--port", "0", "--workers", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"} | patience,
    )
    with process:
        line = process.stdout.readline()
        address = next(word for word in line.split() if word.startswith("http://"))
        slow = urllib.request.Request(
            f"{address}api/v1/sql",
            json.dumps({"sql": "SELECT count(*) AS n FROM range(50000000)"}).encode(),
            {"content-type": "application/json"},
        )
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(urllib.request.urlopen(slow, timeout=60).status))
        asking.start()
        counted = "csp_index_in_flight 2.0"  # that request, and the one that asks for the counters
        while counted not in urllib.request.urlopen(f"{address}metrics", timeout=60).read().decode():
            time.sleep(0.1)
        children = _children(process.pid)
        process.send_signal(sent)
        asking.join(60)
        status, said = process.wait(60), process.stderr.read()
    assert (status, answers) == (0, [200])
    assert said.endswith("The service has ended.\n") and "Traceback" not in said
    lines = [json.loads(line) for line in said.splitlines()[:-1]]
    assert {line["route"] for line in lines} == {"/api/v1/sql", "/metrics"}
    end = time.monotonic() + 10  # Python's tracker of resources ends when its owner has
    while any(map(lives, children)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(lives, children))


def _children(process: int) -> set[int]:
    """Return the processes that one has started, and those that they have."""
    if sys.platform != "linux":
        return set()
    found = Path(f"/proc/{process}/task").glob("*/children")
    children = {int(child) for file in found for child in file.read_text().split()}
    return children.union(*map(_children, children))
