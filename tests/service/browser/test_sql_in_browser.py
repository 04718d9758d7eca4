"""The page of SQL in a real browser: run by keyboard, downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser


def test_sql_with_the_keyboard(page: Any) -> None:
    page.goto("/sql")
    page.get_by_label("SQL statement").fill("SELECT 6 * 7 AS answer, '<i>' AS text")
    page.keyboard.press("Control+Enter")
    page.locator("#result-told").wait_for()
    assert page.get_by_role("table").last.get_by_role("row").nth(1).all_inner_texts() == ["42\t<i>"]
    page.get_by_label("SQL statement").fill("DROP TABLE images")
    page.keyboard.press("Control+Enter")
    page.locator("#sql-error").wait_for()
    assert "SELECT" in page.locator("#sql-error").inner_text()


def test_sql_downloads(page: Any) -> None:
    page.goto("/sql")
    page.get_by_label("SQL statement").fill("SELECT 1 AS a")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="CSV").click()
    assert Path(waiting.value.path()).read_text() == "a\n1\n"
