"""Facets of a layer's neurons: read if an earlier run stored them, else found and stored, block by block.

They are stored under the hash of all that they depend on, with a row per facet: an interrupted run keeps the blocks of
neurons that it finished, and the same command goes on from there. Loads no torch for what is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final

from csp_index.concurrency import unseen
from csp_index.contrast.context import ComputeContext
from csp_index.contrast.selection import Selection
from csp_index.errors import StudyError
from csp_index.records import ExampleOptions, Progress, ScoringOptions
from csp_index.store.runs import record_run, settings_hash
from csp_index.store.study_tables import FACETS
from csp_index.store.tables import Store
from csp_index.studies.meanings.facets import Facet, LayerFacets, NeuronFacets, facet_rows, read_facets
from csp_index.studies.newest_rows import store_blocks
from csp_index.studies.staleness import DIGESTS, digests

if TYPE_CHECKING:
    from csp_index.contrast.examples import Examples
    from csp_index.labelling.candidates import CandidateTexts
    from csp_index.labelling.evidence import Evidence
    from csp_index.labelling.response.dataset_sums import DatasetSums
    from csp_index.studies.meanings.find_facets import FoundFacets
    from csp_index.studies.meanings.firing_images import FiringImages

EXAMPLES: Final = ExampleOptions(neighbours=5)
"""How the silent neighbors of the images that facets rest on are chosen, five each; see `firing_images` for these."""

_VERSION = 2  # of how facets are found: another version finds them again
_BLOCK = 64  # neurons whose residuals are in memory together
_GROUP = 512  # neurons whose silent neighbors are looked for together


def layer_facets(
    store: Store,
    selection: Selection,
    texts: Callable[[], CandidateTexts],
    texts_key: str,
    *,
    recompute: bool = False,
    context: ComputeContext | None = None,
    progress: Progress | None = None,
) -> LayerFacets:
    """Return the facets of the selected neurons, named by candidate texts (`texts` loads them, `texts_key` names them).

    Errors: those of texts that cannot be loaded; StudyError for a layer without neurons.
    """
    key, neurons = selection.target.key, selection.neurons.tolist()
    if not neurons:
        raise StudyError(f"no neuron of {key} is named: there is nothing to divide")
    described = _described(store, selection, texts_key)
    hashed = settings_hash(described)
    kept = None if recompute else read_facets(store, key, neurons, settings_hash=hashed)
    if kept is not None and len(kept) == len(neurons):
        return kept
    with store.write_lock():
        work = _Work(store, selection, texts(), replace(context or ComputeContext(), keep=True), progress or unseen)
        with record_run(store, "facets", described, {selection.target.what: selection.target.identity}) as run:
            known = [] if recompute or kept is None else kept.rows["neuron"].unique().to_pylist()
            work.store_all(selection.without(set(known)), described, run.run_id, hashed)
    result = read_facets(store, key, neurons, settings_hash=hashed)
    if result is None:
        raise StudyError(f"no facets of {key} were stored: this is a fault of the program, please report it")
    return result


def _described(store: Store, selection: Selection, texts_key: str) -> dict[str, object]:
    """Return all that facets depend on."""
    source, target = selection.source, selection.target
    return {
        "study": "facets",
        "version": _VERSION,
        "encoder": source.name,
        "encoder_identity": source.identity,
        "logit_scale": source.logit_scale,
        "layer": str(target.key),
        "layer_identity": target.identity,
        "images": selection.images(store),
        DIGESTS: digests(store, source, target),
        "candidates": texts_key,
        "examples": asdict(EXAMPLES),
    }


@dataclass(slots=True)
class _Work:
    """Facets of one layer, under way."""

    store: Store
    selection: Selection
    texts: CandidateTexts
    context: ComputeContext
    tell: Progress

    def store_all(self, missing: Selection, described: dict[str, object], run_id: str, hashed: str) -> None:
        """Find and store the facets of neurons, in place of those they had."""
        from csp_index.studies.meanings.facet_texts import METHOD, WITHOUT_SCALE

        target, source = missing.target, missing.source
        repeated: dict[str, object] = {
            "run_id": run_id,
            "settings_hash": hashed,
            "model": target.key.model,
            "layer": target.key.layer,
            "encoder": source.name,
            "method": METHOD if source.logit_scale is not None else WITHOUT_SCALE,
            "candidates": described["candidates"],
            "of_images": described["images"],
        }
        total, done = len(self.selection.neurons), len(self.selection.neurons) - len(missing.neurons)
        blocks = (
            (block.neurons, facet_rows(repeated, self._found(block, examples, fired)))
            for block, examples, fired in self._blocks(missing)
        )
        store_blocks(self.store, FACETS, target, blocks, done, total, self.tell)

    def _blocks(self, missing: Selection) -> Iterator[tuple[Selection, Examples, FiringImages]]:
        """Yield the neurons block by block, with their example sets and the images that fire them."""
        from csp_index.contrast.examples import activating_examples, gather_examples
        from csp_index.studies.meanings.firing_images import firing_images

        for start in range(0, len(missing.neurons), _GROUP):
            group = replace(missing, neurons=missing.neurons[start : start + _GROUP])
            strongest = activating_examples(self.store, group, EXAMPLES)
            fired = firing_images(self.store, group, strongest.thresholds.numpy())
            activating = _with_images(strongest, fired, EXAMPLES.neighbours)
            examples = gather_examples(self.store, group, EXAMPLES, context=self.context, activating=activating)
            for first in range(0, len(group.neurons), _BLOCK):
                part = slice(first, first + _BLOCK)
                block = replace(group, neurons=group.neurons[part])
                yield block, _part_of(examples, part), fired.of_neurons(part)

    def _found(self, block: Selection, examples: Examples, fired: FiringImages) -> list[NeuronFacets]:
        from csp_index.studies.meanings.facet_texts import FacetTexts, sharp_scale
        from csp_index.studies.meanings.find_facets import find_facets

        known = block.source.logit_scale
        scale = sharp_scale(fired.silent.vectors, self.texts.directions.numpy()) if known is None else known
        namer = FacetTexts(ScoringOptions(logit_scale=known), scale)
        found = find_facets(self._evidence(block, examples, scale), namer, fired.counts, fired.silent)
        rows = zip(block.neurons.tolist(), found, strict=True)
        return [self._neuron(neuron, one, examples, at) for at, (neuron, one) in enumerate(rows)]

    def _neuron(self, neuron: int, found: FoundFacets, examples: Examples, at: int) -> NeuronFacets:
        total = sum(len(facet.ranks) for facet in found.facets)
        ids, activations = examples.activating[at].numpy(), examples.activations[at].numpy()
        facets = tuple(
            Facet(
                self.texts.texts[facet.text],
                facet.score,
                len(facet.ranks) / total,
                tuple(ids[facet.ranks].tolist()),
                tuple(activations[facet.ranks].tolist()),
            )
            for facet in found.facets
        )
        return NeuronFacets(neuron, facets, total, found.clusters, found.clear)

    def _evidence(self, block: Selection, examples: Examples, scale: float) -> Evidence:
        """Return the evidence of some neurons, with the texts and their shares of all images."""
        from csp_index.labelling.gather import image_totals, read_evidence

        evidence = read_evidence(self.store, block, examples, with_mean=False, check=self.context.check)
        evidence = replace(evidence, texts=self.texts.directions)
        sums = self._sums(examples.images, scale)
        return replace(evidence, label_share=sums.label_share, totals=image_totals(block, sums, evidence, scale))

    def _sums(self, images: int, scale: float) -> DatasetSums:
        """Return the sums of the texts' shares over all images; the store remembers them."""
        from csp_index.labelling.gather import read_sums
        from csp_index.labelling.response.stored_sums import sums_key

        key = sums_key(self.selection.source, self.texts.key, True, scale)
        directions = self.texts.directions
        return read_sums(
            self.store, self.selection, images, directions, scale, key, keep=True, check=self.context.check
        )


def _with_images(examples: Examples, fired: FiringImages, neighbours: int) -> Examples:
    """Return activating sets with other images, K each, and room for so many neighbors."""
    from csp_index.tensors.library import torch

    shape = (*fired.ids.shape, neighbours)
    empty = torch.full(shape, torch.nan)
    return replace(
        examples,
        activating=torch.from_numpy(fired.ids),
        activations=torch.from_numpy(fired.activations),
        contrastive=torch.full(shape, -1, dtype=torch.int64),
        contrast_activations=empty,
        similarities=empty,
    )


def _part_of(examples: Examples, part: slice) -> Examples:
    """Return the example sets of some neurons."""
    names = ("neurons", "activating", "activations", "contrastive", "contrast_activations", "similarities")
    own = {name: getattr(examples, name)[part] for name in (*names, "thresholds")}
    return replace(examples, near_duplicates=None, **own)
