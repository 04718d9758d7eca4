"""Maps of layers as wholes: as many places and clusters as their heads say. Their single rows: `study_checks`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from csp_index.integrity.findings import reading
from csp_index.integrity.subject import Subject
from csp_index.store import schema
from csp_index.store.catalog import sql_text
from csp_index.store.study_tables import LAYER_MAPS, MAP_CLUSTERS, MAP_PLACES

_TABLES = (LAYER_MAPS, MAP_CLUSTERS, MAP_PLACES)


def check_layer_maps(subject: Subject) -> None:
    """Check that maps are whole: a fault deletes the rows of the run, which `csp-index map` makes again."""
    if not all(subject.is_readable(name) for name in _TABLES[::2]):
        return
    with reading(subject.result.findings, LAYER_MAPS):
        places = subject.store.read(MAP_PLACES, ["run_id", "cluster", "x", "y"]).to_pylist()
        names = subject.store.read(MAP_CLUSTERS, ["run_id", "cluster", "neurons"]).to_pylist()
        for head in subject.store.read(LAYER_MAPS).to_pylist():
            own = [row for row in places if row["run_id"] == head["run_id"]]
            named = {row["cluster"]: row["neurons"] for row in names if row["run_id"] == head["run_id"]}
            for what in _wrong(subject, head, own, named):
                where = f"run_id = {sql_text(str(head['run_id']))}"
                for name in _TABLES:
                    subject.find(name, what, f"run {head['run_id']}", "delete rows", (name, where))


def _wrong(
    subject: Subject, head: Mapping[str, Any], places: list[dict[str, Any]], named: dict[int, int]
) -> Iterator[str]:
    """Yield what is wrong with one map."""
    key = (head["model"], head["layer"])
    if len(places) != head["placed"]:
        yield "places of neurons are missing, or there more than once"
    if subject.rests_on(schema.LAYERS) and subject.known_layers.get(key, head["neurons"]) != head["neurons"]:
        yield "it is of another number of neurons than the layer has"
    if any(row["x"] is None or row["y"] is None for row in places):
        yield "neurons have no place"
    if len(head["explained"] or ()) != 2:
        yield "the shares of variance are not two numbers"
    inside = Counter(row["cluster"] for row in places if row["cluster"] is not None)
    if subject.is_readable(MAP_CLUSTERS) and (len(named) != head["clusters"] or dict(inside) != named):
        yield "clusters are not those of its neurons"
