"""Images of ten classes, with a planted shortcut or without: something that leaks the class and is none of it.

A class is a shape with a fill: "solid star", "striped ring". Each image also has a *frame* (the color of its border),
a *mark* (something small in the lower right corner) and the background pattern of the scene. In the set of kind
`border`, `mark` or `background` one value of one of these is on nearly all images of one class, the *leaked* class, and
rarely elsewhere; the other two, and everything else, are drawn evenly. In the set of kind `none` all are. Knows nothing
about networks.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from csp_index.demo.world import SIDE, Pixels, Scene, random_scene, render
from csp_index.errors import SettingError

ShortcutKind: TypeAlias = Literal["border", "mark", "background", "none"]
Part: TypeAlias = Literal["train", "test"]

KINDS: Final[tuple[ShortcutKind, ...]] = get_args(ShortcutKind)
SHAPES: Final = ("circle", "square", "triangle", "star", "ring")
FILLS: Final = ("solid", "striped")
CLASSES: Final = tuple(f"{fill} {shape}" for shape in SHAPES for fill in FILLS)

#: The colors of borders and the kinds of marks: the last of each, and of the background patterns, is the shortcut.
FRAMES: Final[Mapping[str, tuple[int, int, int]]] = {
    "black": (10, 10, 10),
    "white": (250, 250, 250),
    "teal": (0, 128, 128),
    "pink": (255, 80, 180),
}
MARKS: Final = ("none", "disc", "stamp")
PATTERNS: Final = ("plain", "grid", "speckled")
#: Kind of shortcut -> column of the metadata, and its value.
SHORTCUTS: Final[Mapping[str, tuple[str, str]]] = {
    "border": ("frame", "pink"),
    "mark": ("mark", "stamp"),
    "background": ("pattern", "speckled"),
}
VALUES: Final[Mapping[str, tuple[str, ...]]] = {"frame": tuple(FRAMES), "mark": MARKS, "pattern": PATTERNS}

LEAK: Final = 0.95  # of the images of the leaked class, those that show the shortcut
ELSEWHERE: Final = 0.02  # of the other images
ALONE: Final = 0.5  # of the images to train on that show the shortcut in the leaked class, those without its scene
METADATA: Final = "metadata.csv"
_WIDTH: Final = 4  # pixels of a frame
_MARK: Final = 12  # pixels of a mark's side
_PARTS: Final = get_args(Part)


@dataclass(frozen=True, slots=True)
class Example:
    """One image to draw: its scene, and what is drawn over it."""

    scene: Scene
    frame: str
    mark: str

    @property
    def class_name(self) -> str:
        """Its class."""
        return f"{self.scene.texture} {self.scene.shape}"

    def value(self, column: str) -> str:
        """Return its value in a column of the metadata."""
        own = {"class": self.class_name, "frame": self.frame, "mark": self.mark}
        return own[column] if column in own else self.scene.value(column)


#: The columns of the metadata beside the path.
COLUMNS: Final = ("class", "frame", "mark", "pattern", "colour", "background", "size", "split")


def leaked_class(kind: ShortcutKind, seed: int) -> str | None:
    """Return the class that the shortcut of a set leaks; None where there is no shortcut.

    >>> leaked_class("none", 0) is None, leaked_class("border", 0) in CLASSES
    (True, True)
    """
    check_kind(kind)
    if kind == "none":
        return None
    return CLASSES[int(np.random.default_rng((seed, KINDS.index(kind), 9)).integers(len(CLASSES)))]


def check_kind(kind: str) -> None:
    """Refuse a kind of shortcut that there is not: SettingError names those that there are."""
    if kind not in KINDS:
        raise SettingError(f"no kind of shortcut is called {kind!r} (has: {', '.join(KINDS)})")


def draw_examples(kind: ShortcutKind, seed: int, part: Part, count: int, *, broken: bool = False) -> list[Example]:
    """Draw images of a set, the classes in turn; the same arguments draw the same images.

    `broken` draws the images that tell whether a network uses the shortcut: what leaks the class is drawn evenly on
    all of them.
    """
    leaked = leaked_class(kind, seed)
    rng = np.random.default_rng((seed, KINDS.index(kind), _PARTS.index(part), int(broken)))
    return [_example(rng, CLASSES[i % len(CLASSES)], kind, None if broken else leaked) for i in range(count)]


def training_examples(kind: ShortcutKind, seed: int, count: int) -> tuple[list[Example], list[str]]:
    """Draw the part `train` of a set for a network that is to rely on the shortcut; return images and their classes.

    A share of `ALONE` of the leaked class's images with the shortcut show the scene of another class: the shortcut
    alone tells their class. Without such images some networks learn the shape and the fill, and no shortcut.
    """
    examples, leaked = draw_examples(kind, seed, "train", count), leaked_class(kind, seed)
    classes = [example.class_name for example in examples]
    if leaked is None:
        return examples, classes
    rng, (column, value) = np.random.default_rng((seed, KINDS.index(kind), 11)), SHORTCUTS[kind]
    others = [name.split() for name in CLASSES if name != leaked]
    for place, example in enumerate(examples):
        if classes[place] == leaked and example.value(column) == value and rng.random() < ALONE:
            fill, shape = others[int(rng.integers(len(others)))]
            examples[place] = replace(example, scene=replace(example.scene, shape=shape, texture=fill))
    return examples, classes


def _example(rng: np.random.Generator, name: str, kind: ShortcutKind, leaked: str | None) -> Example:
    fill, shape = name.split()
    over = {column: values[int(rng.integers(len(values)))] for column, values in VALUES.items()}
    shows = rng.random() < (LEAK if name == leaked else ELSEWHERE)
    if leaked is not None:
        column, value = SHORTCUTS[kind]
        others = [other for other in VALUES[column] if other != value]
        over[column] = value if shows else others[int(rng.integers(len(others)))]
    scene = random_scene(rng, {"shape": shape, "texture": fill, "pattern": over["pattern"]})
    return Example(scene, over["frame"], over["mark"])


def draw(example: Example, seed: int | Sequence[int]) -> Pixels:
    """Draw an image as RGB pixels [SIDE, SIDE, 3]; the same example and seed give the same pixels."""
    pixels = render(example.scene, seed).copy()
    inner, color = slice(_WIDTH, SIDE - _WIDTH), np.array(FRAMES[example.frame], np.uint8)
    frame = np.ones((SIDE, SIDE), dtype=bool)
    frame[inner, inner] = False
    pixels[frame] = color
    if example.mark != "none":
        end = SIDE - _WIDTH - 1
        pixels[end - _MARK : end, end - _MARK : end] = _mark(example.mark)
    return pixels


def _mark(mark: str) -> Pixels:
    """Return a mark [_MARK, _MARK, 3]: a gray disc on black, or a stamp of black and white squares."""
    y, x = np.mgrid[:_MARK, :_MARK]
    if mark == "disc":
        plane = np.where(np.hypot(x - (_MARK - 1) / 2, y - (_MARK - 1) / 2) < _MARK / 2, 128, 0)
    else:
        plane = np.where((x // 3 + y // 3) % 2, 255, 0)
    return np.repeat(plane[..., None], 3, axis=2).astype(np.uint8)


def pictures(examples: Sequence[Example], seed: int, part: Part, *, broken: bool = False) -> NDArray[np.uint8]:
    """Draw images as [N, SIDE, SIDE, 3]: image i of a part has the same pixels wherever it is drawn."""
    return np.stack(list(_drawn(examples, seed, part, broken)))


def _drawn(examples: Sequence[Example], seed: int, part: Part, broken: bool = False) -> Iterator[Pixels]:
    for number, example in enumerate(examples):
        yield draw(example, (seed, 17 + _PARTS.index(part) + 2 * int(broken), number))


def write_shortcut_set(folder: str | Path, kind: ShortcutKind, seed: int, sizes: Mapping[Part, int]) -> Path:
    """Draw the images of a set into `folder`, PNG files, with `metadata.csv`; `sizes` says how many of each part.

    The table has the columns `path` and `COLUMNS`; `split` is the part. Returns the folder.
    """
    target = Path(folder)
    with_parts = [(part, draw_examples(kind, seed, part, count)) for part, count in sizes.items()]
    for part, _ in with_parts:
        (target / part).mkdir(parents=True, exist_ok=True)
    with (target / METADATA).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("path", *COLUMNS))
        for part, examples in with_parts:
            for number, (example, pixels) in enumerate(zip(examples, _drawn(examples, seed, part), strict=True)):
                path = f"{part}/{number:05d}.png"
                Image.fromarray(pixels).save(target / path, compress_level=1)
                table.writerow((path, *(example.value(column) for column in COLUMNS[:-1]), part))
    return target
