"""The files of an audit's report: the page, and the same page printed as PDF; whole, or not there at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from csp_index.concurrency import unseen
from csp_index.errors import NotFoundError, SettingError, StudyError, one_line
from csp_index.files.regular_files import user_path
from csp_index.records import Progress
from csp_index.store import catalog
from csp_index.store.tables import Store
from csp_index.studies.auditing.stored_audits import Audit, audited, read_audit
from csp_index.studies.reporting.check import seal_of
from csp_index.studies.reporting.content import report_content
from csp_index.studies.reporting.page import render_page
from csp_index.studies.reporting.pictures import NOT_ASKED
from csp_index.studies.reporting.printing import find_browser, print_page

if TYPE_CHECKING:
    from csp_index.models.index_models import Models


def named_audit(store: Store, network: str | None = None, layer: str | None = None, by: str | None = None) -> Audit:
    """Return the stored audit that was made last: of a network, by default the only one that has an audit.

    `layer` and `by` name one of several. NotFoundError if there is none, SettingError if several networks have one.
    """
    names = list(dict.fromkeys(key.model for key in audited(store)))
    if network is None and not names:
        raise NotFoundError(
            "the index has no audit: run `csp-index audit DB --network NAME --expected FILE`, then report it"
        )
    if network is None and len(names) > 1:
        raise SettingError(f"several networks have an audit: name one (--network; has: {', '.join(names)})")
    return read_audit(store, network or names[0], layer, by)


def write_audit_report(
    store: Store,
    audit: Audit,
    file: str | Path,
    models: Callable[[], Models],
    *,
    pdf: str | Path | None = None,
    browser: str | None = None,
    heat_maps: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the report of a stored audit as one HTML file, and with `pdf` as a PDF too; return the page's path.

    `browser` prints it, by default the one that is on the PATH. With `heat_maps` the network runs on the activating
    pictures; where it or they are not at hand the page says so. Files that are there stay, unless `force`. Both are
    written under other names and renamed when both are whole. Errors: StudyError for a file that is there or cannot be
    written, and where nothing prints a PDF; SettingError for two files of one name.
    """
    page, paper = user_path(file).absolute(), None if pdf is None else user_path(pdf).absolute()
    if page == paper:
        raise SettingError(f"the page and the PDF have the same name ({page}): give the PDF another one")
    for target in (page, paper):
        if target is not None:
            _check_target(target, force)
    printer = None if paper is None else find_browser(browser)
    content = report_content(store, audit)
    heat = NOT_ASKED
    if heat_maps:
        from csp_index.studies.reporting.heat_maps import make_heat_maps

        target_layer = catalog.layer(store, audit.layer)
        heat = make_heat_maps(store, models, target_layer, audit.above, progress or unseen)
    data = render_page(content, seal_of(content), heat)
    try:
        with _draft(page) as written:
            written.write_bytes(data)
            if paper is not None and printer is not None:
                with _draft(paper) as printed:
                    print_page(printer, written, printed)
    except OSError as exc:
        raise StudyError(f"the report cannot be written to {page}: {one_line(exc)}: name another file") from exc
    return page


def _check_target(target: Path, force: bool) -> None:
    """Refuse a place where no file can be written, and a file that is there unless it may be replaced."""
    if not target.parent.is_dir():
        raise StudyError(f"the folder {target.parent} does not exist: make it, or name a file in another one")
    if target.is_dir():
        raise StudyError(f"{target} is a folder: name a file in it")
    if target.exists() and not force:
        raise StudyError(f"{target} is there already, and a report is a record: name another file, or give --force")


@contextmanager
def _draft(target: Path) -> Iterator[Path]:
    """Give a path beside the target, which becomes the target if all goes well, and is removed else."""
    draft = target.with_name(f".{target.stem[:60]}.{uuid.uuid4().hex[:12]}{target.suffix}")
    try:
        yield draft
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
