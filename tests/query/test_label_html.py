"""A label as a notebook shows it: text first, escaped, then its pairs of pictures."""

from __future__ import annotations

import copy
import io
import pickle
import re
from base64 import b64decode
from pathlib import Path

import fakes
import numpy as np
import pytest
from indexed import ENCODER, NETWORK
from PIL import Image

from csp_index import open_index
from csp_index.query.label_html import LabelDrawer, label_html
from csp_index.query.picture_html import picture_html
from csp_index.query.stored_pictures import StoredPictures, StoredVeils, no_pictures, no_veils
from csp_index.records import ExamplePair, Label, LabelScore, NeuronKey

JPEG = b"\xff\xd8\xff\xe0 not really"
PAIRS = tuple(ExamplePair(rank, rank, 3.5 - rank, 100 + rank, 0.0, 0.75) for rank in range(20))
LABEL = Label(
    NeuronKey("m", "l", 4), "csp", "labelled", (LabelScore("<b>red</b>", 0.5), LabelScore("blue", 0.25)), PAIRS
)


def test_pairs_come_with_their_pictures_and_only_the_first() -> None:
    asked: list[int] = []
    page = label_html(LABEL, PAIRS, lambda ids: dict.fromkeys(asked.extend(ids) or asked, JPEG), {0: 'a "b".png'})
    assert page.count('src="data:image/jpeg;base64,') == len(asked) == 16
    assert 'title="a &quot;b&quot;.png"' in page and 'title="image 101"' in page
    assert page.index("<b>&lt;b&gt;red&lt;/b&gt;</b>") < page.index("<img") and "<b>red" not in page
    assert "fires 3.5" in page and "blue 0.250" in page


def test_several_partners_take_one_column() -> None:
    pairs = (ExamplePair(0, 1, 2.0, 3, 0.5, neighbour=1), ExamplePair(0, 1, 2.0, 2, 0.25), ExamplePair(1, 4, 1.0))
    page = label_html(LABEL, pairs, lambda ids: dict.fromkeys(ids, JPEG))
    assert re.findall('title="image ([0-9]+)"', page) == ["1", "2", "4"]


@pytest.mark.parametrize(
    "picture", [None, b"", b"<script>alert(1)</script>", b"\x89PN is a text", b"GIF89a", b"\xff\xd8\xff" + bytes(2**20)]
)
def test_what_is_no_picture_is_an_empty_box(picture: bytes | None) -> None:
    box = picture_html(picture, "x")
    assert "<img" not in box and "script" not in box and 'title="x"' in box


def test_what_would_reorder_the_page_is_spelled_out() -> None:
    evil = Label(NeuronKey("m", "l", 4), "csp", "labelled", (LabelScore("\u202ereversed", 0.5),))
    assert "\u202e" not in label_html(evil, (), no_pictures) and "\u202e" not in evil._repr_html_()


def test_a_label_without_an_index_is_a_line() -> None:
    assert LABEL._repr_html_() == "<p>Label(m/l/4: &#x27;&lt;b&gt;red&lt;/b&gt;&#x27; 0.500, csp)</p>"


def test_a_copied_label_equals_its_own_and_goes_without_pictures() -> None:
    drawn = Label(LABEL.neuron, "csp", "labelled", LABEL.labels, PAIRS, drawer=LabelDrawer(StoredPictures(None)))
    for copied in (pickle.loads(pickle.dumps(drawn)), copy.deepcopy(drawn)):
        assert copied == drawn == LABEL and hash(copied) == hash(LABEL)
        assert copied.drawer == LabelDrawer(no_pictures) and "<img" not in copied._repr_html_()


def test_below_a_line_are_the_pictures_where_the_neuron_fires(tmp_path: Path) -> None:
    index = open_index(tmp_path / "db")
    index.add_images(fakes.write_images(tmp_path / "images", 12), encoders=[ENCODER], networks=[NETWORK])
    options = {"vocabulary": ["red", "blue"], "templates": "none", "examples": 5}
    label = next(one for one in index.label("net/conv", "csp", **options) if one.state == "labelled")
    for page in (label._repr_html_(), index[str(label.neuron)]._repr_html_()):
        before, after = page.split("<details><summary>where it looks</summary>")
        assert before.count("<img") >= 5 and "<script" not in page
        veiled = re.findall('src="data:image/png;base64,([^"]+)"', after.partition("</details>")[0])
        assert len(veiled) == len(label.pairs)
        picture = np.asarray(Image.open(io.BytesIO(b64decode(veiled[0]))).convert("RGB"), float)
        maps = index.maps(str(label.neuron))
        plain = np.asarray(Image.open(index.sql("SELECT uri FROM images").rows()[int(maps.images[0])]["uri"]), float)
        row, column = maps.peaks[0]
        assert np.abs(picture - plain)[row, column].max() < 40 < np.abs(picture - plain).max()
    (other,) = index.label("net/concepts/0", "csp", **options)
    assert "where it looks" not in other._repr_html_(), "its layer has no places"
    copied = pickle.loads(pickle.dumps(label))
    assert copied == label and copied.drawer == LabelDrawer(no_pictures, no_veils)
    assert StoredVeils(index.store)(label.neuron, [4000]) == {}
