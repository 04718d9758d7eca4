"""`verify` in an object store: the same checks but for the bytes of files, of which the store keeps checksums."""

from __future__ import annotations

import fakes
import pytest
from wrong_commits import scaled

from csp_index import open_index
from csp_index.integrity.verify import verify
from csp_index.store.history.commits import CommitLog
from csp_index.store.locations import location_of

pytestmark = pytest.mark.s3


@pytest.fixture
def uri(bucket, tmp_path) -> str:
    paths = fakes.write_arrays(tmp_path / "made")
    index = open_index(bucket.uri)
    index.import_arrays(paths["activations"], "m/l", embeddings=paths["embeddings"], shard_size=25)
    return str(bucket.uri)


def test_a_sound_index_is_whole(uri):
    result = verify(uri, full=True)
    assert result.findings == [] and result.checked["neurons"] == 8 and result.checked["files"] > 5
    assert "bytes" not in result.checked


@pytest.mark.slow
def test_a_table_that_is_gone_is_found(uri):
    location = location_of(uri)
    version = CommitLog(location).current()[1].tables["neurons"].version
    for name in location.listed("neurons.lance/_versions"):
        location.remove(f"neurons.lance/_versions/{name}")
    (finding,) = verify(uri).findings
    assert (finding.table, finding.what) == (
        "neurons",
        f"version {version}, which the last commit rests on, is missing",
    )
    result = verify(uri, full=True, repair=True)
    assert result.findings == [] and any("counted again" in line for line in result.repaired)


@pytest.mark.slow
def test_wrong_values_and_a_lost_head_are_found_and_repaired(uri):
    store = open_index(uri).store
    with store.write_lock():
        rows = scaled("top_activations", 2.0)(store.read("neurons"))
        store.replace("neurons", rows.cast(store.dataset("neurons").schema))
    location_of(uri).remove("commits/HEAD")
    (finding,) = verify(uri, full=True).findings
    assert (finding.where, finding.remedy) == ("commits/HEAD", "go back")
    result = verify(uri, full=True, repair=True)
    assert result.findings == [] and any("took version" in line for line in result.repaired)
    assert any("m/l are counted again" in line for line in result.repaired)


@pytest.mark.slow
def test_another_programs_change_is_found(uri):
    import lance

    location = location_of(uri)
    rows = lance.dataset(f"{location.address}/runs.lance", storage_options=location.options).to_table()
    lance.write_dataset(rows, f"{location.address}/runs.lance", mode="append", storage_options=location.options)
    assert [(one.table, one.remedy) for one in verify(uri).findings] == [("runs", "undo")]
    assert verify(uri, repair=True).sound


@pytest.mark.slow
def test_a_missing_object_is_found(uri):
    location = location_of(uri)
    (name,) = location.listed("neurons.lance/data")
    location.remove(f"neurons.lance/data/{name}")
    (finding,) = verify(uri).findings
    assert (finding.where, finding.what) == (f"data/{name}", "the file is missing")
    assert verify(uri, repair=True).sound
