"""The final choice of contrastive images: roughly ranked candidates in, exact order out.

A rough cosine is off by at most a known error. Every candidate that could be among the best within that error is
compared again in float64, so the result does not depend on how candidates were found; ties go to the lower image id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from csp_index.records import ExampleOptions
from csp_index.tensors.library import torch
from csp_index.tensors.torch_threads import spread

Embed: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
"""Returns the embeddings [I, D] of image ids [I]."""
Gather: TypeAlias = "Callable[[torch.Tensor], Embed]"
"""Returns a function that returns embeddings, given all ids that will be needed."""

_PAIRS = 256  # pairs whose cosines are computed at once: they fit in a core's cache, which is four times as fast
_MULTIPLIED = 16 * _PAIRS  # pairs that one thread takes at a time
_COMPARED = 2**26  # pairs of a candidate and a selected image compared at once
_BLOCK = 16  # values, strided over the row, of which only the largest is compared first


@dataclass(frozen=True, slots=True)
class CosineError:
    """The largest error of a rough cosine: an absolute part, plus a part relative to its size."""

    absolute: float
    relative: float = 0.0


EXACT = CosineError(4e-6)  # of products in float32


@dataclass(slots=True)
class Ranked:
    """The best L candidates of each of R rows by rough cosine: ids [R, L] (-1 absent), cosines [R, L], best first."""

    ids: torch.Tensor
    cosines: torch.Tensor

    @classmethod
    def empty(cls, rows: int, width: int, device: torch.device | str = "cpu") -> Ranked:
        """Return lists without a candidate, where the cosines will be: a card waits for nobody while it merges."""
        ids = torch.full((rows, width), -1, dtype=torch.int64, device=device)
        return cls(ids, torch.full((rows, width), -torch.inf, device=device))

    def on_cpu(self) -> Ranked:
        """Return the lists in the memory of the CPU."""
        return Ranked(self.ids.cpu(), self.cosines.cpu())

    @property
    def reach(self) -> torch.Tensor:
        """The rough cosine [R] that no image outside the list exceeds; -inf where there is no such image."""
        return self.cosines[:, -1]

    def merge(self, pick: slice, cosines: torch.Tensor, first_image: int) -> None:
        """Merge a tile's cosines [r, n], -inf for images that are no candidates, into the picked rows."""
        width = self.ids.shape[1]
        known, ids = self.cosines[pick], self.ids[pick]
        values, places = leading(cosines, width, known[:, -1])
        values, places = values.float(), places + first_image
        # To look whether lists are empty would be to wait for the card.
        if values.shape[1] == width and not is_on_card(values) and bool((ids[:, 0] < 0).all()):
            self.cosines[pick], self.ids[pick] = values, places.masked_fill(values == -torch.inf, -1)
        elif values.shape[1]:
            top, order = _ordered(torch.cat([known, values], 1), width)
            best = torch.cat([ids, places], 1).gather(1, order)
            self.cosines[pick], self.ids[pick] = top, best.masked_fill(top == -torch.inf, -1)


def is_on_card(values: torch.Tensor) -> bool:
    """Return whether a tensor is in the memory of a card (CUDA, MPS), which computes while the CPU goes on."""
    return values.device.type != "cpu"


