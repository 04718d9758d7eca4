"""The page of an audit: what `csp-index audit` stored. Does not load torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from csp_index.printable import without_folders
from csp_index.service.documents.studies.audit_shapes import AuditDocument, AuditRow, FindingRow
from csp_index.service.snapshot import Snapshot
from csp_index.store.study_tables import AUDITS, FINDINGS
from csp_index.studies.auditing.stored_audits import StoredFinding, read_audit


def audit_document(snapshot: Snapshot, network: str, layer: str | None = None, by: str | None = None) -> AuditDocument:
    """Return the audit of a network that was made last, or that of a layer, or by a column.

    Raises NotFoundError if there is none.
    """
    audit = read_audit(snapshot.store, network, layer, by)
    rows = [_row(finding) for finding in audit.findings]
    images = {image for row in rows for image in _images(row["evidence"])}
    return {
        "layer": str(audit.layer),
        "model": audit.layer.model,
        "by": audit.by,
        "method": audit.method,
        "encoder": without_folders(audit.encoder),
        "threshold": audit.threshold,
        "expected": list(audit.expected),
        "unknown": list(audit.unknown),
        "columns": list(audit.columns),
        "notes": list(audit.notes),
        "neurons": audit.neurons,
        "classes": audit.classes,
        "images": audit.images,
        "indexed": snapshot.image_count(snapshot.info(audit.layer).what),
        "findings": rows,
        "names": {str(image): name for image, name in snapshot.names(images).items()},
        "others": [row for row in audit_rows(snapshot) if (row["layer"], row["by"]) != (str(audit.layer), audit.by)],
    }


def audit_rows(snapshot: Snapshot) -> list[AuditRow]:
    """Return all audits of the index, the newest first, each with the number of findings that count."""
    heads = snapshot.store.read(AUDITS, ["run_id", "model", "layer", "classed_by"]).to_pylist()
    found = snapshot.store.read(FINDINGS, ["run_id", "above"]).to_pylist()
    newest = sorted(heads, key=lambda row: str(row["run_id"]), reverse=True)
    return [
        {
            "layer": f"{row['model']}/{row['layer']}",
            "model": row["model"],
            "by": row["classed_by"],
            "findings": sum(bool(one["above"]) for one in found if one["run_id"] == row["run_id"]),
        }
        for row in newest
    ]


def _row(finding: StoredFinding) -> FindingRow:
    return cast(FindingRow, finding.as_json())


def _images(evidence: Mapping[str, Any]) -> list[int]:
    """Return the ids of all images that an evidence names."""
    lists = [*evidence["counter_examples"].values(), *(cell["images"] for cell in evidence["cells"])]
    pairs = [pair[side] for pair in evidence["pairs"] for side in ("image", "silent")]
    return pairs + [one["image"] for images in lists for one in images]
