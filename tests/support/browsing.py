"""A browser and a served index for the tests that walk the pages.

The browser is the one at CSP_INDEX_BROWSER, else the system's chromium; without either the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CLI = [sys.executable, "-c", "from csp_index.cli import main; main()"]
WIDTHS = {"phone": (390, 844), "screen": (1440, 900)}


def browser_path() -> str:
    """Return the browser's executable, or skip the test and say why."""
    found = os.environ.get("CSP_INDEX_BROWSER") or shutil.which("chromium") or shutil.which("google-chrome")
    if found is None or not Path(found).exists():
        pytest.skip("no browser: install chromium, or name one in CSP_INDEX_BROWSER")
    return found


def until(page: Any, condition: str) -> None:
    """Wait until JavaScript says yes; asked from outside, as the pages let no string be evaluated again and again."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"20 s later not yet: {condition}")


def lives(process: int) -> bool:
    """Tell whether there is a process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def served(db: Path, *options: str) -> Iterator[str]:
    """Run `csp-index serve` on a free port; give its address once it is ready."""
    process = subprocess.Popen(
        [*CLI, "serve", str(db), "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )
    try:
        if process.stdout is None:
            raise RuntimeError("the service has no output")
        line = process.stdout.readline()
        address = next((word for word in line.split() if word.startswith("http://")), None)
        if address is None:
            raise RuntimeError(f"the service did not start: {line!r}, status {process.poll()}")
        _wait(address.rstrip("/"))
        yield address.rstrip("/")
    finally:
        process.terminate()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()


def _wait(address: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{address}/readyz", timeout=10):
                return
        except (urllib.error.URLError, TimeoutError):  # the latter while a busy machine has not answered
            time.sleep(0.1)
    raise RuntimeError("the service is not ready after a minute")
