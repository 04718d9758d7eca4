"""Properties of what the store reads: stored JSON, HEAD, records, tags, leases, lists of neurons, places, run ids."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from parsing import JSON, QUICK, damaged, like, refusing, replaced

from csp_index.errors import AddressError, CspIndexError, NotFoundError, SettingError, SourceError, StoreError
from csp_index.records import NeuronKey
from csp_index.store import locks, runs
from csp_index.store.addresses import parse_neurons
from csp_index.store.connect import create_store, open_store, open_version
from csp_index.store.history.commits import CommitLog
from csp_index.store.history.named_versions import version_rows
from csp_index.store.image_metadata import parse_metadata
from csp_index.store.layout import StoredObject
from csp_index.store.locations import LocalLocation, location_of
from csp_index.store.stored_json import parse_json, read_object


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    uri = tmp_path_factory.mktemp("store") / "db"
    store = create_store(uri)
    with store.write_lock():
        store.create("numbers", pa.schema([("n", pa.int64())]))
        store.append("numbers", pa.table({"n": [1, 2]}))
    store.log.tag("first", store.log.records()[-1])
    return uri


@pytest.fixture(scope="module")
def changed(made: Path) -> Iterator[Any]:
    """A function that writes a file of the index anew, and has it as it was at the next call."""
    whole = {name: (made / name).read_bytes() for name in _files(made)}

    def write(name: str, data: bytes) -> Path:
        for other, content in whole.items():
            (made / other).write_bytes(content)
        for name_now in _files(made):
            if name_now not in whole:
                (made / name_now).unlink()
        (made / name).write_bytes(data)
        return made

    yield write
    shutil.rmtree(made)


def _files(made: Path) -> list[str]:
    return sorted(str(file.relative_to(made)) for file in (made / "commits").rglob("*") if file.is_file())


def _read_all(uri: Path) -> None:
    with refusing(CspIndexError):
        store = open_store(uri)
        version_rows(store)
        assert store.read("numbers").num_rows == 2
    with refusing(CspIndexError):
        open_version(uri, "first").read("numbers")
    log = CommitLog(LocalLocation(uri))
    for read in (log.head, log.current, log.latest, log.records, log.tags):
        with refusing(StoreError):
            read()


@QUICK
@given(st.data())
def test_any_head_is_read_or_refused(changed: Any, made: Path, data: st.DataObject) -> None:
    fields = json.loads((made / "commits/HEAD").read_bytes())
    whole = json.dumps(fields).encode()
    text = data.draw(st.one_of(damaged(whole), replaced(fields).map(lambda value: json.dumps(value).encode())))
    _read_all(changed("commits/HEAD", text))
    changed("commits/HEAD", whole)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**4000, -1, "x", [], {}, None, True, "1\n2"])
@pytest.mark.parametrize("field", ["format", "needs", "commit", "latest", "commit_digest"])
def test_a_field_of_head_that_cannot_be_is_refused(changed: Any, made: Path, field: str, value: object) -> None:
    whole = (made / "commits/HEAD").read_bytes()
    _read_all(changed("commits/HEAD", json.dumps(json.loads(whole) | {field: value}).encode()))
    changed("commits/HEAD", whole)


@QUICK
@given(st.data())
def test_any_record_is_read_or_refused_even_with_its_digest(changed: Any, made: Path, data: st.DataObject) -> None:
    head = json.loads((made / "commits/HEAD").read_bytes())
    name = f"commits/{head['commit']:08d}.json"
    whole, old = (made / name).read_bytes(), (made / "commits/HEAD").read_bytes()
    fields = json.loads(whole)
    one = st.sampled_from(sorted(fields["tables"]["numbers"]))
    values = st.one_of(JSON, st.sampled_from([0, 2**64, 2**64 - 1, "\0", "../../x", True]))
    table = st.tuples(one, values).map(lambda pair: fields["tables"]["numbers"] | {pair[0]: pair[1]})
    tables = st.one_of(replaced(fields["tables"]), table.map(lambda entry: {"numbers": entry}))
    times = st.sampled_from(
        ["2026-01-01", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-01T00:00"]
    )
    record = data.draw(
        st.one_of(
            replaced(fields),
            tables.map(lambda value: fields | {"tables": value}),
            times.map(lambda value: fields | {"when": value}),
        )
    )
    content = json.dumps(record).encode()
    uri = changed(name, content)
    digest = sha256(content).hexdigest()
    (uri / "commits/HEAD").write_text(json.dumps(head | {"commit_digest": digest, "latest_digest": digest}))
    _read_all(uri)
    with refusing(CspIndexError):
        log = CommitLog(LocalLocation(uri))
        log.drop_old(1e9)
        for table in log.record(head["commit"]).tables.values():
            log.files(table.files)
    changed(name, whole)
    (uri / "commits/HEAD").write_bytes(old)


@QUICK
@given(st.one_of(JSON, st.fixed_dictionaries({"commit": JSON, "digest": JSON})))
@example({"commit": float("inf")})
@example({"commit": "x"})
@example({"commit": [1]})
def test_any_tag_is_read_or_refused(changed: Any, made: Path, value: object) -> None:
    whole = (made / "commits/tags/first").read_bytes()
    uri = changed("commits/tags/first", json.dumps(value).encode())
    _read_all(uri)
    log = CommitLog(LocalLocation(uri))
    with refusing(CspIndexError):
        log.find("first")
    changed("commits/tags/first", whole)


@QUICK
@given(like("first", "1", "2", "-", "..", "/", "HEAD"))
def test_any_name_of_a_version_is_found_or_refused(made: Path, name: str) -> None:
    log = CommitLog(LocalLocation(made))
    with refusing(NotFoundError):
        assert log.find(name).shown
    with refusing(SettingError):
        log.tag(name, log.records()[-1])
        assert name in log.tag_names() and log.find(name) == log.records()[-1]
        log.untag(name)
    with refusing(NotFoundError):
        log.untag("x" + name)


@QUICK
@given(
    st.one_of(JSON.map(json.dumps), like("[", "{", '"a":', "1", ",", "}", "]", "NaN", '"\\ud800"', '"\\ud83d\\ude00"'))
)
@example('"\\ud800"')
@example('{"\\uD83D": ["\\\\ud800", "\\ud83d\\ude00"]}')
def test_any_stored_json_is_a_value_that_can_be_written_again(text: str) -> None:
    with refusing(ValueError):
        value = parse_json(text)
        assert parse_json(json.dumps(value, ensure_ascii=False)) == value or "NaN" in json.dumps(value)
        json.dumps(value, ensure_ascii=False).encode()
        assert "NaN" not in json.dumps(parse_json(text, constants=False)) or "NaN" in text.replace('"', "")
    with refusing(StoreError):
        assert isinstance(read_object(text, "runs", "settings"), dict)
    with refusing(SourceError):
        assert isinstance(parse_metadata(text, 3), dict)


@QUICK
@given(st.dictionaries(st.text(max_size=5), st.one_of(st.text(), st.integers(), st.none(), st.floats(allow_nan=False))))
def test_an_object_is_read_as_it_is_written(value: dict[str, object]) -> None:
    assert read_object(json.dumps(value), "t", "c") == value
    assert read_object(json.dumps(value, ensure_ascii=False), "t", "c") == value


@QUICK
@given(like("0", "5", "-", ",", " ", "all", "10-12"))
def test_any_list_of_neurons_is_addresses_or_refused(text: str) -> None:
    with refusing(AddressError):
        addresses = parse_neurons("m/l", text)
        assert addresses == ["m/l"] or all(NeuronKey.parse(one).neuron >= 0 for one in addresses)
        if "-" not in text and "all" not in text:
            assert addresses == [f"m/l/{int(part)}" for part in text.split(",")]


@QUICK
@given(st.lists(st.tuples(st.integers(0, 999), st.integers(0, 9)), min_size=1, max_size=5))
def test_neurons_are_read_as_they_are_written(ranges: list[tuple[int, int]]) -> None:
    text = ",".join(f"{first}-{first + more}" if more else str(first) for first, more in ranges)
    expected = [f"m/l/{number}" for first, more in ranges for number in range(first, first + more + 1)]
    assert parse_neurons("m/l", text) == expected


def test_many_ranges_are_bounded_together() -> None:
    with refusing(AddressError), pytest.raises(AddressError, match="too many"):
        parse_neurons("m/l", ",".join(["0-9000000"] * 1000))


@QUICK
@given(like("s3", "gs", "://", "bucket", "/", "db", "~", "file"))
@example("~nobody-here/db")
@example("s3:/bucket")
def test_any_place_is_a_location_or_refused(text: str) -> None:
    with refusing(StoreError):
        location = location_of(text)
        assert location_of(location.uri).uri == location.uri


@QUICK
@given(st.one_of(JSON, st.fixed_dictionaries({"seconds": JSON, "free": JSON, "pid": JSON, "token": JSON})))
@example({"seconds": float("inf")})
@example({"seconds": 1e300})
@example({"seconds": float("nan")})
def test_any_lease_ends_some_time(value: object) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    record = StoredObject(json.dumps(value).encode(), None, now)
    assert locks._end(record) > datetime(2000, 1, 1, tzinfo=UTC)
    assert locks._is_free(record) in (True, False)
    assert str(StoreError(locks._named(locks._content(record)))).encode()


@QUICK
@given(st.one_of(st.binary(max_size=20), damaged(b'{"pid": 7, "seconds": 60}')))
def test_any_bytes_are_a_lease(data: bytes) -> None:
    assert locks._end(StoredObject(data, None, datetime(2026, 1, 1, tzinfo=UTC)))


@QUICK
@given(like("20260101T000000000000", "-", "abc", "99991231T235959999999", "00010101T000000000000"))
@example("99991231T235959999999-abc")
def test_the_next_run_follows_any_run(text: str) -> None:
    time = runs._time_of(text)
    assert time is None or runs._id_after(time, datetime(2026, 1, 1, tzinfo=UTC))
