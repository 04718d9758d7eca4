"""What the report of an audit shows, read from the index as plain values; the same index gives the same.

Everything is what JSON can say, so that a digest of it (`seal`) tells whether an index still says what a report does.
Loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from csp_index.evaluation.report.rendering import plain
from csp_index.printable import without_folders
from csp_index.store import catalog
from csp_index.store.catalog import LayerInfo
from csp_index.store.tables import Store
from csp_index.studies.auditing.stored_audits import Audit, StoredFinding
from csp_index.studies.reporting.indexed import index_facts
from csp_index.studies.reporting.left_out import what_was_left_out
from csp_index.studies.reporting.pictures import StoredPicture, stored_pictures
from csp_index.studies.reporting.reviews import reviews_of

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReportContent:
    """What a report shows: parts of plain values, and the pictures that these name by id."""

    audit: Values  # the audit without its findings
    findings: Sequence[Values]  # in order, each with its evidence; those below the threshold, too
    neurons: Values  # the statistics of the findings' neurons, by address
    reviews: Values
    left_out: Sequence[Values]
    indexed: Values
    pictures: Mapping[int, StoredPicture]

    def parts(self) -> dict[str, Any]:
        """Return the parts that have a digest each, by what a reader calls them."""
        parts = {
            "audit": self.audit,
            "findings": [self.findings, self.neurons],
            "verdicts": self.reviews,
            "what was not looked at": self.left_out,
            "what was indexed": self.indexed,
            "pictures": {str(image): picture.facts() for image, picture in sorted(self.pictures.items())},
        }
        return {name: plain(part) for name, part in parts.items()}

    @property
    def above(self) -> list[Values]:
        """The findings that count."""
        return [finding for finding in self.findings if finding["above"]]

    @property
    def below(self) -> list[Values]:
        """The others."""
        return [finding for finding in self.findings if not finding["above"]]


def report_content(store: Store, audit: Audit, reviews: Values | None = None) -> ReportContent:
    """Return what a report of a stored audit shows. `reviews` are those of `reviews_of`, by default of the same store.

    NotFoundError if the index does not have the audited layer any more.
    """
    with store.moment():
        target = catalog.find_layer({info.key: info for info in catalog.layers(store)}, audit.layer)
        said = reviews_of(store, audit, target) if reviews is None else reviews
        images = {image for finding in audit.above for image in images_of(finding)}
        return ReportContent(
            _head(audit),
            [finding.as_json() for finding in audit.findings],
            _statistics(store, target, audit.findings),
            said,
            what_was_left_out(store, audit, target, said),
            index_facts(store, audit),
            stored_pictures(store, images),
        )


def images_of(finding: StoredFinding) -> list[int]:
    """Return the ids of all images that the evidence of a finding names, in the order in which a report shows them."""
    evidence = finding.evidence
    lists = [*(cell["images"] for cell in evidence["cells"]), *evidence["counter_examples"].values()]
    pairs = [pair[side] for pair in evidence["pairs"] for side in ("image", "silent")]
    return list(dict.fromkeys([*pairs, *(one["image"] for images in lists for one in images)]))


def _head(audit: Audit) -> dict[str, Any]:
    """Return an audit without its findings."""
    own = {name: getattr(audit, name) for name in Audit.__dataclass_fields__ if name != "findings"}
    lists = {name: list(own[name]) for name in ("expected", "unknown", "columns", "notes")}
    encoder = without_folders(audit.encoder)
    return own | lists | {"layer": str(audit.layer), "model": audit.layer.model, "encoder": encoder}


def _statistics(store: Store, target: LayerInfo, findings: Sequence[StoredFinding]) -> dict[str, Any]:
    """Return the statistics of neurons by address; none where the layer is not finished."""
    numbers = sorted({finding.neuron.neuron for finding in findings})
    if not numbers or not catalog.is_finished(store, target):
        return {}
    rows = catalog.neuron_rows(store, target, numbers).select(["neuron", "mean", "max", "firing_rate"]).to_pylist()
    wanted = set(numbers)
    return {f"{target.key}/{row.pop('neuron')}": row for row in rows if row["neuron"] in wanted}
