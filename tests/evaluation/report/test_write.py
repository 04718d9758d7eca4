"""The report: one page that needs nothing but itself, safe with any label, and the same as data."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest
from few import few
from judged import LAYER, METHODS, NASTY, bins, evaluation, made, row, sanity_report, tiny

from csp_index.errors import EvaluationError, LabelError
from csp_index.evaluation.report import write as module
from csp_index.evaluation.report.charts import calibration_chart, sanity_chart, to_svg
from csp_index.evaluation.report.summary import compare, summarise
from csp_index.evaluation.report.write import write_report

PNG = b"\x89PNG\r\n\x1a\n not really a picture"
FILES = {"index.html", "evaluation.json", "values.csv", "summary.csv", "comparisons.csv"}
VOID = {"meta", "img", "br", "link", "input", "wbr"}


class Outline(HTMLParser):
    """Collects what a page is made of, and fails on tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.anchors, self.sources, self.tags, self.tables = [], [], [], [], [], []
        self.cells, self.inside = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.anchors += [given["href"]] if tag == "a" else []
        self.sources += [value for name, value in attributes if name in ("src", "srcset", "data", "action")]
        if tag == "tr":
            self.cells.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and self.cells and self.open[-1] in ("th", "td", "b", "small", "span"):
            self.cells[-1].append(data.strip())


@pytest.fixture
def undrawn(monkeypatch):
    """Leave the page out, for tests of the folder alone."""
    monkeypatch.setattr(module, "_render", lambda page, *rest: f"a page of {', '.join(page.headline)}")


def text_of(path: Path) -> str:
    body = re.sub(r"<style>.*?</style>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


@pytest.fixture(scope="module")
def asked():
    return []


@pytest.fixture(scope="module")
def written(tmp_path_factory, asked):
    def cards(neuron, method):
        asked.append((neuron, method))
        if len(asked) == 2:
            raise LabelError("this card cannot be drawn")
        return None if len(asked) == 3 else PNG

    folder = tmp_path_factory.mktemp("reports") / "out"
    return write_report(evaluation(), folder, cards, sanity_report(), bins())


@pytest.fixture(scope="module")
def tables():
    judged = evaluation()
    return {"values": judged.values, "summary": summarise(judged), "comparisons": compare(judged, ["simulation", "f1"])}


@pytest.fixture(scope="module")
def page(written):
    return written.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def outline(page):
    return Outline(page)


def test_the_folder_holds_the_page_and_its_data_and_nothing_else(written):
    assert {file.name for file in written.parent.iterdir()} == FILES
    assert [file.name for file in written.parent.parent.iterdir()] == ["out"]


def test_the_page_needs_nothing_but_itself(page, outline):
    assert all(source.startswith("data:image/png;base64,") for source in outline.sources)
    assert all(anchor.startswith("#") or anchor in FILES for anchor in outline.anchors)
    assert not {"script", "link", "iframe", "object"} & set(outline.tags)
    assert not re.search(r"url\((?!#)|@import", page)
    names = re.sub(r'xmlns(:\w+)?="[^"]*"', "", page)
    assert "://" not in names


def test_ids_are_unique_and_every_entry_of_the_contents_leads_somewhere(outline):
    assert len(outline.ids) == len(set(outline.ids))
    assert {anchor[1:] for anchor in outline.anchors if anchor.startswith("#")} <= set(outline.ids)
    assert {"glance", "agreement", "simulation", "generation", "differences", "winners", "settings"} <= set(outline.ids)


@pytest.mark.parametrize("text", few(NASTY, 2))
def test_a_label_of_any_text_is_text(tmp_path, text):
    rows = [row(0, "csp", "simulation", 1.0, text=text), row(0, "pmi", "simulation", 0.0, text="other", note=text)]
    rows += [row(1, "csp", "simulation", None, note=text), row(1, "pmi", "f1", 0.5, kind=text)]
    path = write_report(made(rows, methods=["csp", "pmi"], layer=LAYER, note=text), tmp_path / "out")
    found = path.read_text(encoding="utf-8")
    Outline(found)
    shown = text.replace("\u202e", "\\u202e")  # it would turn the rest of its line, and is spelled out
    assert shown in html.unescape(found) and "\u202e" not in found
    assert html.escape(shown, quote=False).replace("'", "&#39;").replace('"', "&#34;") in found
    assert "<script" not in found and "<bold" not in found and "49" not in re.findall(r"<q>(.*?)</q>", found)
    with (tmp_path / "out" / "values.csv").open(newline="", encoding="utf-8") as stream:
        assert text in [line["text"] for line in csv.DictReader(stream)]


def test_the_heading_tells_layer_images_split_and_encoders(written):
    text = text_of(written)
    for part in (
        LAYER,
        "40 (20 single, 20 pair)",
        "3,820 chose the labels, 3,820 others judged",
        "siglip2",
        "datacomp",
    ):
        assert part in text
    assert "The same encoder chose" not in text


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"judge": "a"}, True),
        ({"judge": None}, True),
        ({"judge": "b"}, False),
        ({"judge": "b", "same_encoder": True}, True),
    ],
)
def test_one_encoder_in_both_roles_is_told(tmp_path, uncharted, settings, told):
    judged = tiny(neurons=3)
    judged.settings.update(settings)
    assert ("The same encoder chose" in text_of(write_report(judged, tmp_path / "out"))) == told


