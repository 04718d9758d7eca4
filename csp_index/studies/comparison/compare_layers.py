"""Compare two layers: read what is stored under the same settings, else match their neurons and store the matches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from csp_index.errors import SettingError
from csp_index.labelling.vocabularies import Vocabulary
from csp_index.records import Progress
from csp_index.store import catalog, schema
from csp_index.store.catalog import EncoderInfo
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.study_tables import MATCHES
from csp_index.studies.column_digests import column_digest
from csp_index.studies.comparison.activation_similarity import ActivationSimilarity
from csp_index.studies.comparison.concept_similarity import (
    common_encoder,
    concept_vectors,
    cosine_blocks,
    vectors_of_random_images,
)
from csp_index.studies.comparison.matching import Matching, match
from csp_index.studies.comparison.nulls import level_of, mixed_vectors
from csp_index.studies.comparison.records import By, Comparison, Coverage, Way, held_texts
from csp_index.studies.comparison.shared_images import SharedImages, Side, shared_images
from csp_index.studies.comparison.stored import match_rows, read_comparison, write_comparison
from csp_index.studies.shown_labels import ShownLabels, shown_labels

_VERSION = 1  # of what the numbers are made of: another one is another settings hash

Blocks = Callable[[], Iterable[np.ndarray]]


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is compared, read before anything is computed."""

    sides: tuple[Side, Side]
    shared: SharedImages
    encoders: tuple[EncoderInfo, EncoderInfo] | None
    labels: tuple[ShownLabels, ShownLabels]
    vocabulary: Vocabulary | None
    seed: int
    note: str

    @property
    def other(self) -> str:
        """The address of the second layer's index, "" if it is the first one's."""
        first, second = self.sides
        return "" if first.store.uri == second.store.uri else second.store.uri

    def described(self) -> dict[str, object]:
        """Return all that the comparison depends on."""
        first, second = self.sides
        digests = [column_digest(side.store, side.target) for side in self.sides]
        if self.encoders is not None:
            digests += [column_digest(side.store, info) for side, info in zip(self.sides, self.encoders, strict=True)]
        return {
            "first": str(first.target.key),
            "second": str(second.target.key),
            "other": self.other,
            "digests": digests,
            "images": [len(self.shared), self.shared.only_first, self.shared.only_second],
            "encoder": None if self.encoders is None else self.encoders[0].name,
            "labels": [labels.digest for labels in self.labels],
            "vocabulary": None if self.vocabulary is None else self.vocabulary.key,
            "seed": self.seed,
            "version": _VERSION,
        }


def compare_layers(
    first: Side,
    second: Side,
    *,
    encoder: str | None = None,
    vocabulary: Vocabulary | None = None,
    seed: int = 0,
    recompute: bool = False,
    progress: Progress,
) -> Comparison:
    """Return the comparison of two layers, made now unless the first one's index has it under the same settings.

    Raises SettingError for a layer with itself, SourceError where two indexes share fewer than two images.
    """
    if first.store.uri == second.store.uri and first.target.key == second.target.key:
        raise SettingError(f"{first.target.key} is named twice: a layer is compared with another one")
    shared = shared_images(first, second)
    encoders, note = common_encoder(first, second, shared, encoder)
    labels = shown_labels(first.store, first.target), shown_labels(second.store, second.target)
    subject = _Subject((first, second), shared, encoders, labels, vocabulary, seed, note)
    described, store = subject.described(), first.store
    if not recompute and (known := read_comparison(store, settings_hash(described))) is not None:
        return known
    models = {side.target.what: side.target.identity for side in subject.sides}
    with store.write_lock(), record_run(store, "compare", described, models, seed) as run:
        comparison = _computed(subject, (run.run_id, run.settings_hash), progress)
        write_comparison(store, comparison, run.settings_hash, None if encoders is None else encoders[0].name)
    return comparison


def _computed(subject: _Subject, run: tuple[str, str], progress: Progress) -> Comparison:
    first, second = subject.sides
    texts = subject.labels[0].texts, subject.labels[1].texts
    ways, rows = [], []
    for way, matching in _ways(subject, progress):
        layers = first.target.key, subject.other, second.target.key
        part = match_rows(layers, way, matching, texts, run)
        ways.append(replace(way, matched=int(np.count_nonzero(part["matched"].to_numpy()))))
        rows.append(part)
    return Comparison(
        str(first.target.key),
        str(second.target.key),
        subject.other,
        len(subject.shared),
        subject.shared.only_first,
        subject.shared.only_second,
        first.target.neurons,
        second.target.neurons,
        tuple(ways),
        _coverage(subject),
        pa.concat_tables(rows).cast(schema.table_schema(MATCHES)),
        subject.note,
        run[0],
    )


def _ways(subject: _Subject, progress: Progress) -> Iterator[tuple[Way, Matching]]:
    """Yield how neurons match by each measure: by concept vectors, if there are any, and by activations."""
    first, second = subject.sides
    if subject.encoders is not None:
        one, two = (concept_vectors(side, info) for side, info in zip(subject.sides, subject.encoders, strict=True))
        live, rng = _alive(subject, "max"), np.random.default_rng([subject.seed, 0])
        mixed = mixed_vectors(np.where(live[1][:, None], two, 0), rng)  # those of dead neurons mean nothing
        others = vectors_of_random_images(second, subject.encoders[1], rng), mixed
        nulls = tuple(partial(cosine_blocks, one, other) for other in others)
        yield _way("concepts", live, partial(cosine_blocks, one, two), lambda: nulls)
    similarity = ActivationSimilarity(first, second, subject.shared, subject.seed, progress)
    yield _way("activations", _alive(subject, "std"), similarity.blocks, similarity.nulls)


def _way(
    by: By, live: tuple[np.ndarray, np.ndarray], blocks: Blocks, nulls: Callable[[], tuple[Blocks, ...]]
) -> tuple[Way, Matching]:
    matching = match(blocks(), *live)
    levels = [level_of(match(null(), *live).scores) for null in nulls()]
    images, mixed = (level if np.isfinite(level) else None for level in levels)
    one, two = (int(np.count_nonzero(mask)) for mask in live)
    return Way(by, one, two, 0, images, mixed), matching


def _alive(subject: _Subject, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Return which neurons take part: those that fire (`max` above 0), or vary (`std` above 0)."""
    one, two = (catalog.neuron_rows(side.store, side.target)[column].to_numpy() > 0 for side in subject.sides)
    return one, two


def _coverage(subject: _Subject) -> Coverage | None:
    if subject.vocabulary is None:
        return None
    held = [[text for text in labels.texts if text] for labels in subject.labels]
    return held_texts(subject.vocabulary.name, subject.vocabulary.texts, *held)
