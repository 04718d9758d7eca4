"""What would be indexed from a source of images; nothing is written."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from csp_index.images.bucket_source import BucketSource
from csp_index.images.class_folders import class_notes_of
from csp_index.images.decode import IN_MEMORY, ImageRef, ImageSource
from csp_index.images.folders import FolderSource
from csp_index.images.passed_over import passed_over_by
from csp_index.images.sources import open_source
from csp_index.indexing.doctor.examination import Examination, expected, load, sampled, warnings_in
from csp_index.indexing.doctor.report import DoctorReport, Listing, PassTrial
from csp_index.indexing.doctor.trial_pass import try_models


def examine_source(location: Any, request: Examination, **about: Any) -> DoctorReport:
    """Return what would be indexed from a source, a path or a dataset, tried on a seeded sample of its images.

    `about` are the options of `open_source`: name, metadata, metadata_key, class_names, image_column.
    """
    named = isinstance(location, str | Path)
    report = DoctorReport(Listing(str(location) if named else type(location).__name__))
    with warnings_in(report):
        source = _opened(report, location, about)
        refs = report.attempt(lambda: listed(source, report.listing, request.sample)) if source is not None else None
        loaded, studied = load(report, request)
        trial = report.attempt(lambda: try_models(refs or [], loaded, studied, request.precision))
        report.take(trial or PassTrial())
        if not request.encoders:
            report.notes.append("no encoder is given (--encoder, encoders=), and a new index needs one")
    report.expected = expected(report.trial, report.listing.images)
    return report


def _opened(report: DoctorReport, location: Any, about: Mapping[str, Any]) -> ImageSource | None:
    """Open a source; if what comes with it does not fit, open the images alone, so that they are examined, too."""
    if isinstance(location, Iterator):
        report.problems.append(
            "the images can be read only once, and trying some would take them from indexing: give a dataset, a list "
            "or an array"
        )
        return None
    source = report.attempt(lambda: open_source(location, **about))
    if source is None and any(value is not None for value in about.values()):
        alone = DoctorReport(report.listing)
        source = alone.attempt(lambda: open_source(location))
        report.problems += [line for line in alone.problems if line not in report.problems]
    return source


def listed(source: ImageSource, listing: Listing, sample: int) -> list[ImageRef]:
    """Fill a listing with the images of a source, and return a seeded sample of them, in their order."""
    kinds, columns = Counter[str](), Counter[str]()

    def refs() -> Iterator[ImageRef]:
        for ref in source.refs():
            kinds[_kind(ref.uri)] += 1
            columns.update(name for name, value in ref.metadata.items() if value is not None)
            yield ref

    chosen = sampled(refs(), sample)
    listing.source = source.name
    listing.images, listing.kinds, listing.columns = kinds.total(), dict(kinds.most_common()), dict(columns)
    listing.passed_over = dict(passed_over_by(source).most_common())
    table = source.notes if isinstance(source, FolderSource | BucketSource) else ()
    listing.metadata = [*table, *class_notes_of(source)]
    return chosen


def _kind(uri: str) -> str:
    """Return the ending of an image's name, or what it lies in where it has none."""
    if uri.startswith(IN_MEMORY):
        return "in memory"
    container, mark, member = uri.partition("#")
    ending = os.path.splitext(member)[1].lower() if mark else os.path.splitext(uri)[1].lower()
    inside = os.path.splitext(container)[1].lower()
    return ending or (f"in {inside or 'a data set'}" if mark else "without an ending")
