"""The half of `arrange` that computes: splits the images, embeds broader words, compares them with labels, climbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch

from csp_index.contrast.pool import pool_tiles
from csp_index.evaluation.hierarchy import Hierarchy
from csp_index.evaluation.split import draw_split, thinned
from csp_index.labelling.candidates import CandidateTexts, embed_proposed
from csp_index.labelling.texts.candidate_names import TextSpace
from csp_index.records import Progress
from csp_index.store import catalog, schema
from csp_index.store.catalog import LayerInfo
from csp_index.store.study_tables import HIERARCHY_LEVELS
from csp_index.store.values.arrays import embedding_rows
from csp_index.studies.hierarchies.arrange import HierarchyOptions, Origin
from csp_index.studies.hierarchies.climbing import Climb
from csp_index.studies.hierarchies.levels import ROUNDS, resamples
from csp_index.studies.hierarchies.records import LayerHierarchy, StoredWord
from csp_index.studies.hierarchies.responses import fit_presence, respond
from csp_index.studies.hierarchies.words import broader_titles, label_words

MOST = 5_000
"""Images that choose, and that judge, at most."""
_BLOCK_BYTES = 64 * 2**20  # of activations over all images, at a time
_NAMED = 5  # words that a note names


def make_hierarchy(
    space: TextSpace,
    target: LayerInfo,
    hierarchy: Hierarchy,
    labels: Sequence[str | None],
    candidates: CandidateTexts,
    options: HierarchyOptions,
    origin: Origin,
    progress: Progress,
) -> LayerHierarchy:
    """Return the level of each neuron's label [M]; the caller holds the write lock."""
    known = sorted({text for text in labels if text is not None and hierarchy.has(text)})
    texts, vectors, missing = _embedded(space, candidates, [*known, *broader_titles(hierarchy, known)])
    words = label_words(hierarchy, known, texts)
    store, images = space.store, int(catalog.neuron_rows(space.store, target, [0])["images"][0].as_py())
    split = draw_split(images, seed=options.seed)
    sides = [thinned(side, MOST, options.seed) for side in (split.choosing, split.judging)]
    choosing, judging = (
        torch.from_numpy(embedding_rows(store, space.source, side.nonzero()[:, 0].numpy())) for side in sides
    )
    sigmoids = fit_presence(vectors, choosing)
    parts = [respond(words, vectors, sigmoids, part) for part in (choosing, judging)]
    climb = Climb(words, parts[0], parts[1], resamples(len(judging), ROUNDS, options.seed), options.keep)
    said: list[dict[str, object]] = []
    size = max(1, _BLOCK_BYTES // (4 * images))
    both = sides[0] | sides[1]
    for start in range(0, target.neurons, size):
        neurons = np.arange(start, min(start + size, target.neurons))
        values = torch.cat(list(pool_tiles(store, target, neurons, both)), 1).numpy()
        inside = sides[0][both].numpy()
        block = [labels[neuron] for neuron in neurons.tolist()]
        said += climb.levels(block, values[:, inside], values[:, ~inside])
        progress(len(said), target.neurons, "neurons")
    return LayerHierarchy(
        target.key,
        origin.source,
        space.source.name,
        origin.vocabulary,
        len(judging),
        len(choosing),
        options.keep,
        tuple(_notes(hierarchy, labels, missing, said)),
        tuple(
            StoredWord(place, word.title, word.parents, len(word.texts), word.own is not None)
            for place, word in enumerate(words.words)
        ),
        _levels(target, origin, said),
        origin.run_id,
        origin.settings_hash,
    )


def _embedded(
    space: TextSpace, candidates: CandidateTexts, titles: Sequence[str]
) -> tuple[list[str], torch.Tensor, list[str]]:
    """Return texts with unit vectors [T, D]: candidates and titles; and the titles that cannot be embedded."""
    texts, vectors = list(candidates.texts), [candidates.directions]
    given = set(texts)
    further = list(dict.fromkeys(title for title in titles if title not in given))
    if further and space.source.is_imported:
        return texts, vectors[0], further
    if further:
        vectors.append(torch.nn.functional.normalize(embed_proposed(space, further), dim=1))
    return texts + further, torch.cat(vectors), []


def _levels(target: LayerInfo, origin: Origin, said: Sequence[Mapping[str, object]]) -> pa.Table:
    head = {"run_id": origin.run_id, "settings_hash": origin.settings_hash}
    head |= {"model": target.key.model, "layer": target.key.layer}
    rows = [head | {"neuron": neuron} | dict(one) for neuron, one in enumerate(said)]
    return pa.Table.from_pylist(rows, schema=schema.table_schema(HIERARCHY_LEVELS))


def _notes(
    hierarchy: Hierarchy, labels: Sequence[str | None], missing: Sequence[str], said: Sequence[Mapping[str, object]]
) -> list[str]:
    """Return what was left out, and why; one sentence each."""
    unknown = list(dict.fromkeys(text for text in labels if text is not None and not hierarchy.has(text)))
    notes = []
    if unknown:
        count = sum(one["state"] == "unknown" for one in said)
        notes.append(
            f"{len(unknown):,} labels of {count:,} neurons are no words of the hierarchy, and stand outside it: "
            f"{_listed(unknown)}"
        )
    if missing:
        notes.append(
            f"{len(missing):,} words have no embedding, for those of this index came as arrays: a broader one counts "
            f"by the narrower words alone, a label is kept as it is: {_listed(missing)}"
        )
    return notes


def _listed(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - _NAMED:,} more" if len(texts) > _NAMED else ""
    return ", ".join(map(repr, texts[:_NAMED])) + more
