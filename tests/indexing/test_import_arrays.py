"""Arrays made elsewhere: refused whole when something is wrong with them, stored in shards, resumed after a kill."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fakes import write_arrays

from csp_index import CspIndexError, Index, open_index
from csp_index.errors import AddressError, ArrayError, SettingError, StoreError
from csp_index.files import array_files
from csp_index.files.array_files import rows_of
from csp_index.indexing import import_arrays
from csp_index.labelling.candidates import read_text_arrays
from csp_index.store import column_tables, schema
from csp_index.store.tables import Store

Paths = dict[str, Path]


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return write_arrays(tmp_path)


def take_in(place: Path, paths: Paths, layer: str = "m/l", **options) -> Index:
    index = open_index(place)
    index.import_arrays(paths["activations"], layer, **({"embeddings": paths["embeddings"]} | options))
    return index


def contents(store: Store) -> dict[str, list[dict[str, object]]]:
    """Every table's rows but those of runs, without what tells one run from another."""
    found = {}
    for name in store.table_names():
        if name != schema.RUNS:
            rows = store.read(name).to_pylist()
            found[name] = [{key: value for key, value in row.items() if key != "run_id"} for row in rows]
    found[schema.NEURONS].sort(key=lambda row: row["neuron"])
    return found


def change(path: Path, do: Callable[[np.ndarray], np.ndarray | None]) -> None:
    array = np.load(path)
    changed = do(array)
    np.save(path, array if changed is None else changed)


def set_at(place: tuple[int, int], value: float) -> Callable[[np.ndarray], None]:
    def do(array: np.ndarray) -> None:
        array[place] = value

    return do


def zero_row(array: np.ndarray) -> None:
    array[17] = 0


BAD = [
    ("activations", lambda a: a[:-1], "embeddings have 60 rows and activations 59"),
    ("embeddings", lambda a: a[:-2], "embeddings have 58 rows and activations 60"),
    ("activations", set_at((7, 1), np.nan), "holds NaN or infinity, first in row 7"),
    ("activations", set_at((59, 7), -np.inf), "holds NaN or infinity, first in row 59"),
    ("embeddings", set_at((3, 0), np.nan), "embeddings .* holds NaN or infinity, first in row 3"),
    ("activations", lambda a: np.where(a == a.max(), 1e200, a.astype(np.float64)), "holds NaN or infinity"),
    ("embeddings", zero_row, "embeddings are all zero in row 17: a direction is needed"),
    ("embeddings", lambda a: np.full(a.shape, 1e-60), "embeddings are all zero in row 0"),
    ("activations", lambda a: a[0], "shape .8,., float32: expected a filled array of numbers with 2 dimensions"),
    ("activations", lambda a: a[None], "shape .1, 60, 8."),
    ("activations", lambda a: a[:, :0], "shape .60, 0."),
    ("embeddings", lambda a: a[:0], "shape .0, 12."),
    ("activations", lambda a: a.astype(str), "expected a filled array of numbers"),
    ("activations", lambda a: a > 0, "bool: expected a filled array of numbers"),
    ("activations", lambda a: a.astype(np.complex64), "complex64: expected a filled array of numbers"),
]


@pytest.mark.parametrize(("name", "do", "told"), BAD, ids=[told[:40] for _, _, told in BAD])
def test_bad_arrays_are_told_and_nothing_is_made(tmp_path, paths, name, do, told):
    change(paths[name], do)
    with pytest.raises(ArrayError, match=told) as error:
        take_in(tmp_path / "db", paths)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "db").exists()


def test_files_that_are_no_arrays(tmp_path, paths):
    paths["texts"].write_text("not numpy")
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "several.npz", a=np.zeros((2, 2)))
    (tmp_path / "cut.npy").write_bytes(paths["activations"].read_bytes()[:-9])
    (tmp_path / "empty.npy").write_bytes(b"")
    for bad, told in (
        (tmp_path / "none.npy", "does not exist: expected a .npy file"),
        (paths["texts"], "cannot be read as .npy"),
        (tmp_path / "pickled.npy", "cannot be read as .npy"),
        (tmp_path / "several.npz", "expected a filled array|cannot be read as .npy"),
        (tmp_path / "cut.npy", "cannot be read as .npy"),
        (tmp_path / "empty.npy", "cannot be read as .npy"),
        (tmp_path, "cannot be read as .npy"),
    ):
        with pytest.raises(ArrayError, match=told) as error:
            take_in(tmp_path / "db", paths | {"activations": bad})
        assert "\n" not in str(error.value)
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("a.png\n" * 60, "uris .* repeat or are empty"),
        (
            "\n".join(f"{i}.png" for i in range(30)) + "\n\n" + "\n".join(f"{i}.png" for i in range(30, 59)),
            "repeat or are empty",
        ),
        ("\n".join(f"{i}.png" for i in range(59)), "uris have 59 rows and activations 60"),
    ],
    ids=["repeated", "empty line", "one missing"],
)
def test_bad_uris(tmp_path, paths, lines, told):
    (tmp_path / "uris.txt").write_text(lines)
    with pytest.raises(ArrayError, match=told):
        take_in(tmp_path / "db", paths, uris=tmp_path / "uris.txt")
    with pytest.raises(ArrayError, match=r"uris .* cannot be read"):
        take_in(tmp_path / "db", paths, uris=tmp_path / "none.txt")
    assert not (tmp_path / "db").exists()


