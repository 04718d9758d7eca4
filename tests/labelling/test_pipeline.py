"""One pipeline: labels are those read back from its rows, and a memory changes no score."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fakes import write_arrays

from csp_index.contrast.context import ComputeContext
from csp_index.contrast.pool import draw_pool
from csp_index.contrast.selection import Selection
from csp_index.errors import BusyError, StoppedError
from csp_index.index import Index, open_index
from csp_index.labelling import pipeline
from csp_index.labelling.candidates import CandidateTexts, read_text_arrays
from csp_index.labelling.pipeline import Pipeline
from csp_index.labelling.request import make_request
from csp_index.labelling.response.dataset_sums import DatasetSums, dataset_sums
from csp_index.service.live import relabel
from csp_index.service.live.relabel import LiveMemory
from csp_index.store import catalog


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, CandidateTexts]:
    folder: Path = tmp_path_factory.mktemp("pipeline")
    paths = write_arrays(folder / "arrays")
    index = open_index(folder / "db", device="cpu")
    index.import_arrays(paths["activations"], "net/concepts", embeddings=str(paths["embeddings"]))
    return index, read_text_arrays(paths["text_embeddings"], paths["texts"])


def selection(index: Index) -> Selection:
    ((target, neurons),) = index.resolve("net/concepts")
    return Selection(catalog.encoder(index.store), target, neurons)


class Recorder:
    """A memory that keeps everything and counts what it made."""

    def __init__(self) -> None:
        self.values: dict[Hashable, Any] = {}
        self.made: list[str] = []

    def examples(self, key: Hashable, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        value = self._value("examples", key, make)
        assert size(value) > 0
        return value

    def dataset(self, key: Hashable, make: Callable[[], Any]) -> Any:
        return self._value("dataset", key, make)

    def _value(self, step: str, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self.values:
            self.made.append(step)
            self.values[key] = make()
        return self.values[key]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bootstrap": 0},
        {"top": 60},
        {"contrast": "nearest+random", "neighbours": 7},
        {"threshold": "max:0.00001"},
        {"method": "semanticlens"},
    ],
    ids=str,
)
def test_computed_labels_are_those_read_back(arrays: tuple[Index, CandidateTexts], options: dict[str, Any]) -> None:
    index, texts = arrays
    options = {"method": "csp"} | options
    computed = list(index.label("net/concepts", vocabulary=texts, **options))
    read = list(index.label("net/concepts", vocabulary=texts, **options))
    assert computed == read and all(label.run_id for label in read)
    loose = index.label("net/concepts", vocabulary=texts, keep=False, recompute=True, **options)
    assert [replace(label, run_id="") for label in read] == list(loose)


@pytest.mark.parametrize("method", ["csp", "mean-centred", "pmi", "consensus", "contrastive-pmi", "firing-contrast"])
def test_a_memory_changes_no_score_and_no_step_runs_twice(arrays: tuple[Index, CandidateTexts], method: str) -> None:
    index, texts = arrays
    chosen, memory = selection(index), Recorder()
    request = make_request(method, chosen.source, 5, {"logit_scale": 20.0})
    expected = Pipeline(index.store).scores(chosen, request, texts).scored.scores
    pipeline = Pipeline(index.store, memory=memory)
    for _ in range(2):
        assert torch.equal(pipeline.scores(chosen, request, texts).scored.scores, expected)
    looks = ["dataset"] if request.dataset_scale is not None else []  # at what is the same for all neurons
    assert memory.made == ["examples", *looks, *["examples"] * request.formula.info.needs_response]


def test_results_of_passes_are_remembered_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relabel, "_PASSES_BYTES", 20_000)
    memory, made = LiveMemory(1000), []

    def sums(key: str) -> None:
        def make() -> DatasetSums:
            made.append(key)
            return dataset_sums([torch.eye(30)], torch.eye(30), 1.0)  # 8 kB, most of it products between dimensions

        memory.dataset(key, make)

    for key in ("a", "b", "a", "b", "c", "b", "a"):
        sums(key)
    assert made == ["a", "b", "c", "a"]


def test_what_a_pass_depends_on_is_in_its_key(arrays: tuple[Index, CandidateTexts]) -> None:
    index, texts = arrays
    chosen, pipeline = selection(index), Pipeline(index.store, memory=Recorder())
    longer = replace(texts, embeddings=texts.embeddings * 3)
    for options in ({}, {"renormalise_text": False}, {"logit_scale": 5.0}):
        request = make_request("pmi", chosen.source, 5, {"logit_scale": 20.0} | options)
        expected = Pipeline(index.store).scores(chosen, request, longer).scored.scores
        assert torch.equal(pipeline.scores(chosen, request, longer).scored.scores, expected)


def test_a_selection_with_a_pool_is_not_remembered(arrays: tuple[Index, CandidateTexts]) -> None:
    index, texts = arrays
    chosen, memory = selection(index), Recorder()
    request = make_request("csp", chosen.source, 5, {})
    images = chosen.images(index.store)
    for part in (torch.arange(images) % 2 == 0, torch.arange(images) % 2 == 1):
        pooled = replace(chosen, pool=draw_pool(index.store, chosen.target, chosen.neurons, part))
        shown = Pipeline(index.store, memory=memory).scores(pooled, request, texts).examples.activating
        assert part[shown[shown >= 0]].all()
    assert memory.made == []


def test_one_pass_over_the_dataset_runs_at_a_time() -> None:
    memory, started, go_on = LiveMemory(1000), threading.Event(), threading.Event()

    def slow() -> int:
        started.set()
        go_on.wait(30)
        return 1

    thread = threading.Thread(target=lambda: memory.dataset("slow", slow))
    thread.start()
    started.wait(30)
    with pytest.raises(BusyError, match="looks at the whole dataset"):
        memory.dataset("another", lambda: 2)
    assert memory.examples("sets", lambda: np.zeros(3), lambda value: value.nbytes).shape == (3,)  # these do not wait
    go_on.set()
    thread.join()
    assert memory.dataset("another", lambda: 2) == 2
    assert memory.dataset("slow", lambda: 3) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"method": "csp"},
        {"method": "csp", "search": True},
        {"method": "csp", "contrast": "random"},
        {"method": "csp", "contrast": "falcon"},
        {"method": "mean-centred"},
        {"method": "consensus"},
    ],
)
def test_work_ends_at_any_of_its_checks(arrays: tuple[Index, CandidateTexts], options: dict[str, Any]) -> None:
    index, texts = arrays
    given = {"logit_scale": 20.0} | options
    search, method = given.pop("search", None), given.pop("method")
    request = make_request(method, catalog.encoder(index.store), 5, given)

    class Countdown:
        def __init__(self, left: int) -> None:
            self.left = left

        def check(self) -> None:
            self.left -= 1
            if self.left < 0:
                raise StoppedError("enough")

    def label(checks: int) -> int:
        countdown = Countdown(checks)
        context = ComputeContext(search=search, check=countdown.check)
        Pipeline(index.store, context).ranking(selection(index), request, texts)
        return checks - countdown.left

    label(10_000)  # what is computed once for all questions, the mean embedding, is there
    most = label(10_000)
    assert most >= 2
    for checks in {0, 1, most // 2, most - 1}:
        with pytest.raises(StoppedError, match="enough"):
            label(checks)
    assert label(most) == most


def test_what_depends_on_the_candidates_alone_is_computed_once(
    arrays: tuple[Index, CandidateTexts], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, texts = arrays
    whole, made = pipeline.text_deviations, []
    monkeypatch.setattr(pipeline, "text_deviations", lambda *both: made.append(len(both[0])) or whole(*both))
    texts, other = (replace(texts, key=key) for key in ("once", "other"))
    options = {"method": "csp", "recompute": True, "keep": False}
    labels = [index.label(f"net/concepts/{neuron}", vocabulary=texts, **options)[0] for neuron in (0, 1, 0)]
    index.label("net/concepts/0", vocabulary=other, **options)
    assert made == [len(texts.texts)] * 2
    assert labels[0] == labels[2] and labels[0].probability is not None
