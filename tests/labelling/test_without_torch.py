"""Labels of a few neurons by NumPy alone: those by torch, and what they load."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from imported_arrays import build
from other_process import run_python

from csp_index import Index
from csp_index.errors import LabelError
from csp_index.labelling.candidates import CandidateTexts, read_text_arrays
from csp_index.labelling.kept import make_labels
from csp_index.labelling.kept.make_labels import _by_numpy_or_torch
from csp_index.labelling.texts.candidate_names import TextArrays
from csp_index.store import catalog
from csp_index.tensors import library, numpy_functions
from csp_index.tensors.library import by_numpy

CASES = {
    "csp": {},
    "csp, half the contrast": {"gamma": 0.5, "neighbours": 3, "top": 30},
    "csp, few examples": {"examples": 5, "bootstrap": 23, "seed": 4},
    "csp, no image twice": {"reuse": False, "examples": 6},
    "csp, least similarity": {"min_similarity": 0.2, "near_duplicate": 0.9},
    "csp, other threshold": {"threshold": "max:0.4", "renormalise_text": False},
    "semanticlens": {},
    "mean-centred": {},
    "csp-difference": {},
    "random-label": {},
}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, dict[str, Path]]:
    """An index with kept lists of neighbours: its neurons share most of their activating images."""
    index, _, paths = build(tmp_path_factory.mktemp("numpy"), images=120, neurons=24)
    index.label("m/l", "csp", vocabulary=texts_of(paths))
    return index, paths


def texts_of(paths: dict[str, Path]) -> CandidateTexts:
    return read_text_arrays(paths["text_embeddings"], paths["texts"])


@pytest.mark.parametrize("case", CASES)
def test_labels_are_those_by_torch(labelled, case):
    index, paths = labelled
    neurons, method = [f"m/l/{number}" for number in (2, 3, 7, 11)], case.partition(",")[0]
    by_torch = index.label(neurons, method, vocabulary=texts_of(paths), keep=False, **CASES[case])
    with by_numpy():
        ours = index.label(neurons, method, vocabulary=texts_of(paths), keep=False, **CASES[case])
    for one, other in zip(ours, by_torch, strict=True):
        assert_same(json.loads(json.dumps(one.as_json())), json.loads(json.dumps(other.as_json())))


def assert_same(one: object, other: object) -> None:
    """Numbers may differ in the last bits of float32, nothing else may."""
    if isinstance(one, float) and isinstance(other, float):
        assert math.isclose(one, other, rel_tol=2e-6, abs_tol=2e-6)
    elif isinstance(one, dict) and isinstance(other, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list) and isinstance(other, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


def test_importing_what_labels_loads_no_torch():
    done = run_python("""
        import sys
        from csp_index.labelling import candidates
        from csp_index.labelling.kept import make_labels

        # A module that is meant to import torch from tensors.library reads a name of it as it is imported, where:
        assert "torch" not in sys.modules
    """)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def unloaded(monkeypatch) -> list[str]:
    """As if torch were not loaded yet; lists which library each step of the work is done by."""
    steps: list[str] = []

    def by_either(work: Callable[[], object]) -> object:
        def noted() -> object:
            steps.append(library.name())
            return work()

        return _by_numpy_or_torch(noted)

    monkeypatch.setattr(library, "torch_is_loaded", lambda: "torch" in steps)
    monkeypatch.setattr(make_labels, "_by_numpy_or_torch", by_either)
    return steps


def arrays_of(paths: dict[str, Path]) -> TextArrays:
    return TextArrays.read(paths["text_embeddings"], paths["texts"])


def test_few_neurons_are_labelled_and_stored_by_numpy(labelled, unloaded):
    index, paths = labelled
    texts, neurons = arrays_of(paths), [f"m/l/{number}" for number in range(8)]
    before = index.label(neurons, "csp", vocabulary=texts)
    assert unloaded == []  # what is stored is read
    made = index.label(neurons, "csp", vocabulary=texts, recompute=True)
    assert unloaded == ["numpy"] * 3
    for label, earlier in zip(made, before, strict=True):
        assert label.run_id > earlier.run_id
        assert_same(json.loads(json.dumps(label.as_json())), json.loads(json.dumps(earlier.as_json())))
    assert index.label(neurons, "csp", vocabulary=texts) == made  # as stored


@pytest.mark.parametrize(
    ("neurons", "options"),
    [
        (range(9), {"method": "csp"}),
        ([7], {"method": "pmi"}),
        ([7], {"method": "clip-dissect"}),
        ([7], {"method": "csp", "contrast": "falcon"}),
        ([7], {"method": "csp", "contrast": "random"}),
    ],
)
def test_other_work_is_done_by_torch_at_once(labelled, unloaded, neurons, options):
    index, paths = labelled
    index.label([f"m/l/{number}" for number in neurons], vocabulary=arrays_of(paths), keep=False, **options)
    assert unloaded == []


def test_without_lists_torch_is_loaded_before_anything_is_written(tmp_path, unloaded):
    index, _, paths = build(tmp_path)
    assert index.label("m/l/7", "csp", vocabulary=arrays_of(paths))[0].labels
    assert unloaded == ["numpy", "torch", "torch", "torch"]
    assert [run["state"] for run in index.sql("SELECT state FROM runs WHERE command = 'label'").rows()] == ["done"]


def test_a_lack_within_a_run_is_made_good_by_torch(labelled, unloaded, monkeypatch):
    index, paths = labelled
    expected = index.label("m/l/5", "csp", vocabulary=texts_of(paths), keep=False, seed=9)[0]
    unloaded.clear()
    monkeypatch.delattr(numpy_functions, "logit")  # of the last step before the label
    label = index.label("m/l/5", "csp", vocabulary=arrays_of(paths), seed=9)[0]
    assert unloaded == ["numpy", "numpy", "numpy", "torch"]
    assert label.labels == expected.labels and label.probability == expected.probability
    assert {run["state"] for run in index.sql("SELECT state FROM runs").rows()} == {"done"}


def test_texts_that_an_encoder_must_embed_are_left_to_torch(labelled):
    index, _ = labelled
    space = index._text_space(catalog.encoder(index.store), "none", False)
    with by_numpy(), pytest.raises(library.NumpyLacks):
        space.load()


def test_bad_texts_are_refused_as_ever(labelled, unloaded, tmp_path):
    index, _ = labelled
    np.save(tmp_path / "T.npy", np.ones((2, 3), np.float32))
    (tmp_path / "T.txt").write_text("a\nb\n")
    with pytest.raises(LabelError, match="have 3 dimensions"):
        index.label("m/l/5", "csp", vocabulary=TextArrays.read(tmp_path / "T.npy", tmp_path / "T.txt"), keep=False)
    assert unloaded == ["numpy", "numpy"]
