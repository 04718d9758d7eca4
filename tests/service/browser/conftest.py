"""A service, a browser, and a page in it that fails the test where its scripts do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import WIDTHS, browser_path, served, watched


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
    """A page of a screen."""
    with watched(browser, site, WIDTHS["screen"]) as page:
        yield page


@pytest.fixture
def phone(browser: Any, site: str) -> Iterator[Any]:
    """A page under fingers."""
    with watched(browser, site, WIDTHS["phone"], has_touch=True, is_mobile=True) as page:
        yield page