def test_kinds_stand_apart_and_controls_are_named(outline, written):
    titles = [cells[0] for cells in outline.cells if len(cells) == 1]
    assert titles[:3] == ["single (20)", "pair (20)", "all neurons (40)"]
    assert ["random-label", "control"] in [cells[:2] for cells in outline.cells]
    assert "its score is that of a meaningless label" in text_of(written)


def test_without_a_control_the_floor_is_said_to_be_unknown(tmp_path, uncharted):
    assert "the floor is unknown" in text_of(write_report(tiny(neurons=3), tmp_path / "out"))


def test_only_the_paired_test_gives_a_star(tmp_path, uncharted):
    rows = [row(i, "a", "simulation", 0.5 + 0.01 * i) for i in range(20)]
    rows += [row(i, "b", "simulation", 0.5 + 0.01 * i + (0.02 if i % 2 else -0.019)) for i in range(20)]
    rows += [row(i, "c", "simulation", 0.1 + 0.01 * i) for i in range(20)]
    close = write_report(made(rows, methods=["a", "b", "c"], layer=LAYER), tmp_path / "close")
    assert 'class="best"' not in close.read_text()  # b has the best mean, and is not above a
    clear = write_report(made([r for r in rows if r["method"] != "b"], layer=LAYER), tmp_path / "clear")
    stars = re.findall(r'<th scope="row">(\w+)</th>\s*<td class="best">', clear.read_text())
    assert set(stars) == {"a"}


