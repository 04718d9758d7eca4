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
        process.wait(120)  # a busy machine
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


@contextmanager
def watched(browser: Any, site: str, size: tuple[int, int], **options: Any) -> Iterator[Any]:
    """Give a page that fails the test where its scripts fail, or anything but its own host is asked."""
    context = browser.new_context(base_url=site, viewport=dict(zip(("width", "height"), size, strict=True)), **options)
    context.set_default_timeout(60_000)  # a busy machine
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site)
    page, wrong = context.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("console", lambda said: wrong.append(f"console: {said.text}") if "Content Security" in said.text else None)
    page.on("request", lambda sent: None if sent.url.startswith((site, "data:", "blob:")) else wrong.append(sent.url))
    yield page
    context.close()
    assert wrong == []


def findings(page: Any, name: str) -> list[str]:
    """Return what axe finds wrong with a page as it is, and by how much it is wider than its window."""
    from axe_playwright_python.sync_playwright import Axe

    found = [
        f"{name}: {hit['impact']}: {hit['id']}: {hit['nodes'][0]['target']} and {len(hit['nodes']) - 1} more"
        for hit in Axe().run(page).response["violations"]
    ]
    across = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found + ([f"{name}: wider than the window by {across} px"] if across > 0 else [])
