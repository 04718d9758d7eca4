"""Deterministic order: rank keys that never tie, hashes in place of random draws, the best candidates of many rows."""

from __future__ import annotations

from csp_index.tensors.library import torch

_ID_SPAN = 1 << 32


def rank_keys(activations: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return int64 keys [M, n] that order by activation, then by lower image id: no two are equal.

    The high half is the float's bits made order-preserving, the low half counts ids downwards.
    """
    bits = (activations + 0.0).view(torch.int32).long()  # + 0.0 turns -0.0 into 0.0, so that the two tie
    ordered = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    return ordered * _ID_SPAN + (_ID_SPAN - 1 - ids)


def split_keys(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the activations (float32) and image ids (int64) of rank keys.

    >>> values, ids = split_keys(rank_keys(torch.tensor([[0.5, -2.0]]), torch.tensor([3, 4])))
    >>> values.tolist(), ids.tolist()
    ([[0.5, -2.0]], [[3, 4]])
    """
    ids = _ID_SPAN - 1 - (keys & (_ID_SPAN - 1))
    ordered = keys >> 32
    bits = torch.where(ordered < 0, ordered ^ 0x7FFFFFFF, ordered)
    return bits.int().view(torch.float32), ids


def mix(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return a well-mixed non-negative int64 hash of int64 values (the finaliser of splitmix64, with wrap-around)."""
    offset = ((seed + 1) * 0x9E3779B97F4A7C15 + 2**63) % 2**64 - 2**63  # as a signed 64-bit number
    mixed = values + offset
    mixed = (mixed ^ (mixed >> 30 & 0x3FFFFFFFF)) * -4658895280553007687
    mixed = (mixed ^ (mixed >> 27 & 0x1FFFFFFFFF)) * -7723592293110705685
    return (mixed ^ (mixed >> 31 & 0x1FFFFFFFF)) & 0x7FFFFFFFFFFFFFFF


def seeded_sample(ids: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Return the places of a random sample of `count` of the ids [n], chosen by a seeded hash of each; all if fewer.

    >>> len(seeded_sample(torch.arange(100), 30, seed=1)), sorted(seeded_sample(torch.tensor([7, 9]), 5, 1).tolist())
    (30, [0, 1])
    """
    return mix(ids, seed).argsort(stable=True)[:count]


def leaders_of(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the places of the best candidates [M, count] at most, best first; equals in the vocabulary's order."""
    width = scores.shape[1]
    if count >= width:
        return scores.sort(dim=1, descending=True, stable=True).indices
    best = scores.topk(count + 1, dim=1)
    places = best.indices[:, :count].sort(dim=1).values
    order = scores.gather(1, places).sort(dim=1, descending=True, stable=True).indices
    places = places.gather(1, order)
    last, next_one = best.values[:, count - 1], best.values[:, count]
    tied = ((last == next_one) & (last > -torch.inf)).nonzero()[:, 0]  # the last entries depend on the order
    for rows in tied.split(256):
        places[rows] = rank_keys(scores[rows], torch.arange(width)).topk(count, dim=1).indices
    return places
