"""Datasets, arrays, lists and streams as image sources."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import FakeData, ImageFolder

from csp_index.errors import SourceError
from csp_index.images.dataset_items import memory_image, picture
from csp_index.images.datasets import DatasetImages, open_dataset
from csp_index.images.decode import ImageFailure, ImageRead, read_images
from csp_index.images.loader import Prepared, decoded
from csp_index.images.sources import open_source

RED = Image.new("RGB", (6, 4), "red")


def uris(source: Any) -> list[str]:
    return [ref.uri for ref in source.refs()]


def read(source: Any) -> list[Prepared | ImageFailure]:
    return list(decoded(source.refs(), [lambda image: torch.zeros(1)]))


class Items(Dataset):
    """A dataset of whatever items; exceptions are raised."""

    def __init__(self, *items: Any, classes: list[str] | None = None) -> None:
        self.items, self.classes = items, classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


# items


@pytest.mark.parametrize(
    "value",
    [
        torch.full((3, 4, 6), 0.5),
        torch.full((1, 4, 6), 0.5, dtype=torch.bfloat16),
        torch.full((4, 6), 128, dtype=torch.uint8),
        np.full((4, 6, 3), 128, np.uint8),
        np.full((3, 4, 6), 0.5, np.float32),
        np.full((4, 6, 4), 128, np.uint8),
        np.full((4, 6, 1), 0.5),
    ],
    ids=lambda value: f"{type(value).__name__}{list(value.shape)}{value.dtype}",
)
def test_arrays_of_every_layout_become_the_same_picture(value) -> None:
    found = picture(value)
    assert found.size == (6, 4)
    assert np.asarray(found.convert("RGB"))[0, 0].tolist() == [128, 128, 128] or found.mode == "RGBA"


def test_channels_stand_where_the_type_has_them() -> None:
    assert picture(torch.zeros(3, 5, 3)).size == (3, 5)  # both ends could be channels: tensors have them first
    assert picture(np.zeros((3, 5, 3))).size == (5, 3)  # and arrays last


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((3, 4, 4), -2.0), "take Normalize out"),
        (torch.full((3, 4, 4), float("nan")), "take Normalize out"),
        (np.full((8, 8), 16.0), r"from 16 to 16: expected floats in \[0, 1\]"),
        (np.full((8, 8), 300), "type int64: convert to uint8, or pass floats"),
        (np.full((8, 8), 200, np.uint16), "type uint16: convert to uint8"),  # what its values are plays no part
        (np.full((8, 8), 40_000, np.uint16), "type uint16: convert to uint8"),
        (torch.ones(3, 8, 8, dtype=torch.int64), "type int64: convert to uint8"),
        (torch.zeros(2, 3, 4, 4), "a batch"),
        (torch.zeros(5, 7, 9), "1, 3 or 4 channels"),
        (torch.zeros(5), "two or three axes"),
        (torch.zeros(3, 0, 4), "no pixels"),
        ("cat.jpg", "the item is a str"),
    ],
)
def test_what_is_no_image_is_told_in_one_line(value, message) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        picture(value)
    assert "\n" not in str(caught.value)


def test_targets_and_columns_become_metadata() -> None:
    assert memory_image((RED, 1), ["cat", "dog"]).metadata == {"target": 1, "label": "dog"}
    assert memory_image((RED, torch.tensor(1)), ["cat", "dog"]).metadata == {"target": 1, "label": "dog"}
    assert memory_image((RED, 7), ["cat", "dog"]).metadata == {"target": 7}
    assert memory_image((RED, torch.tensor([1, 0, 1]))).metadata == {"target": [1, 0, 1]}
    assert memory_image((RED, {"boxes": torch.zeros(9, 4)})).metadata == {}
    assert memory_image({"image": RED, "who": "ann", "mask": RED, "x": np.float32(0.5)}).metadata == {
        "who": "ann",
        "x": 0.5,
    }
    assert memory_image({"photo": RED, "who": "ann"}).image is RED
    with pytest.raises(SourceError, match=r"has no image \(has: who\)"):
        memory_image({"who": "ann"})


# map-style


def test_a_dataset_is_named_by_its_class_and_split() -> None:
    class MNIST(Items):
        train = False

    assert uris(open_dataset(MNIST((RED, 0), (RED, 1)))) == ["dataset:MNIST-test/0", "dataset:MNIST-test/1"]
    assert uris(open_dataset(Items(RED), "mine")) == ["dataset:mine/0"]


def test_items_are_read_with_their_metadata() -> None:
    found = read(open_dataset(Items((RED, 0), (RED, 1), classes=["a", "b"])))
    assert [item.ref.metadata for item in found] == [{"target": 0, "label": "a"}, {"target": 1, "label": "b"}]
    assert [(item.width, item.height) for item in found] == [(6, 4)] * 2
    assert all(item.ref.read is None for item in found)  # what reads an image would keep it in memory
    assert len({item.sha256 for item in found}) == 1


def test_equal_pixels_have_one_hash_and_others_another() -> None:
    wide, tall = Image.new("RGB", (6, 4), "red"), Image.new("RGB", (4, 6), "red")
    hashes = [
        item.sha256
        for item in read(open_dataset(Items(wide, tall, torch.tensor([1.0, 0, 0]).view(3, 1, 1).expand(3, 4, 6))))
    ]
    assert hashes[0] == hashes[2] != hashes[1]


def test_an_item_that_fails_is_a_failure_with_its_reason() -> None:
    found = read(open_dataset(Items(RED, OSError("truncated"), KeyError("x"), torch.full((3, 2, 2), 9.0))))
    assert isinstance(found[0], Prepared)
    assert [item.reason for item in found[1:3]] == ["OSError: truncated", "KeyError: 'x'"]
    assert "divide by the largest value" in found[3].reason


def test_images_are_found_again_by_their_uri_while_the_dataset_is_held() -> None:
    source = open_dataset(Items(RED, OSError("gone")), "held")
    first, second, third = read_images(["dataset:held/0", "dataset:held/1", "dataset:held/2"])
    assert isinstance(first, ImageRead)
    assert second.reason == "OSError: gone"
    assert "index.add_images(dataset)" in third.reason
    del source
    gc.collect()
    (lost,) = read_images(["dataset:held/0"])
    assert "index.add_images(dataset)" in lost.reason


def test_subsets_name_images_as_the_whole_does() -> None:
    whole = Items(*[(RED, i) for i in range(6)])
    assert uris(open_dataset(Subset(Subset(whole, [5, 3, 1]), [2, 0]))) == ["dataset:Items/1", "dataset:Items/5"]
    source = open_dataset(Subset(whole, [4, 2]))
    assert source.find("dataset:Items/2")().metadata == {"target": 2}
    assert source.find("dataset:Items/3") is None
    with pytest.raises(SourceError, match="dataset:Items/1 twice"):
        uris(open_dataset(Subset(whole, [1, 1])))


def test_parts_of_a_concatenation_do_not_share_names() -> None:
    first, second = Items(RED, RED), Items(RED)
    assert uris(open_dataset(ConcatDataset([first, second]))) == [
        "dataset:Items.0/0",
        "dataset:Items.0/1",
        "dataset:Items.1/0",
    ]
    both = ConcatDataset([Subset(first, [1]), Subset(first, [0])])
    assert uris(open_dataset(both)) == ["dataset:Items/1", "dataset:Items/0"]


def test_an_image_folder_is_read_as_the_files_it_lists(tmp_path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        RED.save(tmp_path / name / "1.png")
    plain = open_dataset(ImageFolder(str(tmp_path)))
    refs = list(plain.refs())
    assert [ref.uri for ref in refs] == [str(tmp_path / "cat/1.png"), str(tmp_path / "dog/1.png")]
    assert refs[1].metadata == {"target": 1, "label": "dog"}
    assert refs[0].read is None
    assert plain.find(refs[0].uri) is None  # the file is enough
    files = [item.sha256 for item in read(open_source(tmp_path))]
    assert [item.sha256 for item in read(plain)] == files

    small = open_dataset(ImageFolder(str(tmp_path), transforms.Resize((2, 2))))
    assert uris(small) == uris(plain)
    assert [(item.width, item.sha256 in files) for item in read(small)] == [(2, False)] * 2
    assert small.find(refs[1].uri)().image.size == (2, 2)
    normalised = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.1] * 3)])
    with pytest.raises(SourceError, match="take Normalize out"):
        open_dataset(ImageFolder(str(tmp_path), normalised))


class Bluer(Subset):
    """A subset with a transform, as many projects write it."""

    def __getitem__(self, index: int) -> Any:
        return Image.new("RGB", (2, 2), "blue"), super().__getitem__(index)[1]

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class BluerConcat(ConcatDataset):
    def __getitem__(self, index: int) -> Any:
        return Image.new("RGB", (2, 2), "blue"), super().__getitem__(index)[1]


class BluerFolder(ImageFolder):
    def __getitem__(self, index: int) -> Any:
        return Image.new("RGB", (2, 2), "blue"), super().__getitem__(index)[1]


class Plain(Subset):
    """A subclass that reads items as torch does."""


@pytest.mark.parametrize("kind", ["Bluer", "BluerConcat", "BluerFolder"])
def test_the_code_of_a_subclass_gives_the_images(tmp_path, kind) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        RED.save(tmp_path / name / "1.png")
    folder = ImageFolder(str(tmp_path))
    made = {
        "Bluer": lambda: Bluer(folder, [1, 0]),
        "BluerConcat": lambda: BluerConcat([Subset(folder, [1]), Subset(folder, [0])]),
        "BluerFolder": lambda: Subset(BluerFolder(str(tmp_path)), [1, 0]),
    }[kind]()
    source = open_dataset(made)
    found = read(source)
    places = [1, 0] if kind == "BluerFolder" else [0, 1]
    assert [item.ref.uri for item in found] == [f"dataset:{kind}/{place}" for place in places]
    assert [item.ref.metadata["target"] for item in found] == [1, 0]
    assert [(item.width, item.height) for item in found] == [(2, 2)] * 2
    assert source.find(f"dataset:{kind}/0")().image.getpixel((0, 0)) == (0, 0, 255)
    assert uris(open_dataset(Plain(folder, [0]))) == [str(tmp_path / "cat/1.png")]


def test_negative_indices_of_a_subset_count_from_the_end() -> None:
    both = ConcatDataset([Items((RED, 0), (RED, 1)), Items((RED, 2), (RED, 3), (RED, 4))])
    source = open_dataset(Subset(both, [-1, 0, -4]))
    assert uris(source) == ["dataset:Items.1/2", "dataset:Items.0/0", "dataset:Items.0/1"]
    assert [item.ref.metadata["target"] for item in read(source)] == [4, 0, 1]
    assert uris(open_dataset(Subset(Items(RED, RED), [-1]))) == ["dataset:Items/1"]
    with pytest.raises(SourceError, match=r"dataset:Items.1/2 twice"):
        uris(open_dataset(Subset(both, [4, -1])))
    for wrong in (-6, 5):
        with pytest.raises(SourceError, match=f"index {wrong}: the ConcatDataset inside is too short"):
            open_dataset(Subset(both, [wrong]))


class Long(Items):
    """A dataset whose `__len__` returns, or raises, what it is given."""

    def __len__(self) -> Any:
        if isinstance(self.items[0], Exception):
            raise self.items[0]
        return self.items[0]


def test_a_hugging_face_dataset_brings_its_columns() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), "who": datasets.Value("string")}
    )
    rows = {"image": [RED, RED], "label": [0, 1], "who": ["ann", "bo"]}
    data = datasets.Dataset.from_dict(rows, features=features)
    found = read(open_dataset(data, "pets"))
    assert found[1].ref.uri == "dataset:pets/1"
    assert found[1].ref.metadata == {"label": 1, "label_name": "dog", "who": "bo"}
    with pytest.raises(SourceError, match="DatasetDict is no image source: pass one of its values \\(has: 'train'\\)"):
        open_dataset(datasets.DatasetDict(train=data))
    stream = read(open_dataset(data.to_iterable_dataset(), "flow"))
    assert [item.ref.uri for item in stream] == ["dataset:flow/0", "dataset:flow/1"]


def test_arrays_and_lists_are_datasets() -> None:
    assert uris(open_dataset(np.zeros((2, 4, 6, 3), np.uint8))) == ["dataset:ndarray/0", "dataset:ndarray/1"]
    assert uris(open_dataset(torch.zeros(2, 3, 4, 6), "t")) == ["dataset:t/0", "dataset:t/1"]
    assert [
        item.ref.metadata for item in read(open_dataset(TensorDataset(torch.zeros(1, 3, 4, 4), torch.tensor([3]))))
    ] == [{"target": 3}]
    assert uris(open_dataset(np.zeros((2, 8, 6), np.uint8))) == ["dataset:ndarray/0", "dataset:ndarray/1"]  # grey
    assert [item.width for item in read(open_dataset([np.zeros((8, 6, 3), np.uint8)]))] == [6]
    pairs = open_dataset([("a.png", RED), ("b.png", RED)])
    assert isinstance(pairs, DatasetImages)
    assert uris(pairs) == ["a.png", "b.png"]
    assert pairs.find("b.png")().image is RED
    with pytest.raises(SourceError, match="has a twice"):
        uris(open_dataset([("a", RED), ("a", RED)]))


# streams


def test_a_stream_is_consumed_once_and_holds_no_image() -> None:
    alive: list[weakref.ref] = []
    most = 0

    def images():
        nonlocal most
        for i in range(300):
            image = Image.new("RGB", (4, 4), (i % 256, 0, 0))
            alive.append(weakref.ref(image))
            most = max(most, sum(ref() is not None for ref in alive))
            yield f"photo-{i}", image

    found = 0
    for item in decoded(open_dataset(images()).refs(), [lambda image: torch.zeros(1)]):
        assert item.ref.uri == f"photo-{found}"
        found += 1
    assert found == 300
    assert most < 100  # threads work 32 images ahead


def test_a_stream_of_images_alone_is_numbered() -> None:
    class Flow(IterableDataset):
        def __iter__(self):
            yield from [(RED, 3), (RED, 4)]

    found = read(open_dataset(Flow()))
    assert [(item.ref.uri, item.ref.metadata) for item in found] == [
        ("dataset:Flow/0", {"target": 3}),
        ("dataset:Flow/1", {"target": 4}),
    ]


def test_a_stream_that_repeats_a_uri_or_breaks_is_told() -> None:
    def breaks():
        yield "a", RED
        raise RuntimeError("disk full")

    with pytest.raises(SourceError, match="gave 'a' twice, at image 1"):
        uris(open_dataset(iter([("a", RED), ("a", RED)])))
    with pytest.raises(SourceError, match="failed after 1 images: RuntimeError: disk full"):
        uris(open_dataset(breaks()))
    with pytest.raises(SourceError, match="an empty uri"):
        uris(open_dataset(iter([("", RED)])))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (lambda: DataLoader(FakeData(4, transform=transforms.ToTensor())), r"add_images\(loader.dataset\)"),
        (lambda: {"a": RED}, r"a dict is no image source: pass one of its values \(has: 'a'\)"),
        (lambda: Items(), "the Items is empty"),
        (list, "the list is empty"),
        (lambda: iter([]), "gave no image"),
        (lambda: (x for x in [1]), "the item is a int"),
        (lambda: Items("a.jpg", "b.jpg"), "first items of the Items cannot be used: the item is a str"),
        (lambda: RED, "one object, not many images"),
        (lambda: lambda: RED, "is a function: pass what it returns"),
        (lambda: torch.zeros(3, 4), "holds no images"),
        (lambda: np.zeros((8, 6, 3), np.uint8), r"one image of shape \[8, 6, 3\]: pass it in a list"),
        (lambda: torch.zeros(3, 8, 6), r"one image of shape \[3, 8, 6\]: pass it in a list"),
        (lambda: Long(2.5), "__len__ of the Long returned 2.5: expected the number of its images"),
        (lambda: Long(-3), "__len__ of the Long returned -3"),
        (lambda: Long(None), "__len__ of the Long returned None"),
        (
            lambda: Long(NotImplementedError("a stream\nhas none")),
            "Long failed: NotImplementedError: a stream has none",
        ),
        (lambda: 7, "a int is no image source"),
        (lambda: torch.nn.Linear(2, 2), "one object"),
    ],
)
def test_what_is_no_source_is_told_in_one_line(source, message) -> None:
    with pytest.raises(SourceError, match=message) as caught:
        open_dataset(source())
    assert "\n" not in str(caught.value)


def test_options_of_files_are_refused_for_objects(tmp_path) -> None:
    with pytest.raises(SourceError, match="bring their own columns"):
        open_source(Items(RED), metadata="a.csv")
    with pytest.raises(SourceError, match="is for datasets that are objects"):
        open_source(tmp_path, "mine")
