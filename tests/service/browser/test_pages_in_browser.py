"""The pages in a real browser: what people do there, by mouse and by keyboard, in light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import WIDTHS, findings, until
from few import few
from PIL import Image
from walked import SERVED

pytestmark = pytest.mark.browser

NEURON = "/neurons/cnn/concepts/0"


def _labels(page: Any) -> list[str]:
    return [text.strip() for text in page.locator("#live-labels li .name").all_inner_texts()]


def _answered(page: Any, act: Any) -> dict[str, Any]:
    """Do something that labels the neuron again; return what the service said once the page shows it."""
    with page.expect_response(lambda answer: answer.url.endswith("/api/v1/label")) as waiting:
        act()
    found = waiting.value.json()
    until(page, "!document.getElementById('live-answer').classList.contains('waiting')")
    return found  # type: ignore[no-any-return]


def test_search_then_open_a_neuron(page: Any) -> None:
    page.goto("/")
    page.get_by_role("searchbox").fill("ring")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=ring")
    page.get_by_role("region", name="By name").get_by_role("link").filter(has_text="ring").first.click()
    page.wait_for_url("**/neurons/cnn/concepts/*")
    assert "ring" in page.get_by_role("heading", level=1).inner_text()


def test_a_word_leads_to_its_neurons_and_labels_lead_to_words(page: Any) -> None:
    page.goto("/")
    page.get_by_role("searchbox").fill("ring")
    page.get_by_role("button", name="As a concept").click()
    page.wait_for_url("**/concepts?q=ring")
    assert page.locator("#sentence").inner_text().startswith("1 neuron is labeled “ring”")
    page.get_by_role("region", name="Labeled so").get_by_role("link").first.click()
    page.wait_for_url("**/neurons/cnn/concepts/*")
    page.get_by_role("link", name="all neurons for it").click()
    page.wait_for_url("**/concepts/ring")
    page.get_by_role("link", name="words").click()
    other = page.locator(".words a").nth(1)
    name = other.inner_text()
    other.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/concepts/*")
    assert page.get_by_role("heading", level=1).inner_text() == name
    page.goto("/layers/cnn/concepts")
    page.locator(".neurons .concept").first.click()
    page.wait_for_url("**/concepts/*")


def test_a_neuron_stands_once_on_the_page_of_a_word_with_marks_for_the_other_ways(page: Any) -> None:
    marks = {"parts": "also in the label", "near": "also by vector", "candidates": "also a candidate"}
    groups = page.request.get("/api/v1/concepts?q=ring").json()["groups"]
    rows = [row for group in groups for row in group["neurons"]]
    assert len(rows) == len({row["neuron"] for row in rows}) > 1
    page.goto("/concepts/ring")
    cards = page.locator(".neurons > li")
    assert cards.locator(".code").all_inner_texts() == [row["neuron"] for row in rows]
    for place, row in enumerate(rows):
        shown = [text for text in cards.nth(place).locator(".badge").all_inner_texts() if text.startswith("also ")]
        assert shown == [marks[way] for way in row["ways"][1:]], row["neuron"]
    assert rows[0]["ways"][:2] == ["labeled", "near"]


def test_a_picture_of_ones_own_finds_neurons(page: Any, served_db: Path, tmp_path: Path) -> None:
    page.goto("/search")
    picture = tmp_path / "wide.png"
    Image.open(next((served_db.parent / "pictures").glob("*.png"))).resize((320, 160)).save(picture)
    page.get_by_label("Choose one, or paste it here").set_input_files(picture)
    page.locator("#upload").get_by_role("button", name="Search").click()
    page.get_by_role("heading", name="By meaning").wait_for()
    assert page.get_by_role("region", name="By meaning").get_by_role("link").count() > 0
    assert page.get_by_role("region", name="Excites").get_by_role("link").count() > 0
    shown = page.get_by_alt_text("Your picture").bounding_box()
    assert abs(shown["width"] - 2 * shown["height"]) < 2, "in its own shape"


def test_a_pasted_picture_finds_neurons(page: Any) -> None:
    page.goto("/search")
    page.evaluate("""async () => {
        const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
        canvas.getContext("2d").fillRect(8, 8, 40, 40);
        const png = await new Promise((done) => canvas.toBlob(done));
        await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
    }""")
    page.keyboard.press("Control+V")
    page.get_by_role("heading", name="By meaning").wait_for()
    assert page.get_by_role("region", name="Excites").get_by_role("link").count() > 0


def test_gamma_moves_and_the_label_follows(page: Any) -> None:
    page.goto("/neurons/cnn/concepts/22?method=csp#live")
    gamma = page.get_by_label("gamma")
    scores = {}
    for value in (0.0, 1.0):
        found = _answered(page, lambda value=value: gamma.fill(str(value)))["results"][0]
        assert _labels(page)[0] == found["labels"][0]["text"]
        scores[value] = [(label["text"], label["score"]) for label in found["labels"]]
    assert scores[0.0] != scores[1.0]
    assert " ms" in page.locator("#live-status").inner_text()


def test_the_panel_asks_the_run_of_the_label_shown_for_what_differs(page: Any) -> None:
    asked = list[dict[str, Any]]()
    page.on("request", lambda sent: asked.append(sent.post_data_json) if sent.url.endswith("/v1/label") else None)
    page.goto(f"{NEURON}?method=csp#live")
    run = page.locator("#live").get_attribute("data-run")
    _answered(page, lambda: page.get_by_label("gamma").fill("0.5"))
    shown = page.locator('[aria-labelledby="candidates"] tbody th').all_inner_texts()
    assert asked.pop() == {"neurons": [NEURON[9:]], "method": "csp", "top": 8, "run": run, "gamma": 0.5}
    _answered(page, lambda: page.get_by_role("button", name="Reset").click())
    assert asked.pop() == {"neurons": [NEURON[9:]], "method": "csp", "top": 8, "run": run}
    assert _labels(page)[:5] == shown[:5]  # the label shown once more
    _answered(page, lambda: page.get_by_label("method", exact=True).select_option("clip-dissect"))
    assert asked.pop() == {"neurons": [NEURON[9:]], "method": "clip-dissect", "top": 8, "examples": 100}
    for name in ("gamma", "contrast", "threshold"):
        assert page.locator(f"#knob-{name}").is_disabled()


def test_the_address_opens_the_panel_as_it_was(page: Any) -> None:
    page.goto(f"{NEURON}#live")
    page.get_by_label("method", exact=True).select_option("semanticlens")
    page.get_by_label("examples").fill("7")
    own = page.get_by_label("candidates of your own")
    own.fill("a ring\nred & <b>blue</b>\nmoon")
    page.wait_for_url("**method=semanticlens&examples=7&candidate=a+ring&candidate=red+%26*moon")
    page.locator("#live-labels").filter(has_text="moon").wait_for()
    shown, address = page.locator("#live-labels").inner_text(), page.url
    page.goto("/")
    assert _answered(page, lambda: page.goto(address))["results"]
    assert page.locator("#live-labels").inner_text() == shown
    assert (own.input_value(), page.get_by_label("examples").input_value()) == ("a ring\nred & <b>blue</b>\nmoon", "7")
    page.get_by_role("button", name="Close the panel").click()
    assert page.url.endswith(NEURON)


@pytest.mark.parametrize(
    ("state", "line"),
    few(
        [
            ("gamma=7", "gamma is 7, but a number from 0 to 1 is expected"),
            ("examples=2.5", "examples is 2.5, but a whole number from 1 to 100 is expected"),
            ("method=none&gamma=0.5", "method is none, but one of csp, "),
            ("threshold=%3Cb%3E", "threshold is <b>, but one of "),
            ("colour=red", "colour is none of method, gamma, examples, contrast, threshold, "),
        ],
        2,
    ),
)
def test_a_wrong_address_of_the_panel_is_told_and_nothing_is_asked(page: Any, state: str, line: str) -> None:
    asked = list[str]()
    page.on("request", lambda sent: asked.append(sent.url) if sent.url.endswith("/v1/label") else None)
    page.goto(f"{NEURON}#live&{state}")
    page.locator("#live-status.error").filter(has_text=f"The address: {line}").wait_for()
    page.wait_for_timeout(200)
    assert asked == [] and page.locator("#live-status").inner_text().count("\n") == 0


def test_a_wrong_field_is_named_before_anything_is_sent(page: Any) -> None:
    asked = list[str]()
    page.on("request", lambda sent: asked.append(sent.url) if sent.url.endswith("/v1/label") else None)
    page.goto(f"{NEURON}#live")
    status = page.locator("#live-status")
    page.get_by_label("examples").fill("101")
    status.filter(has_text="examples: a whole number from 1 to 100").wait_for()
    page.get_by_role("button", name="Reset").click()
    page.locator("#knob-candidates").fill("\n".join(map(str, range(201))))
    status.filter(has_text="at most 200").wait_for()
    page.locator("#knob-candidates").fill("a ring\n" + "x" * 201)
    status.filter(has_text="number 2 is longer than 200").wait_for()
    assert len(asked) <= 1  # that of the reset


def test_curl_names_the_service_as_it_is_reached(page: Any, site: str) -> None:
    page.goto(NEURON)
    assert f"{site}/api/v1/neurons/" in str(page.locator("#query-curl").text_content())


def test_own_candidates(page: Any) -> None:
    page.goto(f"{NEURON}#live")
    own = page.get_by_label("candidates of your own")
    found = _answered(page, lambda: own.fill("a ring\nblue <b>star</b>"))["results"][0]
    assert {label["text"] for label in found["labels"]} == {"a ring", "blue <b>star</b>"}
    assert set(_labels(page)) == {"a ring", "blue <b>star</b>"}  # as text: the page shows no bold letters
    assert page.locator("#live-labels b").count() == 0


def test_another_contrast_changes_the_pairs(page: Any) -> None:
    page.goto(f"{NEURON}?method=csp#live")
    found = _answered(page, lambda: page.get_by_label("contrast", exact=True).select_option("random"))["results"][0]
    assert any(found["contrastive"])
    assert "partners changed" in page.locator("#live-pairs-title").inner_text()


@pytest.mark.parametrize("width", WIDTHS)
def test_the_first_screen_has_the_name_the_verdict_and_pairs(page: Any, width: str) -> None:
    wide, high = WIDTHS[width]
    page.set_viewport_size({"width": wide, "height": high})
    page.goto(NEURON)

    def bottom(part: str) -> float:
        box = page.locator(part).first.bounding_box()
        return float(box["y"] + box["height"])

    assert bottom("h1") < bottom("#verdict") < bottom("#pairs .tile img") < bottom("#pairs .tile:nth-of-type(2)") < high
    assert page.locator("#pairs img").first.evaluate("one => getComputedStyle(one).objectFit") == "contain"


def test_the_drawer_leaves_the_pictures_where_they_are(page: Any) -> None:
    page.goto(NEURON)
    first = page.locator("#pairs .tile img").first
    before = first.bounding_box()["y"]
    opener = page.get_by_role("button", name="Label it again, live")
    opener.click()
    drawer = page.locator("#live").bounding_box()
    assert abs(first.bounding_box()["y"] - before) < 40  # the sentence above may take another line
    assert first.bounding_box()["x"] + first.bounding_box()["width"] <= drawer["x"]
    page.keyboard.press("Escape")
    assert not page.locator("#live").is_visible()
    assert page.evaluate("document.activeElement.id") == "live-open"
    page.set_viewport_size(dict(zip(("width", "height"), WIDTHS["phone"], strict=True)))
    page.goto(f"{NEURON}#live")
    assert first.bounding_box()["y"] + first.bounding_box()["height"] <= page.locator("#live").bounding_box()["y"] + 200
    assert page.locator("#live").bounding_box()["height"] <= 0.57 * WIDTHS["phone"][1]
    page.get_by_role("button", name="Close the panel").click()
    assert not page.locator("#live").is_visible()


def test_a_picture_opens_as_it_is_over_the_page(page: Any) -> None:
    page.goto(NEURON)
    tiles = page.locator("#pairs .tile a")
    tiles.nth(0).focus()
    page.keyboard.press("Enter")
    box, shown = page.locator("#lightbox"), page.locator("#lightbox-picture")
    box.wait_for()
    until(page, "document.getElementById('lightbox-picture').naturalWidth > 0")
    first = tiles.nth(0).get_attribute("href")
    assert shown.get_attribute("src") == f"{first}/original"
    assert page.locator("#lightbox-page").get_attribute("href") == first
    page.keyboard.press("ArrowRight")  # to the next picture, not to the next neuron
    assert shown.get_attribute("src") == f"{tiles.nth(1).get_attribute('href')}/original"
    page.keyboard.press("Escape")
    assert not box.is_visible() and page.url.endswith(NEURON)
    focused = f"document.activeElement.getAttribute('href') === '{tiles.nth(1).get_attribute('href')}'"
    until(page, focused)  # the browser says later that a dialog was closed
    page.goto(str(first))
    until(page, "document.getElementById('picture').naturalWidth > 0")
    assert page.locator("#picture").get_attribute("src") == f"{first}/original"


def test_where_a_neuron_looks_is_asked_and_veils_the_pictures(page: Any) -> None:
    page.goto(NEURON)
    button, switch = page.locator("#where"), page.locator("#veils")
    assert button.is_visible() and not switch.is_visible() and page.locator(".veil").count() == 0
    busy = [{"status": 503, "body": '{"error": {"message": "the service is still loading", "hint": ""}}'}]
    page.route("**/maps", lambda route: route.fulfill(**busy.pop()) if busy else route.fallback())
    button.focus()
    page.keyboard.press("Enter")
    page.locator("#where-told").filter(has_text="loading the network").wait_for()
    page.locator("#where-how").wait_for(timeout=60_000)  # torch and the network load
    assert "by the gradient of the neuron" in page.locator("#where-how").inner_text() and not button.is_visible()
    veils = page.locator("#pairs .tile:first-child .veil")
    assert veils.count() > 0 and veils.first.is_visible() and switch.is_checked()
    switch.uncheck()
    assert not veils.first.is_visible()


def test_without_its_file_the_small_picture_stands_in_and_says_why(page: Any) -> None:
    page.route("**/images/*/original", lambda route: route.fulfill(
        status=404, content_type="application/json", body='{"error": {"message": "its file is gone"}}'
    ))  # fmt: skip
    page.goto(NEURON)
    first = page.locator("#pairs .tile a").first
    first.click()
    page.locator("#lightbox-told").filter(has_text="its file is gone").wait_for()
    small = str(first.locator("img").first.get_attribute("src"))
    assert small.startswith("data:image/") and page.locator("#lightbox-picture").get_attribute("src") == small
    page.goto("/images/3")
    until(page, "document.getElementById('picture').naturalWidth > 0")
    assert "/thumbnail" in str(page.locator("#picture").get_attribute("src"))


def test_the_query_is_copied(page: Any) -> None:
    page.goto(NEURON)
    page.get_by_role("button", name="Copy as CLI").click()
    page.locator("#copied").filter(has_text="copied").wait_for()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("#query-cli").text_content()
    assert "csp-index" in copied


def test_dark_mode_is_remembered(page: Any) -> None:
    page.goto("/")

    def paper() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = paper()
    page.get_by_role("button", name="Dark colors").click()
    dark = paper()
    assert light != dark
    page.goto("/search")
    assert paper() == dark


def test_keyboard_only(page: Any) -> None:
    page.goto("/")
    page.keyboard.press("/")
    page.keyboard.type("ring")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search?q=ring")
    page.goto(NEURON)
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**/neurons/cnn/concepts/1")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**{NEURON}")
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    assert not page.get_by_role("dialog").is_visible()
    page.goto(f"{NEURON}?method=csp#live")
    page.get_by_label("gamma").focus()
    found = _answered(page, lambda: page.keyboard.press("ArrowLeft"))  # moves the slider, not the page
    assert found["results"][0]["neuron"] == "cnn/concepts/0"
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.keyboard.press("Escape")
    page.get_by_label("gamma").focus()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "find"
    page.goto("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"


def test_without_javascript_everything_reads(browser: Any, site: str) -> None:
    context = browser.new_context(base_url=site, java_script_enabled=False)
    page = context.new_page()
    for name, address in SERVED.items():
        answer = page.goto(address)
        assert answer.status == (404 if name == "missing" else 200), name
        assert page.get_by_role("heading", level=1).inner_text(), name
    page.goto(NEURON)
    assert not page.locator("#live").is_visible()  # no control that does nothing
    assert page.locator("#pairs img").count() > 0
    page.goto("/sql")
    page.get_by_label("SQL statement").fill("SELECT 42 AS answer")
    page.get_by_role("button", name="Run", exact=True).click()
    assert page.get_by_role("table").last.get_by_role("row").nth(1).inner_text() == "42"
    context.close()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        pytest.param("screen", "light", marks=pytest.mark.slow),
        pytest.param("phone", "dark", marks=pytest.mark.slow),
        pytest.param("screen", "dark", marks=pytest.mark.slow),
        pytest.param("phone", "light", marks=pytest.mark.slow),
    ],
)
def test_axe_finds_nothing(browser: Any, site: str, width: str, scheme: str) -> None:
    wide, high = WIDTHS[width]
    context = browser.new_context(base_url=site, color_scheme=scheme, viewport={"width": wide, "height": high})
    page, found = context.new_page(), list[str]()
    for name, address in SERVED.items():
        page.goto(address)
        if name == "image":
            page.locator("a.original").click()  # axe sees the picture over the page, too
        found += findings(page, name)
    context.close()
    assert found == []