def test_a_new_index_needs_embeddings(tmp_path, paths):
    with pytest.raises(ArrayError, match="give --embeddings"):
        take_in(tmp_path / "db", paths, embeddings=None)
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_a_scale_that_no_method_can_use_is_refused(tmp_path, paths, scale):
    with pytest.raises(SettingError, match=r"logit scale is .*expected a (positive|finite) number"):
        take_in(tmp_path / "db", paths, logit_scale=scale)
    assert not (tmp_path / "db").exists()


@pytest.mark.parametrize("layer", ["m", "m/l/0", "/l", "m/", ""])
def test_a_layer_is_an_address(tmp_path, paths, layer):
    with pytest.raises(AddressError, match="write MODEL/LAYER"):
        take_in(tmp_path / "db", paths, layer)
    assert not (tmp_path / "db").exists()


def test_what_is_stored(tmp_path, paths):
    (tmp_path / "uris.txt").write_text("".join(f"dir/{i}.png\n" for i in range(60)))
    index = take_in(tmp_path / "db", paths, uris=tmp_path / "uris.txt", shard_size=25, logit_scale=50.0)
    activations = np.load(paths["activations"])
    for neuron in range(8):
        np.testing.assert_array_equal(index.activations(f"m/l/{neuron}"), activations[:, neuron])
    rows = index.sql("SELECT image_id, shard, uri, sha256 FROM images ORDER BY image_id").rows()
    assert rows[26] == {"image_id": 26, "shard": 1, "uri": "dir/26.png", "sha256": None}
    assert index.sql("SELECT encoder, width, logit_scale FROM encoders").rows() == [
        {"encoder": "arrays", "width": 12, "logit_scale": 50.0}
    ]
    (run,) = index.sql("SELECT command, state FROM runs").rows()
    assert run == {"command": "import", "state": "done"}


def test_embeddings_are_made_unit_length_and_those_that_are_stay_as_they_are(tmp_path, paths):
    unit = np.load(paths["embeddings"])
    index = take_in(tmp_path / "unit", paths)
    table = column_tables.embeddings_table("arrays")
    np.testing.assert_array_equal(np.array(index.store.read(table)["embedding"].to_pylist(), np.float32), unit)
    change(paths["embeddings"], lambda a: a.astype(np.float64) * np.linspace(0.001, 1000, 60)[:, None])
    scaled = take_in(tmp_path / "scaled", paths)
    stored = np.array(scaled.store.read(table)["embedding"].to_pylist())
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(stored, unit, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8, ">f4"])
def test_any_number_type_comes_in_as_float32(tmp_path, paths, dtype):
    change(paths["activations"], lambda a: (a * 3).astype(dtype))
    index = take_in(tmp_path / "db", paths)
    expected = np.load(paths["activations"])[:, 2].astype(np.float32)
    assert index.activations("m/l/2").dtype == np.float32
    np.testing.assert_array_equal(index.activations("m/l/2"), expected)


def test_what_float16_cannot_hold_is_refused_before_anything_is_written(tmp_path, paths):
    change(paths["activations"], set_at((5, 1), 70_000.0))
    with pytest.raises(ArrayError, match="exceed 65504, the largest float16, first in row 5: use float32"):
        take_in(tmp_path / "db", paths, dtype="float16")
    assert not (tmp_path / "db").exists()
    assert take_in(tmp_path / "db", paths).activations("m/l/1")[5] == 70_000.0


