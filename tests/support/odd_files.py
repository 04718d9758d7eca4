"""Files that no reading may wait for or believe: pipes, devices, sockets, folders and very long files."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SECONDS = 20
"""Within which anything that reads an odd file must answer."""


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def device(path: Path) -> Path:
    path.symlink_to("/dev/zero")
    return path


def folder(path: Path) -> Path:
    path.mkdir()
    return path


def unix_socket(path: Path) -> Path:
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(path.parent)  # the address of a socket is short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)
    return path


ODD: dict[str, Callable[[Path], Path]] = {
    "a pipe": pipe,
    "a device": device,
    "a socket": unix_socket,
    "a folder": folder,
}
"""What each odd file is called in a message, and what makes one at a path."""


def sparse(path: Path, size: int) -> Path:
    """A file of `size` zeros that takes no room."""
    with path.open("wb") as file:
        file.truncate(size)
    return path


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Fail where the block takes longer: a reading that hangs would hang the tests.

    A writer then opens every pipe that a reading waits for, so that the block ends.
    """
    late = threading.Event()

    def ring() -> None:
        late.set()
        for entry in Path("/proc/self/cwd").rglob("*"):
            if entry.is_fifo():
                os.close(os.open(entry, os.O_RDWR | os.O_NONBLOCK))

    timer = threading.Timer(seconds, ring)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if late.is_set():
        pytest.fail(f"a reading took longer than {seconds:g} s")
