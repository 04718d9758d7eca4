"""A neuron's page under fingers and by keys alone: nothing lies beyond an edge, and the focus stays where one reads."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.browser

NEURON = "/neurons/cnn/concepts/0"


def test_on_a_phone_partners_stand_below_and_no_table_goes_on_sideways(phone: Any) -> None:
    phone.goto(NEURON)
    first = phone.locator("#pairs > .pair").first.locator("img:not(.veil)")
    image, partner = first.nth(0).bounding_box(), first.nth(1).bounding_box()
    assert image["y"] + image["height"] < partner["y"] < 844, "both on the first screen"
    assert (image["x"], image["width"]) == (partner["x"], partner["width"])
    wide = phone.locator("main .scroll").evaluate_all(
        "boxes => boxes.filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.outerHTML.slice(0, 200))"
    )
    assert phone.locator("table.labels tbody tr").count() > 3 and wide == []
    rival = phone.locator("table.labels tbody tr").nth(1)
    assert rival.get_by_text("behind").is_visible()
    name = "one => getComputedStyle(one, '::before').content"
    assert rival.locator("[data-name=score]").evaluate(name).startswith('"score'), "each figure has its name"


def test_what_a_search_returned_begins_on_the_first_screen_of_a_phone(phone: Any) -> None:
    phone.goto("/search")
    assert phone.locator("#file").is_visible()
    phone.goto("/search?q=ring")
    assert not phone.locator("#file").is_visible()
    card = phone.locator("main .neuron").first.bounding_box()
    assert card["y"] + card["height"] < 844
    phone.get_by_text("By a picture of your own").tap()
    assert phone.locator("#file").is_visible()


def test_by_keys_the_switch_of_the_veils_takes_the_place_of_the_button(page: Any) -> None:
    page.goto(NEURON)
    page.locator("#where").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "where", "while the network is asked"
    page.locator("#where-how").wait_for(timeout=60_000)  # torch and the network load
    assert page.evaluate("document.activeElement.id") == "veils"
    page.keyboard.press("Space")
    assert not page.locator("#pairs .veil").first.is_visible()


def test_the_arrows_over_a_picture_say_where_they_end_and_its_number_says_what_it_is(page: Any) -> None:
    page.goto(NEURON)
    pictures = page.locator("#pairs .tile a")
    pictures.first.click()
    before, after = page.locator("#lightbox-before"), page.locator("#lightbox-after")
    assert (before.get_attribute("aria-disabled"), after.get_attribute("aria-disabled")) == ("true", "false")
    assert page.locator("#lightbox-told").inner_text().startswith("activation ")
    before.click(force=True)
    assert page.locator("#lightbox-page").get_attribute("href") == pictures.first.get_attribute("href")
    after.click()
    assert before.get_attribute("aria-disabled") == "false"
    assert " · cos " in page.locator("#lightbox-told").inner_text()
