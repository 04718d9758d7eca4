"""The page of a report: what it shows, its pictures and its digest, as one HTML text that needs nothing but itself.

Loads no torch. The page runs nothing and asks for nothing from elsewhere: its own policy forbids it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from markupsafe import Markup

from csp_index import settings
from csp_index.evaluation.report.rendering import environment
from csp_index.evaluation.report.wording import figure, number
from csp_index.labelling.review.words import done
from csp_index.store.runs import package_versions
from csp_index.studies.classes.image_classes import OUTPUTS
from csp_index.studies.reporting.content import ReportContent
from csp_index.studies.reporting.pictures import NOT_ASKED, Album, HeatMaps
from csp_index.studies.reporting.seal import META, Seal, closed

_TEMPLATES: Final = "csp_index.studies.reporting"
KINDS: Final[Mapping[str, str]] = {
    "artefact": "artefact",
    "unexpected-label": "unexpected label",
    "changed-label": "label changed by contrast",
}
"""What a reader calls the kinds of findings."""


def render_page(
    content: ReportContent, seal: Seal, heat: HeatMaps = NOT_ASKED, written: datetime | None = None
) -> bytes:
    """Return the file of a report: the page in UTF-8, and a last line with the hash of all before it.

    Pictures take at most the setting report_bytes; what was left out is said. `written` is by default now.
    """
    templates = environment(_TEMPLATES)
    templates.filters |= {"figure": figure, "number": number, "done": done, "moment": moment}
    page = templates.get_template("audit.html.jinja").render(
        content=content,
        audit=content.audit,
        album=Album(content.pictures, settings.REPORT_BYTES.value()),
        heat=heat,
        kinds=KINDS,
        outputs=OUTPUTS,
        seal=seal,
        stated=json.dumps(seal.as_json()),
        meta=META,
        style=Markup(style()),  # our own file  # nosec B704
        policy=policy(),
        version=package_versions().get("csp_index", "from a checkout"),
        written=(written or datetime.now(UTC)).isoformat(),
    )
    return closed(page)


@functools.cache
def style() -> str:
    """Return the style of the page."""
    return environment(_TEMPLATES).get_template("audit.css").render()


def policy() -> str:
    """Return what the page may load: its pictures and its style, which it contains, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def moment(value: Any) -> str:
    """Return a time, as JSON has it, to the minute; "" for None.

    >>> moment("2026-11-23T03:31:19.232298+00:00")
    '2026-11-23 03:31'
    """
    return "" if value is None else str(value)[:16].replace("T", " ")
