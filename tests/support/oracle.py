"""NumPy oracles: METHODS.md's formulas as plainly as they can be written, one neuron at a time in float64."""

from __future__ import annotations

import numpy as np


def activating(a: np.ndarray, n: int, floor: float = 0.0) -> np.ndarray:
    order = np.lexsort((np.arange(len(a)), -a))[:n]
    return order[a[order] > floor]


def contrastive(e: np.ndarray, a: np.ndarray, p: np.ndarray, m: int = 1) -> np.ndarray:
    """The m nearest other images below the mean activation for each activating one, [K, m]; -1 where there are none."""
    candidates = np.flatnonzero(a < a.mean(dtype=np.float64))
    cosines = e[p].astype(np.float64) @ e[candidates].astype(np.float64).T
    own = candidates == p[:, None]
    order = np.lexsort((np.broadcast_to(candidates, cosines.shape), -cosines, own), axis=1)[:, :m]
    found = np.full((len(p), m), -1)
    found[:, : order.shape[1]] = np.where(np.take_along_axis(own, order, 1), -1, candidates[order])
    return found


def unit(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def scores(
    method: str,
    e: np.ndarray,
    a: np.ndarray,
    t: np.ndarray,
    n: int = 30,
    gamma: float = 1.0,
    scale: float = 100.0,
    alpha: float = 0.5,
) -> np.ndarray:
    """Scores [C] of one live neuron under every method but clip-dissect, whose prior needs all neurons."""
    e, t = e.astype(np.float64), t.astype(np.float64)
    p = activating(a, n)
    w = a[p].astype(np.float64) / a[p].sum(dtype=np.float64)
    if method == "semanticlens":
        return unit(e[p].mean(0)) @ t.T
    if method == "mean-centred":
        return unit(w @ e[p] - e.mean(0)) @ t.T
    if method == "clip-dissect-mean":
        share = softmax(e @ t.T / 10)
        return np.log(w @ share[p] + 1e-6) - np.log(share.mean(0))
    share = softmax(scale * e @ t.T)
    if method == "pmi":
        return w @ np.log(share[p]) - np.log(share.mean(0))
    if method == "consensus":
        return consensus(e, a, t, p, w, share)
    if method == "firing-contrast":
        return firing_contrast(e, a, t, p, share)
    c = contrastive(e, a, p, 5 if method == "contrastive-pmi" else 1)
    if method == "contrastive-pmi":
        return w @ np.log(share[p]) - alpha * np.log(share[c.ravel()].mean(0)) - (1 - alpha) * np.log(share.mean(0))
    if method == "csp-difference":
        return e[p].mean(0) @ t.T - e[c[:, 0]].mean(0) @ t.T
    s = (e[p] * e[c[:, 0]]).sum(1)
    return unit(w @ (e[p] - gamma * s[:, None] * e[c[:, 0]])) @ t.T


def consensus(
    e: np.ndarray, a: np.ndarray, t: np.ndarray, p: np.ndarray, w: np.ndarray, share: np.ndarray
) -> np.ndarray:
    """odds x linear x sqrt(agreement) of one neuron with activating images p, their weights w, and shares [N, C]."""
    c = contrastive(e, a, p, 50)
    filled = (c >= 0).mean()  # the share of missing neighbours is the dataset's
    odds = w @ np.log(share[p]) - np.log(filled * share[c[c >= 0]].mean(0) + (1 - filled) * share.mean(0))
    y = np.clip(a.astype(np.float64) / (0.5 * a[p].mean(dtype=np.float64)), 0, 1)
    covariance = np.cov(e.T, bias=True)
    cross = ((y - y.mean())[:, None] * (e - e.mean(0))).mean(0)
    direction = unit(np.linalg.solve(covariance + np.trace(covariance) / len(covariance) * np.eye(e.shape[1]), cross))
    agreement = np.array([np.corrcoef(y, np.sqrt(column))[0, 1] for column in share.T])
    factors = odds, direction @ (t - t.mean(0)).T, agreement
    odds, linear, agreement = (np.maximum(factor, 1e-9) for factor in factors)
    precision = leaders_precision(e, t, y, covariance, odds * linear * np.sqrt(agreement))
    return odds * linear * agreement**0.25 * precision


def firing_contrast(e: np.ndarray, a: np.ndarray, t: np.ndarray, p: np.ndarray, share: np.ndarray) -> np.ndarray:
    """contrast x apart x precision of one neuron with activating images p, and shares [N, C]; two are cut softly."""
    c = contrastive(e, a, p, 50)
    filled = (c >= 0).mean()  # the share of missing neighbors is the dataset's
    near = filled * share[c[c >= 0]].mean(0) + (1 - filled) * share.mean(0)
    half = 0.5 * a[p].mean(dtype=np.float64)
    f = np.flatnonzero(a >= np.float32(half))
    w = a[f] / a[f].sum(dtype=np.float64)
    contrast = w @ np.log(share[f]) - 0.5 * np.log(near) - 0.5 * np.log(share.mean(0))
    rows, weights = np.concatenate([f, c[c >= 0]]), np.concatenate([w, np.full((c >= 0).sum(), 1 / (c >= 0).sum())])
    fires = np.repeat([1.0, 0.0], [len(f), (c >= 0).sum()])
    apart = [
        np.cov(fires, root, aweights=weights, bias=True)[0, 1]
        / (0.5 * np.sqrt(np.cov(root, aweights=weights, bias=True)))
        for root in np.sqrt(share[rows]).T
    ]
    y, covariance = np.clip(a.astype(np.float64) / half, 0, 1), np.cov(e.T, bias=True)
    product = softened(contrast, 2.0) * softened(np.array(apart), 0.1)
    return product * leaders_precision(e, t, y, covariance, product)


def softened(values: np.ndarray, width: float) -> np.ndarray:
    """The positive root r of r^2 - values r - width^2 = 0."""
    return (values + np.sqrt(values**2 + 4 * width**2)) / 2


def leaders_precision(
    e: np.ndarray, t: np.ndarray, y: np.ndarray, covariance: np.ndarray, product: np.ndarray
) -> np.ndarray:
    """The precision [C] of the 24 leaders by a product of scores, next to nothing for the others."""
    regular = covariance + 3 * np.trace(covariance) / len(covariance) * np.eye(e.shape[1])
    precision = np.full(len(t), 1e-9)
    for label in np.argsort(-product, kind="stable")[:24]:
        f = np.linalg.solve(regular, t[label] - t.mean(0))
        z = (e - e.mean(0)) @ f / np.sqrt(max(f @ covariance @ f, 1e-12))
        precision[label] = binned_precision(z, y)
    return precision


def binned_precision(z: np.ndarray, y: np.ndarray) -> float:
    """Average precision of graded y in the order of z, which is known to 1/64: within a bin the order is random."""
    bins = np.clip(np.trunc((8 - z) * 64).astype(int), 0, 1023)
    total = hits = seen = 0.0
    for b in np.unique(bins):
        count, mass = (bins == b).sum(), y[bins == b].sum()
        total += mass * (hits + mass / 2) / (seen + count / 2 + 0.5)
        hits, seen = hits + mass, seen + count
    return min(1.0, total / hits)


def clip_dissect(e: np.ndarray, a: np.ndarray, t: np.ndarray, n: int = 100) -> np.ndarray:
    """softWPMI as published for all neurons of `a` [N, M], [M, C]; dead neurons get NaN."""
    share = softmax(10 * e.astype(np.float64) @ t.astype(np.float64).T)
    rows = []
    for k in range(a.shape[1]):
        p = activating(a[:, k], n)
        inclusion = 0.998 - np.arange(len(p)) / 100 * (0.998 - 0.97)
        rows.append(
            np.log(1 + inclusion[:, None] * (share[p] - 1) + 1e-7).sum(0) if len(p) else np.full(len(t), np.nan)
        )
    found = np.array(rows)
    live = ~np.isnan(found[:, 0])
    prior = np.log(np.exp(found[live] - found[live].max(0)).mean(0)) + found[live].max(0)
    return found - prior


def wpmi(e: np.ndarray, t: np.ndarray, places: list[np.ndarray], weight: float = 0.6) -> np.ndarray:
    """WPMI as published for neurons with the given top images, [M, C]; neurons without any get NaN."""
    share = softmax(2 * e.astype(np.float64) @ t.astype(np.float64).T)
    found = np.array([np.log(share[p] + 1e-7).sum(0) if len(p) else np.full(len(t), np.nan) for p in places])
    prior = np.log(np.exp(found[~np.isnan(found[:, 0])]).mean(0))
    return found - weight * prior


def rank_reorder(e: np.ndarray, a: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Minus the error of every label's ranking of one neuron's top images e [K, D], a [K] falling; scores [C]."""
    cosines = e.astype(np.float64) @ t.astype(np.float64).T
    a = a.astype(np.float64)
    found = []
    for column in cosines.T:
        dealt = np.empty(len(a))
        dealt[np.argsort(-column, kind="stable")] = a  # the highest activation goes to the most similar image
        error = (np.abs(a - dealt) ** 3).mean()
        expected = np.mean([abs(x - y) ** 3 for x in a for y in a])
        share = error / expected if expected > 0 else 1.0
        found.append(-share / np.sqrt(max(column.mean(), 1e-3)))
    return np.array(found)
