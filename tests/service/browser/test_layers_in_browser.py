"""A layer and its map in a real browser: compared, scrolled, filtered, chosen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import WIDTHS, until

pytestmark = pytest.mark.browser


def test_compare_from_a_layer(page: Any) -> None:
    page.goto("/layers/cnn/concepts")
    boxes = page.locator("#choice input[type=checkbox]")
    boxes.nth(0).check()
    boxes.nth(1).check()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare?**")
    assert page.get_by_role("article").count() == 2


def test_a_layer_is_one_list_and_the_way_back_leads_to_the_same_place(page: Any) -> None:
    asked = list[str]()
    page.on("request", lambda sent: asked.append(sent.url) if "/layers/" in sent.url else None)
    page.set_viewport_size(dict(zip(("width", "height"), WIDTHS["phone"], strict=True)))
    page.goto("/layers/cnn/concepts?limit=12&sort=score&order=desc")
    boxes = page.locator("#list input[name=neurons]")
    total = int(page.locator("#list").get_attribute("data-total"))
    assert page.locator("#list > .block").count() == 1 and not page.locator('a[rel="next"]').count()
    page.keyboard.press("End")
    boxes.nth(total - 1).wait_for()
    assert boxes.count() == total > 20 and len(asked) <= 4, "the page, the rows behind it, a sheet of pictures for each"
    boxes.nth(13).click()
    boxes.nth(16).click(modifiers=["Shift"])
    assert page.locator("#chosen").inner_text() == "4 chosen:" and boxes.nth(15).is_checked()
    link = page.locator(".smalls a").nth(20)
    link.scroll_into_view_if_needed()
    before = link.bounding_box()["y"]
    link.click()
    page.get_by_role("heading", level=1).wait_for()
    page.go_back()
    boxes.nth(total - 1).wait_for()
    until(page, "document.getElementById('chosen').textContent === '4 chosen:'")
    until(page, f"Math.abs(document.querySelectorAll('.smalls a')[20].getBoundingClientRect().y - {before}) < 3")
    assert boxes.nth(13).is_checked() and not boxes.nth(12).is_checked()


def test_a_range_is_dragged_over_a_histogram_or_written(page: Any) -> None:
    page.goto("/layers/cnn/concepts?limit=12&view=small")
    bars = page.locator(".range svg").first
    box = bars.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + 20, steps=4)
    page.mouse.up()
    page.wait_for_url("**score_from=*")
    assert "score_to=" in page.url and "firing_rate" not in page.url and "&q=" not in page.url
    low = float(page.get_by_label("score from").input_value())
    shown = page.locator("#list .mark").all_inner_texts()
    assert shown and all(float(text.split()[-1].strip("?")) >= low - 0.001 for text in shown)
    page.get_by_label("score from").fill("99")
    page.get_by_label("score to").fill("")
    page.keyboard.press("Enter")
    page.get_by_text("No neuron matches.").wait_for()


def test_chosen_neurons_are_downloaded(page: Any) -> None:
    page.goto("/layers/cnn/concepts?limit=12&view=small")
    assert page.get_by_role("button", name="CSV").is_disabled()
    total = int(page.locator("#list").get_attribute("data-total"))
    page.locator("#choose-all").click()
    page.locator("#chosen").filter(has_text=f"{total} chosen").wait_for()
    assert page.locator("#compare").is_disabled(), "two to four are compared"
    with page.expect_download() as waiting:
        page.get_by_role("button", name="CSV").click()
    assert len(Path(waiting.value.path()).read_text().splitlines()) == total + 1
    page.locator("#choose-none").click()
    assert page.locator("#chosen").inner_text() == "None chosen:"


def test_a_point_of_the_map_opens_its_neuron(page: Any) -> None:
    page.goto("/layers/cnn/concepts")
    point = page.locator("#map a").first
    target = point.get_attribute("href")
    point.click(force=True)
    page.wait_for_url(f"**{target}")


def test_neurons_are_chosen_on_the_map_by_pointer_and_by_keyboard(page: Any) -> None:
    page.goto("/layers/cnn/concepts/map")
    canvas = page.locator("#atlas canvas")
    canvas.wait_for()
    page.locator("#lasso").click()
    frame = canvas.bounding_box()
    left, top = frame["x"] + 2, frame["y"] + 2
    right, bottom = left + frame["width"] - 4, top + frame["height"] - 4
    page.mouse.move(left, top)
    page.mouse.down()
    for x, y in ((right, top), (right, bottom), (left, bottom)):
        page.mouse.move(x, y)
    page.mouse.up()
    page.locator("#chosen .neuron").first.wait_for()
    every = page.locator("#chosen .neuron").count()
    assert "neurons=" in page.url and every > 4
    page.locator("#atlas").focus()
    for _ in range(4):
        page.keyboard.press("+")
    page.keyboard.press("ArrowLeft")
    page.locator("#seen").press("Enter")
    until(page, f"document.querySelectorAll('#chosen .neuron').length < {every}")
    page.reload()
    canvas.wait_for()
    page.locator("#atlas").focus()
    page.keyboard.press("Escape")
    page.locator("#chosen .empty").wait_for()
    assert "neurons=" not in page.url


class Fingers:
    """Touches a page, as a phone's browser hears of it: moved step by step, so that the browser may scroll."""

    def __init__(self, page: Any) -> None:
        self._page, self._session = page, page.context.new_cdp_session(page)

    def _send(self, kind: str, points: list[tuple[float, float]]) -> None:
        touched = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        self._session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})

    def move(self, *paths: list[tuple[float, float]], steps: int = 8) -> None:
        """Put a finger at the start of each path, and move all of them along theirs, corner by corner."""
        places = [path[0] for path in paths]
        self._send("touchStart", places)
        for corners in zip(*(path[1:] for path in paths), strict=True):
            parts = [step / steps for step in range(1, steps + 1)]
            for part in parts:
                self._send(
                    "touchMove",
                    [
                        (x + part * (to_x - x), y + part * (to_y - y))
                        for (x, y), (to_x, to_y) in zip(places, corners, strict=True)
                    ],
                )
            places = list(corners)
        for _ in range(4):  # lifted while it moves, a finger flings; the browser takes the next tap as the end of that
            self._page.wait_for_timeout(60)
            self._send("touchMove", places)
        self._send("touchEnd", [])
        self._page.wait_for_timeout(300)


