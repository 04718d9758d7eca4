"""Pages of studies, of readers' notes and of ratings in a real browser: walked, and every page looked at by axe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from audited import audit, make_audited
from browsing import WIDTHS, browser_path, findings, served, watched
from mapped import make_mapped
from studied import make_studied
from walked import AUDITED, BARE, BEHIND, GUARDED, LAYER, STUDIED

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    browser_path()
    with served(make_studied(tmp_path_factory.mktemp("studied")), "--write", "--rate") as address:
        yield address


@pytest.fixture
def page(browser: Any, studied: str) -> Iterator[Any]:
    with watched(browser, studied, WIDTHS["screen"]) as page:
        yield page


def link_on(page: Any, address: str, begins: str) -> str:
    page.goto(address)
    return str(page.locator(f'main a[href^="{begins}"]').first.get_attribute("href"))


def test_a_layer_leads_to_its_classes_and_a_class_to_its_neurons(page: Any) -> None:
    page.goto(f"/layers/{LAYER}")
    page.get_by_role("link", name="by shape").click()
    page.get_by_role("rowheader", name="triangle").get_by_role("link", name="triangle", exact=True).click()
    assert page.get_by_role("heading", level=1).inner_text() == "triangle"
    page.get_by_role("link", name="Previous class").click()
    page.get_by_role("heading", level=1, name="star").wait_for()
    page.locator(".evidence h3 a").first.click()
    page.wait_for_url("**/neurons/cnn/concepts/*")
    page.get_by_role("link", name="All neurons, class by class").click()
    page.wait_for_url("**/effects/cnn/concepts")
    page.get_by_role("rowheader", name="circle").get_by_role("link").click()
    assert page.locator("table.effects tbody tr").count() == 1


def test_an_audit_leads_to_its_neurons_and_its_report(browser: Any, tmp_path: Path) -> None:
    audit(make_audited(tmp_path))
    with served(tmp_path / "db") as address, watched(browser, address, WIDTHS["screen"]) as page:
        page.goto("/")
        page.get_by_role("region", name="Audits").get_by_role("link", name="by class").click()
        page.locator('.finding a[href^="/neurons/net/pooled/"]').first.click()
        page.wait_for_url("**/neurons/net/pooled/0")
        page.go_back()
        page.get_by_role("link", name="Report").click()
        page.wait_for_url("**/report**")
        assert page.get_by_role("heading", level=1).inner_text() == "What does net rely on? An audit of net/pooled"


def test_compared_layers_checkpoints_and_broader_words(page: Any) -> None:
    page.goto(link_on(page, "/matches", "/matches/"))
    page.get_by_role("link", name="correlation of activations").click()
    page.wait_for_url("**by=activations**")
    page.goto(link_on(page, "/evolution", "/evolution/"))
    page.get_by_role("region", name="Table of neurons").get_by_role("link").first.click()
    page.wait_for_url("**/neurons/grown*step*/**")
    page.goto(link_on(page, f"/hierarchy/{LAYER}", f"/hierarchy/{LAYER}?word="))
    page.get_by_role("link", name="broader words").click()
    assert page.get_by_role("heading", level=1).inner_text() == "Labels by broader word"


def test_a_cluster_of_the_map_is_chosen(page: Any) -> None:
    page.goto(f"/layers/{LAYER}/map")
    page.locator("#atlas canvas").wait_for()
    cluster = page.locator("[data-cluster]").first
    cluster.click()
    page.locator("#chosen .neuron").first.wait_for()
    assert "cluster=" in page.url and cluster.get_attribute("aria-current") == "true"
    page.get_by_role("link", name="Show them in the list of the layer").click()
    page.wait_for_url("**/layers/cnn/concepts?neurons=*")


def test_a_reader_writes_a_note_and_rates_by_keys(page: Any) -> None:
    page.goto(f"/neurons/{LAYER}/5")
    page.get_by_label("say", exact=True).select_option("comment")
    page.get_by_label("name, tag, comment or reason").fill("looks <b>odd</b>")
    page.get_by_label("your name").fill("bea")
    page.get_by_role("button", name="Write it down").click()
    page.get_by_text("looks <b>odd</b>").wait_for()
    page.goto("/notes")
    assert "looks <b>odd</b>" in page.locator(".notes li").first.inner_text()
    page.goto("/rate")
    page.get_by_label("your name").fill("bea")
    page.get_by_role("button", name="Begin").click()
    page.locator("#verdicts").wait_for()
    page.keyboard.press("y")
    page.get_by_role("status").filter(has_text="1 of").wait_for()


def test_chosen_neurons_are_tagged_together(page: Any) -> None:
    page.goto(f"/layers/{LAYER}?view=small")
    boxes = page.locator("#list input[name=neurons]")
    boxes.nth(1).check()
    boxes.nth(3).check()
    page.get_by_role("button", name="Tag …").click()
    box = page.get_by_role("dialog")
    assert "Tag 2 neurons" in box.inner_text()
    box.get_by_label("tag").fill("both odd")
    box.get_by_label("your name").fill("bea")
    box.get_by_role("button", name="Tag them").click()
    page.get_by_text("2 neurons were tagged").wait_for()
    page.goto("/notes")
    assert page.locator(".notes li").filter(has_text="both odd").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_axe_finds_nothing_on_any_page(browser: Any, studied: str, width: str, scheme: str) -> None:
    wide, high = WIDTHS[width]
    context = browser.new_context(base_url=studied, color_scheme=scheme, viewport={"width": wide, "height": high})
    context.set_default_timeout(60_000)  # a busy machine
    page, found = context.new_page(), list[str]()
    pages = STUDIED | {name: link_on(page, *behind) for name, behind in BEHIND.items()}
    for name, address in pages.items():
        page.goto("about:blank")  # else an address that differs behind # alone would load nothing
        assert page.goto(address).status in (200, 202), name
        found += findings(page, name)
    page.goto(f"/neurons/{LAYER}/0")
    page.locator("#where").click()
    page.locator("#where-how").wait_for(timeout=60_000)
    found += findings(page, "where a neuron looks, asked")
    page.locator("#pairs .tile a").first.click()
    page.locator("#lightbox").wait_for()
    found += findings(page, "a picture over the page")
    page.goto(f"/layers/{LAYER}/map")
    page.locator("#lasso").click()
    page.locator("#closer").click()
    found += findings(page, "a map that is drawn on")
    page.locator("#help-button").evaluate("one => one.click()")
    found += findings(page, "the keys")
    context.close()
    assert found == []


@pytest.mark.parametrize(("width", "scheme"), [("screen", "light"), ("phone", "dark")])
def test_axe_finds_nothing_at_the_door_and_where_there_is_little(
    browser: Any, tmp_path: Path, width: str, scheme: str
) -> None:
    (tmp_path / "token").write_text("a-token-of-some-length")
    bare, found = make_mapped(tmp_path / "bare").uri, list[str]()
    audit(make_audited(tmp_path / "audited"))
    for index, pages, options in (
        (bare, BARE, ()),
        (tmp_path / "audited" / "db", AUDITED, ()),
        (bare, GUARDED, ("--token-file", str(tmp_path / "token"))),
    ):
        with served(Path(index), *options) as address:
            wide, high = WIDTHS[width]
            context = browser.new_context(
                base_url=address, color_scheme=scheme, viewport={"width": wide, "height": high}
            )
            page = context.new_page()
            for name, path in pages.items():
                assert page.goto(path).status == 200, name
                found += findings(page, name)
            if options:
                page.get_by_label("Token").fill("another-token")
                page.get_by_role("button", name="Sign in").click()
                page.get_by_role("alert").wait_for()
                found += findings(page, "a token that is not right")
            context.close()
    assert found == []
