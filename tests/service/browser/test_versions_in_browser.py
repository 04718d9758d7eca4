"""A new version of an index reaches a page that is open, and an address keeps the version it was made of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import WIDTHS, served, watched

from csp_index import open_index

pytestmark = [pytest.mark.browser, pytest.mark.slow]

LAYER = "/layers/cnn/concepts"


@pytest.fixture
def growing(served_db: Path, tmp_path: Path) -> Path:
    """An index of the test's own."""
    return shutil.copytree(served_db, tmp_path / "db")


@pytest.fixture
def page(browser: Any, growing: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A page of a service that looks for new versions every half second."""
    monkeypatch.setenv("CSP_INDEX_SERVE_FOLLOW", "0.5")
    with served(growing) as address, watched(browser, address, WIDTHS["screen"]) as page:
        yield page


def methods(page: Any) -> set[str]:
    """Return the methods by which the layer's page has labels."""
    return set(page.get_by_label("labels by").locator("option").evaluate_all("all => all.map(one => one.value)"))


def test_new_labels_are_offered_and_the_earlier_ones_keep_their_address(page: Any, growing: Path) -> None:
    page.goto(LAYER)
    before, kept = methods(page), page.locator("#permalink").get_attribute("href")
    assert before == {"csp", "consensus"}
    open_index(growing).label("cnn/concepts", "mean-centred", vocabulary=["red", "striped", "circle"], templates="none")
    offer = page.locator("#newer")
    for _ in range(120):  # a service loads the version first; a page asks when it is looked at again
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        page.wait_for_timeout(500)
        if offer.is_visible():
            break
    assert "The index has changed since this page was made (label)" in offer.inner_text()
    assert methods(page) == before, "what one reads does not change under one's eyes"
    with page.expect_navigation():
        offer.get_by_role("link", name="load this page again").click()
    assert methods(page) == before | {"mean-centred"}
    page.goto(f"{LAYER}{kept}")
    page.get_by_role("complementary", name="Version shown").wait_for()
    assert methods(page) == before
    page.get_by_role("link", name="Show it as it is now").click()
    page.get_by_role("complementary", name="Version shown").wait_for(state="detached")
    assert methods(page) == before | {"mean-centred"}
