"""Folders named after classes and splits as metadata, and names for the synsets of ImageNet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pictures import listed, png

from csp_index.errors import SourceError
from csp_index.images.class_folders import class_notes_of, read_class_names
from csp_index.images.passed_over import passed_over_by
from csp_index.images.sources import open_source

TENCH, GOLDFISH, CRANE_BIRD, CRANE_MACHINE = "n01440764", "n01443537", "n02012849", "n03126707"


def write(root: Path, *folders: str, images: int = 2) -> Path:
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            (root / folder / f"{number}.png").write_bytes(png(number))
    return root


def known(root: Path, **options: Any) -> dict[str, dict[str, object]]:
    """What is known of the first image of each folder."""
    refs = listed(open_source(root, **options))
    return {
        Path(ref.uri).parent.relative_to(root.resolve()).as_posix(): ref.metadata
        for ref in reversed(refs)
        if ref.failure is None
    }


def notes(root: Path, **options: Any) -> str:
    return "; ".join(class_notes_of(open_source(root, **options)))


def test_folders_of_classes_become_labels_and_it_is_noted(tmp_path: Path) -> None:
    write(tmp_path, "cat", "dog", "great white shark")
    assert known(tmp_path) == {name: {"label": name} for name in ("cat", "dog", "great white shark")}
    assert [notes(tmp_path)] == [
        "folders taken for classes: 3 in the column label (cat, dog, great white shark)",
    ]


def test_splits_become_a_column_of_their_own(tmp_path: Path) -> None:
    write(tmp_path, "train/cat", "train/dog", "val/cat", "val/dog")
    assert known(tmp_path)["val/dog"] == {"split": "val", "label": "dog"}
    write(tmp_path / "flat", "train", "test")
    assert known(tmp_path / "flat") == {"train": {"split": "train"}, "test": {"split": "test"}}
    assert known(tmp_path / "train")["cat"] == {"label": "cat"}


def test_folders_that_all_images_lie_in_say_nothing(tmp_path: Path) -> None:
    write(tmp_path, "data/images/cat/jpg", "data/images/dog/jpg")
    assert known(tmp_path)["data/images/cat/jpg"] == {"label": "cat"}


def test_classes_in_two_levels_keep_both(tmp_path: Path) -> None:
    write(tmp_path, "a/airfield", "a/apartment_building/outdoor/x", "b/bar", images=4)
    assert all(not metadata for metadata in known(tmp_path).values()), "three levels are no classes"
    write(tmp_path / "two", "bird/crane", "bird/kite", "toy/kite")
    assert known(tmp_path / "two")["toy/kite"] == {"label": "toy/kite"}


@pytest.mark.parametrize(
    "folders", [[""], ["one"], ["", "cat", "dog"], ["a/b/c/d", "a/b/e/f/g"], ["train"], ["one/images"]]
)
def test_what_does_not_look_like_classes_is_left_alone(tmp_path: Path, folders: list[str]) -> None:
    assert all(not metadata for metadata in known(write(tmp_path, *folders)).values())


def test_a_folder_for_each_image_is_no_class(tmp_path: Path) -> None:
    assert not any(known(write(tmp_path, "patient 1", "patient 2", "patient 3", images=1)).values())


def test_the_parts_of_img2dataset_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, "00000", "00001")
    for number in ("00000", "00001"):
        (tmp_path / f"{number}_stats.json").write_text("{}")
    assert not any(known(tmp_path).values())
    assert known(write(tmp_path / "digits", "0", "1"))["1"] == {"label": "1"}


def test_a_table_and_a_file_beside_an_image_win_over_its_folder(tmp_path: Path) -> None:
    write(tmp_path, "cat", "dog")
    (tmp_path / "cat/0.json").write_text('{"label": "lynx"}')
    (tmp_path / "metadata.csv").write_text("path,label\ndog/0.png,wolf\n")
    metadata = known(tmp_path)
    assert (metadata["cat"], metadata["dog"]) == ({"label": "lynx"}, {"label": "wolf"})


def test_numbered_parts_of_equal_size_are_no_classes(tmp_path: Path) -> None:
    write(tmp_path, "00", "01")
    write(tmp_path, "02", images=1)
    assert not any(known(tmp_path).values())
    write(tmp_path, "01", images=5)  # signs of traffic: 00000 to 00042, of different sizes
    assert known(tmp_path)["00"] == {"label": "00"}


# ImageNet


def test_synsets_get_the_names_that_timm_knows(tmp_path: Path) -> None:
    write(tmp_path, f"train/{TENCH}", f"train/{GOLDFISH}", f"val/{TENCH}", "val/n99999999")
    metadata = known(tmp_path)
    assert metadata[f"val/{TENCH}"] == {"split": "val", "label": "tench", "synset": TENCH}
    assert metadata[f"train/{GOLDFISH}"]["label"] == "goldfish"
    assert metadata["val/n99999999"]["label"] == "n99999999"
    assert "named by timm's list, 1 without a name there" in notes(tmp_path)


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("LOC_synset_mapping.txt", f"{TENCH} a fish, Tinca tinca\n{GOLDFISH} another fish, Carassius auratus\n"),
        ("words.txt", f"n00001740\tentity\n{TENCH}\ta fish, Tinca tinca\n{GOLDFISH}\tanother fish\n"),
        ("map_clsloc.txt", f"{TENCH} 1 a_fish\n{GOLDFISH} 2 another_fish\n"),
        ("imagenet_class_index.json", json.dumps({"0": [TENCH, "a_fish"], "1": [GOLDFISH, "another_fish"]})),
    ],
)
@pytest.mark.parametrize("above", [False, True])
def test_synsets_get_the_names_of_a_list_beside_the_images(tmp_path: Path, file: str, text: str, above: bool) -> None:
    write(tmp_path, f"Data/CLS-LOC/train/{TENCH}", f"Data/CLS-LOC/train/{GOLDFISH}")
    (tmp_path / file).write_text(text)
    root = tmp_path / "Data/CLS-LOC/train" if above else tmp_path
    labels = {Path(folder).name: metadata["label"] for folder, metadata in known(root).items()}
    assert labels == {TENCH: "a fish", GOLDFISH: "another fish"}
    assert not passed_over_by(open_source(root)), "the list was read"


def test_two_synsets_of_one_name_stay_two_labels(tmp_path: Path) -> None:
    labels = {metadata["label"] for metadata in known(write(tmp_path, CRANE_BIRD, CRANE_MACHINE)).values()}
    assert len(labels) == 2 and all(str(label).startswith("crane") for label in labels)
    (tmp_path / "words.txt").write_text(f"{CRANE_BIRD}\tcrane\n{CRANE_MACHINE}\tcrane\n")
    labels = {metadata["label"] for metadata in known(tmp_path).values()}
    assert labels == {f"crane ({CRANE_BIRD})", f"crane ({CRANE_MACHINE})"}


def test_the_layout_of_tiny_imagenet(tmp_path: Path) -> None:
    write(tmp_path, f"train/{TENCH}/images", f"train/{GOLDFISH}/images", "val/images", "test/images")
    metadata = known(tmp_path)
    assert metadata[f"train/{TENCH}/images"] == {"split": "train", "label": "tench", "synset": TENCH}
    assert metadata["val/images"] == {"split": "val"}


# names that the user gives


def test_the_user_may_name_the_classes(tmp_path: Path) -> None:
    root = write(tmp_path / "images", "0", "1", "2")
    names = tmp_path / "names.txt"
    names.write_text("0 airplane\n1,fighter_jet\n")
    metadata = known(root, class_names=names)
    assert metadata["1"] == {"label": "fighter jet", "folder": "1"}
    assert metadata["2"] == {"label": "2", "folder": "2"}
    assert f"1 have no name in {names}" in notes(root, class_names=names)
    (tmp_path / "names.json").write_text('["plane", "car", "bird"]')
    assert known(root, class_names=tmp_path / "names.json")["2"]["label"] == "bird"
    write(tmp_path / "imagenet", TENCH)
    names.write_text(f"{TENCH} my fish\n")
    assert known(tmp_path / "imagenet", class_names=names)[TENCH]["label"] == "my fish"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("n.txt", b"{0: 'a cat',\n 1: 'dog'}\n"),
        ("n.csv", b'id,name\n0,"a cat"\n1,dog\n'),
        ("n.txt", "0: a cat\n1: dog\n".encode("utf-16")),
        ("n.json", b'{"a cat": 0, "dog": 1}'),
        ("config.json", b'{"id2label": {"0": "a cat", "1": "dog"}, "label2id": {"a cat": 0}}'),
        ("n.json", b'[["a cat"], ["dog"]]'),
    ],
)
def test_names_of_classes_in_any_form(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    names = read_class_names(tmp_path / name)
    assert (names["0"], names["1"]) == ("a cat", "dog")


def test_synonyms_are_one_name(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_text('{"0": ["tench", "Tinca tinca"], "1": ["n01443537", "goldfish"]}')
    assert read_class_names(tmp_path / "n.json") == {"0": "tench, Tinca tinca", "n01443537": "goldfish"}


@pytest.mark.parametrize("splits", [("train2017", "val2017"), ("train_images", "test_images"), ("Train", "dev")])
def test_splits_with_a_year_or_a_word_are_no_classes(tmp_path: Path, splits: tuple[str, str]) -> None:
    metadata = known(write(tmp_path, *splits))
    assert [metadata[split] for split in splits] == [{"split": split} for split in splits]


def test_names_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    root, names = write(tmp_path / "images", "0", "1"), tmp_path / "names.txt"
    names.write_text("cat tabby\n")
    with pytest.raises(SourceError, match=r"name none of the folders \(first: 0\)"):
        open_source(root, class_names=names)
    with pytest.raises(SourceError, match=r"the folders of .* are not named by classes"):
        open_source(root / "0", class_names=names)
    with pytest.raises(SourceError, match="cannot be read"):
        open_source(root, class_names=tmp_path / "missing.txt")
    for name, text in (("a.json", "{"), ("a.txt", "\n\n"), ("b.json", '{"a": null}'), ("c.txt", "{0: 'a',")):
        (tmp_path / name).write_text(text)
        with pytest.raises(SourceError, match="the class names"):
            read_class_names(tmp_path / name)
