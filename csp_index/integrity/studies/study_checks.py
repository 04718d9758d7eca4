"""The tables of studies: their rows are of recorded runs, name neurons that exist, and hold numbers that can be.

What each table must hold is one row of `RULES`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csp_index.integrity.findings import reading
from csp_index.integrity.studies.layer_map_checks import check_layer_maps
from csp_index.integrity.subject import Subject, many
from csp_index.store import schema
from csp_index.store.catalog import sql_text
from csp_index.store.study_tables import (
    COMPARISONS,
    EVOLUTION,
    FACETS,
    FORMULAS,
    LAYER_MAPS,
    MAP_CLUSTERS,
    MAP_PLACES,
    MATCHES,
)

Address = tuple[str, str, str]  # the columns that hold model, layer and neuron
_OWN: Final[Address] = ("model", "layer", "neuron")
_OTHER: Final[Address] = ("other_model", "other_layer", "other_neuron")


@dataclass(frozen=True, slots=True)
class Rule:
    """What the rows of a table must be."""

    unique: tuple[str, ...]  # columns that no two rows share
    addresses: tuple[Address, ...] = ()  # of neurons; a neuron that is null is none
    elsewhere: Mapping[Address, str] = field(default_factory=dict)  # column that is not "" where the neuron is not here
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # of numbers; null is allowed
    beside: str | None = None  # a table that has rows of the same runs


_COSINE: Final = (-1.001, 1.001)
_COUNT: Final = (0.0, math.inf)
RULES: Final[Mapping[str, Rule]] = {
    COMPARISONS: Rule(
        unique=("model", "layer", "other", "other_model", "other_layer", "by"),
        ranges=dict.fromkeys(("null_images", "null_mixed", "null_untrained"), _COSINE)
        | dict.fromkeys(("images", "neurons", "other_neurons", "live", "other_live", "matched", "texts"), _COUNT),
        beside=MATCHES,
    ),
    EVOLUTION: Rule(
        unique=("model", "layer", "neuron", "network", "step"),
        addresses=(_OWN,),
        ranges={"cosine": _COSINE, "firing_rate": (0.0, 1.0), "step": _COUNT},
    ),
    FACETS: Rule(
        unique=("model", "layer", "neuron", "facet"),
        addresses=(_OWN,),
        ranges={"share": (0.0, 1.0)}
        | dict.fromkeys(("of_images", "looked_at", "clusters", "clear", "facets", "facet"), _COUNT),
    ),
    FORMULAS: Rule(
        unique=("model", "layer", "neuron"),
        addresses=(_OWN,),
        ranges=dict.fromkeys(("iou", "single_iou"), (0.0, 1.0))
        | dict.fromkeys(("correlation", "single_correlation"), _COSINE)
        | dict.fromkeys(("gain", "low", "high"), (-2.001, 2.001))
        | dict.fromkeys(("of_images", "fired"), _COUNT),
    ),
    LAYER_MAPS: Rule(
        unique=("model", "layer"),
        ranges={"min_dist": (0.0, 1.0)}
        | dict.fromkeys(("trust", "plane_trust"), _COSINE)
        | dict.fromkeys(("seed", "neighbors", "cluster_size", "neurons", "placed", "clusters"), _COUNT),
        beside=MAP_PLACES,
    ),
    MAP_CLUSTERS: Rule(
        unique=("model", "layer", "cluster"),
        ranges=dict.fromkeys(("x", "y", "share"), (0.0, 1.0)) | dict.fromkeys(("cluster", "neurons"), _COUNT),
        beside=LAYER_MAPS,
    ),
    MAP_PLACES: Rule(
        unique=("model", "layer", "neuron"),
        addresses=(_OWN,),
        ranges=dict.fromkeys(("x", "y"), (0.0, 1.0)) | {"central": _COSINE, "cluster": _COUNT},
        beside=LAYER_MAPS,
    ),
    MATCHES: Rule(
        unique=("run_id", "by", "neuron", "other_neuron"),
        addresses=(_OWN, _OTHER),
        elsewhere={_OTHER: "other"},
        ranges=dict.fromkeys(("score", "best", "other_best"), _COSINE),
        beside=COMPARISONS,
    ),
}


def check_studies(subject: Subject) -> None:
    """Check all tables of studies that the index has."""
    for name, rule in RULES.items():
        if subject.is_readable(name):
            with reading(subject.result.findings, name):
                rows = subject.store.read(name)
                subject.result.count("rows of studies", rows.num_rows)
                _check_runs(subject, name, rows, rule)
                _check_unique(subject, name, rows, rule)
                for address in rule.addresses:
                    _check_neurons(subject, name, rows, address, rule.elsewhere.get(address))
                for column, limits in rule.ranges.items():
                    _check_range(subject, name, rows, column, limits)
    check_layer_maps(subject)
    if subject.is_readable(COMPARISONS) and subject.is_readable(MATCHES):
        with reading(subject.result.findings, COMPARISONS):
            _check_complete(subject)


def _check_complete(subject: Subject) -> None:
    """Find comparisons without a row for each neuron of both layers."""
    rows = subject.store.read(MATCHES, ["run_id", "by", "neuron", "other_neuron"])
    grouped = rows.group_by(["run_id", "by"]).aggregate([("neuron", "count"), ("other_neuron", "count")])
    counts = {(row["run_id"], row["by"]): row for row in grouped.to_pylist()}
    heads = subject.store.read(COMPARISONS)
    lacking = []
    for row in heads.select(["run_id", "by", "neurons", "other_neurons"]).to_pylist():
        count = counts.get((row["run_id"], row["by"]), {"neuron_count": 0, "other_neuron_count": 0})
        lacking.append((count["neuron_count"], count["other_neuron_count"]) != (row["neurons"], row["other_neurons"]))
    _find(subject, COMPARISONS, heads.filter(pa.array(lacking, pa.bool_())), "matches of its neurons are missing")


def _find(subject: Subject, name: str, rows: pa.Table, what: str) -> None:
    """Add a finding for each run that some of the rows are of; its rows are deleted, and the study is made again."""
    for run in pc.unique(rows["run_id"]).to_pylist():
        condition = "run_id IS NULL" if run is None else f"run_id = {sql_text(run)}"
        own = rows.filter(pc.is_null(rows["run_id"]) if run is None else pc.equal(rows["run_id"], run))
        subject.find(name, what, f"run {run}, {own.num_rows:,} rows", "delete rows", (name, condition))


def _check_runs(subject: Subject, name: str, rows: pa.Table, rule: Rule) -> None:
    if schema.RUNS not in subject.damaged:
        known = subject.store.read(schema.RUNS, ["run_id"])["run_id"].combine_chunks()
        _find(subject, name, rows.filter(pc.invert(pc.is_in(rows["run_id"], known))), "no such run is recorded")
    if rule.beside is not None and rule.beside not in subject.damaged:
        beside = subject.store.read(rule.beside, ["run_id"])["run_id"].combine_chunks()
        lost = rows.filter(pc.invert(pc.is_in(rows["run_id"], beside)))
        _find(subject, name, lost, f"the table {rule.beside} has no rows of this run")


def _check_unique(subject: Subject, name: str, rows: pa.Table, rule: Rule) -> None:
    columns = list(rule.unique)
    counts = rows.select(columns).append_column("rows", pa.array(np.ones(rows.num_rows, np.int64)))
    counted = counts.group_by(columns).aggregate([("rows", "sum")])
    for row in counted.filter(pc.greater(counted["rows_sum"], 1)).slice(0, 20).to_pylist():
        same = [
            f"{column} IS NULL" if row[column] is None else f"{column} = {_literal(row[column])}" for column in columns
        ]
        place = ", ".join(str(row[column]) for column in columns if row[column] is not None)
        subject.find(name, "this row is there more than once", place, "delete rows", (name, " AND ".join(same)))


def _literal(value: object) -> str:
    return sql_text(value) if isinstance(value, str) else str(value)


def _check_neurons(subject: Subject, name: str, rows: pa.Table, address: Address, elsewhere: str | None) -> None:
    if not subject.rests_on(schema.LAYERS):
        return
    if elsewhere is not None:
        rows = rows.filter(pc.equal(rows[elsewhere], ""))
    layers = list(zip(*(rows[column].to_pylist() for column in address[:2]), strict=True))
    most = np.array([subject.known_layers.get(layer, 0) for layer in layers], np.int64)
    neurons = rows[address[2]]
    place = pc.fill_null(neurons, 0).to_numpy()
    wrong = (place < 0) | (place >= most)
    bad = rows.filter(pa.array(wrong, pa.bool_()))
    names = ["/".join(map(str, key)) for key in zip(*(bad[column].to_pylist() for column in address), strict=True)]
    _find(subject, name, bad, f"neurons do not exist: {many(names, 'neuron')}")


def _check_range(subject: Subject, name: str, rows: pa.Table, column: str, limits: tuple[float, float]) -> None:
    values = pc.cast(rows[column], pa.float64())
    inside = pc.and_(
        pc.is_finite(values), pc.and_(pc.greater_equal(values, limits[0]), pc.less_equal(values, limits[1]))
    )
    _find(subject, name, rows.filter(pc.invert(pc.fill_null(inside, True))), f"{column} is no possible number")
