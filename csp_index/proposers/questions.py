"""Questions about neurons, with their pictures, prepared ahead of the proposer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor

import numpy as np

from csp_index import settings
from csp_index.contrast.examples import Examples
from csp_index.contrast.selection import Selection
from csp_index.proposers.pictures import Pictures
from csp_index.proposers.proposer import Answer, Question
from csp_index.records import NeuronKey
from csp_index.store.tables import Store

Sets = tuple[list[int], list[int]]  # ids of activating and of contrastive images


class Questions:
    """An iterator over the questions about neurons, in order, used in a `with` block.

    Several threads may take from it; each question goes to one of them. A bounded number is in memory at a time. A
    neuron none of whose activating images can be read has no question: `unaskable` returns it.
    """

    def __init__(self, sets: Mapping[NeuronKey, Sets], pictures: Pictures | None) -> None:
        """Take neurons with their images; without `pictures` the questions have none."""
        self.neurons = tuple(sets)
        self._sets, self._pictures = sets, pictures
        self._left = iter(self.neurons)
        self._threads = settings.DECODE_THREADS.value()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="csp-index-pictures")
        self._ahead: deque[Future[Question | Answer]] = deque()
        self._unaskable: deque[Answer] = deque()
        self._mutex = threading.Lock()

    @classmethod
    def with_pictures(cls, store: Store, selection: Selection, examples: Examples) -> Questions:
        """Return questions that show examples. Errors: ProposerError where the index has no pictures."""
        numbers = enumerate(selection.neurons.tolist())
        sets = {selection.key(neuron): _image_ids(examples, row) for row, neuron in numbers}
        ids = [image_id for both in sets.values() for part in both for image_id in part]
        return cls(sets, Pictures(store, selection.source, np.array(ids, dtype=np.int64)))

    @classmethod
    def bare(cls, selection: Selection) -> Questions:
        """Return questions without pictures."""
        return cls({selection.key(neuron): ([], []) for neuron in selection.neurons.tolist()}, None)

    @property
    def count(self) -> int:
        """The number of neurons."""
        return len(self.neurons)

    @property
    def thumbnails(self) -> int:
        """The number of thumbnails so far, in place of files that are missing, changed, or not to be opened."""
        return 0 if self._pictures is None else self._pictures.thumbnails

    def unaskable(self) -> list[Answer]:
        """Return the failures since the last call."""
        failures = []
        while self._unaskable:
            failures.append(self._unaskable.popleft())
        return failures

    def __iter__(self) -> Questions:
        return self

    def __next__(self) -> Question:
        while True:
            with self._mutex:
                while len(self._ahead) <= 2 * self._threads and (neuron := next(self._left, None)) is not None:
                    self._ahead.append(self._pool.submit(self._make, neuron))
                if not self._ahead:
                    raise StopIteration
                first = self._ahead.popleft()
            try:
                question = first.result()
            except CancelledError:
                raise StopIteration from None
            if isinstance(question, Question):
                return question
            self._unaskable.append(question)

    def __enter__(self) -> Questions:
        return self

    def __exit__(self, *error: object) -> None:
        with self._mutex:
            self._left = iter(())
            self._ahead.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._pictures is not None:
            self._pictures.close()

    def _make(self, neuron: NeuronKey) -> Question | Answer:
        if self._pictures is None:
            return Question(neuron, ())
        activating, contrastive = self._sets[neuron]
        pictures = self._pictures.of([*activating, *contrastive])
        readable = tuple(pictures[image_id] for image_id in activating if image_id in pictures)
        if not readable:
            reason = self._pictures.refusal(activating) or (
                f"none of its {len(activating)} activating images can be read: check that the image files still exist"
            )
            return Answer(neuron, "failed", reason=reason)
        return Question(neuron, readable, tuple(pictures[image_id] for image_id in contrastive if image_id in pictures))


def _image_ids(examples: Examples, row: int) -> Sets:
    """Return a neuron's activating images, and at most as many distinct contrastive images, by rank."""
    activating = [i for i in examples.activating[row].tolist() if i >= 0]
    contrastive = dict.fromkeys(i for i in examples.contrastive[row].flatten().tolist() if i >= 0)
    return activating, list(contrastive)[: len(activating)]
