"""Tables of image pairs: how they name images, what is passed over, and an evaluation by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from csp_index import EvaluationOptions, open_index
from csp_index.errors import EvaluationError
from csp_index.evaluation.image_pairs import read_pairs
from csp_index.evaluation.options import parse_methods
from csp_index.labelling.candidates import CandidateTexts

IMAGES, LAYER = 60, "net/planted"
TEXTS = ("red", "star", "moon", "ring")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Image 2 i shows one text, which image 2 i + 1 lacks; neuron k fires on the images of text k, the last on all."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    shown = np.arange(IMAGES) // 2 % 4
    embeddings = np.eye(4)[shown] * (1 - np.arange(IMAGES) % 2)[:, None] + 0.1 * rng.standard_normal((IMAGES, 4))
    activations = np.zeros((IMAGES, 5))
    for image in range(0, IMAGES, 2):
        activations[image, shown[image]] = rng.uniform(0.5, 1)
    activations[:, 4] = rng.uniform(0.5, 1, IMAGES)
    np.save(folder / "E.npy", (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32))
    np.save(folder / "A.npy", activations.astype(np.float32))
    (folder / "uris.txt").write_text("\n".join(f"/set/{i % 3}/{i:03d}.png" for i in range(IMAGES)) + "\n")
    index = open_index(folder / "db")
    index.import_arrays(
        folder / "A.npy", LAYER, embeddings=folder / "E.npy", uris=folder / "uris.txt", logit_scale=30.0
    )
    return index


def table(tmp_path, *rows, head="image_a,image_b,word"):
    file = tmp_path / "pairs.csv"
    file.write_text("\n".join([head, *rows]) + "\n")
    return file


def test_images_are_named_by_path_part_of_it_or_id(index, tmp_path):
    file = table(tmp_path, "/set/0/000.png,001.png,Red", "2/002.png,3,star;  Moon")
    pairs = read_pairs(file, index.store, IMAGES)
    assert (pairs.shown.tolist(), pairs.other.tolist()) == ([0, 2], [1, 3])
    assert pairs.words == ("red", "moon", "star") and pairs.differs.tolist() == [[1, 0], [0, 1], [0, 1]]
    assert pairs.rows(["Star", None, "square", "red"]).tolist() == [2, -1, -2, 0]
    assert pairs.mask(6).tolist() == [1, 1, 1, 1, 0, 0] and pairs.passed_over == ""


def test_pairs_of_unknown_images_are_passed_over_with_a_count(index, tmp_path):
    pairs = read_pairs(table(tmp_path, "0,1,red", "4,nowhere.png,red", "4,99,red"), index.store, IMAGES)
    assert pairs.passed_over == "2 of 3 pairs name an image that the index lacks (the first: nowhere.png)"


@pytest.mark.parametrize(
    ("rows", "head", "message"),
    [
        (["a.png,b.png,red"], "image_a,image_b,word", "names no two images .* (the first: a.png, b.png)"),
        (["0,1,red"], "first,second,word", "lacks the columns image_a,image_b,word .has: first, second, word"),
        ([], "image_a,image_b,word", "has no row: expected image_a,image_b,word in each"),
        (["0,1,"], "image_a,image_b,word", "has no word in row 1"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(index, tmp_path, rows, head, message):
    with pytest.raises(EvaluationError, match=message.replace("(the", ".the").replace("png)", "png.")) as told:
        read_pairs(table(tmp_path, *rows, head=head), index.store, IMAGES)
    assert "\n" not in str(told.value)
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_pairs(tmp_path / "absent.csv", index.store, IMAGES)


def test_an_evaluation_by_pairs_keeps_their_images_out_of_choosing_and_judging(index, tmp_path):
    rows = [f"{i},{i + 1},{TEXTS[i // 2 % 4]}" for i in range(0, 16, 2)]
    candidates = CandidateTexts(TEXTS, torch.eye(4), key="four")
    options = EvaluationOptions(methods=parse_methods(["semanticlens"]), pairs=table(tmp_path, *rows, "0,no.png,red"))
    found = index.evaluate(LAYER, options, vocabulary=candidates)
    values = {(r["metric"], r["neuron"]): r for r in found.values.to_pylist() if r["method"] == "semanticlens"}
    assert [values["pair-right", k]["value"] for k in range(4)] == [1.0] * 4
    assert [values["pair-right", k]["text"] for k in range(4)] == list(TEXTS)
    assert all(0.5 <= values["pair-gain", k]["value"] <= 1 for k in range(4))
    assert found.settings["split"]["choosing"] + found.settings["split"]["judging"] == IMAGES - 16
    assert found.skipped["some pairs of images"].startswith("1 of 9 pairs") and "intervention" not in found.skipped