@pytest.mark.slow  # touches go at the pace of a hand
def test_a_finger_scrolls_the_page_over_the_map_until_two_enlarge_it(phone: Any) -> None:
    phone.goto("/layers/cnn/concepts/map")
    canvas = phone.locator("#atlas canvas")
    canvas.wait_for()
    canvas.evaluate("one => scrollTo(0, one.getBoundingClientRect().top + scrollY - 300)")
    frame, fingers = canvas.bounding_box(), Fingers(phone)
    x, y = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    told, before = phone.locator(".finger"), phone.evaluate("scrollY")

    def swipe() -> float:
        start = phone.evaluate("scrollY")
        fingers.move([(x, y + 60), (x, y - 60)])
        return float(phone.evaluate("scrollY") - start)

    assert swipe() > 40 and told.inner_text() == ""
    phone.evaluate(f"scrollTo(0, {before})")
    for apart in (
        ([(x - 30, y), (x - 120, y)], [(x + 30, y), (x + 120, y)]),
        (
            [(x, y - 30), (x, y - 100)],
            [(x, y + 30), (x, y + 100)],
        ),
    ):
        fingers.move(*apart)
        until(phone, "document.getElementById('atlas').classList.contains('held')")
        assert "Whole map" in told.inner_text() and phone.evaluate("scrollY") == before
        assert abs(swipe()) < 2, "the finger moves the map"
        phone.locator("#whole").tap()
        until(phone, "document.querySelector('.finger').innerText === ''")
        phone.evaluate(f"scrollTo(0, {before})")
    assert swipe() > 40


@pytest.mark.slow  # touches go at the pace of a hand
def test_a_finger_draws_around_neurons(phone: Any) -> None:
    phone.goto("/layers/cnn/concepts/map")
    canvas = phone.locator("#atlas canvas")
    canvas.wait_for()
    canvas.evaluate("one => scrollTo(0, one.getBoundingClientRect().top + scrollY - 200)")
    phone.locator("#lasso").tap()
    until(phone, "document.querySelector('.finger').innerText.includes('One finger draws')")
    frame, before = canvas.bounding_box(), phone.evaluate("scrollY")
    left, top, right, bottom = frame["x"] + 4, frame["y"] + 4, frame["x"] + 340, frame["y"] + frame["height"] - 4
    Fingers(phone).move([(left, top), (right, top), (right, bottom), (left, bottom)])
    phone.locator("#chosen .neuron").first.wait_for()
    assert "neurons=" in phone.url and phone.locator("#chosen .neuron").count() > 4
    assert abs(phone.evaluate("scrollY") - before) < 2
    phone.locator("#lasso").tap()
    until(phone, "document.querySelector('.finger').innerText === ''")


@pytest.mark.slow  # touches go at the pace of a hand
def test_a_tapped_point_is_named_before_it_opens(phone: Any) -> None:
    phone.goto("/layers/cnn/concepts/map?neurons=0")
    canvas = phone.locator("#atlas canvas")
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    document = phone.request.get("/layers/cnn/concepts/map.json").json()
    point = max(document["points"], key=lambda one: one["x"])  # beside it stands nothing
    frame = canvas.bounding_box()
    side = min(frame["width"], frame["height"]) * 0.94
    x = frame["x"] + (frame["width"] - side) / 2 + point["x"] * side
    y = frame["y"] + (frame["height"] - side) / 2 + (1 - point["y"]) * side
    phone.touchscreen.tap(x, y)
    phone.locator(".tip").filter(has_text=f"{point['index']}: ").wait_for()
    phone.touchscreen.tap(x, y)
    phone.wait_for_url(f"**/neurons/cnn/concepts/{point['index']}")
