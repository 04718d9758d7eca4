"""A page that was made before its encoder was loaded, in a real browser: it loads again once it is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import WIDTHS, served, watched

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SEARCH = "/search?q=ring"
MEANING = "By meaning"


def test_a_search_before_the_encoder_is_there_completes_itself_once(
    browser: Any, served_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSP_INDEX_SERVE_PATIENCE", "0")  # the first search does not wait for the encoder at all
    with served(served_db) as address, watched(browser, address, WIDTHS["phone"]) as page:
        pages, asked, early = list[int](), list[int](), [202, 503]

        def note(reply: Any) -> None:
            if reply.url.endswith(SEARCH):
                (pages if reply.request.is_navigation_request() else asked).append(reply.status)

        def hold(route: Any) -> None:
            """Keep the encoder away for two more questions: it is small, and would be there at the first."""
            if early and not route.request.is_navigation_request():
                route.fulfill(status=early.pop())
            else:
                route.fallback()

        page.on("response", note)
        page.route(f"**{SEARCH}", hold)
        page.goto(SEARCH)
        assert pages == [202]
        loading = page.get_by_role("status").filter(has_text="Loading the encoder")
        assert loading.is_visible() and page.get_by_role("region", name="By name").get_by_role("link").count() > 0
        assert page.get_by_role("heading", name=MEANING).count() == 0
        page.locator("#find").fill("a ring of")  # whoever writes meanwhile keeps what was written
        while len(asked) < 2:
            page.wait_for_timeout(200)
        assert page.locator("#find").input_value() == "a ring of" and pages == [202] and asked == [503, 202]
        page.get_by_role("heading", name=MEANING).wait_for()
        assert page.get_by_role("region", name=MEANING).get_by_role("link").count() > 0 and loading.count() == 0
        page.wait_for_timeout(5000)  # longer than from one question to the next
        assert pages == [202, 200] and asked[-1] == 200, "it has loaded again once, and asks no more"
        assert set(asked[2:-1]) <= {202}
        assert page.goto("/concepts/never+a+word").status == 200
