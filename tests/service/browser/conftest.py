"""A service, a browser, and a page in it that fails the test where its scripts do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import browser_path, served


@pytest.fixture(scope="session")
def site(served_db: Path) -> Iterator[str]:
    browser_path()
    with served(served_db) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = browser_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, site: str) -> Iterator[Any]:
    """A page that fails the test where its scripts fail, or anything but its own host is asked."""
    context = browser.new_context(base_url=site, viewport={"width": 1440, "height": 900})
    context.set_default_timeout(60_000)  # a busy machine
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site)
    page, wrong = context.new_page(), list[str]()
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("console", lambda said: wrong.append(f"console: {said.text}") if "Content Security" in said.text else None)
    page.on("request", lambda sent: None if sent.url.startswith((site, "data:", "blob:")) else wrong.append(sent.url))
    yield page
    context.close()
    assert wrong == []
