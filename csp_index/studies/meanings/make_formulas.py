"""Logical labels of a layer's neurons: read if an earlier run stored them, else looked for and stored, block by block.

Half of the images, drawn by a seeded hash, choose a neuron's formula; the other half judges it. Of more than 50,000
images as many are drawn. Stored and gone on with as facets are. Loads no torch for what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from csp_index.concurrency import unseen
from csp_index.errors import SettingError, StudyError
from csp_index.records import Progress, check_seed
from csp_index.store import catalog
from csp_index.store.catalog import EncoderInfo, LayerInfo
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.study_tables import FORMULAS
from csp_index.store.tables import Store
from csp_index.store.values.arrays import embedding_rows, fetch_tiles
from csp_index.studies.classes.image_classes import classes_described, read_classes
from csp_index.studies.meanings.concept_images import ConceptImages, member_images, text_images, text_moments
from csp_index.studies.meanings.formulas import LayerFormulas, formula_rows, read_formulas
from csp_index.studies.newest_rows import store_blocks
from csp_index.studies.staleness import COLUMNS, DIGESTS, digests

if TYPE_CHECKING:
    from csp_index.labelling.candidates import CandidateTexts
    from csp_index.studies.meanings.held_out import HeldOut

IMAGES: Final = 50_000  # that formulas rest on, at most
LEAST: Final = 10  # images that must fire a neuron, among those that choose
_VERSION = 1  # of how formulas are found
_BLOCK = 128  # neurons whose activations are in memory together
_READ = 64  # neurons that are read together, as sparse layers have them in rows of 64


@dataclass(frozen=True, slots=True)
class TextSource:
    """Where concepts that are texts come from: the encoder, a function that loads the texts, and their key."""

    source: EncoderInfo
    load: Callable[[], CandidateTexts]
    key: str


def layer_formulas(
    store: Store,
    target: LayerInfo,
    neurons: np.ndarray,
    texts: TextSource | None,
    *,
    by: Sequence[str] = (),
    firing: str | None = None,
    seed: int = 0,
    recompute: bool = False,
    progress: Progress | None = None,
) -> LayerFormulas:
    """Return logical labels of neurons (sorted) over the concepts of `texts`, or over values of the columns `by`.

    An image fires a neuron above `firing` (0): a number, mean, quantile:Q, max:F. Errors: those of columns and texts
    that cannot be read; SettingError where neither or both are given, and for a threshold that is none.
    """
    from csp_index.studies.firing import ABOVE, firing_levels

    if (texts is None) == (not by):
        raise SettingError("concepts are texts, or values of metadata columns: expected one of the two")
    check_seed(seed)
    twice = next((column for column in by if by.count(column) > 1), None)
    if twice is not None:
        raise SettingError(f"the column {twice!r} is named twice: expected each once")
    statistics, above = catalog.neuron_rows(store, target, neurons.tolist()), ABOVE if firing is None else firing
    images = int(statistics["images"][0].as_py())
    described = _described(store, target, texts, tuple(by), images) | {"firing": above, "seed": seed}
    hashed = settings_hash(described)
    kept = None if recompute else read_formulas(store, target.key, neurons.tolist(), settings_hash=hashed)
    if kept is not None and len(kept) == len(neurons):
        return kept
    levels = firing_levels(above, statistics)
    with store.write_lock():
        work = _Work.of(store, target, texts, tuple(by), images, seed, progress or unseen)
        with record_run(store, "formulas", described, {target.what: target.identity}, seed) as run:
            shared = {"run_id": run.run_id, "settings_hash": hashed, "firing": above, "of_images": images}
            known = [] if kept is None else kept.rows["neuron"].to_pylist()
            missing = ~np.isin(neurons, known)
            work.store_all(neurons[missing], levels[missing], shared, len(known))
    result = read_formulas(store, target.key, neurons.tolist(), settings_hash=hashed)
    if result is None:
        raise StudyError(f"no formula of {target.key} was stored: this is a fault of the program, please report it")
    return result


def _described(
    store: Store, target: LayerInfo, texts: TextSource | None, by: tuple[str, ...], images: int
) -> dict[str, object]:
    """Return all that formulas depend on, but the options."""
    described: dict[str, object] = {
        "study": "formulas",
        "version": _VERSION,
        "layer": str(target.key),
        "layer_identity": target.identity,
        "images": images,
        COLUMNS: [classes_described(store, column) for column in by],
        DIGESTS: digests(store, target, *([] if texts is None else [texts.source])),
    }
    if texts is not None:
        described |= {"encoder_identity": texts.source.identity, "candidates": texts.key}
    return described


@dataclass(slots=True)
class _Work:
    """Formulas of one layer, under way: concepts on the images that choose, and on those that judge."""

    store: Store
    target: LayerInfo
    images: int
    ids: tuple[np.ndarray, np.ndarray]
    concepts: tuple[ConceptImages, ConceptImages]
    judge: HeldOut
    called: dict[str, object]
    tell: Progress

    @classmethod
    def of(
        cls,
        store: Store,
        target: LayerInfo,
        texts: TextSource | None,
        by: tuple[str, ...],
        images: int,
        seed: int,
        tell: Progress,
    ) -> _Work:
        """Read the concepts' images."""
        from csp_index.studies.meanings.held_out import HeldOut

        halves = _halves(images, seed)
        if texts is None:
            concepts = _of_columns(store, by, images, halves)
            called: dict[str, object] = {"encoder": None, "concepts": ", ".join(by)}
        else:
            concepts = _of_texts(store, texts, halves)
            called = {"encoder": texts.source.name, "concepts": texts.key}
        return cls(store, target, images, halves, concepts, HeldOut(len(halves[1]), seed), called, tell)

    def store_all(self, neurons: np.ndarray, levels: np.ndarray, shared: dict[str, object], done: int) -> None:
        """Look for and store the formulas of neurons, in place of those they had."""
        key, sizes = self.target.key, self.concepts[0].sizes()
        repeated = shared | self.called | {"model": key.model, "layer": key.layer}

        def blocks() -> Iterator[tuple[np.ndarray, pa.Table]]:
            for start in range(0, len(neurons), _BLOCK):
                part = slice(start, start + _BLOCK)
                rows = self._block(neurons[part], levels[part], sizes)
                yield neurons[part], formula_rows([repeated | row for row in rows])

        store_blocks(self.store, FORMULAS, self.target, blocks(), done, done + len(neurons), self.tell)

    def _block(self, neurons: np.ndarray, levels: np.ndarray, sizes: np.ndarray) -> list[dict[str, Any]]:
        """Return what is found of each neuron."""
        from csp_index.studies.meanings.shortlist import shortlist

        choosing, judging = self._activations(neurons)
        fired = choosing > levels[:, None]
        chosen = shortlist(fired, self.concepts[0], sizes)
        rows = []
        for at, neuron in enumerate(neurons.tolist()):
            row = {"neuron": neuron, "fired": int(fired[at].sum())}
            if row["fired"] >= LEAST:
                listed = np.sort(chosen.listed[at][chosen.listed[at] >= 0])
                row |= self._formula(listed, choosing[at], fired[at], judging[at])
            rows.append(row)
        return rows

    def _formula(
        self, listed: np.ndarray, choosing: np.ndarray, fired: np.ndarray, judging: np.ndarray
    ) -> dict[str, Any]:
        """Return the best formula over the listed concepts [S], if two or three explain more than one."""
        from csp_index.studies.meanings.formula_search import best_formula

        concepts, names = self.concepts[0], self.concepts[0].names
        rows, owners = concepts.rows(listed), concepts.owners
        ious = (rows & fired).sum(1) / np.maximum((rows | fired).sum(1), 1)
        single = int(_correlations(choosing, rows).argmax())  # what explains activations best is what must be beaten
        found: dict[str, Any] = {"single": names[owners[listed[single]]], "single_iou": float(ious[single])}
        formula = best_formula(rows, fired, owners[listed], float(ious.max()))
        if formula is None:
            return found
        places = listed[list(formula.places)]
        terms = [names[owners[place]] for place in places]
        shown = formula.images(self.concepts[1].rows(places))
        gain = self.judge.gain(judging, shown, self.concepts[1].rows(listed[single : single + 1])[0])
        numbers = {name: value for name, value in asdict(gain).items() if name != "single"}
        return found | {
            "formula": formula.text(terms),
            "terms": terms,
            "iou": formula.iou,
            "single_correlation": gain.single,
            **numbers,
            "kept": gain.low > 0,
        }

    def _activations(self, neurons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the activations [M, n] on the images that choose, and on those that judge."""
        marks = catalog.covered(self.store, self.target.what, self.images)
        parts: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for some in _together(neurons):
            values = np.concatenate(list(fetch_tiles(self.store, self.target, marks, some)), axis=1)
            for part, ids in zip(parts, self.ids, strict=True):
                part.append(values[:, ids])
        return np.concatenate(parts[0]), np.concatenate(parts[1])


def _together(neurons: np.ndarray) -> Iterator[np.ndarray]:
    """Yield neurons in blocks that lie in the same row of a sparse layer."""
    ends = np.flatnonzero(np.diff(neurons // _READ)) + 1
    yield from np.split(neurons, ends)


def _halves(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted ids of the images that choose, and of those that judge."""
    if images < 4 * LEAST:
        raise StudyError(f"the layer has {images} images: expected {4 * LEAST} or more, half of them to judge formulas")
    drawn = np.random.default_rng([seed, images]).permutation(images)[:IMAGES]
    half = len(drawn) // 2
    return np.sort(drawn[:half]), np.sort(drawn[half:])


def _of_columns(
    store: Store, by: tuple[str, ...], images: int, halves: tuple[np.ndarray, np.ndarray]
) -> tuple[ConceptImages, ConceptImages]:
    """Return the values of columns as concepts; a value that several columns have comes with its column's name."""
    found: list[tuple[str, str, np.ndarray]] = []
    for column in by:
        classes = read_classes(store, column, images)
        members = np.split(classes.images, classes.offsets[1:-1])
        found += [(column, name, own) for name, own in zip(classes.names, members, strict=True)]
    values = [name for _, name, _ in found]
    names = tuple(f"{column}: {name}" if values.count(name) > 1 else name for column, name, _ in found)
    one, two = (member_images(names, [own for _, _, own in found], ids) for ids in halves)
    return one, two


def _of_texts(
    store: Store, texts: TextSource, halves: tuple[np.ndarray, np.ndarray]
) -> tuple[ConceptImages, ConceptImages]:
    """Return texts as concepts: the images that fit one better than most images do."""
    loaded = texts.load()
    directions = loaded.directions.numpy()
    choosing, judging = (embedding_rows(store, texts.source, ids) for ids in halves)
    moments = text_moments(directions, choosing)
    one, two = (text_images(loaded.texts, directions, rows, moments) for rows in (choosing, judging))
    return one, two


def _correlations(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the correlation of values [N] with membership in each of S sets [S, N]; -1 for a set of all or none."""
    centred = values.astype(np.float64) - values.mean()
    share = rows.mean(1)
    spread = np.sqrt(share * (1 - share) * np.square(centred).mean())
    products = rows @ centred / len(values)
    return np.where(spread > 0, products / np.where(spread > 0, spread, 1), -1.0)
