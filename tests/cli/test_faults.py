"""Faults of the machine in the middle of each command: one line, exit 1 or 2, no half state, no hang; it resumes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cli_world import ENCODER, NETWORK, environment, make_world
from odd_files import ODD

from csp_index import CspIndexError, open_index

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts of Linux")]

SECONDS = 120
_AS_OTHERS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]  # the rights of root to pass over modes

_START = """
import json, resource, sys, time
limits, clock = json.loads(sys.argv.pop(1)), float(sys.argv.pop(1))
from csp_index.cli import main
if clock:
    now = time.time
    time.time = lambda: now() + clock
import csp_index.index, csp_index.query.sql
for name, value in limits.items():
    kind = getattr(resource, name)
    if name == "RLIMIT_AS":  # beyond what the start took
        value += int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))
main()
"""


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Fault:
    """What is wrong with the machine while a command runs."""

    limits: dict[str, int] = field(default_factory=dict)
    clock: float = 0.0
    rights: bool = True  # False: the modes of files hold for root, too


def run(folder: Path, arguments: list[str], fault: Fault = Fault()) -> Ended:
    command = [sys.executable, "-c", _START, json.dumps(fault.limits), str(fault.clock), *arguments]
    if not fault.rights and os.getuid() == 0:
        command = [*_AS_OTHERS, *command]
    more = {"CSP_INDEX_STATE": str(folder / "state")}
    ended = subprocess.run(
        command,
        cwd=folder,
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


COMMANDS: dict[str, list[str]] = {
    "index": ["index", "new", "images", "--encoder", ENCODER, *NETWORK, "--shard-size", "10", "--decode-workers", "0"],
    "index more": [
        "index",
        "db",
        "more",
        "--shard-size",
        "10",
        "--decode-workers",
        "0",
        "--encoder",
        ENCODER,
        *NETWORK,
    ],
    "import": [
        *("import", "made.db", "--activations", "made/activations.npy", "--embeddings", "made/embeddings.npy"),
        *("--layer", "m/l", "--shard-size", "10"),
    ],
    "label": [
        *("label", "db", "--layer", "net/concepts", "--method", "semanticlens", "--vocabulary", "words.txt"),
        *("--encoder", ENCODER),
    ],
    "label again": [
        *("label", "db", "--layer", "net/concepts", "--vocabulary", "words.txt", "--templates", "none"),
        *("--recompute", "--encoder", ENCODER),
    ],
    "evaluate": [
        *("evaluate", "arrays", "--layer", "m/l", "--method", "csp", "--method", "random-label"),
        *("--text-embeddings", "made/text_embeddings.npy", "--texts", "made/texts.txt", "--report", "report"),
    ],
    "optimize": ["optimize", "db", "--keep-hours", "0"],
    "export": ["export", "db", "--out", "labels.csv"],
    "sql": ["sql", "db", "SELECT * FROM neurons", "--format", "parquet", "--out", "rows.parquet"],
    "show": ["show", "db", "net/concepts/0", "--card", "card.png"],
    "prefer": ["prefer", "db", "csp"],
    "status": ["status", "db"],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("faults") / "world")
    shutil.copytree(folder / "images", folder / "more")
    return folder


@pytest.fixture
def world(model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(model, tmp_path / "world", symlinks=True)


def database(arguments: list[str]) -> str:
    return arguments[1]


def labels_of(folder: Path, db: str) -> object:
    """What an index says: its numbers of rows and its labels, or why it says nothing."""
    try:
        with open_index(folder / db) as index:
            names = ("images", "neurons", "labels", "examples")
            counts = [index.sql(f"SELECT count(*) AS n FROM {name}").rows() for name in names]
            labels = "SELECT address, method, rank, text, round(score, 5) AS score FROM labels ORDER BY ALL"
            return [*counts, index.sql(labels).rows()]
    except CspIndexError as exc:
        return type(exc).__name__


def is_told(ended: Ended) -> None:
    """The command failed with one line of its own, and not by a traceback."""
    assert "Traceback" not in ended.err, ended.err
    assert ended.status in (1, 2), ended
    errors = [line for line in ended.err.splitlines() if line.startswith(("Error: ", "Usage: "))]
    assert len(errors) == 1, ended.err


def check(
    world: Path,
    name: str,
    fault: Fault,
    prepare: Callable[[], None] = lambda: None,
    undo: Callable[[], None] = lambda: None,
) -> str:
    """Run a command with a fault, then without; return how it ended."""
    arguments = COMMANDS[name]
    before = labels_of(world, database(arguments))
    prepare()
    try:
        ended = run(world, arguments, fault)
    finally:
        undo()
    if ended.status == 0:
        return "done"
    is_told(ended)
    after = labels_of(world, database(arguments))
    if name in ("label again", "optimize", "export", "sql", "show", "status", "prefer", "evaluate"):
        assert after == before, "nothing is lost and nothing is half done"
    again = run(world, arguments)
    assert (again.status, "Traceback" in again.err) == (0, False), again.err
    return "told"


def whole(model: Path, tmp_path: Path, name: str) -> object:
    """What the index says after the command without a fault."""
    copy = shutil.copytree(model, tmp_path / "control", symlinks=True)
    assert run(copy, COMMANDS[name]).status == 0
    return labels_of(copy, database(COMMANDS[name]))


@pytest.mark.parametrize("size", [0, 1_000, 8_000])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_file_may_grow(model: Path, world: Path, tmp_path: Path, name: str, size: int) -> None:
    how = check(world, name, Fault({"RLIMIT_FSIZE": size}))
    if how == "told" and name in ("index", "import", "label"):
        assert labels_of(world, database(COMMANDS[name])) == whole(model, tmp_path, name)


@pytest.mark.parametrize("name", COMMANDS)
def test_64_open_files_are_enough_or_told(world: Path, name: str) -> None:
    check(world, name, Fault({"RLIMIT_NOFILE": 64}))


@pytest.mark.parametrize("megabytes", [16, 128, 512])
@pytest.mark.parametrize("name", ["index", "import", "label", "evaluate", "sql"])
def test_little_memory_never_hangs_and_the_command_resumes(world: Path, name: str, megabytes: int) -> None:
    ended = run(world, COMMANDS[name], Fault({"RLIMIT_AS": megabytes * 2**20}))
    if ended.status not in (0, 1, 2):  # threads of Rust and of the C library end the process themselves
        assert ended.status in (-6, -11, 101, 127, 134), ended
    again = run(world, COMMANDS[name])
    assert (again.status, "Traceback" in again.err) == (0, False), again.err


@pytest.mark.parametrize("days", [-300, 300])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_clock_that_is_wrong_changes_no_answer(world: Path, name: str, days: int) -> None:
    ended = run(world, COMMANDS[name], Fault(clock=86_400.0 * days))
    assert (ended.status, "Traceback" in ended.err) == (0, False), ended.err
    assert run(world, COMMANDS[name]).status == 0


@pytest.fixture
def modes() -> None:
    if os.getuid() == 0 and shutil.which(_AS_OTHERS[0]) is None:
        pytest.skip("root passes over the modes of files")


@pytest.mark.parametrize("name", COMMANDS)
def test_without_the_right_to_write(modes: None, world: Path, name: str) -> None:
    paths = [world, *world.rglob("*")]
    before = [path.stat().st_mode for path in paths]

    def forbid() -> None:
        for path, mode in zip(paths, before, strict=True):
            path.chmod(mode & ~0o222)

    def allow() -> None:
        for path, mode in zip(paths, before, strict=True):
            if path.exists():
                path.chmod(mode)

    how = check(world, name, Fault(rights=False), forbid, allow)
    assert how == ("done" if name == "status" else "told")


def test_an_index_that_may_not_be_read_is_told(modes: None, world: Path) -> None:
    for path in (world / "db").rglob("*"):
        if path.is_file():
            path.chmod(0)
    for name in ("status", "show", "sql", "export", "label", "index more"):
        is_told(run(world, COMMANDS[name], Fault(rights=False)))


def test_images_that_may_not_be_read_are_recorded(modes: None, world: Path) -> None:
    secret = next((world / "images").rglob("img*.png"))
    secret.chmod(0)
    ended = run(world, COMMANDS["index"], Fault(rights=False))
    assert ended.status == 0, ended.err
    rows = json.loads(run(world, ["sql", "new", "SELECT uri, reason FROM failures", "--format", "json"]).out)
    assert {Path(row["uri"]).name: row["reason"] for row in rows}[secret.name] == "Permission denied"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a file system of some kilobytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = []

    def mount(kilobytes: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
        mounted.append(place)
        return place

    yield mount
    for path in mounted:
        subprocess.run(["umount", str(path)], check=False)


@pytest.mark.parametrize("spare", [0, 8, 40, 120])
@pytest.mark.parametrize("name", ["index", "import", "label", "label again", "optimize", "evaluate", "export"])
def test_a_full_disk(model: Path, small_disk: Callable[[int], Path], name: str, spare: int) -> None:
    disk = small_disk(100_000)
    world = shutil.copytree(model, disk / "world", symlinks=True)
    used = shutil.disk_usage(disk).used // 1024

    def resize(kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(disk)], check=True)

    check(world, name, Fault(), lambda: resize(used + spare), lambda: resize(100_000))


def test_a_read_only_disk(model: Path, small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(100_000)
    world = shutil.copytree(model, disk / "world", symlinks=True)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        for name, arguments in COMMANDS.items():
            ended = run(world, arguments)
            if name == "status":
                assert ended.status == 0, ended.err
            else:
                is_told(ended)
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


def test_images_that_vanish_are_told_where_they_are_needed(world: Path) -> None:
    assert run(world, COMMANDS["index"]).status == 0
    shutil.rmtree(world / "images")
    before = labels_of(world, "new")
    for arguments in (
        COMMANDS["index"],
        ["index", "new", "--encoder", "python:fakes:other_encoder"],
        ["index", "new", "images"],
    ):
        is_told(run(world, arguments))
        assert labels_of(world, "new") == before
    assert run(world, ["show", "new", "net/concepts/0", "--card", "card.png"]).status in (0, 1)


FILES = {
    "activations": ["import", "x.db", "--activations", "FILE", "--embeddings", "made/embeddings.npy", "--layer", "m/l"],
    "embeddings": ["import", "x.db", "--activations", "made/activations.npy", "--embeddings", "FILE", "--layer", "m/l"],
    "uris": [
        *("import", "x.db", "--activations", "made/activations.npy", "--embeddings", "made/embeddings.npy"),
        *("--layer", "m/l", "--uris", "FILE"),
    ],
    "vocabulary": ["label", "db", "--layer", "net/conv", "--vocabulary", "FILE", "--encoder", ENCODER],
    "templates": ["search", "db", "red", "--templates", "FILE", "--encoder", ENCODER],
    "texts": [
        *("label", "arrays", "--layer", "m/l", "--text-embeddings", "made/text_embeddings.npy", "--texts", "FILE"),
    ],
    "text embeddings": [
        *("label", "arrays", "--layer", "m/l", "--text-embeddings", "FILE", "--texts", "made/texts.txt"),
    ],
    "picture": ["search", "db", "--image", "FILE", "--encoder", ENCODER],
    "source": ["index", "x.db", "FILE", "--encoder", ENCODER, *NETWORK],
    "metadata": ["index", "x.db", "images", "--metadata", "FILE", "--encoder", ENCODER, *NETWORK],
    "weights": ["index", "x.db", "images", "--encoder", ENCODER, *NETWORK, "--weights", "FILE"],
    "truth": ["evaluate", "db", "--layer", "net/concepts", "--truth", "FILE", "--encoder", ENCODER],
    "hierarchy": ["evaluate", "db", "--layer", "net/concepts", "--hierarchy", "FILE", "--encoder", ENCODER],
    "token": ["serve", "db", "--port", "0", "--token-file", "FILE"],
    "database": ["status", "FILE"],
}


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a socket"])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_file_is_told_wherever_a_file_is_named(world: Path, name: str, kind: str) -> None:
    odd = ODD[kind](world / "odd")
    is_told(run(world, [str(odd) if part == "FILE" else part for part in FILES[name]]))
    assert not (world / "x.db").exists()
