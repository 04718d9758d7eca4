"""Compare two layers: read what is stored under the same settings, else match their neurons and store the matches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from csp_index.errors import SettingError
from csp_index.labelling.vocabularies import Vocabulary
from csp_index.records import Progress, check_seed
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

_NULLS = 2  # that every comparison has
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
    untrained: Side | None
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
        null = {} if self.untrained is None else {"untrained": _described_null(self.untrained)}
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
            **null,
        }


def _lacking(untrained: Side, shared: SharedImages) -> str:
    """Return how many of the images a layer that has learned nothing does not have, "" if none."""
    missing = int(np.count_nonzero(shared.first >= untrained.images))
    named = f"{untrained.target.key}, which has learned nothing, lacks {missing:,} of these {len(shared):,} images"
    return f"{named}: its null is over the others" if missing else ""


def _described_null(side: Side) -> list[str]:
    return [str(side.target.key), column_digest(side.store, side.target)]


def compare_layers(
    first: Side,
    second: Side,
    *,
    encoder: str | None = None,
    vocabulary: Vocabulary | None = None,
    untrained: Side | None = None,
    seed: int = 0,
    recompute: bool = False,
    progress: Progress,
) -> Comparison:
    """Return the comparison of two layers, made now unless the first one's index has it under the same settings.

    `untrained` is a layer of the first one's index that has learned nothing. Raises SettingError for a layer with
    itself, SourceError where two indexes share fewer than two images.
    """
    check_seed(seed)
    sides = [side for side in (first, second, untrained) if side is not None]
    for place, side in enumerate(sides):
        if any(side.store.uri == other.store.uri and side.target.key == other.target.key for other in sides[:place]):
            raise SettingError(f"{side.target.key} is named twice: a layer is compared with another one")
    shared = shared_images(first, second)
    encoders, note = common_encoder(first, second, shared, encoder)
    lacks = "" if untrained is None else _lacking(untrained, shared)
    note = "; ".join(part for part in (note, lacks) if part)
    labels = shown_labels(first.store, first.target), shown_labels(second.store, second.target)
    subject = _Subject((first, second), shared, encoders, labels, vocabulary, untrained, seed, note)
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
        "" if subject.untrained is None else str(subject.untrained.target.key),
        subject.note,
        run[0],
    )


def _ways(subject: _Subject, progress: Progress) -> Iterator[tuple[Way, Matching]]:
    """Yield how neurons match by each measure: by concept vectors, if there are any, and by activations."""
    first, second = subject.sides
    third = subject.untrained
    if subject.encoders is not None:
        one, two = (concept_vectors(side, info) for side, info in zip(subject.sides, subject.encoders, strict=True))
        (own, other), rng = _those(catalog.fires, subject.sides), np.random.default_rng([subject.seed, 0])
        mixed = mixed_vectors(np.where(other[:, None], two, 0), rng)  # those of dead neurons mean nothing
        others = vectors_of_random_images(second, subject.encoders[1], rng), mixed
        nulls = [_Scored(partial(cosine_blocks, one, vectors), own, other) for vectors in others]
        if third is not None:
            blank = concept_vectors(third, subject.encoders[0])
            nulls.append(_Scored(partial(cosine_blocks, one, blank), own, *_those(catalog.fires, [third])))
        yield _way("concepts", _Scored(partial(cosine_blocks, one, two), own, other), lambda: nulls)
    own, other = _those(_varies, subject.sides)
    similarity = ActivationSimilarity(first, second, subject.shared, subject.seed, progress)

    def of_nulls() -> list[_Scored]:
        scored = [_Scored(blocks, own, other) for blocks in similarity.nulls()]
        if third is not None:
            beside = ActivationSimilarity(first, third, shared_images(first, third), subject.seed, progress)
            scored.append(_Scored(beside.blocks, own, *_those(_varies, [third])))
        return scored

    yield _way("activations", _Scored(similarity.blocks, own, other), of_nulls)


@dataclass(frozen=True, slots=True)
class _Scored:
    """Scores of pairs [M1, M2], in blocks of rows, and which neurons of both sides take part."""

    blocks: Blocks
    live: np.ndarray
    other_live: np.ndarray

    def match(self) -> Matching:
        """Return how they match."""
        return match(self.blocks(), self.live, self.other_live)


def _way(by: By, scored: _Scored, nulls: Callable[[], list[_Scored]]) -> tuple[Way, Matching]:
    matching = scored.match()
    levels = [level_of(null.match().scores) for null in nulls()]
    known = [level if np.isfinite(level) else None for level in levels]
    images, mixed, untrained = known if len(known) > _NULLS else (*known, None)
    one, two = (int(np.count_nonzero(mask)) for mask in (scored.live, scored.other_live))
    return Way(by, one, two, 0, images, mixed, untrained), matching


def _those(takes_part: Callable[[pa.Table], np.ndarray], sides: Iterable[Side]) -> list[np.ndarray]:
    """Return which neurons of each side take part [M], as their statistics say."""
    return [takes_part(catalog.neuron_rows(side.store, side.target)) for side in sides]


def _varies(statistics: pa.Table) -> np.ndarray:
    varies: np.ndarray = statistics["std"].to_numpy() > 0
    return varies


def _coverage(subject: _Subject) -> Coverage | None:
    if subject.vocabulary is None:
        return None
    held = [[text for text in labels.texts if text] for labels in subject.labels]
    return held_texts(subject.vocabulary.name, subject.vocabulary.texts, *held)
