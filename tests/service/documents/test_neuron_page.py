"""The pages of a neuron and of SQL as HTML: what they show, that nothing of an index gets out of its place as text."""

from __future__ import annotations

import copy
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from importlib import resources
from typing import Any

import pytest
from planted import CONCEPTS, PLANTED, serve_arrays, serve_planted
from starlette.testclient import TestClient

from csp_index.labelling.methods import METHODS, RECOMMENDED, methods_with
from csp_index.records import NeuronKey
from csp_index.service import ServiceSettings, make_app
from csp_index.service.documents.manual import figures
from csp_index.service.documents.neuron import COLUMNS, first_pictures, neuron_document
from csp_index.service.http.rendering import Renderer, Site, share
from csp_index.service.sql_sandbox_child import STATEMENT_BYTES

HOSTILE = '<img src=x onerror="alert(1)">\'"&</pre></script>'
OPEN = {"br", "img", "input", "link", "meta"}  # elements without an end


class Page(HTMLParser):
    """A page's elements with their attributes, its texts by id, and whether every element that opens is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.words = ""
        self._inside: list[tuple[str, str | None]] = []
        self.feed(html)
        assert self._inside == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in OPEN:
            self._inside.append((tag, dict(attrs).get("id")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._inside.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        self.words += data
        for _, name in self._inside:
            if name:
                self.texts[name] = self.texts.get(name, "") + data

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.elements if name == tag and wanted.items() <= found.items()]


def drawn(document: dict[str, Any], template: str = "neuron", inside: Mapping[int, str] = {}) -> Page:
    renderer = Renderer(Site("my.db", "v1", sql=True))
    return Page(renderer.page(template, page=document, inside=inside).body.decode())


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    snapshot, engine = serve_planted(tmp_path_factory)
    return neuron_document(snapshot, engine, NeuronKey.parse(f"{PLANTED}/1"), "csp")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    snapshot, _ = serve_planted(tmp_path_factory)
    with TestClient(make_app(snapshot.store.uri), "http://127.0.0.1:8000") as found:
        yield found


def test_the_page_shows_all_that_the_document_tells(document):
    page = drawn(document)
    assert document["labels"][0]["text"] in page.words
    assert f"{document['labels'][0]['score']:.3f}" in page.words
    pairs = [found for _, found in page.elements if "data-contrast" in found]
    ranks = {pair["rank"]: pair for pair in document["pairs"] if not pair["neighbour"]}
    assert [int(found["data-image"]) for found in pairs] == [pair["image_id"] for pair in ranks.values()]
    assert [int(found["data-contrast"]) for found in pairs] == [pair["contrast_id"] for pair in ranks.values()]
    for one in document["methods"]:
        assert page.all("a", href=f"/neurons/{PLANTED}/1?method={one['method']}")
    for other in document["similar"]:
        assert page.all("a", href=f"/neurons/{other['neuron']}")
    for name, text in document["queries"].items():
        assert page.texts[f"query-{name}"] == text
    assert (page.all("a", rel="prev")[0]["href"], page.all("a", rel="next")[0]["href"]) == (
        f"/neurons/{PLANTED}/0",
        f"/neurons/{PLANTED}/2",
    )
    assert document["provenance"]["run"]["run_id"] in page.words
    assert page.all("a", href=f"/neurons/{PLANTED}/1/card.png?method=csp")


def test_the_first_pictures_wait_for_nothing(document):
    ids = first_pictures(document)
    page = drawn(document, inside={ids[0]: "data:image/png;base64,AA", ids[1]: "data:image/png;base64,BB"})
    assert [image["src"][-2:] for image in page.all("img")[:2]] == ["AA", "BB"]
    page = drawn(document)
    pictures = [image for image in page.all("img") if "/thumbnail" in (image["src"] or "")]
    soon = [image for image in pictures if image.get("fetchpriority") == "high"]
    assert 0 < len(soon) < len(pictures) and soon[0] is pictures[0]
    assert all("loading" not in image and image["decoding"] == "sync" for image in soon)
    assert all(image["loading"] == "lazy" for image in pictures if image not in soon)
    assert len(page.all("link", rel="stylesheet")) == 1
    scripts = page.all("script")
    assert [(script.get("src") is None, script.get("type")) for script in scripts] == [(True, None), (False, "module")]
    assert scripts[1]["fetchpriority"] == "low"
    assert list(dict.fromkeys(int(image["src"].split("/")[4]) for image in soon)) == list(dict.fromkeys(ids))
    many = [{**document["pairs"][0], "rank": rank, "image_id": rank, "contrast_id": None} for rank in range(40)]
    assert first_pictures({**document, "pairs": many}) == list(range(COLUMNS))
    strongest = [image["image_id"] for image in document["quantile_rows"][0]["images"]]
    assert first_pictures({**document, "pairs": []}) == strongest
    assert first_pictures({**document, "pairs": [], "quantile_rows": []}) == []


def test_the_first_screen_is_name_verdict_and_pictures(document):
    html = Renderer(Site("my.db", "v1")).page("neuron", page=document).body.decode()
    main = html[html.index("<main") :]
    first = main[: main.index("<img")]
    assert Page(html).texts["verdict"] == document["verdict"]
    assert 'id="verdict"' in first and "<table" not in first and "<svg" not in first and "<button" not in first
    assert main.index('id="pairs"') < main.index('id="figures-title"') < main.index('id="candidates"')
    assert main.index('id="candidates"') < main.index('id="activations"') < main.index('id="methods-title"')


def test_a_neuron_without_pairs_shows_what_activates_it_most(document):
    page = drawn(document | {"pairs": []})
    strongest = [one["image_id"] for one in document["quantile_rows"][0]["images"]]
    shown = [found["href"] for found in page.all("a") if str(found.get("href")).startswith("/images/")]
    assert shown[: len(strongest)] == [f"/images/{image}" for image in strongest]


def test_a_dead_neuron_says_so_in_one_line_and_folds_the_rest(tmp_path_factory):
    snapshot, engine = serve_planted(tmp_path_factory)
    document = neuron_document(snapshot, engine, NeuronKey.parse(f"{PLANTED}/6"))
    html = Renderer(Site("my.db", "v1")).page("neuron", page=document).body.decode()
    main = html[html.index('<p class="gist"') : html.index("</main>")]
    assert Page(html).texts["verdict"].startswith("Never fires: on none of the 40 indexed images")
    assert main[main.index("</p>") + 4 :].strip().startswith('<details class="more"><summary>')
    assert main.strip().endswith("</details>") and 'id="query-cli"' in main
    assert not Page(html).all("section", id="live")


def test_numbers_have_a_scale_and_a_tooltip_from_the_manual(document):
    page = drawn(document | {"null_percentile": 0.95})
    names = {found["title"] for found in page.all("a", **{"class": "what"})}
    assert names <= set(figures().values()) and len(names) >= 6
    assert "scores higher than 95 % of a random network's neurons" in page.words
    assert f"above {share(document['scales']['score'])} of the layer" in page.words
    assert all(found["title"] for found in page.all("a", **{"class": "about"}))
    assert "not known:" in drawn(document | {"null_percentile": None}).words


def test_controls_are_folded_away(document):
    chance = document["methods"][0] | {"method": "random-label", "control": True}
    html = Renderer(Site("my.db", "v1")).page("neuron", page=document | {"methods": [*document["methods"], chance]})
    folded = html.body.decode().split("1 controls: what chance would give")[1]
    assert "method=random-label" in folded[: folded.index("</details>")]


def test_held_out_figures_stand_on_the_page(document):
    row = {"family": "Detection", "low": 0.0, "high": 1.0, "higher_is_better": True, "above_layer": 0.75, "note": ""}
    found = [
        row | {"metric": "auroc", "summary": "finds the concept", "first": False, "value": 0.875},
        row | {"metric": "f1", "summary": "overlap", "first": True, "value": None, "note": "too few images"},
    ]
    page = drawn(document | {"held_out": {"run_id": "run-7", "text": "another label", "figures": found}})
    for word in ("run-7", "another label", "0.875", "too few images", "above 75"):
        assert word in page.words
    assert "Nobody evaluated it" in drawn(document | {"held_out": None}).words


def test_the_histogram_has_axes_bars_and_the_threshold(document):
    page = drawn(document)
    counts, edges = document["histogram"]["counts"], document["histogram"]["edges"]
    columns = page.all("rect", **{"class": "column"})
    assert len(columns) == sum(count > 0 for count in counts)
    tallest = max(columns, key=lambda column: float(column["height"]))
    assert float(tallest["height"]) == 130  # the whole height of the drawing
    (line,) = page.all("line", **{"class": "threshold"})
    share = (document["threshold"] - edges[0]) / (edges[-1] - edges[0])
    assert float(line["x1"]) == pytest.approx(44 + 330 * share, abs=0.01)
    for edge in (edges[0], edges[20], edges[40]):
        assert (f"{edge:.3f}" if edge else "0") in page.words
    assert f"{max(counts)}" in page.words


def test_flat_and_empty_histograms_are_drawn(document):
    for counts, low, high in ([40] + [0] * 39, 0.0, 0.0), ([0] * 40, 0.0, 1.0), ([1] * 40, -2.0, -1.0):
        changed = document | {
            "histogram": {"counts": counts, "edges": [low + i * (high - low) / 40 for i in range(41)]}
        }
        assert drawn(changed).all("svg", **{"class": "histogram"})


def test_scores_above_1_get_bars_up_to_the_highest_and_those_below_0_none(document):
    labels = [{"text": name, "score": score, "low": None, "high": None, "share": None} for name, score in
              (("best", 4.0), ("middle", 1.0), ("worst", -2.0))]  # fmt: skip
    apart = {"scales": dict.fromkeys(document["scales"]), "methods": [], "null_percentile": None}
    page = drawn(document | {"labels": labels} | apart)
    widths = [float(found["width"]) for found in page.all("rect", **{"class": "fill"})]
    assert widths[:2] == [100.0, 25.0]
    assert len(widths) - len(document["facets"]) == 2
    assert "interval" not in page.words  # nothing was resampled


def test_nothing_of_an_index_is_markup(document):
    def spoilt(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spoilt(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [spoilt(inner) for inner in value]
        return HOSTILE if isinstance(value, str) else value

    addresses = ("neuron", "previous", "next", "model", "layer", "state")
    changed = spoilt(document) | {name: document[name] for name in addresses}
    changed["similar"] = [one | {name: document[name] for name in addresses} for one in changed["similar"]]
    changed["threshold_choices"] = document["threshold_choices"]
    changed["images"] = dict.fromkeys(document["images"], HOSTILE)
    changed["labels"] = [one | {"text": HOSTILE} for one in document["labels"]]
    page = drawn(changed)
    assert not page.all("img", src="x")
    assert page.words.count(HOSTILE) > 20
    assert all(not name.startswith("on") and name != "style" for _, found in page.elements for name in found)


@pytest.mark.parametrize("neuron", [f"{PLANTED}/6", f"{CONCEPTS}/7"], ids=["dead", "unlabelled"])
def test_a_neuron_without_label_has_a_page_that_says_so(tmp_path_factory, neuron):
    snapshot, engine = serve_planted(tmp_path_factory)
    page = drawn(neuron_document(snapshot, engine, NeuronKey.parse(neuron)))
    assert ("dead" if neuron == f"{PLANTED}/6" else "no label yet") in page.words
    assert "csp-index label planted.db --layer" in page.texts["query-cli"]


def test_an_index_of_arrays_has_pages_without_pictures(tmp_path_factory):
    snapshot, engine = serve_arrays(tmp_path_factory)
    page = drawn(neuron_document(snapshot, engine, NeuronKey.parse("m/l/0")))
    assert page.all("svg", **{"class": "histogram"})
    assert page.texts["query-sql"].startswith("SELECT *\nFROM neurons")


def test_without_javascript_no_control_is_dead(document):
    page = drawn(document)
    for hidden in ("live", "copies"):
        assert "hidden" in next(found for _, found in page.elements if found.get("id") == hidden)
    assert page.all("noscript")
    assert all(found.get("data-copies") or found.get("type") for found in page.all("button") if "action" in found)


def test_the_panel_offers_every_method_with_its_own_defaults(document):
    html = Renderer(Site("my.db", "v1")).page("neuron", page=document).body.decode()
    options = re.findall(r'<option data-examples="(\d+)" data-knobs="([^"]*)"[^>]*>([^<]+)<', html)
    found = {name: (int(examples), set(looks.split())) for examples, looks, name in options}
    assert set(found) == set(METHODS)
    for name, row in METHODS.items():
        looks = {"threshold"} if row.needs_contrast else set()
        looks |= {"contrast"} if row.needs_contrast and row.contrast is None else set()
        looks |= {"crop"} if row.takes_crops else set()
        assert found[name] == (row.examples, looks | ({"gamma"} if name in methods_with("gamma") else set()))


def test_the_panel_offers_crops_where_there_are_maps(document):
    assert not drawn(document).all("select", id="knob-crop")
    image = document["pairs"][0]["image_id"]
    assert drawn({**document, "mapped": [image]}).all("select", id="knob-crop")


def _field(html: str, name: str) -> str:
    return re.search(rf'<select id="knob-{name}".*?</select>|<input id="knob-{name}"[^>]*>', html, re.DOTALL)[0]


def test_the_panel_opens_on_what_the_label_was_made_with(document):
    run = document["provenance"]["run"]
    told = {
        "scoring": {"gamma": 0.37},
        "examples": {"examples": 120, "contrast": "nearest+falcon", "threshold": "max:0.1"},
    }
    changed = document | {"provenance": document["provenance"] | {"run": run | {"settings": run["settings"] | told}}}
    html = Renderer(Site("my.db", "v1")).page("neuron", page=changed).body.decode()
    assert f'data-run="{run["run_id"]}"' in html
    assert "selected>csp<" in _field(html, "method")
    assert 'value="0.37"' in _field(html, "gamma") and 'value="120"' in _field(html, "examples")
    assert "<option selected>nearest+falcon<" in _field(html, "contrast")
    assert '<option value="max:0.1" selected>' in _field(html, "threshold")
    named = {"settings": run["settings"] | {"candidates": "none@44136fa355b3 + captioner@53ff5ced813a"}}
    changed = document | {"provenance": document["provenance"] | {"run": run | named}}
    html = Renderer(Site("my.db", "v1")).page("neuron", page=changed).body.decode()
    assert 'data-run=""' in html and "texts that models proposed" in html  # no vocabulary to choose from again
    other = Renderer(Site("my.db", "v1")).page("neuron", page=document | {"method": "clip-dissect"}).body.decode()
    assert "selected>clip-dissect<" in _field(other, "method")


@pytest.mark.parametrize("state", ["dead", "unlabelled"])
def test_without_a_label_the_panel_opens_on_the_defaults(document, state):
    html = Renderer(Site("my.db", "v1")).page("neuron", page=document | {"state": state}).body.decode()
    assert 'data-run=""' in html and f"selected>{RECOMMENDED}<" in _field(html, "method")
    assert 'value="1.0"' in _field(html, "gamma") and 'value="30"' in _field(html, "examples")


@pytest.mark.parametrize("state", ["no-contrast", "no-candidates", "unlabelled"])
def test_where_there_is_no_label_the_page_says_why(document, state):
    bare = {"state": state, "label": None, "labels": [], "note": "" if state == "unlabelled" else "nothing was silent"}
    page = drawn(document | bare)
    assert ("The commands below make one" in page.words) == (state == "unlabelled")
    assert ("It has no label: nothing was silent" in page.words) == (state != "unlabelled")


def test_scripts_write_text_and_never_markup():
    folder = resources.files("csp_index.service") / "static"
    for name in ("neuron.js", "copy.js", "lightbox.js", "sql.js"):
        code = folder.joinpath(name).read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\.style\b|cssText", code)


def test_the_answer_of_a_statement_is_a_table(client):
    statement = "SELECT 1 AS whole, 0.5 AS part, NULL::DOUBLE AS nothing, '<b>' AS text, [1, 2] AS list, true AS yes"
    reply = client.post("/sql", data={"sql": statement, "format": ""})
    page = Page(reply.text)
    assert page.texts["statement"] == statement
    assert page.texts["result-told"].startswith("1 row in ") and "cut" not in page.texts["result-told"]
    cells = re.findall(r"<td[^>]*>(.*?)</td>", reply.text)
    assert cells == ["1", "0.5", '<span class="null">null</span>', "&lt;b&gt;", "[1, 2]", "true"]
    assert reply.text.count('<td class="number">') == 3  # what is missing stands where its column's numbers do


def test_pictures_in_an_answer_are_shown_and_other_bytes_counted(client):
    statement = (
        "SELECT thumbnail, 'abc'::BLOB AS raw, NULL::BLOB AS none FROM images, range(101) ORDER BY image_id LIMIT 101"
    )
    page = client.post("/sql", data={"sql": statement, "format": ""}).text
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    shown = (
        r'<img src="data:image/(jpeg|png);base64,[\w/+=]+" alt="thumbnail of row 1" title="(JPEG|PNG), [\d,]+ bytes">'
    )
    assert re.fullmatch(shown, cells[0])
    assert cells[1:3] == ['<span class="null">3 bytes</span>', '<span class="null">null</span>']
    assert page.count("<img src=") == 100  # a page of a thousand pictures would be slow
    assert re.fullmatch(r'<span class="null">(JPEG|PNG), [\d,]+ bytes</span>', cells[-3])
    rows = client.post("/api/v1/sql", json={"sql": statement}).json()["rows"]
    assert b64decode(rows[0][0])[:3] in (b"\xff\xd8\xff", b"\x89PN")  # JSON has the bytes as they are


def test_what_a_statement_does_wrong_stands_on_the_page(client):
    reply = client.post("/sql", data={"sql": "DROP TABLE images</textarea><b>", "format": ""})
    page = Page(reply.text)
    assert reply.status_code == 400
    assert "SQL" in page.texts["sql-error"] and "\n" not in page.texts["sql-error"].strip()
    assert page.texts["statement"] == "DROP TABLE images</textarea><b>"


def test_an_answer_comes_as_a_file(client):
    for format, starts in (("csv", b"a\n1\n"), ("parquet", b"PAR1")):
        reply = client.post("/sql", data={"sql": "SELECT 1 AS a", "format": format})
        assert reply.status_code == 200 and reply.content.startswith(starts)
        assert f".{format}" in reply.headers["content-disposition"]


def test_the_page_offers_examples_that_run(client):
    page = Page(client.get("/sql").text)
    statements = [found["value"] for found in page.all("input", name="sql")]
    assert len(statements) > 3
    assert "result-told" in Page(client.post("/sql", data={"sql": statements[0], "format": ""}).text).texts
    (editor,) = page.all("textarea", id="statement")
    assert int(editor["maxlength"]) <= STATEMENT_BYTES


def test_where_sql_is_off_the_page_says_how_to_switch_it_on(tmp_path_factory):
    snapshot, _ = serve_planted(tmp_path_factory)
    with TestClient(make_app(snapshot.store.uri, ServiceSettings(sql=False)), "http://127.0.0.1:8000") as found:
        page = Page(found.get("/sql", headers={"accept": "text/html"}).text)
    assert "--sql" in page.words
    assert not page.all("textarea")


def test_the_document_is_not_changed_by_drawing_it(document):
    before = copy.deepcopy(document)
    drawn(document)
    assert document == before
