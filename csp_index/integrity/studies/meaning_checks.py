"""Facets of neurons: each neuron has all that it says it has, about images that exist, with as many activations."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject
from csp_index.store import schema
from csp_index.store.catalog import sql_text
from csp_index.store.study_tables import FACETS

_KEY = ("model", "layer", "neuron")


def check_meanings(subject: Subject) -> None:
    """Check what `study_checks` does not know of the table of facets."""
    if not subject.is_readable(FACETS):
        return
    with reading(subject.result.findings, FACETS):
        rows = subject.store.read(FACETS).combine_chunks()
        for what, wrong in (
            ("facets of the neuron are missing", _incomplete(rows)),
            ("its images are not those of a facet", _wrong_lists(rows)),
            ("its images do not exist", _unknown_images(subject, rows)),
        ):
            _find(subject, what, rows.filter(pa.array(wrong, pa.bool_())))


def _incomplete(rows: pa.Table) -> np.ndarray:
    """Return which rows [R] are of a neuron that has not the facets 0 .. facets - 1, or no facet in one row."""
    keys = list(zip(*(rows[name].to_pylist() for name in _KEY), strict=True))
    found: dict[tuple[object, ...], list[int | None]] = {}
    for key, facet in zip(keys, rows["facet"].to_pylist(), strict=True):
        found.setdefault(key, []).append(facet)
    counts = rows["facets"].to_pylist()
    wrong = []
    for key, count in zip(keys, counts, strict=True):
        own = found[key]
        wrong.append(
            own != [None] if not count else sorted(-1 if one is None else one for one in own) != [*range(count)]
        )
    return np.array(wrong, bool)


def _wrong_lists(rows: pa.Table) -> np.ndarray:
    """Return which rows [R] have other than one finite activation per image, or no image in a facet."""
    ids, values = rows["images"].combine_chunks(), rows["activations"].combine_chunks()
    lengths, others = (pc.list_value_length(part).fill_null(-1).to_numpy() for part in (ids, values))
    without = pc.is_null(rows["facet"]).combine_chunks().to_numpy(zero_copy_only=False)
    owners = np.repeat(np.arange(rows.num_rows), np.maximum(others, 0))
    finite = np.isfinite(values.flatten().to_numpy(zero_copy_only=False))
    wrong = (lengths != others) | ((lengths < 1) != without)
    wrong[owners[~finite]] = True
    return np.asarray(wrong)


def _unknown_images(subject: Subject, rows: pa.Table) -> np.ndarray:
    wrong = np.zeros(rows.num_rows, bool)
    if subject.rests_on(schema.SHARDS, schema.IMAGES):
        ids = rows["images"].combine_chunks()
        owners = np.repeat(np.arange(rows.num_rows), pc.list_value_length(ids).fill_null(0).to_numpy())
        flat = ids.flatten().to_numpy(zero_copy_only=False)
        wrong[owners[(flat < 0) | (flat >= subject.images)]] = True
    return wrong


def _find(subject: Subject, what: str, rows: pa.Table) -> None:
    """Add a finding for each neuron of the rows: all of its rows are deleted, and its facets are found again."""
    for key in sorted(set(zip(*(rows[name].to_pylist() for name in _KEY), strict=True)), key=str):
        model, layer, neuron = key
        same = f"model = {sql_text(model)} AND layer = {sql_text(layer)} AND neuron = {neuron}"
        subject.find(FACETS, what, f"{model}/{layer}/{neuron}", "delete rows", (FACETS, same))
