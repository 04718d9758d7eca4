"""The report of an audit over HTTP: the file that `csp-index report` writes, and what it shows. Does not load torch.

Heat maps need the network, which the service does not run: the page says that there are none.
"""

from __future__ import annotations

from csp_index.service.documents.studies.audit_shapes import ReportDocument
from csp_index.service.snapshot import Snapshot
from csp_index.studies.auditing.stored_audits import read_audit
from csp_index.studies.reporting.check import seal_of
from csp_index.studies.reporting.content import ReportContent, report_content
from csp_index.studies.reporting.page import render_page


def report_document(
    snapshot: Snapshot, network: str, layer: str | None = None, by: str | None = None
) -> ReportDocument:
    """Return what the report of an audit shows, part by part, with the digests that it states.

    Raises NotFoundError if there is no such audit.
    """
    content = _content(snapshot, network, layer, by)
    seal = seal_of(content)
    return {"digest": seal.digest, "digests": dict(seal.parts), "parts": content.parts()}


def report_file(snapshot: Snapshot, network: str, layer: str | None = None, by: str | None = None) -> bytes:
    """Return the file of the report of an audit. Raises NotFoundError if there is no such audit."""
    content = _content(snapshot, network, layer, by)
    return render_page(content, seal_of(content))


def _content(snapshot: Snapshot, network: str, layer: str | None, by: str | None) -> ReportContent:
    audit = read_audit(snapshot.store, network, layer, by)
    return report_content(snapshot.store, audit, snapshot.reviews.of_audit(audit, snapshot.info(audit.layer)))
