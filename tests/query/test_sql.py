"""SQL over real LanceDB tables."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from csp_index.errors import NotFoundError, QueryError
from csp_index.query.sql import SqlLimits, run_sql

N, D = 200, 8
JPEG = b"\xff\xd8\xff\xe0 not really"


def _images() -> pa.Table:
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return pa.table(
        {
            "image_id": pa.array(range(N), pa.int64()),
            "shard": pa.array([i // 64 for i in range(N)], pa.int32()),
            "uri": [None if i == 7 else f"folder/{i % 10}/{i:03}.png" for i in range(N)],
            "score": pa.array([float("nan") if i == 5 else None if i == 6 else i / 10 for i in range(N)], pa.float64()),
            "share": pa.array([i / 10 for i in range(N)], pa.float32()),
            "broken": pa.array([i % 3 == 0 for i in range(N)]),
            "started": pa.array([start + datetime.timedelta(hours=i) for i in range(N)], pa.timestamp("us", tz="UTC")),
            "thumbnail": pa.array([JPEG] * N, pa.binary()),
            "top_images": pa.array([[i, i + 1] for i in range(N)], pa.list_(pa.int64())),
        }
    )


def _embeddings() -> pa.Table:
    vectors = np.random.default_rng(0).normal(size=(N, D)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return pa.table(
        {"image_id": pa.array(range(N)), "embedding": pa.FixedSizeListArray.from_arrays(vectors.ravel(), D)}
    )


@pytest.fixture(scope="module")
def lance(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    database = lancedb.connect(tmp_path_factory.mktemp("lance"))
    tables = {"images": _images(), "embeddings": _embeddings()}
    return {name: database.create_table(name, table).to_lance() for name, table in tables.items()}


@pytest.fixture
def scans(lance: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What DuckDB asks of the Lance datasets: one entry a scan."""
    seen: list[dict[str, Any]] = []
    kind = type(lance["images"])
    scanner = kind.scanner

    def spy(dataset: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return scanner(dataset, *args, **kwargs)

    monkeypatch.setattr(kind, "scanner", spy)
    return seen


def test_only_the_columns_and_rows_of_the_statement_are_read(
    lance: dict[str, Any], scans: list[dict[str, Any]]
) -> None:
    result = run_sql(lance, "SELECT uri FROM images WHERE image_id BETWEEN 3 AND 4")
    assert result.rows() == [{"uri": "folder/3/003.png"}, {"uri": "folder/4/004.png"}]
    assert [scan["columns"] for scan in scans] == [["uri"]]
    assert lance["images"].scanner(**scans[0]).to_table().num_rows == 2


@pytest.mark.parametrize(
    "condition",
    [
        "image_id = 3",
        "image_id IN (3, 4, 999)",
        "image_id NOT IN (3, 4)",
        "image_id <> 3 AND shard >= 2",
        "image_id < 3 OR shard = 3",
        "uri = 'folder/3/003.png'",
        "uri LIKE 'folder/3/%'",
        "uri IS NULL",
        "uri IS NOT NULL AND NOT broken",
        "score > 19.5",
        "score > 19.5 OR score IS NULL",
        "score <= 0.3",
        "isnan(score)",
        "score = 'nan'",
        "share = 0.3",
        "share = 0.3::FLOAT",
        "broken",
        "started >= TIMESTAMPTZ '2026-01-09 00:00:00+00'",
        "started::DATE = DATE '2026-01-02'",
        "top_images[1] = 9",
        "image_id = (SELECT max(image_id) FROM images)",
        "image_id IN (SELECT image_id FROM embeddings WHERE embedding[1] > 0)",
    ],
)
def test_filters_handed_to_lance_keep_their_meaning(lance: dict[str, Any], condition: str) -> None:
    statement = f"SELECT image_id FROM images WHERE {condition} ORDER BY image_id"
    in_memory = {"images": _images(), "embeddings": _embeddings()}
    assert run_sql(lance, statement).rows() == run_sql(in_memory, statement).rows()


def test_top_rows_and_joins_agree_with_tables_in_memory(lance: dict[str, Any]) -> None:
    in_memory = {"images": _images(), "embeddings": _embeddings()}
    for statement in (
        "SELECT image_id, score FROM images ORDER BY score DESC NULLS LAST, image_id LIMIT 5",
        "SELECT i.image_id FROM images i JOIN embeddings e USING (image_id) WHERE e.embedding[2] > 0.5 ORDER BY ALL",
        "SELECT shard, count(*) n, avg(share) FROM images GROUP BY shard ORDER BY shard",
        "SELECT count(*) FROM images",
    ):
        # As text, where nan equals nan.
        assert str(run_sql(lance, statement).rows()) == str(run_sql(in_memory, statement).rows())


def test_embeddings_are_arrays_of_fixed_length(lance: dict[str, Any]) -> None:
    result = run_sql(
        lance,
        "SELECT b.image_id, array_cosine_similarity(a.embedding, b.embedding) AS cosine "
        "FROM embeddings a, embeddings b WHERE a.image_id = 3 ORDER BY cosine DESC LIMIT 2",
    )
    vectors = np.stack(_embeddings()["embedding"].to_pylist())
    cosine = vectors @ vectors[3]
    order = np.argsort(-cosine)[:2]
    assert [row["image_id"] for row in result.rows()] == order.tolist()
    assert [row["cosine"] for row in result.rows()] == pytest.approx(cosine[order], abs=1e-6)
    assert run_sql(lance, "SELECT embedding FROM embeddings LIMIT 1").table.schema[0].type == pa.list_(pa.float32(), D)


def _float16_table() -> pa.Table:
    halves = np.arange(12).astype(np.float16) / 4
    return pa.table(
        {
            "neuron": pa.array(range(12), pa.int32()),
            "half": pa.array(halves),
            "values": pa.ListArray.from_arrays(pa.array(range(13), pa.int32()), pa.array(halves)),
            "pair": pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(halves, 2)), 2),
        }
    )


