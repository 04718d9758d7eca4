"""Only regular files of bounded size are read; everything else is refused in one line, without a wait."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from odd_files import ODD, in_time, sparse

from csp_index import open_index, settings
from csp_index.errors import CspIndexError
from csp_index.evaluation.ground_truth import read_truth
from csp_index.evaluation.hierarchy import load_hierarchy
from csp_index.files.array_files import open_array
from csp_index.files.regular_files import check_file, open_file, read_bytes, read_text
from csp_index.images.decode import ImageFailure, read_images
from csp_index.images.sources import open_source
from csp_index.labelling.candidates import read_text_arrays
from csp_index.labelling.vocabularies import load_vocabulary
from csp_index.models.prompt_templates import templates
from csp_index.models.weights import read_file
from csp_index.proposers.prompts import load_prompt
from csp_index.records import LayerKey
from csp_index.service.config import read_token


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("kind", ODD)
def test_what_is_no_regular_file_is_refused_by_its_kind(kind: str, tmp_path: Path) -> None:
    path = ODD[kind](tmp_path / "odd")
    for read in (check_file, open_file):
        with in_time(), pytest.raises(OSError, match=f"it is {kind}, expected a regular file") as caught:
            read(path)
        assert caught.value.filename == str(path)


def test_a_file_up_to_the_limit_is_read_and_a_longer_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CSP_INDEX_MAX_IMAGE_BYTES", "4")
    path = tmp_path / "a"
    path.write_bytes(b"1234")
    assert read_bytes(path, settings.MAX_IMAGE_BYTES) == b"1234"
    path.write_bytes(b"12345")
    with pytest.raises(OSError, match=r"it has 5 bytes, more than the setting max_image_bytes allows \(4\)") as caught:
        read_bytes(path, settings.MAX_IMAGE_BYTES)
    assert caught.value.errno == errno.EFBIG


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs files that do not know their size")
def test_a_file_that_does_not_know_its_size_is_read_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.stat("/proc/self/smaps").st_size == 0
    assert b"Rss" in read_bytes("/proc/self/smaps", settings.MAX_IMAGE_BYTES)
    monkeypatch.setenv("CSP_INDEX_MAX_IMAGE_BYTES", "4")
    with pytest.raises(OSError, match="more than the setting max_image_bytes"):
        read_bytes("/proc/self/smaps", settings.MAX_IMAGE_BYTES)


def test_text_is_read_as_an_editor_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert read_text(path) == "one\ntwo\nthree\n"
    path.write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(path)


def _import_uris(path: Path) -> object:
    np.save("values.npy", np.ones((3, 2), np.float32))
    index = open_index(path.parent / "x.db")
    return index.import_arrays("values.npy", "m/l", embeddings="values.npy", uris=path)


def _read_texts(path: Path) -> object:
    np.save("texts.npy", np.ones((3, 2), np.float32))
    return read_text_arrays("texts.npy", path)


READERS: dict[str, Callable[[Path], object]] = {
    "activations.npy": lambda path: open_array(path, "activations"),
    "uris.txt": _import_uris,
    "texts.txt": _read_texts,
    "words.txt": load_vocabulary,
    "words.csv": lambda path: load_vocabulary(f"{path}:text"),
    "words.parquet": lambda path: load_vocabulary(f"{path}:text"),
    "templates.txt": lambda path: templates(str(path)),
    "prompt.txt": lambda path: load_prompt(str(path)),
    "weights.pt": read_file,
    "weights.safetensors": read_file,
    "truth.csv": lambda path: read_truth(path, LayerKey("m", "l"), 3),
    "nouns.csv": load_hierarchy,
    "token": read_token,
    "images.parquet": open_source,
    "images.tar": open_source,
}


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
@pytest.mark.parametrize("name", READERS)
def test_each_file_that_a_user_names_may_be_odd(name: str, kind: str, tmp_path: Path) -> None:
    path = ODD[kind](tmp_path / name)
    with in_time(), pytest.raises(CspIndexError) as caught:
        READERS[name](path)
    assert name in str(caught.value) or "/dev/zero" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["a pipe", "a device"])
def test_a_metadata_table_may_be_odd(kind: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(b"")
    path = ODD[kind](tmp_path / "table.csv")
    with in_time(), pytest.raises(CspIndexError, match=rf"table.csv cannot be read: it is {kind}"):
        open_source(tmp_path / "images", metadata=path)


def test_odd_image_files_are_failures_that_say_what_they_are(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for kind, make in ODD.items():
        if kind != "a folder":
            make(images / f"{kind}.png")
            (images / f"link to {kind}.png").symlink_to(images / f"{kind}.png")
    with in_time():
        failures = list(read_images(ref.uri for ref in open_source(images).refs()))
    kinds = {Path(failure.uri).stem.removeprefix("link to "): failure for failure in failures}
    assert len(failures) == 6
    for kind, failure in kinds.items():
        assert isinstance(failure, ImageFailure)
        assert failure.reason == f"it is {kind}, expected a regular file"


def test_an_image_file_without_end_is_a_failure(tmp_path: Path) -> None:
    path = sparse(tmp_path / "long.png", 2**40)
    (failure,) = read_images([str(path)])
    assert isinstance(failure, ImageFailure)
    assert failure.reason == (
        "it has 1,099,511,627,776 bytes, more than the setting max_image_bytes allows (268,435,456)"
    )
