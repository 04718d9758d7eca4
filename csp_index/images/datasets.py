"""Image sources that are Python objects: map-style datasets, arrays, lists and streams.

A map-style dataset (torch, torchvision, `datasets.Dataset`, an array or a list) is read by index; its images are named
`dataset:NAME/INDEX`, or by their files' paths where it is an ImageFolder of torchvision. Subset and ConcatDataset name
images as the datasets inside do. A subclass of these with a `__getitem__` of its own is a dataset like any other.
Anything else that can be iterated is consumed once, as a stream of (uri, image) pairs, or of images that are numbered.
"""

from __future__ import annotations

import operator
import os
import reprlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset

from csp_index.errors import SourceError, one_line
from csp_index.images.dataset_items import CHANNELS, memory_image
from csp_index.images.decode import IN_MEMORY, ImageRef
from csp_index.images.memory_images import MemoryImage, read_image_of, register

_TRIED = 10  # items that may fail before a dataset is refused as a whole
_FOLDER_MODULE = "torchvision.datasets.folder"

_DIGITS = 18  # of the number of an item


def open_dataset(source: Any, name: str | None = None) -> DatasetImages | ImageStream:
    """Return an object as an image source; `name` replaces the object's own name in the images' URIs.

    Raises SourceError if it is empty or contains no images.
    """
    _refuse(source)
    if isinstance(source, (list, tuple)) and source and all(_is_pair(item) for item in source):
        uris, images = [str(uri) for uri, _ in source], [image for _, image in source]
        return _registered(DatasetImages(images, name, uris))
    if _is_map_style(source):
        return _registered(DatasetImages(source, name))
    if hasattr(source, "__iter__"):
        return ImageStream(source, name or _name_of(source))
    raise SourceError(
        f"a {type(source).__name__} is no image source: give a path, a torch Dataset, a datasets.Dataset, or an "
        "iterable of (uri, image)"
    )


class DatasetImages:
    """The images of a dataset that is read by index."""

    def __init__(self, dataset: Any, name: str | None = None, uris: Sequence[str] | None = None) -> None:
        """Try the first items; `uris` are the names of the images, if they have some."""
        if not _length(dataset):
            raise SourceError(f"the {type(dataset).__name__} is empty: it has no image")
        self._dataset, self._uris = dataset, uris
        self._names = {id(base): label for base, label in _labelled(dataset, name)}
        self.name = IN_MEMORY + next(iter(self._names.values()))
        self._try()

    def refs(self) -> Iterator[ImageRef]:
        """Yield the images in the order of the dataset. Raises SourceError if two have one URI."""
        seen, simple = set[int](), self._is_simple
        for index in range(len(self._dataset)):
            base, place = resolved(self._dataset, index)
            uri = self._uri(index)
            if not simple:
                if hash(uri) in seen:
                    raise SourceError(f"the dataset has {uri} twice: give each image once")
                seen.add(hash(uri))
            if _are_plain_files(base):
                yield ImageRef(uri, _sample_metadata(base, place))
            else:
                yield ImageRef(uri, read=partial(self._read, index))

    def find(self, uri: str) -> Callable[[], MemoryImage] | None:
        """Return a function that reads an image again; None if it is another dataset's, or a file that can be read."""
        if self._is_simple:
            head, _, place = uri.rpartition("/")
            known = (
                head == self.name and place.isdecimal() and len(place) <= _DIGITS and int(place) < len(self._dataset)
            )
            return partial(self._read, int(place)) if known else None
        index = self._index_of.get(uri)
        return None if index is None else partial(self._read, index)

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """The folders of the files that the dataset names; none for images that only it has."""
        files = [_files(base) for base in _bases(self._dataset)]
        paths = [[os.path.abspath(path) for path, _ in some] for some in files if some]
        return tuple(os.path.dirname(some[0]) if len(some) == 1 else os.path.commonpath(some) for some in paths)

    @property
    def _is_simple(self) -> bool:
        """Whether a URI is the name of the dataset and the image's number."""
        dataset = self._dataset
        inner = _is_own(dataset, Subset) or _is_own(dataset, ConcatDataset)
        return self._uris is None and not inner and not _files(dataset)

    @cached_property
    def _index_of(self) -> dict[str, int]:
        indices = range(len(self._dataset))
        return {self._uri(i): i for i in indices if not _are_plain_files(resolved(self._dataset, i)[0])}

    def _uri(self, index: int) -> str:
        if self._uris is not None:
            return self._uris[index]
        base, place = resolved(self._dataset, index)
        files = _files(base)
        return os.path.abspath(files[place][0]) if files else f"{IN_MEMORY}{self._names[id(base)]}/{place}"

    def _read(self, index: int) -> MemoryImage:
        base, _ = resolved(self._dataset, index)
        result = memory_image(self._dataset[index], getattr(base, "classes", None))
        named: dict[str, object] = {}
        for column, names in _class_names(base).items():
            value = result.metadata.get(column)
            if isinstance(value, int) and 0 <= value < len(names):
                named[f"{column}_name"] = names[value]
        return MemoryImage(result.image, {**result.metadata, **named})

    def _try(self) -> None:
        """Refuse a dataset if none of its first items is usable; it may fail to read some of them."""
        reasons = []
        for index in range(min(_TRIED, len(self._dataset))):
            if _are_plain_files(resolved(self._dataset, index)[0]):
                return
            result = read_image_of(partial(self._read, index))
            if isinstance(result, MemoryImage):
                return
            reasons.append(str(result))
        raise SourceError(f"the first items of the {type(self._dataset).__name__} cannot be used: {reasons[0]}")


