"""Audits as they are stored and read again; loads no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from csp_index.errors import NotFoundError, StoreError
from csp_index.query.results import Tabular
from csp_index.records import LayerKey, NeuronKey
from csp_index.store import schema
from csp_index.store.catalog import of_layer, sql_text
from csp_index.store.finding_evidence import is_evidence
from csp_index.store.stored_json import read_object
from csp_index.store.study_tables import AUDITS, FINDING_NUMBERS, FINDINGS
from csp_index.store.tables import Store
from csp_index.studies.auditing.records import AuditFields, FindingFields


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFinding(FindingFields):
    """A finding as it is stored; `evidence` is what `evidence.evidence_of` returns."""

    neuron: NeuronKey
    evidence: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Return the object that `csp-index audit --json` prints, one per line."""
        own = {name: value for name, value in asdict(self).items() if name not in ("finding", "neuron")}
        return {"finding": self.finding, "neuron": str(self.neuron)} | own


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit(AuditFields, Tabular):
    """What an audit of one layer found, the highest score first; those below `threshold` are there, too."""

    layer: LayerKey
    by: str
    findings: tuple[StoredFinding, ...]
    run_id: str = ""
    settings_hash: str = ""

    @property
    def above(self) -> tuple[StoredFinding, ...]:
        """The findings that count: with a score above the threshold."""
        return tuple(finding for finding in self.findings if finding.above)

    def __len__(self) -> int:
        return len(self.findings)

    def to_arrow(self) -> pa.Table:
        """Return the findings, one a row."""
        rows = [{name: row[name] for name in _SHOWN} for row in map(StoredFinding.as_json, self.findings)]
        return pa.Table.from_pylist(rows, schema=pa.schema([(name, _kind_of(name)) for name in _SHOWN]))


_SHOWN: Final = (
    "finding",
    "neuron",
    "rank",
    "kind",
    "class_name",
    "subject",
    *FINDING_NUMBERS,
    "above",
    "statement",
    "refutation",
)


def _kind_of(name: str) -> pa.DataType:
    if name in FINDING_NUMBERS:
        return pa.float64()
    return {"rank": pa.int32(), "above": pa.bool_()}.get(name, pa.string())


def audited(store: Store, model: str | None = None) -> list[LayerKey]:
    """Return the layers that have an audit, of one network or of all."""
    rows = store.read(AUDITS, ["model", "layer"]).to_pylist()
    keys = dict.fromkeys(LayerKey(row["model"], row["layer"]) for row in rows)
    return [key for key in keys if model in (None, key.model)]


def read_audit(store: Store, network: str, layer: str | None = None, by: str | None = None) -> Audit:
    """Return the audit of a network that was made last, or that of a layer, or by a column.

    Raises NotFoundError, which says how to make one.
    """
    where = f"model = {sql_text(network)}"
    where += "" if layer is None else f" AND layer = {sql_text(layer)}"
    where += "" if by is None else f" AND classed_by = {sql_text(by)}"
    rows = store.read(AUDITS, where=where).to_pylist()
    if not rows:
        known = ", ".join(map(str, audited(store))) or "none"
        of = network if layer is None else f"{network}/{layer}"
        raise NotFoundError(
            f"there is no audit of {of}{'' if by is None else f' by {by}'} (has: {known}): run "
            f"`csp-index audit DB --network {network} --expected FILE`"
        )
    head = max(rows, key=lambda row: str(row["run_id"]))
    same = f"settings_hash = {sql_text(head['settings_hash'])} AND run_id = {sql_text(head['run_id'])}"
    found = sorted(store.read(FINDINGS, where=same).to_pylist(), key=lambda row: int(row["rank"]))
    return _audit_of(head, [_finding_of(row) for row in found])


def stored_audit(store: Store, layer: LayerKey, settings_hash: str) -> Audit | None:
    """Return the audit with a settings hash, None if there is none."""
    where = f"settings_hash = {sql_text(settings_hash)} AND model = {sql_text(layer.model)}"
    if not store.count(AUDITS, where):
        return None
    head = store.read(AUDITS, where=where).to_pylist()[-1]
    found = sorted(
        store.read(FINDINGS, where=f"run_id = {sql_text(head['run_id'])}").to_pylist(), key=lambda row: int(row["rank"])
    )
    return _audit_of(head, [_finding_of(row) for row in found])


def _audit_of(head: Mapping[str, Any], findings: Sequence[StoredFinding]) -> Audit:
    own: dict[str, Any] = {name: tuple(head[name] or ()) if name in _LISTS else head[name] for name in _HEAD}
    key, run = LayerKey(head["model"], head["layer"]), {name: head[name] for name in ("run_id", "settings_hash")}
    return Audit(layer=key, by=head["classed_by"], findings=tuple(findings), **own, **run)


def _finding_of(row: Mapping[str, Any]) -> StoredFinding:
    own = {name: row[name] for name in StoredFinding.__dataclass_fields__ if name not in ("neuron", "evidence")}
    neuron = NeuronKey(row["model"], row["layer"], row["neuron"])
    evidence = read_object(row["evidence"], FINDINGS, "evidence")
    if not is_evidence(evidence):
        raise StoreError(
            f"the evidence of the finding {row['finding']} has another form than expected: the index is damaged, run "
            "`csp-index audit` with --recompute"
        )
    return StoredFinding(neuron=neuron, evidence=evidence, **own)


def write_audit(store: Store, audit: Audit) -> None:
    """Store an audit in place of the earlier one of the layer by the same column; under the write lock, in a run.

    Its own row comes last, so that findings which have one are whole.
    """
    key = audit.layer
    where = f"{of_layer(key)} AND classed_by = {sql_text(audit.by)}"
    for table in (AUDITS, FINDINGS):
        store.delete(table, where)
    head = {"run_id": audit.run_id, "settings_hash": audit.settings_hash, "model": key.model, "layer": key.layer}
    head["classed_by"] = audit.by
    rows = [
        head
        | {name: getattr(finding, name) for name in StoredFinding.__dataclass_fields__}
        | {"neuron": finding.neuron.neuron, "evidence": json.dumps(dict(finding.evidence), allow_nan=False)}
        for finding in audit.findings
    ]
    if rows:
        store.append(FINDINGS, pa.Table.from_pylist(rows, schema=schema.table_schema(FINDINGS)))
    own = {name: getattr(audit, name) for name in _HEAD}
    store.append(AUDITS, pa.Table.from_pylist([head | own], schema=schema.table_schema(AUDITS)))


_HEAD: Final = tuple(AuditFields.__dataclass_fields__)
_LISTS: Final = ("expected", "unknown", "columns", "notes")


def finite(value: float) -> float | None:
    """Return a number as JSON can say it: None for one that is not finite."""
    return float(value) if np.isfinite(value) else None