def test_generated_images_never_stand_alone(tmp_path, outline, page):
    with pytest.raises(EvaluationError, match="would stand alone"):
        write_report(tiny("cosy-auc", "dma"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    heads = [cells for cells in outline.cells if cells[0] == "Method"]
    for cells in heads:
        if "cosy-auc" in cells or "dma" in cells:
            assert {"simulation", "auprc", "agreement-exact"} <= set(cells)
    assert "cannot punish a label" in page


def test_a_method_without_a_companion_value_has_its_cosy_values_withheld(tmp_path, uncharted):
    rows = [row(i, method, "cosy-auc", 0.9125) for i in range(6) for method in ("csp", "pmi")]
    rows += [row(i, "csp", "simulation", 0.5) for i in range(6)]
    rows += [row(i, "pmi", "simulation", None) for i in range(6)]
    text = text_of(write_report(made(rows, layer=LAYER), tmp_path / "out"))
    assert "withheld" in text
    assert (
        re.findall(r"(csp|pmi) \u2013 withheld|(csp|pmi) 0.500 0.500 to 0.500 0.912", text)
        == [("", "csp"), ("pmi", "")] * 2
    )


def test_cards_are_asked_for_both_leaders_and_their_absence_is_told(asked, page, written):
    assert {method for _, method in asked} == {METHODS[0], METHODS[2]}
    assert all(neuron.startswith(f"{LAYER}/") for neuron, _ in asked)
    assert page.count("<img ") == len(asked) - 2
    assert "no card: this card cannot be drawn" in text_of(written)


def test_what_is_missing_is_told(written):
    text = text_of(written)
    left_out = "hierarchy no hierarchy is given (--hierarchy); without it there is no relatives-lead, depth"
    assert left_out in text
    assert "the label cannot be drawn: <unsafe> cosy-auc all 1 5" in text
    assert "19 of 20" in text


def test_json_and_csv_hold_the_same(written, tables):
    data = json.loads((written.parent / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert data["settings"]["split"]["judging"] == 3820 and data["run_id"] == evaluation().run_id
    assert data["skipped"] == evaluation().skipped and "torch" in data["versions"]
    assert data["summary"] == tables["summary"].to_pylist()
    pairs = [line for line in data["comparisons"] if line["metric"] in ("simulation", "f1")]
    assert sorted(map(str, pairs)) == sorted(map(str, tables["comparisons"].to_pylist()))
    assert len({line["metric"] for line in data["comparisons"]}) == 16
    names = data["values"]["columns"]
    assert [dict(zip(names, line, strict=True)) for line in data["values"]["rows"]] == tables["values"].to_pylist()
    for name, table in tables.items():
        with (written.parent / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
            lines = list(csv.DictReader(stream))
        assert len(lines) == (table.num_rows if name != "comparisons" else len(data["comparisons"]))
        assert list(lines[0]) == table.column_names


def test_what_is_no_number_becomes_null(tmp_path, uncharted):
    judged = tiny(neurons=3, odd=float("nan"), where=Path("labels.csv"))
    rows = [*judged.values.to_pylist(), row(9, "csp", "simulation", float("inf"), note="why")]
    path = write_report(made(rows, **judged.settings), tmp_path / "out")
    data = json.loads((path.parent / "evaluation.json").read_text(), parse_constant=pytest.fail)
    assert data["settings"]["odd"] is None and data["settings"]["where"] == "labels.csv"
    assert data["values"]["rows"][-1][data["values"]["columns"].index("value")] is None
    assert "inf" not in (path.parent / "values.csv").read_text() and "nan" not in text_of(path).split("Settings")[0]


def test_the_same_evaluation_gives_the_same_page(tmp_path):
    first, second = (write_report(tiny(neurons=6), tmp_path / name).read_bytes() for name in ("one", "two"))
    assert first == second and b"built-in" not in first


def test_an_older_report_is_replaced(tmp_path, undrawn):
    write_report(tiny("simulation", neurons=3), tmp_path / "out")
    path = write_report(tiny("f1", neurons=3), tmp_path / "out")
    assert path.read_text() == "a page of f1"
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_taken(tmp_path, undrawn):
    (tmp_path / "out").mkdir()
    assert write_report(tiny(neurons=3), tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["notes.txt", "index.html", "evaluation.json"])
def test_anything_else_is_left_alone(tmp_path, name):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(EvaluationError, match="not of a report") as caught:
        write_report(tiny(), tmp_path / "out")
    assert name in str(caught.value) and "\n" not in str(caught.value)
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_a_report_beside_other_files_is_left_alone(tmp_path, undrawn):
    path = write_report(tiny(neurons=3), tmp_path / "out")
    (path.parent / "thesis.tex").write_text("years of work")
    with pytest.raises(EvaluationError, match=r"thesis\.tex"):
        write_report(tiny(neurons=3), tmp_path / "out")


def test_a_file_in_place_of_the_folder_is_told_in_one_line(tmp_path, undrawn):
    (tmp_path / "out").write_text("mine")
    for place in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(EvaluationError) as caught:
            write_report(tiny(neurons=3), place)
        assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("call", ["mkdir", "rename-old", "rename-new"])
def test_a_stopped_run_leaves_the_older_report_whole(tmp_path, monkeypatch, undrawn, stop, call):
    path = write_report(tiny("simulation", neurons=3), tmp_path / "out")
    before = path.read_bytes()
    rename, write = Path.rename, Path.write_text
    seen = []

    def renamed(self, target):
        seen.append(self)
        if len(seen) == {"rename-old": 1, "rename-new": 2}.get(call):
            raise stop("stopped")
        return rename(self, target)

    def wrote(self, *args, **kwargs):
        if call == "mkdir" and self.suffix == ".json":
            raise stop("stopped")
        return write(self, *args, **kwargs)

    monkeypatch.setattr(module.Path, "rename", renamed)
    monkeypatch.setattr(module.Path, "write_text", wrote)
    with pytest.raises((KeyboardInterrupt, EvaluationError)):
        write_report(tiny("f1", neurons=3), tmp_path / "out")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_an_evaluation_of_nothing_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match="has no values"):
        write_report(made([]), tmp_path / "out")


def test_one_method_and_one_neuron_make_a_report(tmp_path):
    path = write_report(made([row(0, "csp", "f1", 0.25)], layer=LAYER), tmp_path / "out")
    assert "0.250" in text_of(path) and 'id="winners"' not in path.read_text()


def test_neurons_without_any_label_make_a_report(tmp_path):
    rows = [row(0, "csp", "f1", None, text=None, note="no label"), row(0, "", "clarity", 0.5, text=None)]
    text = text_of(write_report(made(rows, layer=LAYER), tmp_path / "out"))
    assert "No method's labels have a value" in text and "no label f1" in text


def test_the_metrics_own_test_and_the_calibration_are_drawn(page, written):
    assert ">missing labels<" in to_svg(sanity_chart(sanity_report()), "sanity", "drops")
    assert ">share of labels that are right<" in to_svg(calibration_chart(bins()), "calibration", "p")
    text = text_of(written)
    assert (
        "auroc fails fails missing labels (as inverse AUC) missing labels, graded neurons, 0.01 of the images" in text
    )
    assert "pearson passes passes" in text and 'id="calibration"' in page


def test_the_metrics_own_test_may_come_as_rows(tmp_path, uncharted):
    rows = [dataclasses.asdict(line) for line in sanity_report().rows]
    one, two = (write_report(tiny(neurons=3), tmp_path / "out", None, sanity) for sanity in (rows, sanity_report()))
    assert one == two and 'id="sanity"' in two.read_text()


def test_where_the_best_two_agree_the_next_that_differs_is_shown(tmp_path, uncharted):
    rows = []
    for i in range(8):
        rows += [row(i, "pmi", "simulation", 0.9), row(i, "csp", "simulation", 0.9)]
        rows += [row(i, "semanticlens", "simulation", 0.9 if i else 0.1)]
    page = write_report(made(rows), tmp_path / "out").read_text()
    assert "Neurons on which pmi and semanticlens" in page or "Neurons on which csp and semanticlens" in page


def test_its_tables_hold_no_formula():
    table = pa.table({"label": ["=1+1", "red", "@x", None], "value": [-1.0, 1.0, 2.0, 3.0]})
    assert module._harmless(table).to_pydict() == {
        "label": ["'=1+1", "red", "'@x", None],
        "value": [-1.0, 1.0, 2.0, 3.0],
    }
