"""Whether an index still says what a report says, and whether the report's file is as it was written. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csp_index.errors import NotFoundError, SourceError, one_line
from csp_index.files.regular_files import read_bytes, user_path
from csp_index.settings import MAX_TEXT_BYTES
from csp_index.store.tables import Store
from csp_index.studies.auditing.stored_audits import read_audit
from csp_index.studies.reporting.content import ReportContent, report_content
from csp_index.studies.reporting.seal import Seal, digest_of, is_intact, stated_seal


@dataclass(frozen=True, slots=True)
class ReportCheck:
    """What the check of a report came to. `differing` are the parts of which the index now says something else.

    `intact`: the file is as it was written. `digest` is what it states, `now` what the index gives, None where it has
    no such audit any more.
    """

    intact: bool
    digest: str
    now: str | None
    differing: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the index says the same."""
        return self.now == self.digest

    @property
    def good(self) -> bool:
        """Whether the file is as it was written, and the index says the same."""
        return self.intact and self.same

    def lines(self) -> list[str]:
        """Return what was found, in words, a line each."""
        file = "the file is as it was written" if self.intact else "the file was changed after it was written"
        if self.now is None:
            return [file, f"the index has no such audit any more (the report states {self.digest})"]
        if self.same:
            return [file, f"the index gives the same digest: {self.digest}"]
        parts = ", ".join(self.differing) or "what the report is of"
        return [file, f"the index gives another digest: {self.now}, the report states {self.digest}; other: {parts}"]

    def as_json(self) -> dict[str, Any]:
        """Return what was found, for machines."""
        own = {"intact": self.intact, "same": self.same, "digest": self.digest}
        return {**own, "now": self.now, "differing": list(self.differing)}


def seal_of(content: ReportContent) -> Seal:
    """Return the seal of what a report shows."""
    parts = {name: digest_of(part) for name, part in content.parts().items()}
    model, _, layer = content.audit["layer"].partition("/")
    return Seal(model, layer, content.audit["by"], parts)


def check_report(store: Store, file: str | Path) -> ReportCheck:
    """Return whether an index still gives the digest that a report states, and whether the file is as it was written.

    SourceError for a file that cannot be read, or is no report of an audit.
    """
    try:
        content = read_bytes(user_path(file), MAX_TEXT_BYTES)
        stated, digest = stated_seal(content)
    except OSError as exc:
        raise SourceError(f"the report {file} cannot be read: {one_line(exc)}") from exc
    except SourceError as exc:
        raise SourceError(f"{file} is no report of an audit: {exc}") from exc
    intact = is_intact(content) and stated.digest == digest
    try:
        now = seal_of(report_content(store, read_audit(store, stated.model, stated.layer, stated.by)))
    except NotFoundError:
        return ReportCheck(intact, digest, None)
    names = [*stated.parts, *(name for name in now.parts if name not in stated.parts)]
    differing = tuple(name for name in names if stated.parts.get(name) != now.parts.get(name))
    return ReportCheck(intact, digest, now.digest, differing)
