"""Which images a response is computed from: for few neurons those on which they fire, for many all, streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from csp_index.concurrency import checked
from csp_index.contrast.embeddings import all_embeddings
from csp_index.contrast.pool import pool_pairs, pool_tiles
from csp_index.contrast.selection import Selection
from csp_index.labelling.evidence import Evidence, even
from csp_index.labelling.response.share_means import Weights
from csp_index.labelling.response.views import Saturation
from csp_index.store.tables import Store
from csp_index.store.values.derived_images import is_derived
from csp_index.tensors.library import torch

_FEW = 8  # neurons whose activations on all images are in memory at once
_VECTORS_BYTES = 8 * 2**20  # of the embeddings of some images on which few neurons fire
_TILE_BYTES = 32 * 2**20  # of the vectors that are joined before they are worked on


@dataclass(frozen=True, slots=True)
class Part:
    """Some images: embeddings [n, D], totals [n], activations [M, n], and the weights of contrastive images."""

    embeddings: torch.Tensor
    totals: torch.Tensor
    activations: torch.Tensor
    silent: Weights


@dataclass(frozen=True, slots=True)
class _Contrastive:
    """The neurons' contrastive images in ascending order of their ids: `rows` [E] int32, `ids` [E], `values` [E]."""

    rows: torch.Tensor
    ids: torch.Tensor
    values: torch.Tensor

    @classmethod
    def of(cls, evidence: Evidence) -> _Contrastive:
        """Return those of the evidence, equal weights for each neuron's."""
        pooled = evidence.contrastive.flatten(1)
        present = pooled >= 0
        places = pooled[present]
        ids = places if evidence.images is None else evidence.images[places]
        order = ids.argsort(stable=True)
        rows = torch.arange(len(pooled), dtype=torch.int32)[:, None].expand(pooled.shape)[present]
        return cls(rows[order], ids[order], even(present)[present][order])

    def among(self, ids: torch.Tensor) -> Weights:
        """Return the weights of images `ids` [n], in ascending order, all of which are indexed ones or derived ones."""
        if not len(ids):
            return Weights.none()
        low = int(torch.searchsorted(self.ids, ids[0]))
        high = int(torch.searchsorted(self.ids, ids[-1], right=True))
        return Weights(self.rows[low:high].long(), torch.searchsorted(ids, self.ids[low:high]), self.values[low:high])


class LookedAt:
    """The images of a pool with the activations of a selection's M neurons on them."""

    def __init__(
        self, store: Store, selection: Selection, mask: torch.Tensor, totals: torch.Tensor, check: Callable[[], None]
    ) -> None:
        """Refer to the images of `mask` [N], with their totals in that order; `check` is called for every tile."""
        self._store, self._selection, self._mask, self._check = store, selection, mask, check
        self._ids, self._totals = mask.nonzero()[:, 0], totals
        self._few: torch.Tensor | None = None
        if len(selection.neurons) <= _FEW:
            tiles = checked(pool_tiles(store, selection.target, selection.neurons, mask), check)
            self._few = torch.cat(list(tiles), 1)

    @property
    def is_of_few(self) -> bool:
        """Whether the activations of all neurons are in memory, so that each may be looked at alone."""
        return self._few is not None

    def firing_images(self, row: int, saturation: Saturation, *, only_firing: bool) -> Part:
        """Return the images that activate one of few neurons, or on which it fires; `saturation` is its own."""
        if self._few is None:
            raise ValueError("the activations of many neurons are streamed: none is looked at alone")
        activations = self._few[row : row + 1]
        active = saturation.fires(activations) if only_firing else activations > 0
        return self._part(active[0], activations, Weights.none())

    def _part(self, needed: torch.Tensor, activations: torch.Tensor, silent: Weights) -> Part:
        vectors = all_embeddings(self._store, self._selection.source, len(self._mask)).of(self._ids[needed])
        return Part(vectors, self._totals[needed], activations[:, needed], silent)

    def images_of(self, evidence: Evidence, saturation: Saturation, *, only_firing: bool) -> Iterator[Part]:
        """Yield every image that activates a neuron, or on which one fires, and every contrastive image, once."""
        contrastive = _Contrastive.of(evidence)
        made = is_derived(contrastive.ids)
        if self._few is not None:
            active = saturation.fires(self._few) if only_firing else self._few > 0
            needed = active.any(0)
            needed[torch.searchsorted(self._ids, contrastive.ids[~made])] = True
            yield self._part(needed, self._few, contrastive.among(self._ids[needed]))
        else:
            seen = 0
            for embeddings, activations in self._joined(self._selection):
                pick = slice(seen, seen + len(embeddings))
                yield Part(embeddings, self._totals[pick], activations, contrastive.among(self._ids[pick]))
                seen += len(embeddings)
        if made.any() and evidence.images is not None and evidence.totals is not None:
            derived = is_derived(evidence.images)
            vectors, none = evidence.vectors[derived], torch.zeros(len(evidence.activating), int(derived.sum()))
            yield Part(vectors, evidence.totals[derived], none, contrastive.among(evidence.images[derived]))

    @property
    def leaves_out(self) -> bool:
        """Whether `varying_images` leaves out those on which all activations are 0."""
        return self._few is not None

    def varying_images(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the embeddings [n, D] of images and the neurons' activations [M, n]: of few neurons those not all 0."""
        if self._few is None:
            yield from self._joined(self._selection)
            return
        embeddings, varies = all_embeddings(self._store, self._selection.source, len(self._mask)), self._few.ne(0)
        for places in varies.any(0).nonzero()[:, 0].split(_VECTORS_BYTES // (4 * self._selection.source.width)):
            self._check()
            yield embeddings.of(self._ids[places]), self._few[:, places]

    def all_images(self, pick: slice) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield the embeddings [n, D] of all images with the activations [m, n] of the picked neurons on them."""
        if self._few is None:
            yield from self._joined(replace(self._selection, neurons=self._selection.neurons[pick]))
            return
        embeddings, seen = all_embeddings(self._store, self._selection.source, len(self._mask)), 0
        for first, tile in checked(embeddings.screen(torch.device("cpu"), torch.float32), self._check):
            inside = self._mask[first : first + len(tile)]
            own = tile if bool(inside.all()) else tile[inside]
            yield own, self._few[pick, seen : seen + len(own)]
            seen += len(own)

    def _joined(self, selection: Selection) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Stream embeddings and activations in larger tiles than shards are: sums over more images take less time."""
        images = _TILE_BYTES // (4 * (len(selection.neurons) + selection.source.width))
        waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        for pair in checked(pool_pairs(self._store, selection, self._mask), self._check):
            waiting.append(pair)
            if sum(len(embeddings) for embeddings, _ in waiting) >= images:
                yield _join(waiting)
                waiting = []
        if waiting:
            yield _join(waiting)


def _join(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([embeddings for embeddings, _ in pairs]), torch.cat([values for _, values in pairs], 1)
