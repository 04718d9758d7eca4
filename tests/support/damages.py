"""Damages to plant into an index: by the file system, by another program through Lance, and by wrong commits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from wrong_commits import (
    Change,
    Plant,
    committed,
    doubled,
    filled,
    full_name,
    lost,
    put,
    scaled,
    shifted,
    swapped,
    with_digests,
    without,
)

from csp_index.store.history.commits import CommitLog
from csp_index.store.layout import manifest_names
from csp_index.store.locations import location_of


@dataclass(frozen=True)
class Damage:
    """A damage: its kind, where, and what plants it."""

    kind: str
    where: str
    plant: Plant

    def __str__(self) -> str:
        return f"{self.kind}-{self.where}"


TABLES = (
    "images",
    "shards",
    "runs",
    "encoders",
    "layers",
    "neurons",
    "vocabularies",
    "examples",
    "labels",
    "answers",
    "candidates",
    "evaluations",
    "splits",
    "failures",
    "embeddings",
    "activations@concepts",
    "activations@planted",
    "texts",
    "concepts",
    "derived",
    "neighbours",
    "sums",
)


def manifest(db: Path, table: str) -> Path:
    """Return the committed manifest of a table."""
    name = full_name(db, table)
    log = CommitLog(location_of(db))
    version = log.current()[1].tables[name].version
    return next(path for n in manifest_names(version) if (path := db / f"{name}.lance" / n).exists())


def files(db: Path, table: str, folder: str = "data") -> list[Path]:
    """Return the committed files of a table in one of its folders, the largest first."""
    name = full_name(db, table)
    log = CommitLog(location_of(db))
    listed = log.files(log.current()[1].tables[name].files)
    chosen = [db / f"{name}.lance" / file for file in listed if file.startswith(folder)]
    return sorted(chosen, key=lambda path: (-path.stat().st_size, path.name))


def flip(path: Path, share: float) -> None:
    """Change eight bytes of a file at a share of its length."""
    data = bytearray(path.read_bytes())
    start = min(int(share * len(data)), max(0, len(data) - 8))
    for place in range(start, min(start + 8, len(data))):
        data[place] ^= 0xFF
    path.write_bytes(data)


def truncate(path: Path, share: float) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


# by the file system


def _of_files() -> Iterator[Damage]:
    for table in TABLES:
        yield Damage("newest manifest deleted", table, lambda db, t=table: manifest(db, t).unlink())
        yield Damage("table gone", table, lambda db, t=table: shutil.rmtree(db / f"{full_name(db, t)}.lance"))
        yield Damage("data file deleted", table, lambda db, t=table: files(db, t)[0].unlink())
        yield Damage("data file emptied", table, lambda db, t=table: truncate(files(db, t)[0], 0))
        yield Damage("data file cut", table, lambda db, t=table: truncate(files(db, t)[0], 0.6))
        for share in (0.1, 0.45, 0.75):
            yield Damage("8 bytes", f"{table} data at {share}", lambda db, t=table, s=share: flip(files(db, t)[0], s))
    for table in ("images", "labels", "runs", "embeddings"):
        yield Damage("8 bytes", f"{table} manifest", lambda db, t=table: flip(manifest(db, t), 0.5))
    for share in (0.3, 0.7):
        yield Damage("8 bytes", f"embeddings index at {share}", lambda db, s=share: flip(_index_file(db), s))
    yield Damage("index file deleted", "embeddings", lambda db: _index_file(db).unlink())
    for table in ("labels", "runs"):
        yield Damage("8 bytes", f"{table} deletions", lambda db, t=table: flip(files(db, t, "_deletions")[0], 0.5))
        yield Damage("deletions lost", table, lambda db, t=table: files(db, t, "_deletions")[0].unlink())
    for table in ("images", "labels", "examples", "neurons", "embeddings", "activations@planted", "vocabularies"):
        yield Damage("table of an old copy", table, lambda db, t=table: _copied(db, "early.db", t))
        yield Damage("table of another index", table, lambda db, t=table: _copied(db, "other.db", t))


def _index_file(db: Path) -> Path:
    return files(db, "embeddings", "_indices")[0]


def _copied(db: Path, other: str, table: str) -> None:
    name = full_name(db, table)
    shutil.rmtree(db / f"{name}.lance")
    shutil.copytree(db.parent / other / f"{name}.lance", db / f"{name}.lance")


# the record of commits


def _of_records() -> Iterator[Damage]:
    head = "commits/HEAD"
    yield Damage("HEAD", "deleted", lambda db: (db / head).unlink())
    yield Damage("HEAD", "emptied", lambda db: truncate(db / head, 0))
    yield Damage("HEAD", "cut", lambda db: truncate(db / head, 0.5))
    for share in (0.2, 0.5, 0.7, 0.9):
        yield Damage("8 bytes", f"HEAD at {share}", lambda db, s=share: flip(db / head, s))
    yield Damage("HEAD", "of an old copy", lambda db: shutil.copy(db.parent / "early.db" / head, db / head))
    yield Damage("HEAD", "of another index", lambda db: shutil.copy(db.parent / "other.db" / head, db / head))
    yield Damage("record", "deleted", lambda db: _record(db).unlink())
    for share in (0.1, 0.5, 0.9):
        yield Damage("8 bytes", f"record at {share}", lambda db, s=share: flip(_record(db), s))
    yield Damage("record", "rows changed", _rows_in_record)
    yield Damage("record", "of the tag deleted", lambda db: _tagged(db).unlink())
    yield Damage("8 bytes", "record of the tag", lambda db: flip(_tagged(db), 0.5))
    yield Damage("tag", "names another version", lambda db: _other_tag(db))
    yield Damage("8 bytes", "tag", lambda db: flip(db / "commits" / "tags" / "paper", 0.1))
    for table in ("images", "embeddings"):
        yield Damage("list of files deleted", table, lambda db, t=table: _list(db, t).unlink())
        yield Damage("8 bytes", f"list of files of {table}", lambda db, t=table: flip(_list(db, t), 0.5))
    yield Damage("commits", "gone", lambda db: shutil.rmtree(db / "commits"))
    yield Damage("commits", "of another index", lambda db: _commits_of(db, "other.db"))


def _commits_of(db: Path, other: str) -> None:
    shutil.rmtree(db / "commits")
    shutil.copytree(db.parent / other / "commits", db / "commits")


def _record(db: Path) -> Path:
    number = CommitLog(location_of(db)).head().commit
    return db / "commits" / f"{number:08d}.json"


def _tagged(db: Path) -> Path:
    return db / "commits" / f"{CommitLog(location_of(db)).tags()['paper']:08d}.json"


def _rows_in_record(db: Path) -> None:
    path = _record(db)
    fields = json.loads(path.read_text())
    fields["tables"]["images"]["rows"] = 7
    path.write_text(json.dumps(fields))


def _other_tag(db: Path) -> None:
    path = db / "commits" / "tags" / "paper"
    fields = json.loads(path.read_text()) | {"commit": CommitLog(location_of(db)).head().commit}
    path.write_text(json.dumps(fields))


def _list(db: Path, table: str) -> Path:
    log = CommitLog(location_of(db))
    return db / "commits" / "files" / f"{log.current()[1].tables[full_name(db, table)].files}.json"


# by another program, in versions that no commit names


def _of_others() -> Iterator[Damage]:
    for table in ("images", "labels", "examples", "embeddings", "activations@planted", "neurons", "runs", "shards"):
        yield Damage("rows doubled by Lance", table, lambda db, t=table: _by_lance(db, t, "append", lambda rows: rows))
        yield Damage(
            "rows lost by Lance", table, lambda db, t=table: _by_lance(db, t, "overwrite", lambda rows: rows.slice(1))
        )
    yield Damage("table made by Lance", "more", lambda db: _write(db / "more.lance", pa.table({"x": [1]}), "create"))


def _by_lance(db: Path, table: str, mode: str, change: Callable[[pa.Table], pa.Table]) -> None:
    import lance

    path = db / f"{full_name(db, table)}.lance"
    _write(path, change(lance.dataset(str(path)).to_table()), mode)


def _write(path: Path, rows: pa.Table, mode: str) -> None:
    import lance

    lance.write_dataset(rows, str(path), mode=mode)


# by a commit that is wrong, though its files are as they were written


def _of_commits() -> Iterator[Damage]:
    for table in ("images", "embeddings", "activations@planted", "activations@concepts"):
        for name, change in (("doubled", doubled), ("lost", lost), ("swapped", swapped)):
            yield Damage(f"rows {name}", table, committed(table, change))
    moved: dict[str, tuple[str, Change]] = {
        "images ids": ("images", shifted("image_id")),
        "images addresses": ("images", shifted("uri")),
        "images thumbnails": ("images", shifted("thumbnail")),
        "images metadata": ("images", shifted("metadata")),
        "images one address twice": ("images", lambda rows: filled("uri", rows["uri"][1].as_py())(rows)),
        "embeddings ids": ("embeddings", shifted("image_id")),
        "embeddings of other images": ("embeddings", shifted("embedding")),
        "embeddings x 3": ("embeddings", scaled("embedding", 3.0)),
        "one embedding x 3": ("embeddings", scaled("embedding", 3.0, 7)),
        "embedding NaN": ("embeddings", scaled("embedding", float("nan"), 3)),
        "activations of other neurons": ("activations@concepts", shifted("values")),
        "activations NaN": ("activations@planted", scaled("values", float("nan"), 2)),
        "activations x 2": ("activations@planted", scaled("values", 2.0, 2)),
    }
    for where, (table, change) in moved.items():
        yield Damage("values", where, committed(table, change))
    marked: dict[str, tuple[str, Change]] = {
        "thumbnail": ("images", filled("thumbnail", b"no picture", 3)),
        "metadata": ("images", filled("metadata", "{", 3)),
        "embeddings x 3": ("embeddings", scaled("embedding", 3.0)),
        "embeddings of other images": ("embeddings", shifted("embedding")),
        "embedding NaN": ("embeddings", scaled("embedding", float("nan"), 3)),
        "activations NaN": ("activations@planted", scaled("values", float("nan"), 2)),
        "activations x 2": ("activations@planted", scaled("values", 2.0)),
    }
    for where, (table, change) in marked.items():
        yield Damage("values with their digests", where, with_digests(table, change))
    results: dict[str, tuple[str, Change]] = {
        "mark lost": ("shards", lost),
        "mark doubled": ("shards", doubled),
        "mark's digest": ("shards", filled("digest", "0" * 64)),
        "mark's rows": ("shards", filled("rows", 7)),
        "mark's first image": ("shards", filled("first_image", 7, 1)),
        "marks of images lost": ("shards", without("what", "images")),
        "marks of the encoder lost": ("shards", without("what", "embeddings:python:fakes:encoder")),
        "marks of a layer lost": ("shards", without("what", "activations:planted/words")),
        "encoder lost": ("encoders", lost),
        "encoder's table": ("encoders", filled("table", "embeddings_of_another")),
        "encoder's width": ("encoders", filled("width", 7)),
        "layer lost": ("layers", lost),
        "layer doubled": ("layers", doubled),
        "layer's neurons": ("layers", filled("neurons", 3)),
        "statistics stale": ("neurons", lambda rows: put(rows, "images", [25] * len(rows))),
        "statistics lost": ("neurons", lost),
        "statistics doubled": ("neurons", doubled),
        "statistics of other neurons": ("neurons", shifted("mean")),
        "top lists of other neurons": ("neurons", shifted("top_images")),
        "top activations x 2": ("neurons", scaled("top_activations", 2.0)),
        "statistics of no layer": ("neurons", filled("layer", "layer9")),
        "text vectors moved": ("texts", shifted("embedding")),
        "text vectors x 3": ("texts", scaled("embedding", 3.0)),
        "text vector NaN": ("texts", scaled("embedding", float("nan"), 1)),
        "texts swapped": ("texts", shifted("text")),
        "text lost": ("texts", lost),
        "text doubled": ("texts", doubled),
        "vocabulary lost": ("vocabularies", lost),
        "vocabulary doubled": ("vocabularies", doubled),
        "vocabulary changed": ("vocabularies", filled("text", "violin")),
        "label lost": ("labels", lost),
        "label doubled": ("labels", doubled),
        "labels of all twice": ("labels", lambda rows: pa.concat_tables([rows, rows])),
        "label of no run": ("labels", filled("run_id", "20200101T000000000000-abcdef")),
        "label of no layer": ("labels", filled("layer", "layer9")),
        "label of no neuron": ("labels", filled("neuron", 99)),
        "label without text": ("labels", filled("text", None)),
        "pair lost": ("examples", lambda rows: pa.concat_tables([rows.slice(0, 3), rows.slice(4)])),
        "pair doubled": ("examples", doubled),
        "pair of no run": ("examples", filled("run_id", "20200101T000000000000-abcdef")),
        "pair of no image": ("examples", filled("image_id", 10**6)),
        "pair of no contrastive image": ("examples", filled("contrast_id", 10**6)),
        "pair of another image": ("examples", shifted("image_id")),
        "pair's activation": ("examples", filled("activation", 7.0)),
        "pair's similarity": ("examples", shifted("similarity")),
        "pair of no encoder": ("examples", filled("encoder", "clip")),
        "pairs of all lost": ("examples", lambda rows: rows.slice(0, 0)),
        "concept vector lost": ("concepts", lost),
        "concept vector doubled": ("concepts", doubled),
        "concept vector NaN": ("concepts", scaled("vector", float("nan"), 0)),
        "concept vectors x 3": ("concepts", scaled("vector", 3.0)),
        "concept vector of no run": ("concepts", filled("run_id", "20200101T000000000000-abcdef")),
        "candidate doubled": ("candidates", doubled),
        "candidate of no neuron": ("candidates", filled("neuron", 99)),
        "answer doubled": ("answers", doubled),
        "answer of no run": ("answers", filled("run_id", "20200101T000000000000-abcdef")),
        "evaluation doubled": ("evaluations", doubled),
        "evaluation of no layer": ("evaluations", filled("layer", "layer9")),
        "split of no images": ("splits", filled("judging", [10**6])),
        "failure doubled": ("failures", doubled),
        "derived image's picture": ("derived", filled("picture", b"no picture")),
        "derived image of no image": ("derived", filled("origin", 10**6)),
        "derived image's id": ("derived", filled("image_id", 3)),
        "derived image's embedding x 3": ("derived", scaled("embedding", 3.0)),
        "neighbours of other images": ("neighbours", shifted("neighbours")),
        "neighbours' cosines": ("neighbours", scaled("cosines", 0.5)),
        "neighbours doubled": ("neighbours", doubled),
        "neighbours of no image": ("neighbours", filled("image_id", 10**6)),
        "sums lost": ("sums", lost),
        "sums of other images": ("sums", filled("images", 7)),
        "sums x 3": ("sums", scaled("values", 3.0)),
        "run lost": ("runs", lost),
        "run doubled": ("runs", doubled),
    }
    for where, (table, change) in results.items():
        yield Damage("committed", where, committed(table, change))


def all_damages() -> list[Damage]:
    """Return every damage, each once."""
    return [*_of_files(), *_of_records(), *_of_others(), *_of_commits()]
