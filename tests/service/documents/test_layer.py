"""The gallery: order, filters, pages and cursors held to plain Python, on a small real index."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import numpy as np
import pytest
from planted import CONCEPTS, PLANTED, Served

from csp_index.errors import AddressError, NotFoundError, SettingError, StoreError
from csp_index.records import LayerKey, NeuronKey
from csp_index.service.documents import layer
from csp_index.service.documents.layer import GalleryQuery, Sort, layer_document, neurons_document, selected
from csp_index.service.documents.layers.clarity import IMAGES

WORDS, NET = LayerKey.parse(PLANTED), LayerKey.parse(CONCEPTS)


def rows(served: Served, key: LayerKey = WORDS, **asked: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = neurons_document(*served, key, GalleryQuery(**asked))["neurons"]
    return found


def numbers(served: Served, key: LayerKey = WORDS, **asked: Any) -> list[int]:
    return [row["index"] for row in rows(served, key, **asked)]


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("sort", get_args(Sort))
@pytest.mark.parametrize("key", [WORDS, NET])
def test_order_is_that_of_the_values_nulls_last_ties_by_number(
    planted: Served,
    key: LayerKey,
    sort: Sort,
    order: Any,
) -> None:
    every = rows(planted, key)

    def place(row: dict[str, Any]) -> tuple[bool, float, int]:
        value = row[sort]
        if sort == "label" and value is not None:
            value = sorted({r["label"].lower() for r in every if r["label"]}).index(value.lower())
        return value is None, 0 if value is None else value if order == "asc" else -value, row["index"]

    assert numbers(planted, key, sort=sort, order=order) == [row["index"] for row in sorted(every, key=place)]


def test_a_page_selects_its_neurons_once(planted: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[str]()
    monkeypatch.setattr(layer, "selected", lambda *given: asked.append(given[3].q) or selected(*given))
    document = layer_document(*planted, NET, GalleryQuery(q="r"))
    assert asked == ["r"] and sum(document["histograms"][0]["shown"]) == document["total"]


def test_a_dead_neuron_comes_last_both_ways(planted: Served) -> None:
    for order in ("asc", "desc"):
        assert numbers(planted, sort="clarity", order=order)[-1] == 6
        assert numbers(planted, sort="label", order=order)[-1] == 6


def test_filters(planted: Served) -> None:
    snapshot, _ = planted
    table = snapshot.layer(NET)
    dead = np.flatnonzero(table.maxima <= 0).tolist()
    assert 9 in dead
    assert numbers(planted, NET, state="labelled") == [0, 1, 2, 3]
    assert numbers(planted, NET, state="dead") == dead
    assert numbers(planted, NET, state="unlabelled") == sorted({*range(4, 10)} - {*dead})
    uncertain = [row["index"] for row in rows(planted) if row["uncertain"]]
    assert uncertain and numbers(planted, state="uncertain") == uncertain
    assert numbers(planted, q=" RED ") == [
        row["index"] for row in rows(planted) if "red" in (row["label"] or "").lower()
    ]
    assert numbers(planted, q="%") == numbers(planted, q="no such word") == []
    assert numbers(planted, state="dead", q="red") == []


def test_a_set_of_neurons_is_a_filter_beside_the_others(planted: Served) -> None:
    assert numbers(planted, neurons="5, 0,2-3,3") == [0, 2, 3, 5]
    assert numbers(planted, neurons="0-6", state="dead") == [6]
    assert numbers(planted, neurons="6-6,1", sort="score", order="desc") == [1, 6]
    assert numbers(planted, neurons=" ") == numbers(planted, neurons="all") == list(range(7))
    assert layer_document(*planted, WORDS, GalleryQuery(neurons="1,2"))["query"]["neurons"] == "1,2"
    cursor = neurons_document(*planted, WORDS, GalleryQuery(neurons="0-4", limit=2))["next"]
    assert numbers(planted, neurons="0-4", limit=2, cursor=cursor) == [2, 3]
    with pytest.raises(SettingError, match="cursor does not belong"):
        rows(planted, neurons="0-5", cursor=cursor)
    with pytest.raises(NotFoundError, match="has neurons 0 to 6"):
        rows(planted, neurons="2,5-7")


@pytest.mark.parametrize("text", ["3-1", "x", "1,,2", "-1", "1.5", "0-99999999", "9" * 30, "\u0663", "1;2", "x" * 900])
def test_what_are_no_numbers_of_neurons_is_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(AddressError, match=r"neurons '.* (not understood|too many)") as caught:
        GalleryQuery(neurons=text)
    assert len(str(caught.value)) < 200
    with pytest.raises(SettingError, match="expected at most 16,000"):
        GalleryQuery(neurons="1," * 9000)


def test_the_method_chooses_the_label(planted: Served) -> None:
    for method in ("csp", "semanticlens"):
        document = layer_document(*planted, WORDS, GalleryQuery(method=method))
        assert document["query"]["method"] == method
        assert {row["method"] for row in document["neurons"]} == {method}
    with pytest.raises(NotFoundError, match="has no labels by 'magic'"):
        rows(planted, method="magic")


def test_pages_go_on_and_back_and_hold_each_neuron_once(planted: Served) -> None:
    seen: list[int] = []
    asked: dict[str, Any] = {"sort": "score", "order": "desc", "limit": 3}
    cursor, before = None, []
    for first in (0, 3, 6):
        document = layer_document(*planted, WORDS, GalleryQuery(cursor=cursor, **asked))
        page = [row["index"] for row in document["neurons"]]
        assert document["total"] == 7
        if first:
            back = GalleryQuery(cursor=document["previous"], **asked)
            assert [row["index"] for row in layer_document(*planted, WORDS, back)["neurons"]] == before
        else:
            assert document["previous"] is None
        seen, before, cursor = seen + page, page, document["next"]
    assert cursor is None
    assert seen == numbers(planted, sort="score", order="desc") and len(set(seen)) == 7


@pytest.mark.parametrize(
    "other",
    [
        {"sort": "max"},
        {"sort": "score", "order": "desc"},
        {"sort": "score", "state": "labelled"},
        {"sort": "score", "q": "e"},
        {"sort": "score", "method": "csp"},
    ],
)
def test_a_cursor_of_another_query_is_refused(planted: Served, other: dict[str, Any]) -> None:
    cursor = neurons_document(*planted, WORDS, GalleryQuery(sort="score", limit=2))["next"]
    assert numbers(planted, sort="score", limit=5, cursor=cursor)  # the size of a page may change
    with pytest.raises(SettingError, match="cursor does not belong"):
        rows(planted, cursor=cursor, **other)
    with pytest.raises(SettingError, match="cursor does not belong"):
        rows(planted, NET, sort="score", cursor=cursor)


@pytest.mark.parametrize("cursor", ["x", "====", "é", "MA", "LTEuYWJj", "\0", "A" * 400, "MS4x"])
def test_what_is_no_cursor_is_refused(planted: Served, cursor: str) -> None:
    with pytest.raises(SettingError, match="cursor does not belong"):
        rows(planted, cursor=cursor)


@pytest.mark.parametrize(
    "asked",
    [{"sort": "colour"}, {"order": "up"}, {"state": "alive"}, {"limit": 0}, {"q": "x" * 301}],
)
def test_unknown_values_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="expected"):
        GalleryQuery(**asked)


def test_the_document_is_whole_and_json(planted: Served) -> None:
    document = layer_document(*planted, WORDS, GalleryQuery())
    assert list(document) == [
        "layer",
        "query",
        "neurons",
        "total",
        "next",
        "previous",
        "classes",
        "has_effects",
        "has_hierarchy",
        "has_meanings",
        "mapped",
        "histograms",
    ]
    assert document["layer"]["layer"] == PLANTED and document["layer"]["dead"] == 1
    assert document["query"] == {
        "sort": "index",
        "order": "asc",
        "state": "all",
        "q": "",
        "method": planted[0].layer(WORDS).method,
        "limit": 48,
        "class_name": "",
        "by": None,
        "neurons": "",
        "label": "",
        "ranges": {"score": (None, None), "firing_rate": (None, None), "effect": (None, None)},
    }
    assert document["neurons"][0].keys() - planted[0].layer(WORDS).row(0).keys() == {
        *("clarity", "effect", "effect_on", "auroc", "auroc_on", "mapped")
    }
    json.dumps(document, allow_nan=False)
    with pytest.raises(NotFoundError, match="layer planted/none is not in the index"):
        layer_document(*planted, LayerKey("planted", "none"), GalleryQuery())


def test_clarity_is_the_mean_cosine_of_the_highest_images(planted: Served) -> None:
    snapshot, engine = planted
    table = snapshot.layer(WORDS)
    for row, ids, values in zip(
        rows(planted),
        table.statistics["top_images"].to_pylist(),
        table.statistics["top_activations"].to_pylist(),
        strict=True,
    ):
        chosen = [image for image, value in zip(ids, values, strict=True) if value > 0][:IMAGES]
        if len(chosen) < 2:
            assert row["clarity"] is None
            continue
        vectors = engine.models().vectors_of(chosen)
        apart = (vectors @ vectors.T)[~np.eye(len(chosen), dtype=bool)]
        assert math.isclose(row["clarity"], float(apart.mean()), abs_tol=1e-5)


class Counting:
    """An engine that only knows embeddings, and counts those it was asked for."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.asked, self.failed = engine, 0, False

    def models(self) -> Counting:
        return self

    def vectors_of(self, ids: Sequence[int]) -> np.ndarray:
        self.asked += len(ids)
        found: np.ndarray = self.engine.models().vectors_of(ids)
        return found


