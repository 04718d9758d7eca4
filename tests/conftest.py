"""What several test modules share: the command line, run in this process."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from csp_index.cli import main

if TYPE_CHECKING:
    from buckets import Bucket, Server

if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a core: threads of several would wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch

# Processes that tests start shall find this package compiled; most checkouts keep its bytecode in any case.
sys.dont_write_bytecode = os.environ.pop("PYTHONDONTWRITEBYTECODE", None) is None and sys.dont_write_bytecode

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job in the background, whose children then inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector off modules and collected tests, of which none becomes garbage: now, and in tests."""
    gc.disable()  # it would look at all of them ten times while they become more
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


collect_ignore = ["support"]  # imported by the tests, and not once more to look for tests


@dataclass(frozen=True)
class Said:
    """What a command said and how it ended."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what csp_index remembers for its user apart from what it remembers for the user who tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSP_INDEX_STATE", str(tmp_path_factory.mktemp("state")))
        patch.setenv("CSP_INDEX_SERVE_PATIENCE", "30")  # pages wait for models, however busy the machine is,
        patch.setenv("CSP_INDEX_SERVE_TIMEOUT", "120")  # and so do questions
        yield


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Let nothing wait for the disk: what tests write need not outlive a power cut, 34 times for one small index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def given() -> None:
    """Give the tests' own models to this process: also an index that another process made may name them."""
    from csp_index.models import trust

    for factory in ("encoder", "other_encoder", "network"):
        trust.give(f"python:fakes:{factory}")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run `csp-index` with arguments, in this process."""

    def typed(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["csp-index", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return Said(int(end.value.code or 0), said.out, said.err)

    return typed


@pytest.fixture(scope="module")
def s3_server() -> Iterator[Server]:
    """An S3 server on loopback."""
    from buckets import serving

    with serving() as server:
        yield server


@pytest.fixture
def bucket(s3_server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Bucket]:
    """A fresh bucket in it, and the environment set for it."""
    from buckets import fresh_bucket

    with fresh_bucket(s3_server, monkeypatch, tmp_path) as made:
        yield made


@pytest.fixture(scope="session")
def served_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small real index with pictures, labelled by two methods; nobody writes into it."""
    from served import served_for_all

    return served_for_all(tmp_path_factory)


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The planted index as the service opens it: a snapshot and an engine."""
    from planted import serve_planted

    return serve_planted(tmp_path_factory)


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The index of arrays as the service opens it: a snapshot and an engine."""
    from planted import serve_arrays

    return serve_arrays(tmp_path_factory)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the directory of a family's tiny vision-language model; each is written once."""
    import tiny_vlms

    root = tmp_path_factory.mktemp("vlms")

    def directory(family: str) -> Path:
        if family == "smolvlm":
            pytest.importorskip("num2words")  # its processor insists
        place = root / family
        return place if place.exists() else tiny_vlms.save_vlm(place, family)

    return directory


@pytest.fixture
def llava(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the tiny LLaVA, to be changed."""
    return Path(shutil.copytree(saved("llava"), tmp_path / "llava"))
