"""Classes of images: from metadata of all kinds, and from the outputs of a classifier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from classed import add_outputs, make_classed

from csp_index.errors import AddressError, NotFoundError, SettingError, StudyError
from csp_index.store.tables import Store
from csp_index.studies.classes.image_classes import ImageClasses, classes_described, read_classes
from csp_index.studies.classes.number_bins import binned

N = 40


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    kinds = ["cat", "dog", "emu"]
    rows = [
        {
            "kind": kinds[i % 3] if i % 10 else None,
            "age": [None, 30, 4.5, 30.0][i % 4],
            "wild": i % 2 == 0,
            "tags": ["red", "big"] if i < 5 else ["red"],
            "parts": "wing; beak" if i < 20 else "beak|",
            "alone": "one" if i == 3 else "many",
            "same": "x",
            "empty": None,
            "name": f"image {i}",
            "size": (i * 7 % N) / 4 - 1 if i else None,
            "mixed": i if i else "none",
        }
        for i in range(N)
    ]
    index, _ = make_classed(tmp_path_factory.mktemp("classes"), N, rows)
    outputs = np.zeros((N, 4), np.float32)
    outputs[np.arange(N), np.arange(N) % 3] = 1 + np.arange(N)
    outputs[7] = 2  # no output is highest
    add_outputs(index, outputs, ["crane", "bus", "crane", "seal"])
    return index.store


def images_of(classes: ImageClasses) -> Mapping[str, list[int]]:
    parts = np.split(classes.images, classes.offsets[1:-1])
    return {name: part.tolist() for name, part in zip(classes.names, parts, strict=True)}


def test_texts_and_missing_values(store: Store) -> None:
    classes = read_classes(store, "kind", N)
    assert images_of(classes) == {
        name: [i for i in range(N) if i % 3 == place and i % 10] for place, name in enumerate(("cat", "dog", "emu"))
    }
    assert classes.note == "4 of 40 images have no class and count nowhere"
    assert classes.present.tolist() == [i for i in range(N) if i % 10] and classes.total == N
    fewer = read_classes(store, "kind", 11)
    assert fewer.total == 11 and fewer.present.max() == 9


def test_numbers_are_in_their_order_and_truth_values_are_texts(store: Store) -> None:
    assert [len(images) for images in images_of(read_classes(store, "age", N)).values()] == [10, 20]
    assert read_classes(store, "age", N).names == ("4.5", "30")
    assert read_classes(store, "wild", N).names == ("false", "true")


def test_measured_numbers_are_divided_into_bins_of_as_many_images(store: Store) -> None:
    classes = read_classes(store, "size", N)
    assert sorted(classes.sizes) == [3, *[4] * 9] and classes.present.tolist() == list(range(1, N))
    assert classes.names[:2] == ("-0.75 to 0", "0.25 to 1"), "in their order, below 0 first"
    assert "'size' has 39 different numbers, divided into 10 bins (--bins)" in classes.note
    halves = read_classes(store, "size", N, bins=2)
    assert halves.sizes.tolist() == [20, 19] and "--bins" not in halves.note
    for name, images in images_of(halves).items():
        low, high = map(float, name.split(" to "))
        assert all(low <= (i * 7 % N) / 4 - 1 <= high for i in images)


def test_bins_of_what_is_no_column_of_numbers_are_refused(store: Store) -> None:
    with pytest.raises(StudyError, match="'mixed' has values that are no numbers, such as 'none': leave --bins out"):
        read_classes(store, "mixed", N, bins=3)
    with pytest.raises(SettingError, match="bins is 1: expected 2 to 1,000"):
        read_classes(store, "size", N, bins=1)
    with pytest.raises(SettingError, match="are classes, and no column of numbers"):
        read_classes(store, "outputs:net/logits", N, bins=3)
    mixed = read_classes(store, "mixed", N)
    assert len(mixed.names) == N, "texts among numbers: each value is a class"
    assert "'mixed' has 39 different numbers, but 'none' is no finite number: each value is a class" in mixed.note
    assert "finite" not in read_classes(store, "name", N).note + read_classes(store, "kind", N).note


def test_equal_numbers_are_in_one_bin() -> None:
    for values, names in (
        ([0.0] * 95 + [1, 2, 3, 4, 5], ["0", "1 to 5"]),
        ([1.0, 2, 3, 4, 5] + [9] * 95, ["1 to 5", "9"]),
        ([1e-9, 2e-9], ["1e-09", "2e-09"]),
        ([1.00000001, 1.00000002], ["1.00000001", "1.00000002"]),
    ):
        numbers, owners = np.unique(np.array(values), return_inverse=True)
        found, codes = binned(numbers, owners, 10)
        assert found == names and np.array_equal(codes, np.searchsorted(np.unique(codes), codes))


def test_lists_and_texts_with_marks_are_in_several_classes(store: Store) -> None:
    assert images_of(read_classes(store, "tags", N)) == {"big": list(range(5)), "red": list(range(N))}
    assert images_of(read_classes(store, "parts", N)) == {"beak": list(range(N)), "wing": list(range(20))}


def test_the_classes_with_the_most_images_are_kept(store: Store) -> None:
    classes = read_classes(store, "age", N, most=1)
    assert images_of(classes) == {"30": [i for i in range(N) if i % 2]}
    assert len(classes.present) == 30, "images of the class that is left out count as images outside"
    assert "1 of 2 classes are left out, of at most 10 images each (--classes)" in classes.note
    for most in (0, 10_001):
        with pytest.raises(SettingError, match=f"classes is {most}: expected 1 to 10,000"):
            read_classes(store, "age", N, most)


def test_classes_with_one_image_are_told(store: Store) -> None:
    classes = read_classes(store, "alone", N)
    assert classes.note == "1 class has one image (one): their figures rest on it alone"
    note = read_classes(store, "name", N).note
    assert note == "40 classes have one image (image 0, image 1, image 10, ...): their figures rest on it alone"


def test_nested_data_is_no_class_and_counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    records = enumerate([{"kind": value} for value in ({"a": 1}, "b", "c", [{}, "b"])])
    monkeypatch.setattr("csp_index.studies.classes.image_classes.image_records", lambda *_: records)
    note = read_classes(store, "kind", 4).note
    assert note.startswith("2 of 4 images have no class and count nowhere; 2 images have nested data in 'kind'")


def test_columns_that_tell_no_classes_apart(store: Store) -> None:
    with pytest.raises(NotFoundError, match=r"no image has the metadata column 'kid' \(has: kind, age, wild"):
        read_classes(store, "kid", N)
    with pytest.raises(StudyError, match="no image has a value of 'empty': there are no classes to compare"):
        read_classes(store, "empty", N)
    with pytest.raises(StudyError, match="all 40 images with a value of 'same' are in one class, 'x': expected two"):
        read_classes(store, "same", N)
    with pytest.raises(SettingError, match="the column has no name"):
        read_classes(store, "", N)


def test_a_column_of_names_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csp_index.studies.classes.image_classes._VALUES", 30)
    with pytest.raises(StudyError, match="'name' has more than 30 different values: it names images"):
        read_classes(store, "name", N)


def test_the_highest_output_is_the_class(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csp_index.studies.classes.image_classes._OUTPUTS_AT_ONCE", 3)
    classes = read_classes(store, "outputs:net/logits", N)
    assert images_of(classes) == {
        name: [i for i in range(N) if i % 3 == place and i != 7]
        for name, place in (("bus", 1), ("crane (output 0)", 0), ("crane (output 2)", 2))
    }
    assert classes.note == (
        "1 of 40 images have no class and count nowhere; 1 images have equal outputs; "
        "1 of 4 outputs are highest on no image"
    )
    assert classes_described(store, "outputs:net/logits")["class_names"] == ["crane", "bus", "crane", "seal"]


def test_outputs_that_are_not_there(store: Store) -> None:
    with pytest.raises(NotFoundError, match="layer net/fc is not in the index"):
        read_classes(store, "outputs:net/fc", N)
    with pytest.raises(AddressError, match="is not an address"):
        classes_described(store, "outputs:net")
    with pytest.raises(NotFoundError, match="has the outputs of 40 of 41 images: run `csp-index index` again"):
        read_classes(store, "outputs:net/logits", N + 1)


def test_what_classes_depend_on_changes_with_the_metadata(store: Store, tmp_path: Path) -> None:
    index, _ = make_classed(tmp_path, 6, [{"kind": "ab"[i % 2]} for i in range(6)])
    before = classes_described(index.store, "kind")
    (tmp_path / "more.csv").write_text("path,size\n00000.png,4\n")
    index.add_metadata(tmp_path / "more.csv")
    assert before != classes_described(index.store, "kind")