class ImageStream:
    """Images that arrive once, one after another; none is kept. `count` is how many have arrived."""

    def __init__(self, items: Iterable[Any], name: str) -> None:
        """Read the first item, so that an iterable without images is refused at once."""
        self.name, self.count = IN_MEMORY + name, 0
        self._items = iter(items)
        try:
            first = next(self._items)
        except StopIteration:
            raise SourceError(f"the {type(items).__name__} gave no image: it is empty, or was used up before") from None
        except Exception as exc:  # it is the caller's code
            raise SourceError(f"the {type(items).__name__} failed: {type(exc).__name__}: {one_line(exc)}") from exc
        memory_image(first[1] if _is_pair(first) else first)
        self._first = [first]

    def refs(self) -> Iterator[ImageRef]:
        """Yield each image with a function to read it. Raises SourceError for a repeated URI or a failing iterable."""
        seen = set[int]()
        for item in self._all():
            uri, image = (str(item[0]), item[1]) if _is_pair(item) else (f"{self.name}/{self.count}", item)
            if not uri or hash(uri) in seen:
                problem = f"{uri!r} twice" if uri else "an empty uri"
                raise SourceError(
                    f"the iterable gave {problem}, at image {self.count}: expected a uri of its own for each"
                )
            seen.add(hash(uri))
            self.count += 1
            yield ImageRef(uri, read=partial(memory_image, image))

    def _all(self) -> Iterator[Any]:
        while self._first:
            yield self._first.pop()
        while True:
            try:
                item = next(self._items)
            except StopIteration:
                return
            except Exception as exc:  # it is the caller's code
                message = f"{type(exc).__name__}: {one_line(exc)}"
                raise SourceError(f"the iterable failed after {self.count} images: {message}") from exc
            yield item


# what an object is


def _registered(images: DatasetImages) -> DatasetImages:
    register(images)
    return images


def _refuse(source: Any) -> None:
    if isinstance(source, DataLoader):
        raise SourceError("a DataLoader gives batches: pass the dataset in it, add_images(loader.dataset)")
    if isinstance(source, Mapping):
        parts = ", ".join(map(repr, list(source)[:4]))
        raise SourceError(f"a {type(source).__name__} is no image source: pass one of its values (has: {parts})")
    if isinstance(source, (bytes, Image.Image, nn.Module, type)):
        raise SourceError(f"{type(source).__name__} is one object, not many images: pass a dataset or a list of images")
    if callable(source) and not hasattr(source, "__iter__") and not hasattr(source, "__getitem__"):
        raise SourceError(f"{getattr(source, '__name__', type(source).__name__)} is a function: pass what it returns")


def _is_map_style(source: Any) -> bool:
    if isinstance(source, IterableDataset):
        return False
    if isinstance(source, (np.ndarray, torch.Tensor)):
        shape = list(source.shape)
        if len(shape) < 3:
            raise SourceError(f"an array of shape {shape} holds no images: expected one image for each row")
        if len(shape) == 3 and (shape[0] in CHANNELS or shape[2] in CHANNELS):
            raise SourceError(f"this looks like one image of shape {shape}: pass it in a list")
    return hasattr(source, "__getitem__") and hasattr(source, "__len__")


