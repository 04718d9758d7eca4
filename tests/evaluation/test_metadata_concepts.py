"""Concepts that the images' own metadata shows."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csp_index.errors import EvaluationError, SourceError
from csp_index.evaluation.hierarchy import normal_text
from csp_index.evaluation.metadata_concepts import concept_presence

# --- concepts in metadata

ROWS = [
    (4, {"color": "Red", "tags": ["big_star", "old"], "striped": True, "count": 7}),
    (1, {"color": "blue; light-red |green", "tags": [], "striped": "no", "count": 7.0}),
    (9, {"color": None, "tags": "red", "striped": "YES", "note": {"red": 1}}),
    (2, {"color": "redder", "striped": 0, "dotted": False}),
    (6, None),
]


def rows(data: Sequence[tuple[int, dict[str, object] | None]] = ROWS) -> list[tuple[int, str | None]]:
    return [(image, None if record is None else json.dumps(record)) for image, record in data]


def shown(texts: Sequence[str], columns: Sequence[str] | None = None) -> dict[str, list[int] | None]:
    table = concept_presence(rows(), texts, columns)
    mask, known = table.presence(texts)
    assert table.images.tolist() == [1, 2, 4, 6, 9]
    return {text: table.images[mask[row].numpy()].tolist() if known[row] else None for row, text in enumerate(texts)}


def test_a_text_is_present_as_value_list_item_part_or_true_column() -> None:
    assert shown(["red", "RED ", "big star", "light red", "green", "7", "striped"]) == {
        "red": [4, 9],
        "RED ": [4, 9],
        "big star": [4],
        "light red": [1],
        "green": [1],
        "7": [1, 4],
        "striped": [4, 9],
    }


def test_a_text_is_known_where_the_metadata_can_tell() -> None:
    assert shown(["dotted", "star", "color", "note", "true", "red; blue"]) == {
        "dotted": [],  # a column of truth values, all false
        "star": None,
        "color": None,  # a column's name, but of texts
        "note": None,
        "true": None,
        "red; blue": None,
    }


def test_only_the_chosen_columns_count() -> None:
    assert shown(["red", "old", "striped"], ["color"]) == {"red": [4], "old": None, "striped": None}
    assert shown(["red", "striped"], ["tags", "striped"]) == {"red": [9], "striped": [4, 9]}
    assert shown(["red"], ["color", "colour"]) == {"red": [4]}


def test_presence_for_some_images_in_any_order_and_repeated() -> None:
    table = concept_presence(rows(), ["red", "star"])
    mask, known = table.presence(["star", "red"], np.array([9, 1, 9, 4, 77]))
    assert known.tolist() == [False, True] and mask.dtype == torch.bool
    assert mask.tolist() == [[False] * 5, [True, False, True, True, False]]
    assert table.presence(["red"], np.array([5, 10, 1]))[0].tolist() == [[False] * 3]
    with pytest.raises(EvaluationError, match="text 'dog' was not looked for"):
        table.presence(["dog"])
    assert table.presence([])[0].shape == (0, 5)


def test_nothing_to_read_and_metadata_that_is_no_json() -> None:
    mask, known = concept_presence([], ["red"]).presence(["red"])
    assert mask.shape == (1, 0) and not known.any()
    with pytest.raises(SourceError, match="the metadata of image 3 is not JSON"):
        concept_presence([(3, "{red")], ["red"])
    assert not concept_presence([(3, "[1, 2]")], ["1"]).presence(["1"])[1].any()


WORDS = st.sampled_from(
    ["red", "Red ", "dark-red", "star", "red;star", "dark red|Star; dot", "1", "yes", "no", "true", ""]
)
VALUES = st.one_of(
    WORDS,
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, 7, 1.0, 0.5]),
    st.lists(WORDS, max_size=3),
    st.just({"a": "red"}),
)
RECORDS = st.dictionaries(st.sampled_from(["color", "shape", "red", "Dark_Red", "dot"]), VALUES, max_size=4)


def naive(records: list[dict[str, object]], text: str, columns: list[str] | None) -> tuple[list[bool], bool]:
    present, known = [], False
    for record in records:
        here = False
        for column, value in record.items():
            if columns is not None and column not in columns:
                continue
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str):
                    parts = [item, *re.split(r"[;|]", item)]
                    here |= any(normal_text(part) == normal_text(text) for part in parts)
                elif isinstance(item, int | float) and not isinstance(item, bool):
                    here |= text == f"{item:g}"
            if normal_text(column) == normal_text(text):
                word = normal_text(str(value)) if isinstance(value, str) else value
                here |= word in ("true", "yes", "1") or (word == 1 and not isinstance(word, str))
                known |= word in ("false", "no", "0") or (word == 0 and not isinstance(word, str))
        present.append(here)
    return present, known or any(present)


@settings(max_examples=40, deadline=None)
@given(st.lists(RECORDS, max_size=8), st.sampled_from([None, ["color"], ["red", "dot", "color"]]))
def test_presence_equals_a_naive_loop(records: list[dict[str, object]], columns: list[str] | None) -> None:
    texts = ["red", "dark red", "star", "dot", "1", "7", "0.5", "RED"]
    if columns and not all(any(column in record for record in records) for column in columns):
        columns = None
    table = concept_presence([(10 - i, json.dumps(record)) for i, record in enumerate(records)], texts, columns)
    mask, known = table.presence(texts, 10 - np.arange(len(records)))
    for row, text in enumerate(texts):
        present, can_tell = naive(records, text, columns)
        assert known[row].item() == can_tell
        assert mask[row].tolist() == (present if can_tell else [False] * len(records))


def test_metadata_of_many_columns_is_read_at_a_fair_speed() -> None:
    rng = np.random.default_rng(0)
    lines = [json.dumps({f"c{c}": f"word {w}" for c, w in enumerate(rng.integers(0, 50, 100))}) for _ in range(50)]
    start = time.process_time()
    table = concept_presence(((i, lines[i % 50]) for i in range(5000)), [f"word {w}" for w in range(40)])
    assert time.process_time() - start < 5
    assert table.presence(["word 3"])[0].any()
