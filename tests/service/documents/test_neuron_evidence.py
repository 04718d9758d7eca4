"""What stands on a neuron's page for and against its label: partners where it has some, a weighted sum by its texts."""

from __future__ import annotations

from typing import Any

import pytest
from planted import PLANTED, Served
from strict_html import Seen

from csp_index.records import NeuronKey
from csp_index.service.documents.neuron import neuron_document
from csp_index.service.http.rendering import Renderer, Site


@pytest.fixture(scope="module")
def document(planted: Served) -> dict[str, Any]:
    return dict(neuron_document(*planted, NeuronKey.parse(f"{PLANTED}/1"), "csp"))


def drawn(document: dict[str, Any]) -> Seen:
    return Seen(bytes(Renderer(Site("my.db", "v1")).page("neuron", page=document).body).decode())


def words(page: Seen) -> str:
    return " ".join("".join(page.text).split())


def test_a_label_without_any_partner_has_no_empty_places_for_them(document: dict[str, Any]) -> None:
    nobody = {"contrast_id": None, "contrast_activation": None, "similarity": None}
    alone = [pair | nobody for pair in document["pairs"]]
    page = drawn(document | {"pairs": alone})
    assert {"class": "none"} not in page.all("p") and "above what does not" not in words(page)
    assert "What activates it most" in words(page) and "this label does not depend on pairs" in words(page)
    page = drawn(document | {"pairs": [*document["pairs"], alone[0] | {"rank": 99}]})
    assert page.all("p").count({"class": "none"}) == 1 and "What activates it, above what does not" in words(page)


def test_a_weighted_sum_is_no_word_but_its_texts_are(document: dict[str, Any]) -> None:
    weights = {"dotted": -1.5, "striped": 2.0, "x" * 301: 0.5}
    terms = [{"text": text, "weight": weight, "slope": 1.0, "shift": 0.0} for text, weight in weights.items()]
    page = drawn(document | {"label": "2.0 striped - 1.5 dotted", "terms": terms, "bias": -0.25})
    links = [str(found["href"]) for found in page.all("a")]
    assert {"/concepts/striped", "/concepts/dotted"} <= set(links)
    assert not [link for link in links if "2.0" in link or "xxx" in link]
    minus, times = "\u2212", "\u00d7"
    assert f"{minus}0.250 {minus} 1.500 {times} dotted + 2.000 {times} striped" in words(page)
    assert "in the place of striped stands the sum" in words(page)


def test_on_a_phone_no_name_of_a_figure_stands_without_the_figure(document: dict[str, Any]) -> None:
    methods = [one | {"above_layer": None} for one in document["methods"]]
    found = drawn(document | {"methods": methods}).all("td")
    cells = [cell for cell in found if cell.get("data-name") == "in the layer"]
    assert cells and all("blank" in str(cell["class"]).split() for cell in cells)
    cells = [cell for cell in drawn(document).all("td") if cell.get("data-name") == "in the layer"]
    assert cells and not any("blank" in str(cell["class"]).split() for cell in cells)
