"""Groups of neurons by label: held to a plain count, and what is said of large ones."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from planted import CONCEPTS, PLANTED, Served, serve_planted

from csp_index.records import LayerKey
from csp_index.service.documents.layer import GalleryQuery, neurons_document
from csp_index.service.documents.layers import groups
from csp_index.service.documents.layers.groups import groups_document, large_groups, warning_of
from csp_index.store.addresses import number_ranges

WORDS, NET = LayerKey.parse(PLANTED), LayerKey.parse(CONCEPTS)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Served:
    return serve_planted(tmp_path_factory)


@pytest.mark.parametrize("key", [WORDS, NET])
@pytest.mark.parametrize("asked", [{}, {"state": "labelled"}, {"neurons": "1-5"}, {"q": "r"}])
def test_groups_are_the_neurons_by_label(planted: Served, key: LayerKey, asked: dict[str, str]) -> None:
    query = GalleryQuery(limit=100, **asked)  # type: ignore[arg-type]
    rows = neurons_document(*planted, key, query)["neurons"]
    document = groups_document(*planted, key, query)
    counts = Counter(row["label"] for row in rows)
    assert {group["label"]: group["neurons"] for group in document["groups"]} == counts
    assert document["neurons"] == len(rows) and document["labels"] == len(counts.keys() - {None})
    sizes = [group["neurons"] for group in document["groups"] if group["label"] is not None]
    assert sizes == sorted(sizes, reverse=True)
    assert all(group["label"] is not None for group in document["groups"][:-1]), "those without a label come last"
    for group in document["groups"]:
        members = [number for run in number_ranges(group["numbers"]) for number in run]
        own = [row for row in rows if row["label"] == group["label"]]
        assert members == [row["index"] for row in own]
        assert group["dead"] == sum(row["dead"] for row in own)
        assert group["uncertain"] == sum(bool(row["uncertain"]) for row in own)
        assert group["images"] == len({row["top_images"][0] for row in own if row["top_images"]})
        best = [(-(row["score"] or 0), row["index"]) for row in own]
        assert [one["index"] for one in group["best"]] == [index for _, index in sorted(best)[:6]]


def test_groups_beyond_the_limit_are_counted(planted: Served) -> None:
    whole, part = (groups_document(*planted, WORDS, GalleryQuery(), most) for most in (100, 2))
    assert whole["left_out"] == 0 and part["left_out"] == len(whole["groups"]) - 2
    assert part["groups"] == whole["groups"][:2]


def test_a_large_group_is_a_warning(planted: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    table = planted[0].layer(WORDS)
    assert large_groups(table) == []
    assert table.shown_labels is not None
    texts = np.array(["same"] * 6 + [None], dtype=object)
    crowded = replace(table, shown_labels=replace(table.shown_labels, texts=texts))
    (group,) = large_groups(crowded)
    assert (group["label"], group["neurons"], group["share"]) == ("same", 6, 1.0)
    assert group["warning"].startswith("6 neurons, 100% of those with a label, are called the same.")
    monkeypatch.setattr(groups, "LARGE_SHARE", 1.1)
    assert large_groups(crowded) == []


def test_the_warning_says_what_speaks_for_which(planted: Served) -> None:
    group = groups_document(*planted, WORDS, GalleryQuery())["groups"][0]
    said = {**group, "neurons": 129, "share": 0.063, "dead": 3, "uncertain": 1, "chance": 41, "images": 37}
    warning = warning_of(said)  # type: ignore[arg-type]
    assert "129 neurons, 6% of those" in warning and "may be copies of one feature" in warning
    assert "41 neurons score no higher than a random network's do: near chance." in warning
    assert "The label of 1 neuron is uncertain." in warning and "3 neurons never fire." in warning
    other = warning_of({**said, "images": 120, "chance": None, "dead": 0})  # type: ignore[arg-type]
    assert "what no other word of the vocabulary fits" in other and "not known" in other and "never fire" not in other
    assert "All of them score higher" in warning_of({**said, "chance": 0})  # type: ignore[arg-type]
