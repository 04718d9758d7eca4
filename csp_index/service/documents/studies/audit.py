"""The page of an audit: what `csp-index audit` stored. Does not load torch."""

from __future__ import annotations

from csp_index.printable import without_folders
from csp_index.service.documents.studies.audit_shapes import AuditDocument, AuditRow, FindingEvidence, FindingRow
from csp_index.service.snapshot import Snapshot
from csp_index.store.study_tables import AUDITS, FINDINGS
from csp_index.studies.auditing.records import AuditFields
from csp_index.studies.auditing.stored_audits import read_audit


def audit_document(snapshot: Snapshot, network: str, layer: str | None = None, by: str | None = None) -> AuditDocument:
    """Return the audit of a network that was made last, or that of a layer, or by a column.

    Raises NotFoundError if there is none.
    """
    audit = read_audit(snapshot.store, network, layer, by)
    rows = [FindingRow(**finding.as_json()) for finding in audit.findings]
    images = {image for row in rows for image in _images(row.evidence)}
    own = {name: getattr(audit, name) for name in AuditFields.__dataclass_fields__}
    return AuditDocument(
        **own | {"encoder": without_folders(audit.encoder)},
        layer=str(audit.layer),
        model=audit.layer.model,
        by=audit.by,
        indexed=snapshot.image_count(snapshot.info(audit.layer).what),
        findings=rows,
        names={str(image): name for image, name in snapshot.names(images).items()},
        others=[row for row in audit_rows(snapshot) if (row["layer"], row["by"]) != (str(audit.layer), audit.by)],
    )


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


def _images(evidence: FindingEvidence) -> list[int]:
    """Return the ids of all images that an evidence names."""
    counter = evidence["counter_examples"]
    lists = [
        counter["class_without_firing"],
        counter["firing_without_class"],
        *(cell["images"] for cell in evidence["cells"]),
    ]
    pairs = [pair[side] for pair in evidence["pairs"] for side in ("image", "silent")]
    return pairs + [one["image"] for images in lists for one in images]