def _length(dataset: Any) -> int:
    """Return the number of items. Raises SourceError if `__len__` fails or returns no such number."""
    name = type(dataset).__name__
    try:
        result = dataset.__len__()  # `len` does not say what was returned
    except Exception as exc:  # it is the caller's code
        raise SourceError(f"__len__ of the {name} failed: {type(exc).__name__}: {one_line(exc)}") from exc
    try:
        count = operator.index(result)
    except TypeError:
        count = -1
    if count < 0:
        raise SourceError(f"__len__ of the {name} returned {reprlib.repr(result)}: expected the number of its images")
    return count


def _is_pair(item: Any) -> bool:
    """Return whether an item is a uri and an image."""
    return isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[0], (str, os.PathLike))


def resolved(dataset: Any, index: int) -> tuple[Any, int]:
    """Return the dataset, inside subsets and concatenations, that an item comes from, and its place there."""
    while True:
        if _is_own(dataset, Subset):
            place = int(dataset.indices[index])
            dataset, index = dataset.dataset, place if place >= 0 else place + _length(dataset.dataset)
            if index < 0:
                raise SourceError(
                    f"a Subset has index {place}: the {type(dataset).__name__} inside is too short for it"
                )
        elif _is_own(dataset, ConcatDataset):
            part = bisect_right(dataset.cumulative_sizes, index)
            if part == len(dataset.datasets):
                raise SourceError(f"a Subset has index {index}: the ConcatDataset inside is too short for it")
            index -= dataset.cumulative_sizes[part - 1] if part else 0
            dataset = dataset.datasets[part]
        else:
            return dataset, index


def _is_own(dataset: Any, kind: type[Dataset[Any]]) -> bool:
    """Return whether the items of a dataset come from the `__getitem__` of a class of torch, not of a subclass."""
    return isinstance(dataset, kind) and type(dataset).__getitem__ is kind.__getitem__


def _bases(dataset: Any) -> Iterator[Any]:
    if _is_own(dataset, Subset):
        yield from _bases(dataset.dataset)
    elif _is_own(dataset, ConcatDataset):
        for part in dataset.datasets:
            yield from _bases(part)
    else:
        yield dataset


def _labelled(dataset: Any, name: str | None) -> Iterator[tuple[Any, str]]:
    """Yield the datasets inside with their names, numbered where several have the same name."""
    bases = list({id(base): base for base in _bases(dataset)}.values())
    names = [_name_of(base) if name is None else name for base in bases]
    for place, (base, own) in enumerate(zip(bases, names, strict=True)):
        yield base, f"{own}.{names[:place].count(own)}" if names.count(own) > 1 else own


def _name_of(dataset: Any) -> str:
    """Return a name of a dataset, the same in every run: its own or its class, and its split if it has one."""
    info = getattr(dataset, "info", None)
    own = getattr(dataset, "name", None) or getattr(info, "dataset_name", None) or getattr(info, "builder_name", None)
    name = own if isinstance(own, str) else type(dataset).__name__
    split, train = getattr(dataset, "split", None), getattr(dataset, "train", None)
    if isinstance(train, bool) and split is None:
        split = "train" if train else "test"
    parts = [name] if split is None else [name, str(split)]
    return "-".join("".join(c if c.isalnum() or c in "._-" else "_" for c in part) for part in parts)


def _files(dataset: Any) -> Sequence[tuple[str, object]] | None:
    """Return the files, with their targets, of a dataset that torchvision's own ImageFolder code reads."""
    if getattr(getattr(type(dataset), "__getitem__", None), "__module__", None) != _FOLDER_MODULE:
        return None
    for name in ("samples", "imgs"):
        listed = getattr(dataset, name, None)
        if isinstance(listed, list) and listed and len(listed) == len(dataset):
            first = listed[0]
            if isinstance(first, tuple) and len(first) == 2 and isinstance(first[0], str) and os.path.isfile(first[0]):
                return listed
    return None


def _are_plain_files(dataset: Any) -> bool:
    """Return whether the items are the files unchanged: read by torchvision's own code, without a transform."""
    if _files(dataset) is None or getattr(dataset.loader, "__module__", None) != _FOLDER_MODULE:
        return False
    return dataset.transform is None and dataset.transforms is None


def _sample_metadata(dataset: Any, place: int) -> dict[str, object]:
    target = dataset.samples[place][1]
    return {"target": target, "label": dataset.classes[target]}


def _class_names(dataset: Any) -> dict[str, list[str]]:
    """Return the names of the classes of a `datasets.Dataset`, by column."""
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping):
        return {}
    named = {str(column): getattr(feature, "names", None) for column, feature in features.items()}
    return {column: list(names) for column, names in named.items() if names}