def leading(values: torch.Tensor, width: int, above: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the largest values [R, min(width, n)] of each row [R, n] in order, and their places.

    With limits `above` [R], fewer may be returned, as long as those are among them that exceed their row's limit.

    The largest values are all in the blocks with the largest maxima, so only as many blocks are ranked as values are
    requested, or as there are blocks with a value above the limit.
    """
    count = values.shape[1]
    blocks = count // _BLOCK
    if blocks < 2 * width:
        return _ordered(values, min(width, count))
    whole = values[:, : blocks * _BLOCK].unflatten(1, (_BLOCK, blocks))
    highest, most, rest = whole.amax(1), width, values[:, blocks * _BLOCK :]
    if above is not None and not is_on_card(values):  # to count would be to wait for the card
        most = min(width, _most_above(highest, above))
    best = _largest(highest, most)
    inside = torch.cat([whole.gather(2, best[:, None].expand(-1, _BLOCK, -1)).flatten(1), rest], 1)
    if most < width and above is not None:
        width = min(width, _most_above(inside, above))
    top, places = _ordered(inside, width)
    in_block = places < _BLOCK * most  # the others stand behind the last whole block
    block = best.gather(1, (places % max(1, most)).masked_fill(~in_block, 0)) if most else places
    tail = places - _BLOCK * most + blocks * _BLOCK
    return top, torch.where(in_block, places // max(1, most) * blocks + block, tail)


def _most_above(values: torch.Tensor, limits: torch.Tensor) -> int:
    """Return how many values of a row [R, n] exceed the row's limit [R], at most."""
    return int((values > limits[:, None]).sum(1).amax()) if len(values) else 0


def _largest(values: torch.Tensor, width: int) -> torch.Tensor:
    """Return the places of the `width` largest values of each row, in any order.

    NumPy partitions and sorts rows of floats with vector instructions, torch does not. Measured for 167 rows of 50,000
    values and a width of 411, all of `leading`, on one thread of torch 2.14: 23 ms of CPU time, with topk 35 ms; the
    matrix product before it takes 75 ms.
    """
    if is_on_card(values):
        return values.topk(width, dim=1, sorted=False).indices
    first = values.shape[1] - width
    if not width:
        return torch.empty(len(values), 0, dtype=torch.int64)
    return torch.from_numpy(np.argpartition(values.float().numpy(), first, axis=1)[:, first:])


def _ordered(values: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `width` largest values of each row, largest first, and their places."""
    if is_on_card(values):
        top = values.topk(width, dim=1)
        return top.values, top.indices
    places = _largest(values, width)
    picked = values.gather(1, places)
    order = torch.from_numpy(np.argsort(-picked.float().numpy(), axis=1))
    return picked.gather(1, order), places.gather(1, order)


def leaders_needed(examples: int, options: ExampleOptions) -> int:
    """Return r, the number of leaders that the final choice among `examples` activating images needs."""
    return options.neighbours if options.reuse else options.neighbours * examples


@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest candidates of R images, -1 absent, and which images [R] have near duplicates among the candidates."""

    ids: torch.Tensor  # [R, r]
    near_duplicate: torch.Tensor


@dataclass(frozen=True, slots=True)
class FinalChoice:
    """Decides which roughly ranked candidates are the `leader_count` nearest, given the error of their cosines.

    `limit` is the cosine above which an image is a near duplicate and no candidate.
    """

    leader_count: int
    error: CosineError
    limit: float
    gather: Gather

    def decide(self, owners: torch.Tensor, ranked: Ranked, allowed: torch.Tensor) -> tuple[Nearest, torch.Tensor]:
        """Return the `leader_count` nearest other allowed images of images `owners` [R], and the settled rows.

        `allowed` [R, L] masks the ranked candidates. A row is settled, [R], if no image outside its list can be among
        the nearest, or a near duplicate.
        """
        largest = ranked.cosines.masked_fill(ranked.ids < 0, 0.0).abs().amax(1, keepdim=True)
        error = self.error.absolute + self.error.relative * largest
        allowed = allowed & (ranked.ids >= 0) & (ranked.ids != owners[:, None])
        duplicate = (allowed & (ranked.cosines > self.limit + error)).any(1)
        allowed &= ranked.cosines <= self.limit + error
        sure = allowed & (ranked.cosines <= self.limit - error)
        last = ranked.cosines.masked_fill(~(sure & (sure.cumsum(1) == self.leader_count)), -torch.inf).amax(1)
        near = last - 2 * error[:, 0]
        allowed &= ranked.cosines >= near[:, None]
        width = max(self.leader_count, int(allowed.sum(1).max())) if len(owners) else self.leader_count
        order = (~allowed).to(torch.uint8).sort(dim=1, stable=True).indices[:, :width]
        ids = ranked.ids.masked_fill(~allowed, -1).gather(1, order)
        best = self._settle(owners, ids, ranked.cosines.gather(1, order), error)
        settled = (ranked.reach < near) | (ranked.reach == -torch.inf)
        return Nearest(best.ids, best.near_duplicate | duplicate), settled

    def _settle(self, owners: torch.Tensor, ids: torch.Tensor, rough: torch.Tensor, error: torch.Tensor) -> Nearest:
        """Return the nearest of candidates [R, c], -1 absent, given rough cosines in falling order, off by `error` [R].

        Only those whose order or whose place beside the limit the error leaves open are compared again.
        """
        present = ids >= 0
        close = (rough[:, :-1] - rough[:, 1:] <= 2 * error) & present[:, 1:]
        doubtful = rough > self.limit - error
        doubtful[:, 1:] |= close
        doubtful[:, :-1] |= close
        exact = exact_cosines(owners, ids.masked_fill(~doubtful, -1), self.gather)
        return _nearest(ids, torch.where(doubtful | ~present, exact, rough.double()), self)


def nearest(owners: torch.Tensor, ids: torch.Tensor, choice: FinalChoice) -> Nearest:
    """Return the `leader_count` nearest other candidates `ids` [R, c] to images `owners` [R], by exact cosine."""
    ids = ids.masked_fill(ids == owners[:, None], -1)
    return _nearest(ids, exact_cosines(owners, ids, choice.gather), choice)


def _nearest(ids: torch.Tensor, exact: torch.Tensor, choice: FinalChoice) -> Nearest:
    """Return the nearest of the candidates `ids` [R, c] given their cosines [R, c]; of equals those of lower id."""
    ids, order = ids.sort(dim=1)
    exact = exact.gather(1, order)
    duplicate = (exact.float() > choice.limit).any(1)
    exact = exact.masked_fill(exact > choice.limit, -torch.inf)
    top = exact.sort(dim=1, descending=True, stable=True)
    ids = ids.gather(1, top.indices).masked_fill(top.values == -torch.inf, -1)[:, : choice.leader_count]
    return Nearest(torch.nn.functional.pad(ids, (0, choice.leader_count - ids.shape[1]), value=-1), duplicate)


def exact_cosines(left: torch.Tensor, right: torch.Tensor, gather: Gather) -> torch.Tensor:
    """Return the float64 cosines of images left [R] with images right [R, r], -inf where right is -1."""
    present = right >= 0
    owner = left[:, None].expand(right.shape)[present]
    others = right[present]
    embed = gather(torch.cat([owner, others]))
    cosines = torch.empty(len(owner), dtype=torch.float64)

    def multiply(start: int) -> None:
        for first in range(start, min(start + _MULTIPLIED, len(owner)), _PAIRS):
            pick = slice(first, first + _PAIRS)
            torch.sum(embed(owner[pick]).double().mul_(embed(others[pick])), 1, out=cosines[pick])

    spread(multiply, range(0, len(owner), _MULTIPLIED))
    result = torch.full(right.shape, -torch.inf, dtype=torch.float64)
    result[present] = cosines
    return result


def choose(leaders: torch.Tensor, options: ExampleOptions) -> torch.Tensor:
    """Return the contrastive ids [M, K, m] given the leaders [M, K, r] of each activating image, nearest first."""
    if options.reuse:
        return leaders[..., : options.neighbours].clone()
    each = max(1, leaders[0].numel() * options.neighbours) if len(leaders) else 1
    parts = leaders.split(max(1, _COMPARED // each))
    return torch.cat([_without_reuse(part, options.neighbours) for part in parts])


def _without_reuse(ids: torch.Tensor, each: int) -> torch.Tensor:
    """Choose greedily in rank order so that no image serves a neuron twice, all neurons at once."""
    count, ranks, _ = ids.shape
    picks = torch.full((count, ranks * each), -1, dtype=torch.int64)
    for step in range(ranks * each):
        options = ids[:, step // each]
        used = (options[:, :, None] == picks[:, None, :step]).any(-1) | (options < 0)
        first = (~used).to(torch.uint8).argmax(1)
        picks[:, step] = options.gather(1, first[:, None])[:, 0].masked_fill(used.all(1), -1)
    return picks.view(count, ranks, each)
