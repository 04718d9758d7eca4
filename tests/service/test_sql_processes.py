"""Processes of SQL: none is left, none gets secrets, one that strays is ended and told."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet
import pytest
from sandboxed import children, make_index, runner_over

from csp_index import Index
from csp_index.errors import BusyError, QueryError, SettingError, StoreError
from csp_index.service import sql_sandbox
from csp_index.service.config import ServiceSettings
from csp_index.service.sql_sandbox import SqlRunner


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return make_index(tmp_path_factory.mktemp("indexed"))


def test_no_process_is_left_once_it_is_closed(index):
    before = set(children())  # other runners' processes, which wait or end by themselves
    made = runner_over(index)
    with contextlib.closing(made):
        made.prepare()
        made.run("SELECT 1")  # by the process that waited; another one waits now
        made.prepare()
        until = time.monotonic() + 30
        while not (waiting := set(children()) - before) and time.monotonic() < until:
            time.sleep(0.01)  # a process that has just begun has no command line yet
        assert len(waiting) == 1
    assert set(children()) <= before
    made.prepare()
    assert set(children()) <= before


def test_an_index_that_moved_is_told(index):
    before = set(children())
    gone = SqlRunner(Path(index.uri).parent / "nothing here", index.store.versions(), ServiceSettings())
    with pytest.raises(StoreError, match="no index at the index") as caught:
        gone.run("SELECT 1")
    assert str(Path(index.uri).parent) not in str(caught.value)
    unknown = SqlRunner(index.uri, index.store.versions() | {"labels": 999}, ServiceSettings())
    with pytest.raises(StoreError, match="labels of the index cannot be opened at version 999") as caught:
        unknown.run("SELECT 1")
    assert "secret" not in str(caught.value)
    assert set(children()) <= before


def test_a_process_gets_no_secrets(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "squeamish")
    monkeypatch.setenv("CSP_INDEX_TOKEN", "ossifrage")
    local = sql_sandbox._environment("/some/place")
    assert not {"squeamish", "ossifrage"} & set(local.values()) and "HOME" not in local
    bucket = sql_sandbox._environment("s3://bucket/db")
    assert bucket["AWS_SECRET_ACCESS_KEY"] == "squeamish" and "ossifrage" not in bucket.values()


_STRAYED = {
    "says nothing": "sys.exit(3)",
    "never reads": "time.sleep(600)",
    "never ends": "sys.stdin.buffer.read(); time.sleep(600)",
    "says too much": "sys.stdin.buffer.read()\nwhile True: sys.stdout.buffer.write(bytes(65536))",
    "says a lot in lines": "print('{}', flush=True)\nwhile True: print('x' * 1000)",
    "speaks nonsense": "sys.stdin.buffer.read(); print('Segmentation fault')",
    "speaks other JSON": "sys.stdin.buffer.read(); print('[1, 2]')",
    "names another class": 'sys.stdin.buffer.read(); print(\'{"error": "one_line", "message": "x"}\')',
    "sends broken rows": "sys.stdin.buffer.read(); print('{\"bytes\": 6001}'); print('ARROW1' * 1000)",
    "sends no rows": "sys.stdin.buffer.read(); print('{}')",
    "kills itself": "os.kill(os.getpid(), signal.SIGSEGV)",
}


@pytest.mark.parametrize("does", _STRAYED)
def test_a_process_that_strays_is_ended_and_told(does, index, tmp_path, monkeypatch):
    code = "import os, signal, sys, time\nsys.stdin.buffer.readline()\nprint('{}', flush=True)\n"
    (tmp_path / "strayed_child.py").write_text(code + _STRAYED[does] + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sql_sandbox, "sql_sandbox_child", SimpleNamespace(__name__="strayed_child"))
    made = runner_over(index, sql_seconds=0.2, sql_bytes=2**16)
    with pytest.raises(QueryError) as caught:
        made.run("SELECT 1")
    assert "\n" not in str(caught.value)
    made.close()


@pytest.mark.parametrize(
    ("kept", "then", "seconds", "told"),
    [
        (500, "time.sleep(600)", 0.2, r"ran longer than 0\.2 s"),
        (500, "sys.exit(3)", 60.0, "took more memory than the limit, or crashed"),
        (
            -8,
            "sys.exit(3)",
            60.0,
            "took more memory than the limit, or crashed",
        ),  # all but their end, which Arrow forgives
    ],
)
def test_rows_that_are_cut_off_while_they_are_sent_tell_the_cause(
    kept, then, seconds, told, index, tmp_path, monkeypatch
):
    table = pa.table({"a": list(range(100))})
    with pa.OSFile(str(tmp_path / "rows"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    code = f"""
        import json, sys, time
        sys.stdin.buffer.readline()
        print("{{}}", flush=True)
        sys.stdin.buffer.read()
        rows = open({str(tmp_path / "rows")!r}, "rb").read()
        print(json.dumps({{"truncated": False, "bytes": len(rows)}}), flush=True)
        sys.stdout.buffer.write(rows[:{kept}])
        sys.stdout.buffer.flush()
        {then}
    """
    (tmp_path / "strayed_child.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sql_sandbox, "sql_sandbox_child", SimpleNamespace(__name__="strayed_child"))
    with contextlib.closing(runner_over(index, sql_seconds=seconds)) as made, pytest.raises(QueryError, match=told):
        made.run("SELECT 1")


def test_a_process_that_does_not_start_is_told(index, tmp_path, monkeypatch):
    (tmp_path / "strayed_child.py").write_text("raise ImportError('no')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sql_sandbox, "sql_sandbox_child", SimpleNamespace(__name__="strayed_child"))
    with pytest.raises(BusyError, match="try again"):
        runner_over(index).run("SELECT 1")


@pytest.mark.slow
def test_no_process_outlives_the_one_that_started_it(index):
    code = textwrap.dedent("""
        import sys, time
        from csp_index.store.connect import open_snapshot
        from csp_index.service.config import ServiceSettings
        from csp_index.service.sql_sandbox import SqlRunner
        SqlRunner(sys.argv[1], open_snapshot(sys.argv[1]).versions(), ServiceSettings()).prepare()
        print("started", flush=True)
        time.sleep(600)
    """)
    with subprocess.Popen([sys.executable, "-c", code, index.uri], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None and service.stdout.readline() == b"started\n"
        (child,) = children(service.pid)
        service.send_signal(signal.SIGKILL)
    for _ in range(600):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    pytest.fail("the process that waited is still there")


@pytest.mark.parametrize(("text", "size"), [("2GB", 2 * 10**9), ("1.5 GiB", 1610612736), ("512mb", 512 * 10**6)])
def test_the_memory_of_a_process_is_a_size(text, size, index, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_SQL_MEMORY", text)
    assert runner_over(index)._order.memory == size


@pytest.mark.parametrize("text", ["80%", "plenty", "-1GB", "2", ""])
def test_other_sizes_are_refused(text, index, monkeypatch):
    monkeypatch.setenv("CSP_INDEX_SQL_MEMORY", text)
    with pytest.raises(SettingError, match="sql_memory"):
        runner_over(index)
