"""Two layers that were compared, as stored: matches of their neurons, what one alone holds. Does not load torch.

Side by side, neuron by neuron, they are on the page of `compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final, cast

import numpy as np

from csp_index.errors import SettingError
from csp_index.records import LayerKey
from csp_index.service.documents.studies.match_shapes import (
    Bins,
    By,
    ComparisonRow,
    ComparisonsDocument,
    MatchesDocument,
    MatchRow,
    OwnConceptRow,
    WayRow,
)
from csp_index.service.documents.studies.stored_studies import find_study
from csp_index.service.snapshot import Snapshot
from csp_index.studies.comparison.records import Comparison, OwnConcept, Way
from csp_index.studies.comparison.stored import comparison_id, read_comparison, stored_heads

PAIRS: Final = 50
"""Pairs on a page."""
_BINS: Final = 40
_CONCEPTS, _NEURONS = 100, 20  # concepts of one layer alone that are shown, and neurons of each
_ROW = (
    "first",
    "second",
    "images",
    "only_first",
    "only_second",
    "neurons",
    "other_neurons",
    "untrained",
    "note",
    "run_id",
)


def comparisons_document(snapshot: Snapshot) -> ComparisonsDocument:
    """Return the comparisons that the index has, newest first."""
    rows = []
    for name, heads in groupby(stored_heads(snapshot.store), comparison_id):
        ways = list(heads)
        first, second = (f"{ways[0][f'{side}model']}/{ways[0][f'{side}layer']}" for side in ("", "other_"))
        of_ways = [Way(**{field: way[field] for field in Way.__slots__}) for way in ways]
        rows.append(_row(name, ways[0] | {"first": first, "second": second}, of_ways))
    return {"comparisons": rows}


def matches_document(
    snapshot: Snapshot, name: str, by: By | None = None, start: int = 0, limit: int = PAIRS
) -> MatchesDocument:
    """Return one comparison with `limit` pairs of a measure (by default the first it has), from the `start`-th on.

    Raises NotFoundError for an unknown name, SettingError for a measure that it lacks.
    """
    comparison = snapshot.cache.get(("matches", name), lambda: _read(snapshot, name), lambda one: one.matches.nbytes)
    known = [way.by for way in comparison.ways]
    chosen = known[0] if by is None else by
    if chosen not in known:
        raise SettingError(f"the layers were not compared by {chosen} (has: {', '.join(known)})")
    pairs = comparison.pairs(chosen)
    shown = pairs.slice(start, limit).select(list(MatchRow.__annotations__)).to_pylist()
    _name(snapshot, comparison, shown)
    fields = {field: getattr(comparison, field) for field in (*_ROW, "other")}
    coverage = comparison.coverage
    return {
        "comparison": _row(name, fields, comparison.ways),
        "by": chosen,
        "coverage": None
        if coverage is None
        else {
            "vocabulary": coverage.vocabulary,
            "texts": coverage.texts,
            "held": coverage.held,
            "other_held": coverage.other_held,
            "both_held": coverage.both_held,
        },
        "own": _own(comparison.own_concepts()),
        "other_own": _own(comparison.own_concepts(second=True)),
        "chart": _bins(pairs["score"].to_numpy()),
        "pairs": cast(list[MatchRow], shown),
        "total": pairs.num_rows,
        "start": start,
    }


def _read(snapshot: Snapshot, name: str) -> Comparison:
    store = snapshot.store
    return find_study(name, "comparison", stored_heads(store), comparison_id, partial(read_comparison, store))


def _name(snapshot: Snapshot, comparison: Comparison, rows: list[dict[str, Any]]) -> None:
    """Put the names that readers gave in place of labels; those of another index are as the comparison has them."""
    layers = (comparison.first, "") if comparison.other else (comparison.first, comparison.second)
    for layer, side in zip(layers, ("", "other_"), strict=True):
        names = snapshot.names_given(LayerKey.parse(layer)) if layer else {}
        for row in rows:
            row[f"{side}label"] = names.get(row[f"{side}neuron"], row[f"{side}label"])


def _row(name: str, fields: Mapping[str, Any], ways: Sequence[Way]) -> ComparisonRow:
    other = str(fields["other"]).rstrip("/").rpartition("/")[2]  # its folder is nobody's business
    values = {field: fields[field] for field in _ROW} | {"id": name, "other": other, "ways": list(map(_way, ways))}
    values["note"] = str(values["note"]).replace(str(fields["other"]), other) if fields["other"] else values["note"]
    return cast(ComparisonRow, values)


def _way(way: Way) -> WayRow:
    values = {field: getattr(way, field) for field in (*Way.__slots__, "share", "null")}
    return cast(WayRow, values)


def _own(concepts: Sequence[OwnConcept]) -> list[OwnConceptRow]:
    return [{"text": one.text, "neurons": list(one.neurons[:_NEURONS])} for one in concepts[:_CONCEPTS]]


def _bins(scores: np.ndarray) -> Bins:
    """Return how many scores are in each of equally wide bins that end at 1.

    >>> _bins(np.array([1.0, 0.99, 0.01]))["counts"][-1]
    2
    """
    low = min(0.0, float(np.floor(scores.min() * 10) / 10)) if len(scores) else 0.0
    counts, _ = np.histogram(scores, bins=_BINS, range=(low, 1.0))
    return {"low": low, "high": 1.0, "counts": counts.tolist()}
