"""The best contrastive candidates of each activating image so far, and the final choice among them.

Both ways of finding candidates end here, so near ties fall the same way: cosines that float32 cannot tell apart are
computed again in float64, and equal ones go to the lower image id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from csp_index.records import ExampleOptions
from csp_index.statistics import rank_keys, split_keys

Embed = Callable[[torch.Tensor], torch.Tensor]  # image ids [I] -> embeddings [I, D]

_SPARE = 8  # leaders beyond those asked for
_NOISE = 4e-6  # cosines in float32 closer than this may stand in the wrong order


@dataclass(slots=True)
class Leaders:
    """The best r candidates of each (neuron, activating image) in order: ids [.., r] (-1 absent), cosines [.., r]."""

    ids: torch.Tensor
    cosines: torch.Tensor

    @classmethod
    def empty(cls, *shape: int) -> Leaders:
        """Return leaders without a candidate."""
        return cls(torch.full(shape, -1, dtype=torch.int64), torch.full(shape, -torch.inf))

    def merge(self, cosines: torch.Tensor, first_image: int) -> None:
        """Take in a tile's cosines [.., n], -inf where the image is no candidate."""
        width = self.ids.shape[-1]
        best = cosines.topk(min(width, cosines.shape[-1]), dim=-1)
        values = best.values.cpu()
        ids = (best.indices.cpu() + first_image).masked_fill(values == -torch.inf, -1)
        chosen = torch.cat([self.cosines, values], -1).topk(width, dim=-1)
        self.ids = torch.cat([self.ids, ids], -1).gather(-1, chosen.indices)
        self.cosines = chosen.values


def merge_ranked(leaders: Leaders, cosines: torch.Tensor, ids: torch.Tensor) -> None:
    """Take in the cosines [R, n] of image ids [R, n] or [n]; equal cosines go to the lower id, however many."""
    held = rank_keys(leaders.cosines, leaders.ids.clamp(min=0))
    width = leaders.ids.shape[-1]
    keys = rank_keys(cosines, ids)
    best = torch.cat([held, keys.topk(min(width, keys.shape[-1]), dim=-1).values.cpu()], -1).topk(width, dim=-1).values
    leaders.cosines, found = split_keys(best)
    leaders.ids = found.masked_fill(leaders.cosines == -torch.inf, -1)


def complete(leaders: Leaders, reach: torch.Tensor, examples: int, options: ExampleOptions) -> torch.Tensor:
    """Tell for which (neuron, activating image) [M, K] the leaders settle the choice, given lists that reach down to
    the cosines `reach` [M, K]: all that could tie with the last one chosen is among them.
    """
    last = leaders_wanted(examples, options) - _SPARE - 1
    return leaders.cosines[..., last] - reach > _NOISE


def leaders_wanted(examples: int, options: ExampleOptions) -> int:
    """Return r, how many leaders the final choice among `examples` activating images needs."""
    return (options.neighbours if options.reuse else options.neighbours * examples) + _SPARE


def settle(activating: torch.Tensor, leaders: Leaders, options: ExampleOptions, embed: Embed) -> torch.Tensor:
    """Choose the contrastive ids [M, K, m] of activating images [M, K] from their leaders [M, K, r]."""
    gaps = leaders.cosines[..., :-1] - leaders.cosines[..., 1:]
    gaps = gaps.masked_fill(leaders.ids[..., 1:] < 0, torch.inf)
    reach = options.neighbours if options.reuse else gaps.shape[-1]
    rows = (gaps[..., :reach] < _NOISE).any(-1).nonzero()
    if len(rows):
        pick = (rows[:, 0], rows[:, 1])
        by_id = leaders.ids[pick].sort(-1)
        exact = exact_cosines(activating[pick], by_id.values, embed)
        order = exact.sort(dim=-1, descending=True, stable=True).indices
        leaders.ids[pick] = by_id.values.gather(-1, order)
    if options.reuse:
        return leaders.ids[..., : options.neighbours].clone()
    return _without_reuse(leaders.ids, options.neighbours)


def exact_cosines(left: torch.Tensor, right: torch.Tensor, embed: Embed) -> torch.Tensor:
    """Return the float64 cosines of images left [R] with images right [R, r], -inf where right is -1."""
    present = right >= 0
    owner = left[:, None].expand(right.shape)[present]
    distinct, inverse = torch.cat([owner, right[present]]).unique(return_inverse=True)
    vectors = embed(distinct)
    pairs = zip(inverse[: len(owner)].split(16384), inverse[len(owner) :].split(16384), strict=True)
    products = [(vectors[a].double() * vectors[b].double()).sum(1) for a, b in pairs]
    result = torch.full(right.shape, -torch.inf, dtype=torch.float64)
    if products:
        result[present] = torch.cat(products)
    return result


def _without_reuse(ids: torch.Tensor, wanted: int) -> torch.Tensor:
    """Choose greedily in rank order so that no image serves a neuron twice, all neurons at once."""
    count, ranks, _ = ids.shape
    chosen = torch.full((count, ranks * wanted), -1, dtype=torch.int64)
    for step in range(ranks * wanted):
        options = ids[:, step // wanted]
        used = (options[:, :, None] == chosen[:, None, :step]).any(-1) | (options < 0)
        first = (~used).to(torch.uint8).argmax(1)
        chosen[:, step] = options.gather(1, first[:, None])[:, 0].masked_fill(used.all(1), -1)
    return chosen.view(count, ranks, wanted)
