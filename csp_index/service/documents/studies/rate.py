"""Questions for people: is this label true of this picture? They show neither the neuron nor the method nor a score.

Everybody is asked the same questions in the same order, so that what several people say can be compared: in each round
one picture of every label, the labels in a random order. A question is named by its number, and its proof binds the
text and the picture, so that a verdict cannot be given on another one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from csp_index.errors import NotFoundError, SettingError
from csp_index.labelling.review.pinned import layer_digest
from csp_index.records import NeuronKey
from csp_index.service.documents.image import finished
from csp_index.service.documents.studies.review_shapes import RateDocument
from csp_index.service.snapshot import Snapshot
from csp_index.store.catalog import LayerInfo
from csp_index.store.values.arrays import activations_of
from csp_index.studies.reviewing.notes import clean
from csp_index.studies.reviewing.rated_pictures import Draw, RatedPictures, draw_pictures
from csp_index.studies.reviewing.ratings import Question

Prove = Callable[..., str]
_SEED: Final = 0  # of the order of labels


@dataclass(frozen=True, slots=True)
class _Rated:
    """A label to rate."""

    neuron: NeuronKey
    target: LayerInfo
    images: int
    text: str
    method: str
    run_id: str

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What `ratings.rated_by` calls it."""
        return self.neuron.model, self.neuron.layer, self.neuron.neuron, self.text


class Questions:
    """The questions about all labels that are shown, `pictures` of each."""

    def __init__(self, snapshot: Snapshot, pictures: int, draw: Draw, prove: Prove) -> None:
        """Ask about the labels of a snapshot; `prove` signs what must come back as it was sent."""
        self._snapshot, self._pictures, self._draw, self._prove = snapshot, pictures, draw, prove

    def next_of(self, rater: str) -> RateDocument:
        """Return a person's next question. SettingError for a name that cannot be shown."""
        rater = clean(rater, "reader")
        labels, places = self._labels()
        most = np.array([min(self._pictures, label.images) for label in labels], dtype=np.int64)
        counts, rated = np.zeros(len(labels), np.int64), self._snapshot.reviews.rated_by(rater)
        for key, images in rated.items():
            if (place := places.get(key)) is not None:
                counts[place] = len(images)
        done = counts >= most
        document: RateDocument = {"rater": rater, "question": None, "rated": 0, "total": int(most.sum())}
        document["rated"] = int(np.minimum(counts, most).sum())
        while not done.all():
            place = int(np.flatnonzero(~done & (counts == counts[~done].min()))[0])
            label, before = labels[place], rated.get(labels[place].key, set())
            drawn = self._drawn(label).images.tolist()
            rank = next((rank for rank, image in enumerate(drawn) if image not in before), None)
            if rank is None:  # rated on other pictures than these, when they were drawn otherwise
                done[place] = True
                continue
            number, image = place + rank * len(labels), drawn[rank]
            proof = self._prove(number, label.text, image)
            document["question"] = {"number": number, "text": label.text, "image_id": image, "proof": proof}
            break
        return document

    def question(self, number: int, proof: str) -> Question:
        """Return the question of a number, with what the person did not see.

        NotFoundError if it is not the one that was asked: the labels changed, or the service started again.
        """
        labels, _ = self._labels()
        rank, place = divmod(number, max(1, len(labels)))
        if labels and rank < min(self._pictures, labels[place].images):
            label, drawn = labels[place], self._drawn(labels[place])
            image = int(drawn.images[rank])
            if proof == self._prove(number, label.text, image):
                values = float(drawn.weights[rank]), float(drawn.activations[rank])
                made = label.method, label.run_id, layer_digest(label.target)
                return Question(label.neuron, label.text, image, *made, self._draw, *values)
        raise NotFoundError("this question is not asked any longer, for a label has changed: take the next one")

    def _labels(self) -> tuple[list[_Rated], dict[tuple[str, str, int, str], int]]:
        """Return the labels that are shown of neurons that fire, in the order of questions, and their places."""
        cache, state = self._snapshot.cache, self._snapshot.reviews.state()
        return cache.get(("labels to rate", state), self._read_labels, lambda made: 500 * (1 + len(made[0])))

    def _read_labels(self) -> tuple[list[_Rated], dict[tuple[str, str, int, str], int]]:
        labels = []
        for table in finished(self._snapshot):
            shown, key = table.labels(), table.info.key
            if shown is None:
                continue
            for neuron in np.flatnonzero((shown.states == "labelled") & ~table.dead).tolist():
                address = NeuronKey(key.model, key.layer, neuron)
                said = shown.texts[neuron], shown.methods[neuron], shown.runs[neuron]
                labels.append(_Rated(address, table.info, table.images, *said))
        order = np.random.default_rng(_SEED).permutation(len(labels)).tolist()
        ordered = [labels[place] for place in order]
        return ordered, {label.key: place for place, label in enumerate(ordered)}

    def _drawn(self, label: _Rated) -> RatedPictures:
        """Return the pictures of a label: the same in every process, and after a restart."""

        def draw() -> RatedPictures:
            values = activations_of(self._snapshot.store, label.target, label.neuron.neuron, label.images)
            return draw_pictures(values, self._pictures, self._draw, f"{label.neuron} {label.text}")

        return self._snapshot.cache.get(("rated", label.key), draw, lambda drawn: drawn.nbytes)


def check_can_rate(snapshot: Snapshot) -> None:
    """Refuse an index that has no pictures to show, or no label. Raises SettingError."""
    first = snapshot.image_rows([0], ["thumbnail"]).get(0) or {}
    if not first.get("thumbnail"):
        raise SettingError(
            f"{snapshot.name} has no pictures: ratings need an index of images; leave out --rate (in Python: rate)"
        )
