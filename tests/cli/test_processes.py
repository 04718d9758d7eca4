"""The command line as a process of its own: permissions, locks, Ctrl-C, pipes, warnings."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fakes
import pytest
from cli_world import ENCODER, NETWORK, environment, make_world

from csp_index import open_index


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("cli"))


NO_PERMISSION = """
import os, sys
import csp_index.indexing.import_arrays
from csp_index.cli import main
def run(*arguments):
    sys.argv = ["csp-index", *arguments]
    try:
        main()
    except SystemExit as end:
        return end.code
imported = ["--activations", "made/activations.npy", "--embeddings", "made/embeddings.npy"]
texts = ["--text-embeddings", "made/text_embeddings.npy", "--texts", "made/texts.txt", "--json"]
run("label", "db", "--layer", "m/l", *texts)  # load every library while its files may be read
os.chmod("db", 0o555), os.chmod(".", 0o555)
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
for arguments in (
    ["import", "new", *imported, "--layer", "m/l"],
    ["import", "db", *imported, "--layer", "m/other"],
    ["label", "db", "--layer", "m/l", "--gamma", "0.5", *texts],
):
    print(run(*arguments), file=sys.stderr)
print("read", run("label", "db", "--layer", "m/l", "--neurons", "0", *texts))
"""


@pytest.mark.slow
def test_without_write_permission():
    with tempfile.TemporaryDirectory() as name:  # pytest's own folder is closed to other users
        folder = Path(name)
        paths = fakes.write_arrays(folder / "made")
        open_index(folder / "db").import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"])
        before = {path for path in folder.rglob("*") if not path.name.startswith(".writer")}
        try:
            done = subprocess.run(
                [sys.executable, "-c", NO_PERMISSION],
                cwd=folder,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
        finally:
            folder.chmod(0o755), (folder / "db").chmod(0o755)
        lines = done.stderr.splitlines()
        assert [lines[i] for i in (1, 3, 5)] == ["1", "1", "1"], done.stderr
        assert len(lines) == 6
        assert lines[0].startswith("Error: no permission to create new")
        assert lines[2].startswith("Error: no permission to write db")
        assert lines[4].startswith("Error: no permission to write db")
        assert done.stdout.splitlines()[-1] == "read 0"
        assert not (folder / "new").exists()
        made = {path for path in folder.rglob("*") if not path.name.startswith(".writer")} - before
        written = (
            "labels.lance",
            "label_probabilities.lance",
            "examples.lance",
            "concepts",
            "neighbours",
            "runs.lance",
            "commits",
        )
        assert all(any(name in str(path) for name in written) for path in made)


def test_a_second_writer_is_refused_in_one_line(run, tmp_path):
    source = fakes.write_images(tmp_path / "images", 4)
    assert run("index", tmp_path / "db", source, "--encoder", ENCODER, *NETWORK).status == 0
    with open_index(tmp_path / "db").store.write_lock():
        said = run("index", tmp_path / "db", source)
        assert said.status == 1
        assert f"being written by process {os.getpid()}" in said.err
        assert said.err.count("\n") == 1
        assert run("status", tmp_path / "db", "--json").rows[0]["writing"] is True


@pytest.mark.slow
def test_ctrl_c_says_that_nothing_is_lost(tmp_path):
    source = fakes.write_images(tmp_path / "images", 96)
    code = "from csp_index.cli import main; main()"
    arguments = ["index", tmp_path / "db", source, "--encoder", ENCODER, *NETWORK, "--shard-size", "8"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment(FAKE_SECONDS="0.5"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started = time.monotonic()
    marks = tmp_path / "db" / "shards.lance" / "_versions"
    # The table's first version is empty; the second holds the first shard's marks.
    while len(list(marks.glob("*.manifest"))) < 2 and process.poll() is None and time.monotonic() - started < 60:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # Python loses a Ctrl-C that comes while it frees an object
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1, err
    told = "Interrupted: what is finished is kept; the same command goes on where this one stopped."
    assert err.strip().splitlines()[-1] == told
    assert out == ""
    index = open_index(tmp_path / "db", trust=True)
    assert [r["state"] for r in index.status()["runs"]] == ["interrupted"]
    assert 0 < index.status()["images"] < 96
    assert index.add_images(source).images == 96


def test_the_command_line_is_also_a_module_to_run():
    command = [sys.executable, "-m", "csp_index", "--version"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.startswith("csp-index, version ")


WARNS = """
import logging
import click
from csp_index.cli import cli, main
@cli.command()
def warn():
    logging.info("as open_clip says")  # gives a root without handlers one of its own
    logging.getLogger("csp_index.some").warning("%d images\\n were not", 3)
    logging.getLogger("csp_index.some").info("unheard")
main()
"""


def test_warnings_are_one_plain_line():
    done = subprocess.run(
        [sys.executable, "-c", WARNS, "warn"], env=environment(), capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "Warning: 3 images were not\n")


def test_a_command_leaves_logging_as_it_was(run, world, caplog, monkeypatch):
    before = list(logging.getLogger().handlers)
    heard = logging.getLogger("csp_index.some").warning
    monkeypatch.setattr("csp_index.query.reader.Reader.status", lambda self: heard("far away") or {})
    said = run("status", world / "db", "--json")
    assert said.err == "Warning: far away\n" and "far away" in caplog.text
    assert logging.getLogger().handlers == before


def test_a_closed_pipe_is_not_an_error(world):
    code = "from csp_index.cli import main; main()"
    statement = "SELECT a.image_id FROM images a, images b, images c, images d LIMIT 200000"
    command = [sys.executable, "-c", code, "sql", str(world / "db"), statement, "--format", "csv"]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "image_id\n"
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert "Traceback" not in err
    assert err == ""