def test_float16_reads_as_float32_and_filters_still_reach_lance(tmp_path: Path, scans: list[dict[str, Any]]) -> None:
    dataset = lancedb.connect(tmp_path).create_table("halves", _float16_table()).to_lance()
    for source in (dataset, _float16_table()):
        rows = run_sql({"halves": source}, "SELECT * FROM halves WHERE neuron = 3").rows()
        assert rows == [{"neuron": 3, "half": 0.75, "values": [0.75], "pair": [0.75, 0.75]}]
        assert run_sql({"halves": source}, "SELECT neuron FROM halves WHERE half > 2.6").rows() == [{"neuron": 11}]
    assert lance_rows(dataset, scans[0]) == 1


def lance_rows(dataset: Any, scan: dict[str, Any]) -> int:
    return int(dataset.scanner(**scan).to_table().num_rows)


class Neurons:
    """Activations of any neuron: image i activates neuron k by i * k."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def __call__(self, address: str) -> pa.Table:
        self.read.append(address)
        model, _, neuron = address.rpartition("/")
        if model != "net/layer1":
            raise NotFoundError(f"layer {model!r} is not indexed (has: net/layer1)")
        values = np.arange(5, dtype=np.float32) * int(neuron)
        return pa.table({"image_id": pa.chunked_array([[0, 1], [2, 3, 4]]), "activation": values})


def test_activations_reads_the_neurons_named_and_no_other() -> None:
    neurons = Neurons()
    result = run_sql(
        {},
        "SELECT * FROM activations('net/layer1/2') WHERE activation > 4 ORDER BY activation DESC",
        read_activations=neurons,
    )
    assert result.table.schema.types == [pa.int64(), pa.float32()]
    assert result.rows() == [{"image_id": 4, "activation": 8.0}, {"image_id": 3, "activation": 6.0}]
    assert neurons.read == ["net/layer1/2"]


def test_activations_of_several_neurons_join_with_each_other_and_with_views() -> None:
    images = {"images": pa.table({"image_id": [3, 4], "uri": ["c.png", "d.png"]})}
    statement = (
        "SELECT uri, a.activation AS one, b.activation AS two FROM images "
        "JOIN activations('net/layer1/1') a USING (image_id) JOIN activations('net/layer1/2') b USING (image_id) "
        "ORDER BY uri"
    )
    rows = run_sql(images, statement, read_activations=Neurons()).rows()
    assert rows == [{"uri": "c.png", "one": 3.0, "two": 6.0}, {"uri": "d.png", "one": 4.0, "two": 8.0}]


def test_the_address_may_come_from_a_view() -> None:
    views = {"neurons": pa.table({"model": ["net"] * 3, "layer": ["layer1"] * 3, "neuron": [1, 2, 3]})}
    statement = (
        "SELECT neuron, max(activation) AS top FROM neurons, activations(model || '/' || layer || '/' || neuron) "
        "GROUP BY neuron ORDER BY neuron"
    )
    rows = run_sql(views, statement, read_activations=Neurons()).rows()
    assert rows == [{"neuron": n, "top": 4.0 * n} for n in (1, 2, 3)]


def test_an_unknown_neuron_keeps_its_own_error() -> None:
    with pytest.raises(NotFoundError, match=r"^layer 'net/layer9' is not indexed \(has: net/layer1\)$"):
        run_sql({}, "FROM activations('net/layer9/1')", read_activations=Neurons())


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT 1) TO 'x.csv'",
        "COPY images FROM 'x.csv'",
        "ATTACH 'x.db'",
        "PRAGMA database_list",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "CREATE TABLE x AS SELECT 1",
        "INSERT INTO images VALUES (1)",
        "DELETE FROM images",
        "DROP VIEW images",
        "EXPORT DATABASE 'x'",
        "CALL duckdb_settings()",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
        "PREPARE x AS SELECT 1",
        "BEGIN",
    ],
)
def test_a_statement_that_does_not_only_read_is_refused(
    statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QueryError, match="is refused: SQL here only reads"):
        run_sql({"images": _images()}, statement)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("statement", ["", "-- nothing", "SELECT 1; SELECT 2", "SELECT 1; DROP VIEW images"])
def test_one_statement_is_expected(statement: str) -> None:
    with pytest.raises(QueryError, match=r"got \d SQL statements, expected one"):
        run_sql({"images": _images()}, statement)


@pytest.mark.parametrize("statement", ["SELECT " + "(" * 3000, "SELECT " + "(" * 3000 + "--" + ")" * 3000])
def test_nested_statements_are_refused_before_they_are_parsed(statement: str) -> None:
    with pytest.raises(QueryError, match="more than 500 open parentheses: nest it less deep"):
        run_sql({}, statement)
    assert run_sql({}, "SELECT " + "(" * 400 + "1" + ")" * 400).rows()


def test_files_and_variables_are_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = pa.table({"password": ["1234"]})  # DuckDB would find this variable by its name
    pq.write_table(secret, tmp_path / "secret.parquet")
    monkeypatch.chdir(tmp_path)
    for source in ("secret", "'secret.parquet'", "read_parquet('secret.parquet')", "read_text('*')", "glob('*')"):
        with pytest.raises(QueryError):
            run_sql({"images": _images()}, f"SELECT * FROM {source}")


def test_errors_are_one_line_and_keep_the_hint() -> None:
    views = {"images": _images(), "labels": pa.table({"text": ["a"]})}
    with pytest.raises(QueryError, match=r'image does not exist! Did you mean "images"\?.* \(views: images, labels\)$'):
        run_sql(views, "SELECT *\nFROM image")
    with pytest.raises(QueryError, match=r"^SQL failed: .*\bshar\b.*Candidate bindings: .*shar[de]") as caught:
        run_sql(views, "SELECT shar FROM images")
    assert "\n" not in str(caught.value) and "LINE" not in str(caught.value)
    with pytest.raises(QueryError, match="syntax error"):
        run_sql(views, "SELEC 1")


def test_limits() -> None:
    views = {"images": _images()}
    result = run_sql(views, "SELECT image_id FROM images ORDER BY image_id", limits=SqlLimits(rows=3))
    assert [row["image_id"] for row in result.rows()] == [0, 1, 2]
    assert result.truncated
    assert not run_sql(views, "SELECT * FROM images", limits=SqlLimits(rows=N)).truncated
    endless = "SELECT count(*) FROM range(10000000000) a WHERE hash(a.range) = 1"
    with pytest.raises(QueryError, match=r"ran longer than 0\.2 s"):
        run_sql(views, endless, limits=SqlLimits(seconds=0.2))
    with pytest.raises(QueryError, match="Out of Memory"):
        run_sql(views, "SELECT list(range) FROM range(100000000)", limits=SqlLimits(memory="50MB"))
    with pytest.raises(QueryError, match="limits of SQL are wrong"):
        run_sql(views, "SELECT 1", limits=SqlLimits(memory="plenty"))
