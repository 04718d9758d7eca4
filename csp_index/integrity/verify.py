"""`verify`: whether an index is whole, from its records of commits to the answers of its vector index."""

from __future__ import annotations

from pathlib import Path

from csp_index.files.regular_files import user_path
from csp_index.integrity.column_checks import check_columns
from csp_index.integrity.commit_checks import check_commits, check_files, check_foreign, check_kinds
from csp_index.integrity.crop_checks import check_crops
from csp_index.integrity.findings import Verification
from csp_index.integrity.map_checks import check_maps
from csp_index.integrity.neighbour_checks import check_neighbours
from csp_index.integrity.repair import repair as repair_index
from csp_index.integrity.result_checks import check_results
from csp_index.integrity.statistics_checks import check_statistics
from csp_index.integrity.studies.association_checks import check_associations
from csp_index.integrity.studies.audit_checks import check_audits
from csp_index.integrity.studies.effect_checks import check_effects
from csp_index.integrity.studies.hierarchy_checks import check_hierarchies
from csp_index.integrity.studies.meaning_checks import check_meanings
from csp_index.integrity.studies.review_checks import check_review
from csp_index.integrity.studies.study_checks import check_studies
from csp_index.integrity.subject import Subject
from csp_index.integrity.sums_checks import check_sums
from csp_index.integrity.text_checks import FindEncoder, check_against_encoders, check_texts
from csp_index.models.encoders import LoadedEncoder
from csp_index.models.index_models import Models
from csp_index.models.weights import OBJECT
from csp_index.records import Progress
from csp_index.store.catalog import EncoderInfo
from csp_index.store.connect import open_snapshot, open_store
from csp_index.store.locations import Location, location_of
from csp_index.store.tables import Store

_ROUNDS = 6  # of repair: what was repaired may uncover more


def verify(
    uri: str | Path,
    *,
    full: bool = False,
    repair: bool = False,
    find_encoder: FindEncoder = lambda info: None,
    progress: Progress | None = None,
) -> Verification:
    """Check an index: everything that is cheap and seeded samples of the rest, or all of it with `full`.

    With `full` some texts and images are embedded again, if `find_encoder` returns the encoder. With `repair` what is
    broken is repaired from what is left, as far as that goes; the result is of the index after that, with what was
    done. Without it nothing is changed. Errors: StoreError where there is no index, a later csp_index made it, or, to
    repair, somebody else writes it.
    """
    location = location_of(uri)
    if not (location.is_index() or location.listed("commits")):
        open_store(uri)  # raises the error that says why
    result = _verified(location, full, find_encoder, progress)
    lines: list[str] = []
    for _ in range(_ROUNDS if repair else 0):
        done = repair_index(location, result.findings)
        lines += [line for line in done if line not in lines]
        before, result = result, _verified(location, full, find_encoder, progress)
        if not done or result.sound or result.findings == before.findings:
            break
    result.repaired = lines
    return result


def _verified(location: Location, full: bool, find_encoder: FindEncoder, progress: Progress | None) -> Verification:
    result = Verification(location.uri, full)
    steps = _Steps(progress)
    committed = check_commits(location, result)
    steps.done()
    if committed.record is None and result.findings:
        return result
    if not check_kinds(location, result):
        return result
    if committed.record is not None:
        check_files(location, committed, result)
        check_foreign(location, result)
    steps.done()
    subject = Subject(_opened(location, result), result, committed.damaged, committed.record is not None)
    marks = check_columns(subject)
    steps.done()
    check_statistics(subject, marks)
    check_maps(subject)
    check_crops(subject)
    steps.done()
    check_results(subject, marks)
    check_audits(subject)
    check_associations(subject, marks)
    check_effects(subject)
    check_studies(subject)
    check_hierarchies(subject)
    check_meanings(subject)
    check_texts(subject)
    check_review(subject)
    steps.done()
    check_neighbours(subject, marks)
    check_sums(subject, marks)
    if full:
        check_against_encoders(subject, marks, find_encoder)
    steps.done()
    return result


def _opened(location: Location, result: Verification) -> Store:
    """Return the index at its last commit; one of an earlier format has no record to compare it with."""
    store = open_store(location.uri)
    if store.commit_seen is None:
        result.notes.append(
            f"{location.uri} has format 2, without a record of its files: changed bytes and lost commits cannot be "
            f"found; `csp-index migrate {location.uri}` brings it to the present format"
        )
    return open_snapshot(location.uri)


class _Steps:
    """Progress in steps of unequal length."""

    def __init__(self, progress: Progress | None, steps: int = 6) -> None:
        self._progress, self._done, self._steps = progress, 0, steps

    def done(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._steps, "steps")


def encoder_at_hand(models: Models, info: EncoderInfo) -> LoadedEncoder | None:
    """Return the encoder that the index was built with, None if its weights would have to be fetched.

    Raises ModelError where it cannot be loaded, has changed, or is code that the user does not trust.
    """
    _, _, name = info.name.partition(":")
    if info.name.startswith(("python:", f"{OBJECT}:")) or user_path(name).is_dir():
        return models.held_encoder(info)
    return None