def test_clarity_asks_for_the_neurons_of_the_page_and_once(planted: Served) -> None:
    snapshot, engine = type(planted[0])(planted[0].store.uri), Counting(planted[1])
    query = GalleryQuery(limit=1)
    neurons_document(snapshot, engine, WORDS, query)  # type: ignore[arg-type]
    first = engine.asked
    firing = int((planted[1].models().activations(NeuronKey("planted", "words", 0)) > 0).sum())
    assert first == min(IMAGES, firing)
    neurons_document(snapshot, engine, WORDS, query)  # type: ignore[arg-type]
    assert engine.asked == first
    neurons_document(snapshot, engine, WORDS, GalleryQuery(sort="clarity"))  # type: ignore[arg-type]
    whole = engine.asked
    assert whole > first
    neurons_document(snapshot, engine, WORDS, GalleryQuery())  # type: ignore[arg-type]
    assert engine.asked == whole


class Broken:
    """An engine that could not be loaded, or, at first, not in time."""

    failed = False

    def models(self) -> Any:
        raise StoreError("the service could not load what this needs")


def test_without_an_engine_there_is_no_clarity_but_all_the_rest(planted: Served) -> None:
    snapshot, engine = type(planted[0])(planted[0].store.uri), Broken()
    with pytest.raises(StoreError):  # it may still come
        neurons_document(snapshot, engine, WORDS, GalleryQuery())  # type: ignore[arg-type]
    engine.failed = True
    found = neurons_document(snapshot, engine, WORDS, GalleryQuery(sort="clarity"))["neurons"]  # type: ignore[arg-type]
    assert [row["index"] for row in found] == list(range(7)) and {row["clarity"] for row in found} == {None}


