"""`verify` finds notes and ratings that nobody can have written, and repairs nothing of what people said."""

from __future__ import annotations

import pyarrow as pa
import pytest
from few import few
from reviewed import LAYER, make_reviewed

from csp_index.records import NeuronKey
from csp_index.store.study_tables import NOTES, RATINGS
from csp_index.studies.reviewing.ratings import Question, write_rating


@pytest.fixture
def index(tmp_path):
    index = make_reviewed(tmp_path)
    index.note(f"{LAYER}/1", "rename", "mine", by="ann")
    for image in (0, 1):
        question = Question(NeuronKey("net", "l", 1), "mine", image, "pinned", "", "", "uniform", 1.0, 0.5)
        write_rating(index.store, question, "ann", "yes")
    return index


def put(index, table: str, **values: object) -> None:
    """Put other values into the first row of a table."""
    rows = index.store.read(table)
    changed = [rows.to_pylist()[0] | values, *rows.to_pylist()[1:]]
    with index.store.write_lock():
        index.store.replace(table, pa.Table.from_pylist(changed, schema=rows.schema))


def test_what_readers_wrote_is_whole(index):
    verified = index.verify()
    assert verified.findings == [] and verified.checked["notes"] == 1 and verified.checked["ratings"] == 2


@pytest.mark.parametrize(
    ("table", "values", "what"),
    few(
        [
            (NOTES, {"action": "praise"}, "no actions of a reader"),
            (NOTES, {"subject": "nobody"}, "no subjects of a note"),
            (NOTES, {"reader": None}, "1 rows have no reader"),
            (NOTES, {"run_id": "20200101T000000000000-abc"}, "the run of rows of notes is missing"),
            (RATINGS, {"verdict": "perhaps"}, "expected yes, no, unsure"),
            (RATINGS, {"drawn": "at will"}, "expected importance, uniform"),
            (RATINGS, {"weight": 0.0}, "no finite numbers"),
            (RATINGS, {"activation": float("nan")}, "no finite numbers"),
            (RATINGS, {"image_id": 40}, "images of ratings do not exist"),
            (RATINGS, {"neuron": 6}, "neurons of ratings do not exist"),
            (RATINGS, {"layer": "gone"}, "neurons of ratings do not exist"),
        ],
        2,
    ),
)
def test_rows_that_nobody_wrote_are_found_and_kept(index, table, values, what):
    put(index, table, **values)
    findings = index.verify().findings
    assert [what in str(finding) for finding in findings] == [True], findings
    count = index.store.count(table)
    index.verify(repair=True)
    assert index.store.count(table) == count


def test_rows_that_are_there_twice_are_found(index):
    for table in (NOTES, RATINGS):
        rows = index.store.read(table)
        with index.store.write_lock():
            index.store.append(table, rows.slice(0, 1))
    assert sorted(finding.table for finding in index.verify().findings) == [NOTES, RATINGS]
