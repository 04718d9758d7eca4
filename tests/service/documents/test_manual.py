"""The manual as the package ships it: pages named and ordered, headings with anchors, and nothing else is read."""

from __future__ import annotations

import pytest
from checkout import ROOT

from csp_index.errors import NotFoundError
from csp_index.service.documents import manual

DOCS = ROOT / "csp_index" / "docs"


def test_the_pages_are_the_files_in_the_order_of_the_first() -> None:
    assert set(manual.names()) == {file.stem for file in DOCS.glob("*.md")}
    assert manual.names()[:2] == ("index", "tutorial") and manual.names()[-1] == "changelog"


@pytest.mark.parametrize("name", manual.names())
def test_a_page_has_one_title_and_anchors_of_its_own(name: str) -> None:
    page = manual.page(name)
    assert page.markdown == (DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert [heading.level for heading in page.headings].count(1) == 1 and page.headings[0].level == 1
    anchors = [heading.anchor for heading in page.headings]
    assert len(set(anchors)) == len(anchors) and all(anchors)


@pytest.mark.parametrize(
    "name", ["methods.md", "", ".", "../settings", "..\\settings", "/etc/passwd", "index\0", "Index"]
)
def test_nothing_but_a_page_is_read(name: str) -> None:
    with pytest.raises(NotFoundError, match=r"the manual has no page .* \(it has: index, tutorial, "):
        manual.page(name)
    assert manual.picture(name) is None


def test_pictures_are_those_of_the_folder() -> None:
    picture = manual.picture("neuron-page.png")
    assert picture is not None and picture[0].startswith(b"\x89PNG") and picture[1] == "image/png"
    assert manual.picture("methods.md") is None and manual.picture("../demo/card.png") is None


def test_a_document_says_what_stands_before_and_after() -> None:
    first, last = manual.manual_document("index"), manual.manual_document("changelog")
    assert first["previous"] is None and first["next"]["page"] == "tutorial"
    assert last["next"] is None and last["previous"]["title"] == manual.page("contributing").title
    assert [one["page"] for one in first["pages"]] == list(manual.names())


@pytest.mark.parametrize(
    ("text", "anchor"),
    [
        ("What is measured", "what-is-measured"),
        ("The API: `/api/v1`", "the-api-apiv1"),
        ("1. Pictures", "1-pictures"),
        ("a_name - and_more", "a_name---and_more"),
    ],
)
def test_anchors_are_those_of_code_hosts(text: str, anchor: str) -> None:
    assert manual.anchor(text) == anchor


def test_equal_headings_are_numbered() -> None:
    found = manual.headings("# A\n\n## `b` *c*\n\n## b c\n\n```\n# no heading\n```\n\n## B, c!\n")
    assert [(one.level, one.text, one.anchor) for one in found] == [
        (1, "A", "a"),
        (2, "b c", "b-c"),
        (2, "b c", "b-c-1"),
        (2, "B, c!", "b-c-2"),
    ]


def test_tooltips_are_sentences_of_the_manual() -> None:
    assert "resamples the activating images" in manual.first_words("methods#stability")
    for key, one in manual.HELP.items():
        assert manual.first_words(one.place), key
    found = manual.figures()
    assert {"score", "lead", "stability", "right", "fires", "activation", "contrast"} <= set(found)
    assert found["stability"] == "In how many of 100 resamples of its images the label comes first."
