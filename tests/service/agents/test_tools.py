"""The tools without the protocol: what they return, page and refuse, each in bounded size and in one line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from planted import CONCEPTS, PLANTED, WORDS, Served

from csp_index import open_index
from csp_index.concurrency import Stop
from csp_index.service import ServiceSettings
from csp_index.service.agents.tools import TOOLS, Reply, call, tools_of
from csp_index.service.app import make_service
from csp_index.service.documents.concepts.concept import concept_document
from csp_index.service.http.api import Service
from csp_index.studies.concepts.concept import WAYS

NEURON = f"{PLANTED}/0"


def service_of(served: Served, **given: Any) -> Service:
    return make_service(served[0].store.uri, ServiceSettings(**given))


@pytest.fixture(scope="module")
def service(planted: Served) -> Iterator[Service]:
    made = service_of(planted)
    yield made
    made.sql.close()


def answer(service: Service, tool: str, **given: Any) -> dict[str, Any]:
    reply = call(service, tool, given)
    assert not reply.failed, reply.text
    assert len(reply.text) <= service.settings.agent_characters
    return json.loads(reply.text)


def error(service: Service, tool: str, **given: Any) -> str:
    reply = call(service, tool, given)
    assert reply.failed and "\n" not in reply.text and reply.picture is None
    return reply.text


def test_every_tool_says_what_it_is_and_takes() -> None:
    for tool in TOOLS:
        schema = tool.arguments.model_json_schema()
        assert len(tool.about) > 80 and tool.about.endswith(".")
        assert schema["type"] == "object" and schema["additionalProperties"] is False
    described = [field for tool in TOOLS for field in tool.arguments.model_json_schema()["properties"].values()]
    assert sum("description" in field for field in described) > len(described) * 0.8


def test_layers_come_in_pages(service: Service) -> None:
    every = answer(service, "layers")
    assert every["images"] == 40 and [row["layer"] for row in every["layers"]] == ["net/concepts", PLANTED]
    first = answer(service, "layers", limit=1)
    assert (first["total"], first["next"]) == (2, 1)
    assert answer(service, "layers", limit=1, offset=1)["layers"] == every["layers"][1:]


def test_neurons_are_listed_page_by_page_and_fit(planted: Served) -> None:
    small = service_of(planted, agent_characters=1500)
    seen, cursor = [], None
    while cursor is not None or not seen:
        page = answer(small, "neurons", layer=PLANTED, sort="score", order="desc", limit=7, cursor=cursor)
        assert page["total"] == 7 and 1 <= len(page["neurons"]) < 7
        seen += [row["neuron"] for row in page["neurons"]]
        cursor = page["next"]
    assert sorted(seen) == [f"{PLANTED}/{n}" for n in range(7)]


def test_a_neuron_with_the_images_behind_it(service: Service) -> None:
    known = answer(service, "neuron", neuron=NEURON)
    assert known["label"] == WORDS[0] and known["labels"][0]["text"] == WORDS[0]
    assert 1 <= len(known["activating"]) <= 10
    assert known["activating"][0]["image"]["name"].endswith(".png")
    assert "histogram" not in known and "queries" not in known
    pairs = [pair for n in range(4) for pair in answer(service, "neuron", neuron=f"{CONCEPTS}/{n}")["activating"]]
    assert any(pair["contrast"] and pair["contrast"]["name"].endswith(".png") for pair in pairs)
    dead = answer(service, "neuron", neuron=f"{PLANTED}/{len(WORDS)}")
    assert dead["dead"] and dead["state"] == "dead"


def test_a_word_has_neurons_in_ways_kept_apart(service: Service) -> None:
    told = answer(service, "concept", word="Striped", limit=3)
    assert told["labeled"][0]["label"] == "striped" and told["sentence"] and len(told["near"]) <= 3
    assert told["labeled"][0]["says"] == "label" and "top_images" not in told["labeled"][0]
    assert "the word is empty" in error(service, "concept", word=" ")


def test_a_word_has_each_neuron_once_in_its_strongest_way(planted: Served, service: Service) -> None:
    for word in (*WORDS, "ring", "a word nobody planted"):
        told, page = answer(service, "concept", word=word), concept_document(*planted, word, 10)
        assert [(g["way"], g["total"], g["stronger"]) for g in told["groups"]] == [
            (g["way"], g["total"], g["stronger"]) for g in page["groups"]
        ]
        listed = [row for group in told["groups"] for row in group["neurons"]]
        assert [row["neuron"] for row in listed] == [r["neuron"] for g in page["groups"] for r in g["neurons"]]
        assert len({row["neuron"] for row in listed}) == len(listed) > 0
        assert all(row["ways"][:1] in ([], [group["way"]]) for group in told["groups"] for row in group["neurons"])
        ways = {row["neuron"]: row["ways"] for row in listed}
        for way in WAYS:
            assert all(row["ways"] == ways.get(row["neuron"], row["ways"]) for row in told[way])


def test_search_by_each_of_three_things(service: Service) -> None:
    assert answer(service, "search", text="striped", limit=2)["by_name"][0]["label"] == "striped"
    assert answer(service, "search", image_id=3)["excites"]
    assert NEURON not in [row["neuron"] for row in answer(service, "search", neuron=NEURON)["means"]]
    assert "give one" in error(service, "search") and "give one" in error(service, "search", text="a", image_id=1)


def test_labels_with_own_candidates_are_those_of_the_api(service: Service) -> None:
    (result,) = answer(service, "label", neurons=[NEURON], candidates=["moon", "striped"], method="csp")["results"]
    assert [each["text"] for each in result["labels"]] == ["striped", "moon"]
    assert len(result["activating"]) <= 10


def test_long_work_is_told_to_stop(service: Service) -> None:
    stop = Stop()
    stop.set("the client left")
    reply = call(service, "label", {"neurons": [NEURON]}, stop.check)
    assert reply == Reply("the client left", failed=True)


def test_pictures(service: Service, arrays: Served) -> None:
    for reply in (call(service, "card", {"neuron": NEURON}), call(service, "image", {"image_id": 3})):
        assert Image.open(io.BytesIO(reply.picture.data)).format == reply.picture.kind.partition("/")[2].upper()
    assert call(service, "image", {"image_id": 3, "picture": False}).picture is None
    without = call(service_of(arrays), "image", {"image_id": 3})
    assert without.picture is None and "no picture" in json.loads(without.text)["note"]


def test_an_image_with_much_metadata_is_shown_in_part(tmp_path: Path) -> None:
    index = open_index(tmp_path / "db")
    index.add_images([("a.png", Image.new("RGB", (8, 8)))], encoders=["python:fakes:encoder"])
    told = {"name": "a.png", "boxes": [[1, 2]] * 9000} | {f"column {number}": "word " * 60 for number in range(200)}
    (tmp_path / "told.jsonl").write_text(json.dumps(told))
    index.add_metadata(tmp_path / "told.jsonl")
    said = answer(make_service(index.store.uri, ServiceSettings()), "image", image_id=0)
    assert said["metadata"]["boxes"].startswith("[[1, 2], ") and said["metadata"]["column 3"].startswith("word")
    assert said["cut"]["metadata"] == "50 of 201"


def test_sql_through_the_sandbox_and_its_views(service: Service) -> None:
    assert answer(service, "sql", sql="SELECT count(*) AS n FROM images")["rows"] == [[40]]
    many = answer(service, "sql", sql="SELECT range AS n, repeat('x', 400) AS text FROM range(5000)")
    assert many["truncated"] and many["cut"]["rows"].endswith(" of 5,000")
    assert many["rows"][1][0] == 1
    assert "SELECT" in error(service, "sql", sql="DROP TABLE images")
    assert "images" in {view["name"] for view in answer(service, "sql_views")["views"]}
    assert "uri" in {column["name"] for column in answer(service, "sql_views", view="images")["columns"]}
    assert "does not exist (has: " in error(service, "sql_views", view="nothing")


def test_where_sql_is_off_there_are_no_tools_for_it(planted: Served) -> None:
    off = service_of(planted, sql=False)
    assert not {"sql", "sql_views"} & set(tools_of(off))
    assert "does not exist (has: layers," in error(off, "sql", sql="SELECT 1")


@pytest.mark.parametrize(
    ("tool", "given", "told"),
    [
        ("neuron", {"neuron": f"{PLANTED}/99"}, "99 does not exist: planted/words has neurons 0 to 6"),
        ("neuron", {}, "neuron: Field required"),
        ("n" * 10_000, {}, "n' does not exist (has: layers, "),
        ("neuron", {"neuron": "a/b"}, "neuron: String should match"),
        ("neuron", {"neuron": NEURON, "method": "nothing"}, "nothing"),
        ("neurons", {"layer": "net/none"}, "is not in"),
        ("neurons", {"layer": PLANTED, "limit": "5"}, "limit: Input should be a valid integer"),
        ("neurons", {"layer": PLANTED, "limit": 51}, "limit: Input should be less than or equal to 50"),
        ("neurons", {"layer": PLANTED, "cursor": "x"}, "the cursor does not belong to this query"),
        ("layers", {"else": 1}, "else: Extra inputs are not permitted"),
        ("label", {"neurons": [NEURON], "method": "nothing"}, "nothing"),
        ("label", {"neurons": [NEURON], "candidates": []}, "candidates: "),
        ("image", {"image_id": 4000}, "image 4000 does not exist"),
        ("associations", {"address": PLANTED}, "associations"),
        ("associations", {"address": NEURON, "class_name": "a"}, "class_name goes with a layer"),
        ("sql", {"sql": "SELECT\nnothing FROM\nnowhere"}, "nowhere"),
        ("no\x1b such", {}, "does not exist (has: layers"),
    ],
)
def test_errors_are_one_line_that_says_what_to_change(
    service: Service, tool: str, given: dict[str, Any], told: str
) -> None:
    line = error(service, tool, **given)
    assert told in line and len(line) < 500 and "\x1b" not in line and str(Path.home()) not in line


def test_what_nobody_foresaw_is_an_error_without_details(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("csp_index.service.agents.answers.home_document", lambda snapshot: 1 / 0)
    assert error(service, "layers") == "the service failed on this request"
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("characters", [1500, 3000])
def test_no_answer_is_larger_than_the_setting(planted: Served, characters: int) -> None:
    small = service_of(planted, agent_characters=characters)
    for tool, given in (
        ("layers", {}),
        ("neurons", {"layer": PLANTED}),
        ("neuron", {"neuron": NEURON}),
        ("search", {"text": "red"}),
        ("label", {"neurons": [f"{PLANTED}/{n}" for n in range(6)]}),
        ("image", {"image_id": 3}),
        ("concept", {"word": "red"}),
    ):
        assert len(call(small, tool, given).text) <= characters