def test_a_second_layer_comes_without_embeddings_and_touches_nothing_else(tmp_path, paths):
    index = take_in(tmp_path / "db", paths, shard_size=20)
    before = index.store.versions()
    other = write_arrays(tmp_path / "other", neurons=5, seed=1)
    summary = index.import_arrays(other["activations"], "m/second")
    assert (summary.images, summary.added, summary.shards) == (60, 0, 3)
    after = index.store.versions()
    kept = [name for name in before if name.startswith(("embeddings", "activations", "images"))]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    np.testing.assert_array_equal(index.activations("m/second/4"), np.load(other["activations"])[:, 4])
    texts = read_text_arrays(paths["text_embeddings"], paths["texts"])
    assert len(index.label("m/second", vocabulary=texts)) == 5
    take_in(tmp_path / "db", paths, "m/third")  # with the same embeddings again is fine too
    assert (
        index.store.versions()[column_tables.embeddings_table("arrays")]
        == before[column_tables.embeddings_table("arrays")]
    )


def test_the_same_import_again_changes_nothing(tmp_path, paths):
    before = contents(take_in(tmp_path / "db", paths).store)
    assert contents(take_in(tmp_path / "db", paths).store) == before


def test_other_arrays_under_a_held_name_are_refused(tmp_path, paths):
    index = take_in(tmp_path / "db", paths)
    before = contents(index.store)
    other = write_arrays(tmp_path / "other", seed=5)
    for changed, told in (("activations", "activations:m/l differs"), ("embeddings", "embeddings:arrays differs")):
        with pytest.raises(SettingError, match=told) as error:
            take_in(tmp_path / "db", paths | {changed: other[changed]})
        assert "use the old one, or another name" in str(error.value)
        assert contents(index.store) == before
    fewer = write_arrays(tmp_path / "fewer", images=40)
    with pytest.raises(ArrayError, match="activations have 40 rows but the index holds 60 images"):
        take_in(tmp_path / "db", fewer, "m/other", embeddings=None)
    more = write_arrays(tmp_path / "more", images=80)
    with pytest.raises(ArrayError, match="activations have 80 rows but the index holds 60 images"):
        take_in(tmp_path / "db", more, "m/other", embeddings=None)
    with pytest.raises(SettingError, match="dtype is float16, was float32"):
        take_in(tmp_path / "db", paths, dtype="float16")
    assert contents(index.store) == before


class Killed(BaseException):
    """What a kill is to a test."""


@pytest.mark.parametrize("after", [3, *(pytest.param(step, marks=pytest.mark.slow) for step in (1, 6))])
def test_a_killed_import_goes_on_with_equal_tables(tmp_path, paths, after, monkeypatch):
    monkeypatch.setattr(import_arrays, "_GROUP_BYTES", 1)  # a shard a commit
    whole = contents(take_in(tmp_path / "whole", paths, shard_size=9).store)
    steps = 0

    def stop(done: int, todo: int, what: str) -> None:
        nonlocal steps
        steps += 1
        assert (done, todo, what) == (min(9 * steps, 60), 60, "images")
        if steps == after:
            raise Killed

    with pytest.raises(Killed):
        take_in(tmp_path / "db", paths, shard_size=9, progress=stop)
    index = open_index(tmp_path / "db")
    assert index.status()["images"] == 9 * after
    assert not index.status()["layers"][0]["ready"]
    with pytest.raises(CspIndexError, match="not finished"):
        index.activations("m/l/0")
    assert contents(take_in(tmp_path / "db", paths, shard_size=9).store) == whole
    assert [run["state"] for run in open_index(tmp_path / "db").status()["runs"]] == ["failed", "done"]


