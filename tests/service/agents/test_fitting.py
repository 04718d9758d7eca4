"""Documents that must fit: what stays, what is said of the rest."""

from __future__ import annotations

import json

import pytest

from csp_index.errors import SettingError
from csp_index.service.agents.fitting import LETTERS, fitted, page_of, plain


def test_values_are_short_and_no_number_is_one_that_json_cannot_say() -> None:
    value = plain({"a": float("inf"), "b": 1 / 3, "c": "x" * 1000, "d": [(1e-9,), None, True], 4: 2**62})
    assert value == {"a": None, "b": 0.333333, "c": "x" * (LETTERS - 1) + "…", "d": [[1e-09], None, True], "4": 2**62}


def test_a_document_that_fits_is_left_as_it_is() -> None:
    assert fitted({"rows": [1, 2], "note": "n"}, 100, ["rows"]) == {"rows": [1, 2], "note": "n"}


@pytest.mark.parametrize("most", [200, 500, 2000])
def test_the_longest_list_loses_its_end_and_the_document_says_so(most: int) -> None:
    document = {"few": ["a", "b"], "many": [{"text": "word", "n": n} for n in range(300)]}
    kept = fitted(document, most, ["few", "many"])
    assert len(json.dumps(kept)) <= most
    assert kept["few"] == ["a", "b"] and kept["many"] == document["many"][: len(kept["many"])]
    assert kept["cut"] == {"many": f"{len(kept['many'])} of 300"}


def test_a_list_inside_another_is_named_by_its_path() -> None:
    document = {"groups": [{"way": "near", "rows": list(range(300))}, {"way": "parts", "rows": [1]}], "few": ["a"]}
    kept = fitted(document, 400, ["few", "groups.0.rows", "groups.1.rows"])
    assert len(json.dumps(kept)) <= 400 and len(document["groups"][0]["rows"]) == 300
    first, second = kept["groups"]
    assert first == {"way": "near", "rows": list(range(len(first["rows"])))} and second == document["groups"][1]
    assert kept["cut"] == {"groups.0.rows": f"{len(first['rows'])} of 300"}


def test_a_table_loses_its_last_fields() -> None:
    document = {"metadata": {f"column {number}": "word " * 20 for number in range(40)}, "near": [1, 2]}
    short = fitted(document, 1000, ["metadata", "near"])
    assert list(short["metadata"]) == [f"column {number}" for number in range(5)]
    assert short["cut"] == {"metadata": "5 of 40"} and short["near"] == [1, 2] and len(document["metadata"]) == 40


def test_what_cannot_be_shortened_is_refused() -> None:
    with pytest.raises(SettingError, match=r"more than 100 characters: ask for less"):
        fitted({"rows": ["x" * 200], "more": [1, 2]}, 100, ["rows", "more"])


@pytest.mark.parametrize("most", [150, 100_000])
def test_pages_follow_each_other_and_lose_nothing(most: int) -> None:
    rows, offset, seen = [{"n": n, "text": "x" * n} for n in range(30)], 0, []
    while offset is not None:
        page = page_of({"name": "layer"}, "rows", rows, offset, 7, most)
        assert page["total"] == 30 and 1 <= len(page["rows"]) <= 7 and "cut" not in page
        seen += page["rows"]
        offset = page["next"]
    assert seen == rows
    assert page_of({}, "rows", rows, 99, 7, most)["rows"] == []
