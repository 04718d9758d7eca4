"""The structure of a folder as metadata: folders named after classes become the column `label`, splits `split`.

Folders of ImageNet are named by synsets (`n01440764`), which become the column `synset`, and their names the label:
from a list beside the images as ImageNet's archives bring it, else from timm's.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from csp_index.errors import SourceError, one_line
from csp_index.files.regular_files import decoded, read_bytes
from csp_index.settings import MAX_TEXT_BYTES

_SPLIT = re.compile(  # also train2017, test_images
    r"(?:train|training|trainval|val|valid|validation|test|testing|dev)(?:[_-]?(?:\d{4}|set|data|images|imgs))?",
    re.IGNORECASE,
)
_SYNSET = re.compile(r"n\d{8}")
_LISTS = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt", "imagenet_class_index.json", "map_clsloc.txt")
_FOLDERS_ABOVE = 4  # in which a list of names may lie
_DEEPEST = 2  # folders of one class inside each other: apartment_building/outdoor
_NAMED = 3  # classes in a message
_LINE = re.compile(r"\s*([^\s,;:=]+)[\s,;:=]+(?:\d+\s+(?=\D))?(.*\S)")


class ClassFolders:
    """What the folder of an image says about it.

    ``folders`` counts the images of each folder, relative to ``root``, None where that is in an object store.
    ``names`` is a file that names the classes: lines of a folder's name and the class, or JSON. `notes` says what
    was guessed; `names_file` is the list that was read, if any.
    """

    def __init__(self, root: Path | None, folders: Mapping[str, int], names: Path | None = None) -> None:
        self.names_file = names
        self.notes: list[str] = []
        parts = {folder: tuple(folder.split("/")) if folder else () for folder, images in folders.items() if images}
        splits = {folder: _split(path) for folder, path in parts.items()}
        has_splits = len(parts) > 0 and None not in splits.values() and len(set(splits.values())) > 1
        rests = {folder: _after_split(path) if has_splits else path for folder, path in parts.items()}
        self._columns: dict[str, dict[str, object]] = {
            folder: {"split": splits[folder]} if has_splits else {} for folder in parts
        }
        synsets = {folder: _synset(path) for folder, path in parts.items()}
        if any(synsets.values()):
            self._name_synsets(root, synsets, names)
        elif labels := _labels(root, rests, folders):
            self._name_classes(labels, names)
        elif names is not None:
            place = "" if root is None else f" of {root}"
            raise SourceError(f"the class names {names} were given, but the folders{place} are not named by classes")

    def columns(self, image: str) -> Mapping[str, object]:
        """Return what is known of an image by its path relative to the root."""
        return self._columns.get(image.rpartition("/")[0], {})

    def _name_classes(self, labels: Mapping[str, str], file: Path | None) -> None:
        names = {} if file is None else read_class_names(file)
        for folder, label in labels.items():
            self._columns[folder]["label"] = names.get(label, label)
            if file is not None:
                self._columns[folder]["folder"] = label
        unnamed = sorted(set(labels.values()) - names.keys()) if file is not None else []
        if file is not None and len(unnamed) == len(set(labels.values())):
            raise SourceError(f"the class names {file} name none of the folders (first: {unnamed[0]})")
        self._note(sorted(set(labels.values())), f"{len(unnamed):,} have no name in {file}" if unnamed else "")

    def _name_synsets(self, root: Path | None, synsets: Mapping[str, str | None], file: Path | None) -> None:
        present = sorted({synset for synset in synsets.values() if synset})
        if file is None and root is not None:
            self.names_file = _list_beside(root, present)
        names = _names_of_timm(present) if self.names_file is None else read_class_names(self.names_file)
        labels = _distinct({synset: names[synset] for synset in present if synset in names})
        for folder, synset in synsets.items():
            if synset:
                self._columns[folder] |= {"label": labels.get(synset, synset), "synset": synset}
        unnamed = len(present) - len(labels)
        origin = "timm's list" if self.names_file is None else self.names_file.name
        problem = f", {unnamed:,} without a name there" if unnamed else ""
        self._note(sorted(labels.values()) or present, f"named by {origin}{problem}")

    def _note(self, labels: Sequence[str], more: str) -> None:
        shown = ", ".join(labels[:_NAMED]) + (", ..." if len(labels) > _NAMED else "")
        end = f"; {more}" if more else ""
        self.notes.append(f"folders taken for classes: {len(labels):,} in the column label ({shown}){end}")


@runtime_checkable
class NamesClasses(Protocol):
    """A source that took folders for classes."""

    @property
    def class_notes(self) -> Sequence[str]:
        """What was guessed, in lines."""
        ...


def class_notes_of(source: object) -> Sequence[str]:
    """Return what a source guessed about classes."""
    return source.class_notes if isinstance(source, NamesClasses) else ()


def read_class_names(file: Path) -> dict[str, str]:
    """Return the names of classes by what stands for them in a file: lines of both, or JSON.

    JSON, or the same written in Python, is an object of names or of numbers, a list of names (numbered from 0), or one
    of these below `id2label` or `names`; ImageNet's `{"0": ["n01440764", "tench"]}`; or lists of synonyms. Underscores
    become spaces. Raises SourceError for anything else.
    """
    try:
        text = decoded(read_bytes(file, MAX_TEXT_BYTES))[0]
        value = _value(text) if file.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "[") else None
    except (OSError, ValueError, SyntaxError, MemoryError, RecursionError) as exc:
        raise SourceError(f"the class names {file} cannot be read: {one_line(exc)}") from exc
    if value is None:
        lines = (match for match in map(_LINE.fullmatch, text.splitlines()) if match)
        pairs = [(match[1].strip('"'), match[2].strip().strip('"')) for match in lines]
    else:
        pairs = list(_pairs_of(value))
    if not pairs:
        raise SourceError(
            f"the class names {file} hold none: expected lines such as 'n01440764 tench', or a JSON object of names"
        )
    return {key: name.replace("_", " ") for key, name in pairs}


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return ast.literal_eval(text.strip())


def _pairs_of(value: object) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        value = next((value[part] for part in ("id2label", "names") if isinstance(value.get(part), dict | list)), value)
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, name in items:
        if isinstance(name, str):
            yield str(key), name
        elif isinstance(name, int) and isinstance(key, str):
            yield str(name), key
        elif isinstance(name, list) and name and all(isinstance(part, str) for part in name):
            is_pair = len(name) == 2 and _SYNSET.fullmatch(name[0])
            yield (name[0], name[1]) if is_pair else (str(key), ", ".join(name))


def _split(path: Sequence[str]) -> str | None:
    return next((part for part in path if _SPLIT.fullmatch(part)), None)


def _after_split(path: tuple[str, ...]) -> tuple[str, ...]:
    place = next(place for place, part in enumerate(path) if _SPLIT.fullmatch(part))
    return path[place + 1 :]


def _synset(path: Sequence[str]) -> str | None:
    return next((part for part in reversed(path) if _SYNSET.fullmatch(part)), None)


def _labels(root: Path | None, rests: Mapping[str, tuple[str, ...]], folders: Mapping[str, int]) -> dict[str, str]:
    """Return the class of each folder, or nothing where folders do not look like classes.

    Folders that all images lie in (`images/cat`, `cat/images`) say nothing and are left out. Classes are at least two,
    with two images each on average.
    """
    paths = set(rests.values())
    while paths and all(paths) and len(paths) > 1 and len({path[0] for path in paths}) == 1:
        paths, rests = {path[1:] for path in paths}, {folder: path[1:] for folder, path in rests.items()}
    while paths and all(paths) and len(paths) > 1 and len({path[-1] for path in paths}) == 1:
        paths, rests = {path[:-1] for path in paths}, {folder: path[:-1] for folder, path in rests.items()}
    if len(paths) < 2 or any(not 1 <= len(path) <= _DEEPEST for path in paths):
        return {}
    if sum(folders.values()) < 2 * len(paths) or _are_parts(root, folders, {path[-1] for path in paths}):
        return {}
    return {folder: "/".join(path) for folder, path in rests.items()}


def _are_parts(root: Path | None, folders: Mapping[str, int], names: Iterable[str]) -> bool:
    """Return whether folders are numbered parts of one set: of img2dataset, or of equal size but for the last."""
    if not all(name.isdecimal() for name in names):
        return False
    if root is not None and all(
        (root / f"{name}_stats.json").is_file() or (root / f"{name}.parquet").is_file() for name in names
    ):
        return True
    sizes = [folders[folder] for folder in sorted(folders) if folders[folder]]
    return any(name.startswith("0") and len(name) > 1 for name in names) and len(set(sizes[:-1])) == 1


def _list_beside(root: Path, synsets: Sequence[str]) -> Path | None:
    """Return the list of names that lies in the folder of the images or some folder above it."""
    for folder in (root, *root.parents[:_FOLDERS_ABOVE]):
        for name in _LISTS:
            file = folder / name
            if file.is_file():
                try:
                    names = read_class_names(file)
                except SourceError:  # another file of this name
                    continue
                if not names.keys().isdisjoint(synsets):
                    return file
    return None


def _names_of_timm(synsets: Sequence[str]) -> dict[str, str]:
    from timm.data.imagenet_info import ImageNetInfo

    names: dict[str, str] = {}
    for subset in ("imagenet21k", "imagenet1k"):
        info = ImageNetInfo(subset)
        synsets_known = info.label_names()  # type: ignore[no-untyped-call]
        names |= dict(zip(synsets_known, info.label_descriptions(), strict=True))
    return {synset: names[synset] for synset in synsets if synset in names}


def _distinct(names: Mapping[str, str]) -> dict[str, str]:
    """Return the first word of each name; all its words, or its synset, where another class has the same."""
    first = {synset: name.split(",")[0].strip() for synset, name in names.items()}
    firsts, wholes = Counter(first.values()), Counter(names.values())
    return {
        synset: first[synset]
        if firsts[first[synset]] == 1
        else name
        if wholes[name] == 1 and name not in firsts
        else f"{first[synset]} ({synset})"
        for synset, name in names.items()
    }