def test_rows_without_a_mark_are_written_anew(tmp_path, paths, monkeypatch):
    whole = contents(take_in(tmp_path / "whole", paths, shard_size=20).store)
    append = Store.append

    def cut(store: Store, name: str, rows) -> None:
        if name == schema.SHARDS and store.count(schema.SHARDS):
            raise Killed  # the second shard's rows are written, its marks are not
        append(store, name, rows)

    monkeypatch.setattr(import_arrays, "_GROUP_BYTES", 1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", cut)
        with pytest.raises(Killed):
            take_in(tmp_path / "db", paths, shard_size=20)
    index = open_index(tmp_path / "db")
    assert index.store.count(schema.IMAGES) == 20, "a group whose marks are missing is undone"
    assert index.status()["images"] == 20
    assert contents(take_in(tmp_path / "db", paths, shard_size=20).store) == whole


def test_shards_are_committed_in_groups_and_are_the_same_as_one_by_one(tmp_path, paths, monkeypatch):
    told = []
    grouped = take_in(tmp_path / "grouped", paths, shard_size=9, progress=lambda done, todo, what: told.append(done))
    assert told == [60]
    assert len(grouped.store.dataset(schema.IMAGES).get_fragments()) == 1
    monkeypatch.setattr(import_arrays, "_GROUP_BYTES", 4 * (12 + 8) * 20)
    single = take_in(tmp_path / "single", paths, shard_size=9, progress=lambda done, todo, what: told.append(done))
    assert told == [60, 18, 36, 54, 60]
    assert contents(single.store) == contents(grouped.store)
    assert single.store.count(schema.SHARDS) == 3 * 7


def test_a_failing_write_is_told_as_it_is(tmp_path, paths, monkeypatch):
    def fail(store: Store, name: str, rows) -> None:
        if name.startswith("activations"):
            raise StoreError("no space")
        append(store, name, rows)

    append = Store.append
    monkeypatch.setattr(Store, "append", fail)
    with pytest.raises(StoreError, match="no space"):
        take_in(tmp_path / "db", paths)
    monkeypatch.undo()
    index = open_index(tmp_path / "db")
    assert index.status()["runs"][0]["state"] == "failed"
    assert index.status()["images"] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16, np.int8])
def test_large_numbers_whose_sum_overflows_are_finite_all_the_same(tmp_path, paths, dtype):
    most = float(np.finfo(np.float32).max) if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    change(paths["activations"], lambda a: np.full(a.shape, most).astype(dtype))
    assert take_in(tmp_path / "db", paths).activations("m/l/1")[0] == np.float32(most)


def test_arrays_are_looked_at_chunk_by_chunk_and_the_first_bad_row_is_told(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(array_files, "_CHUNK_BYTES", 4 * 8 * 7)  # seven rows of activations, four of embeddings
    for row in (58, 41, 9):
        change(paths["activations"], set_at((row, 2), np.inf))
        with pytest.raises(ArrayError, match=f"first in row {row}:"):
            take_in(tmp_path / "db", paths)
    assert not (tmp_path / "db").exists()


def test_the_digest_tells_arrays_apart_and_not_how_they_lie_in_the_file(tmp_path, paths):
    def digest(do: Callable[[np.ndarray], np.ndarray]) -> str:
        np.save(tmp_path / "x.npy", do(np.load(paths["activations"])))
        return array_files.survey(np.load(tmp_path / "x.npy", mmap_mode="r"), array_files.Demand("x", "x.npy")).digest

    same = digest(lambda a: a)
    assert digest(np.asfortranarray) == same
    others = [digest(do) for do in (lambda a: a[::-1], lambda a: a.reshape(30, 16), lambda a: a.astype(np.float64))]
    assert len({same, *others}) == 4


def test_arrays_over_an_interrupted_import_of_others_are_refused(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(import_arrays, "_GROUP_BYTES", 1)

    def stop(done: int, todo: int, what: str) -> None:
        raise Killed

    with pytest.raises(Killed):
        take_in(tmp_path / "db", paths, shard_size=20, progress=stop)
    other = write_arrays(tmp_path / "other", images=70, seed=2)
    with pytest.raises(ArrayError, match="20 images of an interrupted import"):
        take_in(tmp_path / "db", other)
    with pytest.raises(ArrayError, match="20 images of an interrupted import"):
        take_in(tmp_path / "db", other, "m/other", encoder="others")


def test_uris_that_name_other_images_than_the_index_are_refused(tmp_path, paths):
    names = [f"/p/{i}.png" for i in range(60)]
    (tmp_path / "u.txt").write_text("\n".join(names))
    (tmp_path / "reversed.txt").write_text("\n".join(names[::-1]))
    take_in(tmp_path / "db", paths, uris=tmp_path / "u.txt")
    with pytest.raises(ArrayError, match=r"row 0, the index '/p/0\.png'"):
        take_in(tmp_path / "db", paths, "m/other", embeddings=None, uris=tmp_path / "reversed.txt")
    take_in(tmp_path / "db", paths, "m/other", embeddings=None, uris=tmp_path / "u.txt")


@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_a_file_are_read_by_many_threads_without_its_header(tmp_path, monkeypatch, order):
    values = np.arange(600.0, dtype=np.float32).reshape(100, 6)
    np.save(tmp_path / "a.npy", np.asarray(values, order=order))
    mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
    monkeypatch.setattr(np, "load", None)  # which parses the header: Python 3.11 fails at that in threads
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda start: rows_of(mapped, start, start + 7), range(0, 100, 7)))
    assert np.array_equal(np.concatenate(parts), values)
