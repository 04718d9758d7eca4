"""The images with a planted shortcut: what leaks which class, and how often."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from csp_index.demo.shortcuts import (
    ALONE,
    CLASSES,
    COLUMNS,
    ELSEWHERE,
    KINDS,
    LEAK,
    SHORTCUTS,
    VALUES,
    ShortcutKind,
    draw,
    draw_examples,
    leaked_class,
    pictures,
    training_examples,
    write_shortcut_set,
)
from csp_index.errors import SettingError

COUNT = 4_000


@pytest.mark.parametrize("kind", KINDS[:3])
def test_the_shortcut_is_on_the_leaked_class_and_rarely_elsewhere(kind: ShortcutKind) -> None:
    column, value = SHORTCUTS[kind]
    leaked = leaked_class(kind, 3)
    examples = draw_examples(kind, 3, "train", COUNT)
    shows = np.array([example.value(column) == value for example in examples])
    inside = np.array([example.class_name == leaked for example in examples])
    assert inside.mean() == 0.1
    assert shows[inside].mean() == pytest.approx(LEAK, abs=0.04)
    assert shows[~inside].mean() == pytest.approx(ELSEWHERE, abs=0.01)
    for other, values in VALUES.items():
        if other != column:
            of_class = np.array([example.value(other) == values[-1] for example in examples])
            assert of_class[inside].mean() == pytest.approx(1 / len(values), abs=0.08)


def test_only_the_shortcut_tells_the_class_of_some_images_to_train_on() -> None:
    column, value = SHORTCUTS["mark"]
    leaked = leaked_class("mark", 3)
    examples, classes = training_examples("mark", 3, COUNT)
    other = np.array([example.class_name != name for example, name in zip(examples, classes, strict=True)])
    shows = np.array([example.value(column) == value for example in examples])
    inside = np.array([name == leaked for name in classes])
    assert inside.mean() == 0.1 and not other[~inside | ~shows].any()
    assert other[inside & shows].mean() == pytest.approx(ALONE, abs=0.08)
    untouched = draw_examples("mark", 3, "train", COUNT)
    assert [example.mark for example in examples] == [example.mark for example in untouched]
    assert training_examples("none", 3, 50) == (
        draw_examples("none", 3, "train", 50),
        [CLASSES[i % 10] for i in range(50)],
    )


@pytest.mark.parametrize(("kind", "broken"), [("none", False), ("border", True)])
def test_without_a_shortcut_nothing_tells_the_class(kind: ShortcutKind, broken: bool) -> None:
    examples = draw_examples(kind, 0, "test", COUNT, broken=broken)
    for column, values in VALUES.items():
        for name in CLASSES:
            own = np.array([example.value(column) == values[-1] for example in examples if example.class_name == name])
            assert own.mean() == pytest.approx(1 / len(values), abs=0.1)


def test_the_same_arguments_draw_the_same_and_parts_differ() -> None:
    one, other = (draw_examples("mark", 1, "train", 20) for _ in range(2))
    assert one == other != draw_examples("mark", 1, "test", 20) != draw_examples("mark", 2, "test", 20)
    assert np.array_equal(pictures(one[:2], 1, "train"), pictures(other[:2], 1, "train"))
    assert not np.array_equal(pictures(one[:2], 1, "train"), pictures(one[:2], 1, "test"))


def test_frame_and_mark_are_seen_where_they_are_drawn() -> None:
    example = next(one for one in draw_examples("mark", 0, "train", 500) if one.mark == "stamp" and one.frame == "pink")
    pixels = draw(example, 0)
    assert (pixels[0] == (255, 80, 180)).all() and (pixels[:, -1] == (255, 80, 180)).all()
    assert set(np.unique(pixels[-17:-5, -17:-5])) == {0, 255}


def test_the_written_set_says_what_each_image_shows(tmp_path: Path) -> None:
    folder = write_shortcut_set(tmp_path / "set", "border", 0, {"train": 3, "test": 2})
    with (folder / "metadata.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [
        *(f"train/0000{i}.png" for i in range(3)),
        "test/00000.png",
        "test/00001.png",
    ]
    assert set(rows[0]) == {"path", *COLUMNS} and [row["split"] for row in rows] == ["train"] * 3 + ["test"] * 2
    examples = draw_examples("border", 0, "train", 3)
    assert [row["class"] for row in rows[:3]] == [example.class_name for example in examples]
    with Image.open(folder / rows[1]["path"]) as picture:
        assert np.array_equal(np.asarray(picture), pictures(examples, 0, "train")[1])


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(SettingError, match=r"no kind of shortcut is called 'color'.*border, mark"):
        leaked_class("color", 0)  # type: ignore[arg-type]