def test_a_layer_without_labels_is_shown(arrays: Served) -> None:
    key = LayerKey("m", "l")
    document = layer_document(*arrays, key, GalleryQuery(sort="score"))
    assert [row["index"] for row in document["neurons"]] == list(range(8))
    assert document["query"]["method"] is None
    assert {row["state"] for row in document["neurons"]} == {"unlabelled"}
    assert numbers(arrays, key, state="labelled") == numbers(arrays, key, q="text") == []
    assert numbers(arrays, key, state="dead") == [3]
    assert numbers(arrays, key, sort="label", order="desc") == list(range(8))


def test_threads_get_the_same_page(planted: Served) -> None:
    snapshot = type(planted[0])(planted[0].store.uri)
    queries = [GalleryQuery(sort=sort, order="desc") for sort in get_args(Sort)] * 4
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda query: neurons_document(snapshot, planted[1], WORDS, query), queries))
    assert found == [neurons_document(*planted, WORDS, query) for query in queries]


def test_ranges_leave_out_what_is_beyond_them_or_has_no_value(planted: Served) -> None:
    every = rows(planted)
    scores = sorted(row["score"] for row in every if row["score"] is not None)
    low, high = scores[1], scores[-2]
    shown = [row["index"] for row in every if row["score"] is not None and low <= row["score"] <= high]
    assert numbers(planted, score_from=low, score_to=high) == shown and len(shown) == len(scores) - 2
    assert numbers(planted, score_from=-1e9) == [row["index"] for row in every if row["score"] is not None]
    rate = every[2]["firing_rate"]
    assert numbers(planted, firing_rate_to=rate) == [row["index"] for row in every if row["firing_rate"] <= rate]
    assert numbers(planted, effect_from=0) == [], "none is stored"
    assert numbers(planted, score_from=low, neurons="0-1") == [n for n in (0, 1) if every[n]["score"] >= low]
    for wrong in (math.nan, math.inf):
        with pytest.raises(SettingError, match=r"score_to is .*: expected a number"):
            GalleryQuery(score_to=wrong)


def test_a_whole_label_is_a_filter(planted: Served) -> None:
    label = rows(planted)[1]["label"]
    assert numbers(planted, label=label) == [row["index"] for row in rows(planted) if row["label"] == label]
    assert numbers(planted, label=label[:-1]) == numbers(planted, label=label.upper()) == []


def test_histograms_are_of_the_whole_layer_and_of_what_is_shown(planted: Served) -> None:
    document = layer_document(*planted, WORDS, GalleryQuery(state="labelled"))
    assert [one["column"] for one in document["histograms"]] == ["score", "firing_rate"]
    rates = document["histograms"][1]
    assert (sum(rates["counts"]), sum(rates["shown"]), rates["without"]) == (7, 6, 0)
    assert not GalleryQuery().narrows and GalleryQuery(firing_rate_to=0.5).narrows


def test_without_clarity_no_model_is_needed(planted: Served) -> None:
    document = layer_document(planted[0], None, WORDS, GalleryQuery(), with_clarity=False)  # type: ignore[arg-type]
    assert all(row["clarity"] is None for row in document["neurons"])
